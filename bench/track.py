"""MLflow as a mirror of the store: one run for each finished cell, written by one process.

The store stays the truth and MLflow a way to browse it: a run is made from a cell's `result.json`
and `progress.jsonl` alone, and can be made again at any time. Only the process that launches cells
calls this. Runs are written through MLflow's client, never through its global active run, which an
environment variable or a signal can redirect.
"""

import hashlib
import logging
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import BenchError
from bench.store import read_json, read_lines

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "lv-adapter-bench"
PRIMARY = ("sem/mIoU", "driv/mIoU", "det/mAP")
STAGES = ("adapt", "finetune")
ARTIFACTS = ("result.json", "load_report.json")
CELL_TAG, DIGEST_TAG = "bench.cell_id", "bench.result_sha256"
POINTS_PER_CALL = 1000  # more metric values MLflow refuses in one call


class TrackError(BenchError):
    """MLflow cannot be reached or refuses; the store is complete without it."""


class Point(NamedTuple):
    """One value of a metric, its fields in the order of `mlflow.entities.Metric`."""

    key: str
    value: float
    time_ms: int
    step: int


def default_uri(store: Path) -> str:
    """Return the address of the store's own SQLite database."""
    return f"sqlite:///{store.resolve() / 'mlflow.db'}"


def prepare(uri: str, store: Path) -> None:
    """Create the database and the experiment where they are missing; raise `TrackError`.

    To be called before cells are fanned out: two processes that create one SQLite database at the
    same time leave it unusable. Artifacts go into the store, not into the current folder.
    """
    with _connected(uri) as client:
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(
                EXPERIMENT,
                artifact_location=(store / "mlflow-artifacts").resolve().as_uri(),
                tags={
                    "mlflow.experiment.primaryMetric.name": f"final/{PRIMARY[0]}",
                    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
                },
            )


def mirror(folders: Iterable[Path], uri: str, store: Path) -> int:
    """Write a run for every finished cell that has none yet; return how many were written.

    A cell is recognised by its key in the tag `bench.cell_id`. A run that was cut short, or that
    shows another result of the same cell, is deleted and written anew. Folders without a
    `result.json` are passed over. Raises `TrackError`.
    """
    prepare(uri, store)
    with _connected(uri) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None, "prepare has made it"
        mirrored = {run.data.tags.get(CELL_TAG): run for run in _runs(client, experiment)}
        written = 0
        for folder in folders:
            if not (folder / "result.json").exists():
                continue
            result, digest = _read_result(folder)
            old = mirrored.get(result["key"])
            if old and _shows(old, digest):
                continue
            if old:
                client.delete_run(old.info.run_id)
            _write(client, experiment.experiment_id, folder, result, digest)
            written += 1
        return written


@contextmanager
def _connected(uri: str) -> Iterator["MlflowClient"]:
    """Yield a client; turn what MLflow and the layers below it raise into one `TrackError` line.

    Importing MLflow takes more than a second, so that is done here. The environment is set first:
    MLflow reads it when it is imported, and would report its use over the network.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from alembic.util.exc import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces each table that it makes
    try:
        _check_sqlite(uri)
        yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        cause = str(error).strip().splitlines()[0].partition(". ")[0]  # advice follows at length
        raise TrackError(
            f"MLflow cannot use {uri} ({cause}). The store is complete without it: "
            "mend or remove that database, give --track another address, or --track off."
        ) from error


def _check_sqlite(uri: str) -> None:
    """Raise `sqlite3.Error` where there is no database to be had.

    MLflow itself would try to open the file for a minute and a half.
    """
    if uri.startswith("sqlite:///"):
        file = uri.removeprefix("sqlite:///").partition("?")[0]
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")


def _runs(client: "MlflowClient", experiment: Any) -> Iterator["Run"]:
    """Yield all runs of the experiment that are not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _read_result(folder: Path) -> tuple[dict[str, Any], str]:
    """Return what a cell has left, and the sha256 of that file."""
    file = folder / "result.json"
    return read_json(file), hashlib.sha256(file.read_bytes()).hexdigest()


def _shows(run: "Run", digest: str) -> bool:
    """Whether a run is whole and made from the result with this sha256."""
    return run.info.status == "FINISHED" and run.data.tags.get(DIGEST_TAG) == digest


