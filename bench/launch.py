"""A plan carried out: teachers, their labels, students; finished cells mirrored to MLflow."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from bench import track
from bench.display import Display
from bench.plan import Node, Place, PlannedCell, write_orders
from bench.store import state
from runners.base import Runner
from runners.cluster import Local
from runners.here import Here


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
            _say(console, f"{one.folder.name}: skipped, {one.reason}")
    mirror = Mirror(uri, place.store.root, console)
    mirror.add([one.folder for one in planned if one.state == "done"])
    todo = [one for one in planned if one.to_run]
    if todo:
        _run(todo, runner, mirror, console)
    states = {state(one.folder) for one in planned}
    return 0 if states == {"done"} else 1 if "failed" in states else 3


def _run(todo: list[PlannedCell], runner: Runner, mirror: "Mirror", console: Console) -> None:
    """Run cells that need no labels, then make the labels, then run the cells that need them."""
    from bench.pseudo import make_labels  # these import torch
    from bench.run import run_cell

    labels = {one.labels.folder: one.labels for one in todo if one.labels and one.labels.to_run}
    with Display([*todo, *labels.values()], console) as display:

        def carry_out(function: Callable[[str], None], nodes: Sequence[Node]) -> None:
            by_folder = {str(node.folder): node for node in nodes}
            # Closing the outcomes, as Ctrl-C does, ends the workers.
            with closing(runner.run(function, by_folder)) as outcomes:
                for outcome in outcomes:
                    display.finished(by_folder[outcome.item], outcome.error)
                    mirror.add([Path(outcome.item)])

        carry_out(run_cell, [one for one in todo if one.labels is None])
        carry_out(make_labels, [one for one in labels.values() if one.can_be_made()])
        for one in labels.values():
            if one.made():
                _say(console, f"{one.title}: {one.summary()}")
        carry_out(run_cell, [one for one in todo if one.labels and one.labels.made()])
    for one in todo:
        if one.labels and not one.labels.made():
            _say(console, f"{one.folder.name}: not run, its teachers or their labels are missing")


class Mirror:
    """The MLflow side of a launch: where it fails, one line says so, and no result is lost."""

    def __init__(self, uri: str | None, store: Path, console: Console) -> None:
        self.uri, self.store, self.console = uri, store, console
        if uri is None:
            return
        try:
            track.prepare(uri, store)
        except track.TrackError as error:
            self._give_up(error)

    def add(self, finished: Sequence[Path]) -> None:
        """Mirror finished cells; those that are in MLflow already stay as they are."""
        if self.uri is None or not finished:
            return
        try:
            track.mirror(finished, self.uri, self.store)
        except track.TrackError as error:
            self._give_up(error)

    def _give_up(self, error: track.TrackError) -> None:
        self.uri = None
        _say(self.console, f"Not tracked: {error}")


def choose_runner(name: str, store: Path, jobs: int | None, cells: int) -> tuple[Runner, str]:
    """Return the runner of `--runner NAME` and a line that says what it will use.

    `local` has as many slots as there are GPUs, else one for each core up to four; the cores are
    shared out as threads.
    """
    if name == "here":
        return Here(), "in this process"
    gpus, cores = _gpus(), usable_cores()
    slots = max(1, min(jobs or len(gpus) or min(cores, 4), cells))
    threads = max(1, cores // slots)
    used = gpus[: len(gpus) // slots * slots]
    what = f"{len(used) // slots} GPU" if used else "no GPU"
    line = f"{slots} at once, each with {threads} thread{'s' * (threads > 1)} and {what}"
    return Local(store / "logs", slots, threads, used), line


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA names them, without asking CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    devices = (re.fullmatch(r"nvidia(\d+)", device.name) for device in Path("/dev").glob("nvidia*"))
    return tuple(sorted((found[1] for found in devices if found), key=int))


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
