"""A plan carried out: teachers, their labels, students; finished cells mirrored to MLflow."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from rich.console import Console

from bench import track
from bench.display import Display, say
from bench.plan import Node, Place, PlannedCell, write_orders
from bench.store import state, write_failure
from runners.base import Outcome, Runner
from runners.cluster import Local
from runners.here import Here

PAUSE_S = 5.0  # before MLflow's database is tried a second time


def launch(
    planned: list[PlannedCell], place: Place, *, runner: Runner, uri: str | None, console: Console
) -> int:
    """Run what is not done; return the exit code: 0 all done, 1 a cell failed, 3 unfinished.

    Done cells are skipped with a line. A cell that fails stops no other, but for the students of a
    teacher that failed. `uri` is where MLflow keeps its runs, None for nowhere.
    """
    write_orders([one for one in planned if one.to_run], place)
    for one in planned:
        if not one.to_run:
            say(console, f"{one.folder.name}: skipped, {one.reason}")
    mirror = Mirror(uri, place.store.root, console)
    mirror.add([one.folder for one in planned if one.state == "done"])
    todo = [one for one in planned if one.to_run]
    os.environ["BENCH_COMMAND"] = shlex.join(["bench", *sys.argv[1:]])  # for provenance
    failed = _run(todo, runner, mirror, console) if todo else False
    return 1 if failed else 0 if {state(one.folder) for one in planned} == {"done"} else 3


def _run(todo: list[PlannedCell], runner: Runner, mirror: "Mirror", console: Console) -> bool:
    """Run cells that need no labels, then make the labels, then run the cells that need them.

    Return whether anything failed.
    """
    from bench.pseudo import make_labels  # these import torch
    from bench.run import run_cell

    failed = False
    labels = {one.labels.folder: one.labels for one in todo if one.labels and one.labels.to_run}
    with Display([*todo, *labels.values()], console) as display:

        def carry_out(function: Callable[[str], None], nodes: Sequence[Node]) -> None:
            nonlocal failed
            by_folder = {str(node.folder): node for node in nodes}
            # Closing the outcomes, as Ctrl-C does, ends the workers.
            with closing(runner.run(function, by_folder)) as outcomes:
                for outcome in outcomes:
                    if outcome.error and not outcome.error.startswith("Busy"):
                        failed = True
                        _keep(outcome)
                    display.finished(by_folder[outcome.item], outcome.error)
                    mirror.add([Path(outcome.item)])

        carry_out(run_cell, [one for one in todo if one.labels is None])
        carry_out(make_labels, [one for one in labels.values() if one.can_be_made()])
        for one in labels.values():
            if one.made():
                say(console, f"{one.title}: {one.summary()}")
        carry_out(run_cell, [one for one in todo if one.labels and one.labels.made()])
    for one in todo:
        if one.labels and not one.labels.made():
            say(console, f"{one.folder.name}: not run, its teachers or their labels are missing")
    return failed


def _keep(outcome: Outcome) -> None:
    """Write the failure of a worker that could not write it itself, as when it was killed."""
    home = Path(outcome.item)
    with suppress(OSError):
        if not (home / "error.txt").exists():
            write_failure(home, str(outcome.error), outcome.traceback)


class Mirror:
    """The MLflow side of a launch: where it fails, one line says so, and no result is lost."""

    def __init__(self, uri: str | None, store: Path, console: Console) -> None:
        self.uri, self.store, self.console = uri, store, console
        if uri is None:
            return
        try:
            track.prepare(uri, store)
        except track.TrackError:
            self._prepare_again()

    def add(self, finished: Sequence[Path]) -> None:
        """Mirror finished cells; those that are in MLflow already stay as they are."""
        if self.uri is None or not finished:
            return
        try:
            track.mirror(finished, self.uri, self.store)
        except track.TrackError as error:
            self._give_up(error)

    def _prepare_again(self) -> None:
        """Try once more: another run may have been making the same database."""
        assert self.uri is not None
        time.sleep(PAUSE_S)
        try:
            track.prepare(self.uri, self.store)
        except track.TrackError as error:
            self._give_up(error)

    def _give_up(self, error: track.TrackError) -> None:
        self.uri = None
        say(self.console, f"Not tracked: {error}")


def choose_runner(name: str, store: Path, jobs: int | None, cells: int) -> tuple[Runner, str]:
    """Return the runner of `--runner NAME` and a line that says what it will use.

    `local` has as many slots as there are GPUs, one each, or without GPUs one for each core up to
    four; the cores are shared out as threads, unless $OMP_NUM_THREADS says how many.
    """
    if name == "here":
        return Here(), "in this process"
    gpus, cores = _gpus(), usable_cores()
    slots = max(1, min(jobs or len(gpus) or min(cores, 4), cells, len(gpus) or cells))
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdecimal() and int(given) else max(1, cores // slots)
    what = "a GPU" if gpus else "no GPU"
    line = f"{slots} at once, each with {threads} thread{'s' * (threads > 1)} and {what}"
    return Local(store / "logs", slots, threads, gpus[:slots]), line


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA names them, without asking CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    devices = (re.fullmatch(r"nvidia(\d+)", device.name) for device in Path("/dev").glob("nvidia*"))
    return tuple(sorted((found[1] for found in devices if found), key=int))