def _write(
    client: "MlflowClient", experiment_id: str, folder: Path, result: dict[str, Any], digest: str
) -> None:
    """Write the run of one finished cell; its status comes last and alone means whole."""
    from mlflow.entities import Metric, Param

    end_ms = int(datetime.fromisoformat(result["provenance"]["finished"]).timestamp() * 1000)
    start_ms = end_ms - int(1000 * sum(stage["seconds"] for stage in result["stages"]))
    run = client.create_run(
        experiment_id,
        start_time=start_ms,
        run_name=_name(result["resolved"]),
        tags={**_tags(result), DIGEST_TAG: digest},
    )
    params = [Param(key, value) for key, value in _params(result).items()]
    client.log_batch(run.info.run_id, params=params)
    points = [
        *_curves(read_lines(folder / "progress.jsonl"), result["stages"], start_ms),
        *_points("final", result["metrics"], end_ms, step=0),
    ]
    for first in range(0, len(points), POINTS_PER_CALL):
        some = points[first : first + POINTS_PER_CALL]
        client.log_batch(run.info.run_id, metrics=[Metric(*point) for point in some])
    for name in ARTIFACTS:
        if (folder / name).exists():
            client.log_artifact(run.info.run_id, str(folder / name))
    client.set_terminated(run.info.run_id, status="FINISHED", end_time=end_ms)


def _name(resolved: dict[str, Any]) -> str:
    """Return a run's name: `moco_v2_200ep · paf · disjoint-normal · s0`."""
    protocol = resolved["protocol"]["name"]
    tasks = "" if len(resolved["tasks"]) > 1 else f" · {resolved['tasks'][0]}"
    return f"{resolved['zoo']} · {protocol} · {resolved['setting']}{tasks} · s{resolved['seed']}"


def _params(result: dict[str, Any]) -> dict[str, str]:
    """Return the values by which runs are compared: the same keys in every run, short values.

    A stage that a protocol does not have counts 0 epochs at rate 0.
    """
    resolved = result["resolved"]
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
        "stand_in": result["weights"]["stand_in"],
    }
    for name in STAGES:
        stage = stages.get(name, {"epochs": 0, "lr": 0})
        params |= {f"{name}_epochs": stage["epochs"], f"{name}_lr": stage["lr"]}
    return {key: str(value) for key, value in params.items()}


def _tags(result: dict[str, Any]) -> dict[str, str]:
    """Return a run's tags: what identifies the cell, and where its numbers come from."""
    resolved, weights, origin = result["resolved"], result["weights"], result["provenance"]
    code = origin.get("code")
    return {
        CELL_TAG: result["key"],
        "bench.group": f"{resolved['zoo']}-{resolved['protocol']['name']}",
        "bench.state": "done",
        "bench.weights_sha256": weights["sha256"],
        **{f"bench.{name}": origin[name] for name in ("host", "device") if name in origin},
        **({"mlflow.source.git.commit": code} if code else {}),
        "mlflow.note.content": _note(result),
    }


def _note(result: dict[str, Any]) -> str:
    """Return two lines of Markdown: the main scores, and what they were made of."""
    metrics, weights = result["metrics"], result["weights"]
    scores = [f"{name} {metrics[name]:.1f}" for name in PRIMARY if metrics.get(name) is not None]
    stand_in = " (stand-in weights ‡: no statement about the real ones)"
    made_of = weights["name"] + (stand_in if weights["stand_in"] else "")
    return f"**{' · '.join(scores)}**  \ncell {result['key'][:8]}, {made_of}"


def _curves(
    lines: Iterable[dict[str, Any]], stages: Iterable[dict[str, Any]], start_ms: int
) -> Iterator[Point]:
    """Yield the training and validation curves; steps go on counting from stage to stage."""
    before, steps = {}, 0
    for stage in stages:
        before[stage["name"]] = steps
        steps += stage["steps"]
    seconds = 0.0
    for line in lines:
        step = before[line["stage"]] + line["step"]
        seconds += line.get("seconds", 0.0)
        time_ms = start_ms + int(1000 * seconds)
        if line["kind"] == "val":
            yield from _points("val", line["metrics"], time_ms, step)
        else:
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
