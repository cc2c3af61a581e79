"""MLflow as a mirror of the store: one run a cell, one above them for each `bench run`.

The store stays the truth and MLflow a way to browse it: `bench.tracked` says what a run is to look
like, from a cell's files alone, and this file makes MLflow show it. It can be done again at any
time, by one process at a time: whoever launches cells, or `bench track sync`; workers never do.
Runs are written through MLflow's client, never through its global active run, which an environment
variable or a signal can redirect.
"""

import fcntl
import logging
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import BenchError
from bench.invocations import invocations
from bench.tracked import CELL_TAG, INVOCATION_TAG, PRIMARY, Point, Tracked, of_cell, of_invocation

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "lv-adapter-bench"
DIGEST_TAG = "bench.result_sha256"
PARENT_TAG = "mlflow.parentRunId"
REPEATED = " with steps of earlier attempts"  # after a digest: not exactly the store's curves
POINTS_PER_CALL = 900  # MLflow refuses more than 1000 metric values in one call
CURVES = ("train/", "val/")
FEW = 20  # runs that are asked for one by one
OPEN = ("RUNNING", "SCHEDULED")


class TrackError(BenchError):
    """MLflow cannot be reached or refuses; the store is complete without it."""


def address(track: str | None, store: Path) -> str | None:
    """Return where `--track` says that runs go: the store's own database, an address, or None."""
    if track == "off":
        return None
    if track and track.startswith("sqlite:///"):
        return f"sqlite:///{Path(track.removeprefix('sqlite:///')).absolute()}"
    return track or default_uri(store)


def default_uri(store: Path) -> str:
    """Return the address of the store's own SQLite database."""
    return f"sqlite:///{store.resolve() / 'mlflow.db'}"


def is_server(uri: str) -> bool:
    """Return whether runs go to a server, where running cells' curves may grow."""
    return uri.startswith(("http://", "https://"))


def prepare(uri: str, store: Path) -> None:
    """Create the database and the experiment where they are missing; raise `TrackError`.

    To be called before cells are fanned out. Artifacts go into the store, and with a server to
    where that keeps them.
    """
    with _connected(uri, store) as client:
        _experiment(client, uri, store)


def mirror(folders: Iterable[Path], uri: str, store: Path) -> int:
    """Make MLflow show these cells as their folders are now; return how many runs that changed.

    A cell is recognised by its key in the tag `bench.cell_id` and keeps its run from attempt to
    attempt: what is logged of a step is not logged again. A run that shows another result of the
    same cell is deleted and written anew. Cells that were never begun have none. Raises
    `TrackError`.
    """
    with _connected(uri, store) as client:
        return _Mirror(client, uri, store).bring(folders)


def sync(uri: str, store: Path) -> int:
    """Make MLflow show exactly what the store holds; return how many runs that changed.

    Beside what `mirror` does: a run is written anew where its curves hold steps that an attempt
    took again, all but one of several runs of a cell are deleted, and runs of this store that are
    said to go on though their cells are gone are closed as KILLED.
    """
    with _connected(uri, store) as client:
        one = _Mirror(client, uri, store, exact=True)
        return (
            one.bring(file.parent for file in (store / "cells").glob("*/cell.json")) + one.close()
        )


def runs_page(store: Path) -> str:
    """Return where a server of the store's own database shows the runs, behind its address.

    Without it MLflow opens with its pages for language models. A database that cannot be read has
    no such place: the server will say why.
    """
    ask = "SELECT experiment_id FROM experiments WHERE name = ?"
    with suppress(sqlite3.Error), closing(sqlite3.connect(store / "mlflow.db")) as database:
        for (number,) in database.execute(ask, [EXPERIMENT]):
            return f"/#/experiments/{number}/runs?workflowType=machine_learning"
    return ""


def server(uri: str, host: str, port: int) -> list[str]:
    """Return the command that shows the runs at `uri` at http://host:port."""
    words = ("server", "--backend-store-uri", uri, "--host", host, "--port", str(port))
    return [sys.executable, "-m", "mlflow", *words, "--workers", "1"]


