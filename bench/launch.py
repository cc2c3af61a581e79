"""A plan carried out, here or on a cluster, and shown while it is; MLflow and the tables follow."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from bench import BenchError, artifacts, sweep
from bench.display import Display, say, terminal
from bench.invocations import FILE, Invocation
from bench.mirror import Mirror
from bench.plan import Node, Place, PlannedCell, PseudoLabels, write_orders
from bench.store import read_json, read_order, state
from bench.track import address
from runners.base import Runner, RunnerError
from runners.cluster import SlurmOptions
from runners.here import Here
from runners.local import Local
from runners.slurm import Slurm, SlurmAway

LAST_JOB = {"time_min": 60, "cpus_per_task": 1, "gpus_per_node": 0, "mem_gb": None, "parallel": 1}
IMPORTS = ("bench.run", "bench.pseudo")  # what `bench.work` needs
STAY = "The jobs stay with SLURM: bench status shows them, bench cancel ends them."


def launch(
    planned: list[PlannedCell],
    place: Place,
    *,
    runner: Runner | Slurm,
    uri: str | None,
    console: Console,
    invocation: Invocation,
    detach: bool = False,
) -> int:
    """Run what is not done; return the exit code: 0 all done, 1 a cell failed, 3 unfinished.

    Done cells are skipped with a line. A cell that fails stops no other, but for the students of a
    teacher that failed. `uri` is where MLflow keeps its runs, None for nowhere; `invocation` what
    was asked for, whose tables and page are written at the end. With `detach` jobs of SLURM are
    submitted and left to themselves, and that is 0; the last of them does what is left to do here.
    """
    write_orders([one for one in planned if one.to_run or not _has_order(one.folder)], place)
    for one in planned:
        if not one.to_run:
            say(console, f"{one.folder.name}: {'skipped, ' * (one.state == 'done')}{one.reason}")
    os.environ["BENCH_COMMAND"] = shlex.join(["bench", *sys.argv[1:]])  # for provenance
    todo = sweep.nodes(planned)
    if detach:
        assert isinstance(runner, Slurm), "the command has seen to it"
        _detach(todo, place.store.root, runner, console, invocation)
        return 0
    homes, last = [one.folder for one in planned], partial(artifacts.write, invocation)
    with Mirror(uri, place.store.root, homes, console, last):
        failed = bool(todo) and _run(todo, place.store.root, runner, console)
    return 1 if failed else 0 if {state(one.folder) for one in planned} == {"done"} else 3


def _has_order(folder: Path) -> bool:
    try:
        read_order(folder)
    except BenchError:
        return False
    return True


def conclude(folder: str) -> None:
    """Do what is left when all jobs of an invocation, whose folder this is, have ended.

    Says which jobs are gone without a word, mirrors the cells to MLflow, writes tables and page.
    """
    home = Path(folder)
    asked = Invocation(folder=home, **read_json(home / FILE))
    store = home.parent.parent
    cells, console = [store / "cells" / name for name in asked.cells], terminal()
    try:
        for cell in sorted({*cells} - {*sweep.queued(cells)}):
            if error := sweep.settle(cell):
                say(console, f"{cell.name}: {error}")
    except SlurmAway as away:
        say(console, f"{away} So no job is said to be gone.")
    with Mirror(address(asked.how["track"], store), store, cells, console):
        artifacts.write(asked)


class _Shown:
    """Says how each node ends, and remembers it."""

    def __init__(self, display: Display, console: Console) -> None:
        self.display, self.console = display, console
        self.ended: dict[Path, str | None] = {}

    def __call__(self, node: Node, error: str | None) -> None:
        self.ended[node.folder] = error
        self.display.finished(node, error)
        if isinstance(node, PseudoLabels) and error is None:
            say(self.console, f"{node.title}: {node.summary()}")

    @property
    def failed(self) -> bool:
        """Whether any node failed; one that was stopped has not."""
        return any(e and not e.startswith(sweep.STOPPED) for e in self.ended.values())


def _run(todo: list[Node], store: Path, runner: Runner | Slurm, console: Console) -> bool:
    """Run nodes and see them to their ends; return whether any failed."""
    with Display(todo, console) as display:
        shown = _Shown(display, console)
        if not isinstance(runner, Slurm):
            sweep.run(todo, runner, shown)
            return shown.failed
        sweep.submit(todo, runner, store, shown, partial(say, console))
        try:
            left = [node for node in todo if node.folder not in shown.ended]
            sweep.follow(left, shown, partial(say, console))
        except KeyboardInterrupt:
            say(console, STAY)
            raise
        return shown.failed


def _detach(
    todo: list[Node], store: Path, runner: Slurm, console: Console, invocation: Invocation
) -> None:
    """Submit nodes, and a last job that waits for all of them."""

    def refused(node: Node, error: str | None) -> None:
        say(console, f"{node.title}: failed: {error}")

    given = sweep.submit(todo, runner, store, refused, partial(say, console))
    options = replace(runner.options, job_name=f"{runner.options.job_name}-end", **LAST_JOB)
    try:
        sweep.hand_over(
            conclude,
            [invocation.folder],
            Slurm(runner.folder, options),
            sweep.arrays(given.values()),
        )
    except RunnerError as error:
        say(console, f"No last job ({error}): bench track sync and bench report do its work.")
    say(console, STAY)


def choose_runner(
    name: str,
    store: Path,
    jobs: int | None,
    cells: int,
    slurm: Sequence[str] = (),
    ranks: int = 1,
) -> tuple[Runner | Slurm, str]:
    """Return the runner of `--runner NAME` and a line that says what it will use.

    `slurm` are the words of `--slurm`, `partition=gpu` and so on, for each of a cell's `ranks`.

    `local` has as many slots as there are GPUs, one each (or one for each rank), or without GPUs
    one for each core up to four; the cores are shared out as threads, unless $OMP_NUM_THREADS says
    how many. `BenchError` where there are fewer GPUs than a cell is to have.
    """
    if name == "here":
        return Here(), "in this process"
    if name == "slurm":
        options = SlurmOptions.parse(",".join(slurm))
        options = replace(options.times(ranks), parallel=jobs or options.parallel)
        return Slurm(store / "logs" / "slurm", options), f"through SLURM, {options.words()}"
    gpus = _gpus()
    if 0 < len(gpus) < ranks:
        raise BenchError(f"--gpus-per-cell {ranks}: there are {len(gpus)} GPUs here.")
    slots, threads = places(jobs, cells, ranks)
    what = f"{ranks} GPUs" if gpus and ranks > 1 else "a GPU" if gpus else "no GPU"
    what += f", in {ranks} processes" * (ranks > 1)
    line = f"{slots} at once, each with {threads} thread{'s' * (threads > 1)} and {what}"
    return Local(store / "logs", slots, threads, gpus[: slots * ranks], IMPORTS), line


def places(jobs: int | None, cells: int, ranks: int) -> tuple[int, int]:
    """Return how many cells the runner `local` has at once, and the threads of each."""
    gpus, cores = _gpus(), usable_cores()
    room = max(1, (len(gpus) or cores) // ranks)
    slots = max(1, min(jobs or (room if gpus else min(room, 4)), cells, room if gpus else cells))
    given = os.environ.get("OMP_NUM_THREADS", "")
    return slots, int(given) if given.isdecimal() and int(given) else max(1, cores // slots)


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
