"""A plan carried out: cells through a runner, finished ones mirrored to MLflow."""

import os
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from bench import track
from bench.display import Display
from bench.plan import Place, Planned, write_orders
from runners.base import Runner
from runners.cluster import Local
from runners.here import Here


def launch(
    planned: list[Planned], place: Place, *, runner: Runner, uri: str | None, console: Console
) -> int:
    """Run what is not done; return the exit code: 0 all done, 1 a cell failed, 3 unfinished.

    Done cells are skipped with a line, and a cell that fails never stops the others. `uri` is where
    MLflow keeps its runs, None for nowhere.
    """
    write_orders([one for one in planned if one.state != "running"], place)
    for one in planned:
        if not one.to_run:
            _say(console, f"{one.folder.name}: skipped, {one.reason}")
    todo = {str(one.folder): one for one in planned if one.to_run}
    mirror = Mirror(uri, place.store.root, console)
    mirror.add([one.folder for one in planned if one.state == "done"])
    failed = 0
    if todo:
        from bench.run import run_cell  # imports torch

        outcomes = closing(runner.run(run_cell, todo))  # leaving early ends the workers
        with Display(list(todo.values()), console) as display, outcomes as ended:
            for outcome in ended:
                display.finished(todo[outcome.item], outcome.error)
                failed += outcome.error is not None
                if outcome.error is None:
                    mirror.add([Path(outcome.item)])
    if failed:
        return 1
    return 3 if any(one.state == "running" for one in planned) else 0


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