@dataclass
class _Mirror:
    """One go over some cells, while nobody else writes."""

    client: "MlflowClient"
    uri: str
    store: Path
    exact: bool = False

    def __post_init__(self) -> None:
        self.experiment = _experiment(self.client, self.uri, self.store)

    def bring(self, folders: Iterable[Path]) -> int:
        """Bring the runs of these cells and their parents to what the store says."""
        tracked = [one for folder in sorted(folders) if (one := of_cell(folder))]
        asked = invocations(self.store)
        parents = [of_invocation(one) for one in asked]
        self.known = self._known([*parents, *tracked])
        changed = sum(self._show(parent) for parent in parents)
        # The newest `bench run` that asked for a cell is above it.
        above = {name: self.known[one.id] for one in asked for name in one.cells}
        for one in tracked:
            if parent := above.get(one.tags["bench.cell"]):
                one.tags[PARENT_TAG] = parent.info.run_id
            changed += self._show(one)
        return changed

    def close(self) -> int:
        """Close the runs of this store that are said to go on though nothing of them is there."""
        changed = 0
        for run in _runs(self.client, self.experiment, ""):
            tags = run.data.tags
            named = tags.get(CELL_TAG) or tags.get(INVOCATION_TAG)
            mine = tags.get("bench.store") == str(self.store)
            if mine and named not in self.known and run.info.status in OPEN:
                self.client.set_tag(run.info.run_id, "bench.state", "gone")
                self.client.update_run(run.info.run_id, status="KILLED")
                changed += 1
        return changed

    def _known(self, wanted: list[Tracked]) -> dict[str, "Run"]:
        """Return the runs that are there already, by what they are recognised by."""
        asked = [""]
        if len(wanted) <= FEW and not self.exact:
            asked = [f"tags.`{one.kind}` = '{one.id}'" for one in wanted]
        ids = {one.id for one in wanted}
        found: dict[str, Run] = {}
        for run in (run for words in asked for run in _runs(self.client, self.experiment, words)):
            named = run.data.tags.get(CELL_TAG) or run.data.tags.get(INVOCATION_TAG)
            if named in found and self.exact:
                self.client.delete_run(run.info.run_id)
            elif named in ids:
                found[named] = run
        return found

    def _show(self, one: Tracked) -> bool:
        """Bring one run to what it is to look like; return whether that changed anything."""
        run, changed = self.known.get(one.id), False
        if run is not None and self._is_another(run, one):
            self.client.delete_run(run.info.run_id)
            run = None
        if run is None:
            run, changed = self._new(one), True
        digest = run.data.tags.get(DIGEST_TAG, "")
        if one.digest is None:
            if one.status == "FAILED" or (one.status == "RUNNING" and is_server(self.uri)):
                changed |= self._log(run, one.curves) > 0
        elif not digest.startswith(one.digest):
            self._finish(run, one)
            changed = True
        changed |= self._describe(run, one)
        if run.info.status != one.status:
            self._end(run, one)
            changed = True
        self.known[one.id] = run
        return changed

    def _is_another(self, run: "Run", one: Tracked) -> bool:
        """Return whether a run cannot be made to show what it should."""
        if one.kind != CELL_TAG:
            return False
        digest = run.data.tags.get(DIGEST_TAG, "")
        other = bool(digest) and not (one.digest and digest.startswith(one.digest))
        other |= any(
            run.data.params.get(name, value) != value for name, value in one.params.items()
        )
        if self.exact:
            other |= digest.endswith(REPEATED) or run.info.start_time != one.start_ms
            other = other or (not digest and self._has_others(run, one.curves))
        return other

    def _new(self, one: Tracked) -> "Run":
        return self.client.create_run(
            self.experiment.experiment_id,
            start_time=one.start_ms,
            run_name=one.name,
            tags={one.kind: one.id},
        )

    def _finish(self, run: "Run", one: Tracked) -> None:
        """Write what is final; the digest, last of all, says that it is there."""
        digest, before = str(one.digest), bool(run.data.metrics)
        self._log(run, one.curves)
        if before and self._has_others(run, one.curves):
            digest += REPEATED
        self._send(run, one.final)
        for file in one.artifacts:
            self.client.log_artifact(run.info.run_id, str(file))
        self.client.set_tag(run.info.run_id, DIGEST_TAG, digest)

    def _log(self, run: "Run", curves: list[Point]) -> int:
        """Log the points of a run's curves that are not there yet; return how many.

        Of steps that an attempt took again, the values of the first time stay.
        """
        new: list[Point] = []
        for group in CURVES:
            points = [point for point in curves if point.key.startswith(group)]
            if points:
                last = self._last_step(run, points[-1].key)
                new += [point for point in points if point.step > last]
        self._send(run, new)
        return len(new)

    def _last_step(self, run: "Run", key: str) -> int:
        if key not in run.data.metrics:
            return -1
        history = self.client.get_metric_history(run.info.run_id, key)
        return max(point.step for point in history)

    def _has_others(self, run: "Run", curves: list[Point]) -> bool:
        """Return whether a run's curves hold points that are not the store's."""
        wanted = set(curves)
        return any(
            (key, point.value, point.timestamp, point.step) not in wanted
            for key in run.data.metrics
            if key.startswith(CURVES)
            for point in self.client.get_metric_history(run.info.run_id, key)
        )

    def _send(self, run: "Run", points: list[Point]) -> None:
        """Log points, those of a step in one call: it is there as a whole, or not at all."""
        from mlflow.entities import Metric

        ordered = sorted(points, key=lambda point: point.step)
        first = 0
        while first < len(ordered):
            last = min(first + POINTS_PER_CALL, len(ordered))
            while 0 < last < len(ordered) and ordered[last].step == ordered[last - 1].step:
                last -= 1
            metrics = [Metric(*point) for point in ordered[first:last]]
            self.client.log_batch(run.info.run_id, metrics=metrics)
            first = last

    def _describe(self, run: "Run", one: Tracked) -> bool:
        """Set absent parameters and tags that differ; remove tags of ours that no longer hold."""
        from mlflow.entities import Param, RunTag

        absent = {k: v for k, v in one.params.items() if k not in run.data.params}
        there = run.data.tags
        new = {name: value for name, value in one.tags.items() if there.get(name) != value}
        ours = {name for name in there if name.startswith("bench.") and name != DIGEST_TAG}
        old = ours - set(one.tags)
        if absent or new:
            params = [Param(*item) for item in absent.items()]
            tags = [RunTag(*item) for item in new.items()]
            self.client.log_batch(run.info.run_id, params=params, tags=tags)
        for name in old:
            self.client.delete_tag(run.info.run_id, name)
        return bool(absent or new or old)

    def _end(self, run: "Run", one: Tracked) -> None:
        """Give a run its status; when a cell that was cut off ended, nobody knows."""
        if one.end_ms is None:
            self.client.update_run(run.info.run_id, status=one.status)
        else:
            self.client.set_terminated(run.info.run_id, status=one.status, end_time=one.end_ms)


