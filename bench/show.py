"""One cell of the store, with everything that is known of it; and its log."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.again import again
from bench.failure import DAMAGED, cause
from bench.intervals import FEW, resampled
from bench.status import Stored, line
from bench.store import error_of, handed_to, owner, read_json, read_lines, read_result, state

POLL_S = 0.5


def facts(one: Stored) -> dict[str, Any]:
    """Return what `show --json` prints of a cell; what is not there (yet) is None."""
    home = one.home
    result = read_result(home) if (home / "result.json").exists() and one.cell else None
    return {
        **line(one),
        "folder": str(home),
        "order": one.order,
        "running": owner(home),
        "job": handed_to(home) or None,
        "attempts": read_lines(home / "attempts.jsonl"),
        "load_report": _load_report(home),
        "result": result,
        "intervals": _intervals(home, result) if result else None,
        "error": _why(one),
    }


def text(known: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a person reads of `facts`."""
    yield f"{known['cell']}: {known['state']}"
    for title, lines in sections(known):
        yield ""
        yield title
        yield from (f"  {name:<30} {value}" if name else value for name, value in lines)


def sections(known: dict[str, Any]) -> list[tuple[str, "Lines"]]:
    """Return `facts` as sections of lines (name, value), those that have any."""
    order, result = known["order"], known["result"]
    found = [
        ("where", _where(known)),
        ("weights", _weights(order, known["load_report"])),
        ("data", _data(order)),
        ("values", _flat(order.get("resolved", {}))),
        ("attempts", _attempts(known["attempts"])),
        ("code", _code(known["attempts"][-1]) if known["attempts"] else []),
        ("again", [("command", again(order))] if order else []),
        ("stages", _stages(result["stages"]) if result else []),
        ("scores", _scores(result, known["intervals"]) if result else []),
        ("failed", _failure(known["error"]) if known["error"] else []),
    ]
    return [(title, lines) for title, lines in found if lines]


def log_of(home: Path) -> Path | None:
    """Return the file with what the cell's worker printed; None where there is none (yet).

    That is `log.txt`, or else the one that `job.json` names.
    """
    own, given = home / "log.txt", handed_to(home).get("log")
    return next((file for file in (own, *([Path(given)] if given else [])) if file.is_file()), None)


def print_logs(homes: Sequence[Path], write: Callable[[str], object], *, follow: bool) -> None:
    """Write the logs of some cells; with `follow` what is added too, until all of them are over.

    A cell is over when it is done or has failed. Of several cells, a title says whose lines follow.
    Raises `BenchError` where there is no log and none is waited for.
    """
    if not follow and not any(map(log_of, homes)):
        raise BenchError(
            f"No log of {', '.join(home.name for home in homes)} here. In the process of "
            "bench run itself (--runner here) what is printed goes to its terminal."
        )
    read: dict[Path, int] = {}
    title: Path | None = None
    while True:
        over = all(state(home) in ("done", "failed") for home in homes)
        for home in homes:
            if added := _added(home, read):
                if len(homes) > 1 and title != home:
                    write(f"==> {home.name} <==\n")
                write(added)
                title = home
        if over or not follow:
            return
        time.sleep(POLL_S)


def _added(home: Path, read: dict[Path, int]) -> str:
    """Return what was added to a cell's log since it was read last; a new file is read whole."""
    log = log_of(home)
    if log is None:
        return ""
    with suppress(FileNotFoundError), log.open("rb") as stream:
        start = read.get(log, 0)
        stream.seek(start if log.stat().st_size >= start else 0)
        added = stream.read()
        read[log] = stream.tell()
        return added.decode(errors="replace")
    return ""


def _load_report(home: Path) -> dict[str, Any] | None:
    needs = ("file", "container", "layout", "matched", "required", "dropped", "activation")
    with suppress(FileNotFoundError, BenchError):  # the report alone is no reason to show nothing
        return read_json(home / "load_report.json", (*needs, "warnings"))
    return None


def _why(one: Stored) -> dict[str, Any] | None:
    if one.error:
        return {"line": one.error, **asdict(DAMAGED), "story": ""}
    if not (happened := error_of(one.home)):
        return None
    story = (one.home / "error.txt").read_text(errors="replace").partition("\n")[2].strip()
    return {"line": happened, **asdict(cause(happened)), "story": story}


Lines = list[tuple[str, Any]]


def _where(known: dict[str, Any]) -> Lines:
    runs, job = known["running"], known["job"]
    lines: Lines = [("key", known["key"]), ("folder", known["folder"])]
    if known["order"].get("needs"):
        lines.append(("needs", ", ".join(key[:8] for key in known["order"]["needs"])))
    if runs:
        beat = f"last heart-beat {known['heartbeat_age_s']} s ago"
        lines.append(("run by", f"process {runs['pid']} on {runs['host']}, {beat}"))
    if known["state"] not in ("done", "pending", "unreadable"):
        lines.append(("reached", f"{known['stage']}, {100 * (known['progress'] or 0):.0f} %"))
    given = f"{job.get('cluster', '?')} {job.get('id', '?')}" if job else None
    return [*lines, ("given to", given)] if given else lines


