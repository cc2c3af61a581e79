"""What MLflow gets to see of a cell, or of a `bench run`: functions of the store's files alone."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench import BenchError
from bench.failure import cause
from bench.invocations import FILE, Invocation
from bench.store import read_json, read_lines, read_result, state
from reports.paper import published_row

CELL_TAG, INVOCATION_TAG = "bench.cell_id", "bench.invocation_id"
STATUS = {"done": "FINISHED", "running": "RUNNING", "failed": "FAILED", "preempted": "KILLED"}
PRIMARY = ("sem/mIoU", "driv/mIoU", "det/mAP")
STAGES = ("adapt", "finetune")
ARTIFACTS = ("result.json", "load_report.json")
LONGEST_TAG = 500  # characters of an error; MLflow takes 8000


class Point(NamedTuple):
    """One value of a metric, its fields in the order of `mlflow.entities.Metric`."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A run as the store says that it should be.

    It is recognised by `tags[kind]`. `end_ms` is None where nobody knows it; `digest` tells one
    final content from another, and is None while the content is not final. Times are in
    milliseconds since 1970.
    """

    kind: str  # CELL_TAG or INVOCATION_TAG
    name: str
    status: str
    start_ms: int
    end_ms: int | None
    digest: str | None
    params: dict[str, str]
    tags: dict[str, str]
    curves: list[Point] = field(default_factory=list)
    final: list[Point] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Return what the run is recognised by."""
        return self.tags[self.kind]


def of_cell(folder: Path) -> Tracked | None:
    """Return the run of the cell in a folder; None for one that was never begun, or unreadable."""
    now = state(folder)
    try:
        order = read_json(folder / "cell.json")
        result = read_result(folder) if now == "done" else None
        attempts = read_lines(folder / "attempts.jsonl") or (
            [result["provenance"]] if result else []
        )
        if not attempts:
            return None
        start_ms = milliseconds(attempts[0]["time"])
        lines = read_lines(folder / "progress.jsonl")
        end_ms = _end_ms(folder, now, result)
        return Tracked(
            kind=CELL_TAG,
            name=_name(order["resolved"]),
            status=STATUS[now],
            start_ms=start_ms,
            end_ms=end_ms,
            digest=_digest(folder, ("result.json", "progress.jsonl")) if result else None,
            params=_params(order),
            tags=_cell_tags(folder, now, order, result, attempts),
            curves=list(_curves(lines, start_ms)),
            final=list(_points("final", result["metrics"], end_ms or 0, 0)) if result else [],
            artifacts=[folder / name for name in ARTIFACTS if (folder / name).exists()],
        )
    except (BenchError, FileNotFoundError, KeyError, TypeError):  # damaged, or of another version
        return None


def of_invocation(asked: Invocation) -> Tracked:
    """Return the parent run of the cells that a `bench run` asked for: tables, figures, page."""
    store = asked.folder.parent.parent
    homes = [store / "cells" / name for name in asked.cells]
    states = Counter(map(state, homes))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(states.items()))
    shown = sorted(file for file in asked.folder.glob("[!.]*") if file.name != FILE)
    return Tracked(
        kind=INVOCATION_TAG,
        name=f"{len(asked.cells)} cells · {asked.begun[:16].replace('T', ' ')}",
        status=_together(states),
        start_ms=milliseconds(asked.begun),
        end_ms=_last_ms(homes) if set(states) == {"done"} else None,
        digest=_digest(asked.folder, [file.name for file in shown]),
        params={},
        tags={
            INVOCATION_TAG: asked.id,
            "bench.store": str(store),
            "bench.command": asked.command[:LONGEST_TAG],
            "bench.state": counts,
            "mlflow.note.content": f"`{asked.command[:LONGEST_TAG]}`  \n{counts}",
        },
        artifacts=shown,
    )


def milliseconds(time: str) -> int:
    """Return a time of ISO 8601 in milliseconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def _digest(folder: Path, names: Iterable[str]) -> str:
    files = [folder / name for name in names if (folder / name).exists()]
    whole = hashlib.sha256()
    for file in files:
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _end_ms(folder: Path, now: str, result: dict[str, Any] | None) -> int | None:
    if result:
        return milliseconds(result["provenance"]["finished"])
    if now == "failed":
        return int((folder / "error.txt").stat().st_mtime * 1000)
    return None


def _last_ms(homes: Iterable[Path]) -> int:
    """Return when the last of some finished cells was finished."""
    return max(int((home / "result.json").stat().st_mtime * 1000) for home in homes)


def _together(states: Counter[str]) -> str:
    """Return the status of all cells together."""
    if set(states) == {"done"}:
        return "FINISHED"
    order = (("running", "RUNNING"), ("failed", "FAILED"), ("preempted", "KILLED"))
    return next((status for name, status in order if states[name]), "SCHEDULED")


def _name(resolved: dict[str, Any]) -> str:
    """Return a run's name: `moco_v2_200ep · paf · disjoint-normal · s0`."""
    protocol = resolved["protocol"]["name"]
    tasks = "" if len(resolved["tasks"]) > 1 else f" · {resolved['tasks'][0]}"
    return f"{resolved['zoo']} · {protocol} · {resolved['setting']}{tasks} · s{resolved['seed']}"