def _experiment(client: "MlflowClient", uri: str, store: Path) -> Any:
    """Return the experiment, made where it is missing."""
    place = (store / "mlflow-artifacts").resolve().as_uri()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        client.create_experiment(
            EXPERIMENT,
            artifact_location=None if is_server(uri) else place,
            tags={
                "mlflow.experiment.primaryMetric.name": f"final/{PRIMARY[0]}",
                "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
            },
        )
        found = client.get_experiment_by_name(EXPERIMENT)
        assert found is not None, "it was made just now"
    if uri == default_uri(store) and found.artifact_location != place:
        raise TrackError(
            f"{store / 'mlflow.db'} is of a store that was at {found.artifact_location}. "
            "Remove it: bench track sync makes it anew."
        )
    return found


@contextmanager
def _connected(uri: str, store: Path) -> Iterator["MlflowClient"]:
    """Yield a client; turn what MLflow and the layers below it raise into one `TrackError` line.

    Importing MLflow takes more than a second, so that is done here. The environment is set first:
    MLflow reads it when it is imported, and would report its use over the network, and try for
    minutes to reach a server that is away.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from alembic.util.exc import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces each table that it makes
    try:
        with _alone(uri, store):
            _check_sqlite(uri)
            yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        cause = str(error).strip().splitlines()[0].partition(". ")[0]  # advice follows at length
        raise TrackError(
            f"MLflow cannot use {uri} ({cause}). The store is complete without it: mend or remove "
            "that database, give --track another address, or --track off; then bench track sync."
        ) from error


@contextmanager
def _alone(uri: str, store: Path) -> Iterator[None]:
    """Keep other processes out: two that create one SQLite database at once leave it unusable.

    The door is beside the database, and for a server in the store.
    """
    file = _database(uri)
    door = store / ".mlflow.lock" if file is None else file.with_name(f".{file.name}.lock")
    with door.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _database(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _check_sqlite(uri: str) -> None:
    """Raise `sqlite3.Error` where there is no database to be had.

    MLflow itself would try to open the file for a minute and a half.
    """
    if file := _database(uri):
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")


def _runs(client: "MlflowClient", experiment: Any, words: str) -> Iterator["Run"]:
    """Yield the runs of the experiment that are not deleted and fit a filter, the oldest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            filter_string=words,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return