def _weights(order: dict[str, Any], report: dict[str, Any] | None) -> Lines:
    if not order:
        return []
    weights = order["weights"]
    what = "a random stand-in ‡" if weights["stand_in"] else weights["row"].get("file", "")
    lines: Lines = [("name", f"{weights['name']}: {what}"), ("sha256", weights["sha256"])]
    if report:
        lines.append(
            ("file", f"{report['file']} ({report['container']}, {report['layout']} names)")
        )
        lines.append(("tensors", f"{report['matched']} of {report['required']}"))
        dropped = ", ".join(f"{name} {count}" for name, count in report["dropped"].items())
        scales = ", ".join(f"{stage} {std:.3g}" for stage, std in report["activation"].items())
        lines += [("left out", dropped or "nothing"), ("deviation of its output", scales)]
        lines += [("warning", warning) for warning in report["warnings"]]
    return lines


def _data(order: dict[str, Any]) -> Lines:
    if not order:
        return []
    data, split = order["data"], order["split"]
    counts = ", ".join(f"{task} {count:,}" for task, count in split["counts"].items())
    return [
        ("folder", data["root"] + " ‡ drawn" * data["drawn"]),
        ("sha256", data["sha256"]),
        ("training frames", f"{split['frames']:,}: {counts}"),
        ("split", f"splits/{split['file']}, sha256 {split['sha256']}"),
        *([("pseudo labels", f"pseudo/{order['pseudo']}")] if order["pseudo"] else []),
    ]


def _flat(value: Any, key: str = "") -> Lines:
    """Return every value of a cell by its key for --set; stages go by their names."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in value}
    if not isinstance(value, dict):
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        return [("protocol" if key == "protocol.name" else key.removeprefix("protocol."), shown)]
    inside = ((f"{key}.{name}" if key else name, one) for name, one in value.items())
    return [found for name, one in inside for found in _flat(one, name)]


def _attempts(attempts: list[dict[str, Any]]) -> Lines:
    lines: Lines = []
    for one in attempts:
        job = f", job {one['job']}" if one.get("job") else ""
        known = {name: one.get(name, "?") for name in ("time", "host", "device", "code")}
        where = f"{known['host']}{job}, {known['device']}, code {known['code']}"
        lines.append((known["time"], where))
    return [*lines, ("command", attempts[-1].get("command", "?"))] if lines else []


def _code(last: dict[str, Any]) -> Lines:
    """Return with what the last attempt was made; `+` behind a commit means changed since."""
    versions = {"python": last.get("python"), **last.get("packages", {})}
    lines = [
        ("commit", last.get("code")),
        ("sources", last.get("sources")),
        ("versions", ", ".join(f"{name} {one}" for name, one in versions.items() if one)),
    ]
    return [(name, value) for name, value in lines if value]


def _stages(stages: list[dict[str, Any]]) -> Lines:
    return [
        (one["name"], ", ".join([*_lengths(one), f"{one['seconds']:,.0f} s"])) for one in stages
    ]


def _lengths(stage: dict[str, Any]) -> Iterator[str]:
    return (f"{stage[name]:,} {name}" for name in ("epochs", "steps") if name in stage)


def _intervals(home: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return the 95 % intervals over images by metric, the images by task, and what is unknown."""
    found = resampled(home, result)
    return {
        "metrics": {m: {"low": found.low[m], "high": found.high[m]} for m in found.low},
        "images": {task: asdict(one) for task, one in found.images.items()},
        "unknown": found.unknown,
    }


def _scores(result: dict[str, Any], intervals: dict[str, Any]) -> Lines:
    from reports.compare import points

    constant, lines = result.get("constant", {}), Lines()
    for name, value in result["metrics"].items():
        ends, best = intervals["metrics"].get(name), constant.get(name)
        error = (ends["high"] - ends["low"]) / 4 if ends else math.nan
        shown = "does not exist" if value is None else points(value, error)
        if ends:
            low, high = (points(ends[end], error) for end in ("low", "high"))
            shown += f"   95 % interval {low} to {high}"
        if best is not None:
            shown += f"   (best constant prediction {best:.1f})"
        lines.append((name, shown))
    for task, images in intervals["images"].items():
        few = [f"{k} {n:,}" for k, n in images["shown"].items() if 0 < n <= FEW]
        rare = f"; only few show {', '.join(few)}: intervals may be too narrow" if few else ""
        lines.append((f"{task}, validation images", f"{images['count']:,}{rare}"))
    lines += [(f"{task}, no interval", why) for task, why in intervals["unknown"].items()]
    if intervals["metrics"]:
        lines.append(("an interval", "is over other images for this network, not over trainings"))
    return lines


def _failure(failure: dict[str, Any]) -> Lines:
    cure = [("cause", failure["name"]), ("cure", failure["cure"])]
    return [("", failure["line"]), *cure, ("", failure["story"])]