def _params(order: dict[str, Any]) -> dict[str, str]:
    """Return the values by which runs are compared: the same keys in every run, short values.

    A stage that a protocol does not have counts 0 epochs at rate 0.
    """
    resolved = order["resolved"]
    protocol = resolved["protocol"]
    stages = {stage["name"]: stage for stage in protocol["stages"]}
    params = {
        "zoo": resolved["zoo"],
        "protocol": protocol["name"],
        "preset": protocol["preset"],
        "setting": resolved["setting"],
        "scheme": protocol["scheme"],
        "heads": protocol["heads"],
        "tasks": "+".join(resolved["tasks"]),
        "seed": resolved["seed"],
        "batch": protocol["optim"]["batch"],
        "input_contract": protocol["input"]["contract"],
        "stand_in": order["weights"]["stand_in"],
    }
    for name in STAGES:
        stage = stages.get(name, {"epochs": 0, "lr": 0})
        params |= {f"{name}_epochs": stage["epochs"], f"{name}_lr": stage["lr"]}
    return {key: str(value) for key, value in params.items()}


def _cell_tags(
    folder: Path,
    now: str,
    order: dict[str, Any],
    result: dict[str, Any] | None,
    attempts: list[dict[str, Any]],
) -> dict[str, str]:
    """Return a run's tags: what identifies the cell, and where its numbers come from."""
    resolved, weights, last = order["resolved"], order["weights"], attempts[-1]
    tags = {
        CELL_TAG: order["key"],
        "bench.store": str(folder.parent.parent),
        "bench.cell": folder.name,
        "bench.group": f"{resolved['zoo']}-{resolved['protocol']['name']}",
        "bench.state": now,
        "bench.weights_sha256": weights["sha256"],
        "bench.attempts": str(len(attempts)),
        **{
            f"bench.{name}": str(last[name]) for name in ("host", "device", "job") if last.get(name)
        },
        **_git(last),
        "mlflow.note.content": _note(order, result),
    }
    if now == "failed":
        error = (folder / "error.txt").read_text().partition("\n")[0]
        tags |= {"bench.error": error[:LONGEST_TAG], "bench.cause": cause(error).name}
    return tags


def _git(origin: dict[str, Any]) -> dict[str, str]:
    """Return the tags of the code; `+` after the commit means changed since."""
    code = origin.get("code")
    if not code:
        return {}
    tags = {"commit": code.removesuffix("+"), "dirty": str(code.endswith("+")).lower()}
    tags |= {"branch": origin["branch"]} if origin.get("branch") else {}
    return {f"mlflow.source.git.{name}": value for name, value in tags.items()}


def _note(order: dict[str, Any], result: dict[str, Any] | None) -> str:
    """Return two lines of Markdown: the scores beside the paper's, and what they were made of."""
    metrics, weights = (result["metrics"] if result else {}), order["weights"]
    scores = [f"{name} {metrics[name]:.1f}" for name in PRIMARY if metrics.get(name) is not None]
    stand_in = " (stand-in weights ‡: no statement about the real ones)"
    made_of = weights["name"] + (stand_in if weights["stand_in"] else "")
    said = f"**{' · '.join(scores) or 'no scores yet'}**{_published(order)}"
    return f"{said}  \ncell {order['key'][:8]}, {made_of}"


def _published(order: dict[str, Any]) -> str:
    """Return the paper's values where a cell is one of its Table 2, as the paper has it."""
    row, resolved = order["weights"]["row"], order["resolved"]
    protocol = resolved["protocol"]["name"]
    usual = f"{resolved['zoo']}-{protocol}-disjoint-normal-self-training-s{resolved['seed']}"
    if order["address"] != usual or not row.get("short"):
        return ""
    values = published_row("2", row["label"], protocol)
    said = [f"{values[name]:.1f}" for name in PRIMARY if name in values]
    return f" (paper: {' · '.join(said)})" if said else ""


def _curves(lines: Iterable[dict[str, Any]], start_ms: int) -> Iterator[Point]:
    """Yield the training and validation curves; steps go on counting from stage to stage.

    The time of a point is the start plus the seconds of training until then, over all attempts.
    """
    lengths: dict[str, int] = {}
    seconds = 0.0
    for line in lines:
        if line["kind"] == "train":
            lengths[line["stage"]] = line["steps"]
        if line["stage"] not in lengths:
            continue
        before = sum(lengths.values()) - lengths[line["stage"]]
        step = before + line["step"]
        seconds += line.get("seconds", 0.0)
        time_ms = start_ms + int(1000 * seconds)
        if line["kind"] == "val":
            yield from _points("val", line["metrics"], time_ms, step)
        elif line["kind"] == "train":
            values = {f"loss_{task}": loss for task, loss in line["losses"].items()}
            values |= {"images_per_s": line["images_per_s"], "lr": line["lr"]}
            yield from _points("train", values, time_ms, step)


def _points(
    group: str, values: dict[str, float | None], time_ms: int, step: int
) -> Iterator[Point]:
    """Yield the values that are numbers: MLflow would show infinity as 1.8e308."""
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            yield Point(f"{group}/{name}", value, time_ms, step)
