"""Is what is killed at random moments, and continued, what it would have been?

A tiny cell, its three teachers and its pseudo labels are made on a small drawn data set, once left
in peace, then again while every worker is killed (SIGKILL, SIGTERM, SLURM's USR2) and started
again. Whatever a finished cell leaves must be the same: scores, weights and statistics of images to
the bit, the log line by line, and no file that is not in the undisturbed folder.
"""

import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.data.demo.draw import Counts, draw
from bench.grids import Request, cells
from bench.plan import LABELS_DONE, Node, Place, plan, write_orders
from bench.status import reached
from bench.store import Store, read_json, read_lines
from bench.worker import CUT, DONE, SIGNALS, Process, Submitted, Worker
from runners.base import Runner

FRAMES = Counts(train_100k=8, train_10k=4, shared=2, val_100k=3, val_10k=2)
REQUEST = Request(
    zoo=("moco_v2",),
    protocols=("paf",),
    preset="tiny",
    overrides=("optim.batch=2", "pseudo.seg_score=0.2", "val_every=1"),
)
SAVE_S = 0.2  # seconds between two saves, so that a tiny cell is saved as often as a long one
EARLY = 1 / 8  # of the kills hit a worker that has not begun yet
POLL_S = 0.005
TIMES = ("seconds", "images_per_s", "parts_s", "mfu")  # what says how fast a machine was

Start = Callable[[Path], Worker]
Watch = Callable[[Worker, Node], bool]  # sees a worker to its end; did it finish its work?


@dataclass(frozen=True, kw_only=True)
class Blow:
    """One disturbance of a worker: what was done, to what, and how far that had come."""

    what: str
    title: str
    where: str


def selftest(
    preempt: bool,
    *,
    folder: Path,
    kills: int = 10,
    seed: int = 0,
    runner: Runner | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Run a tiny cell, and with `preempt` again under kills; return 0 where both are the same.

    Everything goes into a new folder inside `folder`, which is removed where all is well. Workers
    are processes of this machine, or with a `runner` whatever that starts. Raises `BenchError`
    where a worker fails by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="selftest-", dir=folder.absolute()))
    start: Start = Process if runner is None else lambda cell: Submitted(runner, cell)
    trial = Trial(home=home, start=start, say=say)
    say(f"In {home}, which is removed where all is well.")
    plain, paces = trial.undisturbed()
    if not preempt:
        shutil.rmtree(home)
        say("A cell runs here, from the data to its scores.")
        return 0
    moments = Moments(kills, random.Random(seed), paces)
    killer = Killer(moments, say)
    rounds, differences = trial.disturbed(plain, killer, lambda: not moments.left)
    for line in differences:
        say(f"different: {line}")
    if differences:
        say(f"NOT THE SAME after {len(killer.blows)} kills; both are in {home}")
        return 1
    shutil.rmtree(home)
    times = "" if rounds == 1 else f" {rounds} times over"
    say(f"The same to the bit{times}, after {len(killer.blows)} kills; nothing left over.")
    return 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A small cell and what it needs, made in a folder: in peace, then disturbed."""

    home: Path
    start: Start
    say: Callable[[str], None]
    frames: Counts = FRAMES
    request: Request = REQUEST

    def undisturbed(self) -> tuple[list[Node], dict[str, "Pace"]]:
        """Make everything in peace; return the nodes, each after those that it needs, and times."""
        os.environ["BENCH_SAVE_S"] = str(SAVE_S)  # which the workers inherit, as the threads
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        nodes, paces = self.prepared(self.home / "plain"), {}
        for node in nodes:
            paces[node.title] = pace(self.start(node.folder), node)
            self.say(f"undisturbed {node.title:30} {paces[node.title].work_s:5.1f} s")
        return nodes, paces

    def disturbed(
        self, plain: list[Node], watch: Watch, enough: Callable[[], bool]
    ) -> tuple[int, list[str]]:
        """Make everything again, once or more, under `watch`; return how often, and what differs.

        That is done until there is a difference, or it is `enough`.
        """
        rounds, differences = 0, []
        while not differences and not (rounds and enough()):
            rounds += 1
            store = self.home / f"disturbed{rounds}"
            stand_ins = self.home / "plain" / "stand-ins"
            shutil.copytree(stand_ins, store / "stand-ins", copy_function=os.link)
            for node, its in zip(self.prepared(store), plain, strict=True):
                finish(node, self.start, watch)
                found = compare(its.folder, node.folder)
                differences += [f"{node.title}: {what}" for what in found]
        return rounds, differences

    def prepared(self, store: Path) -> list[Node]:
        """Draw the data and write all orders into a store; return what is to be run, in order."""
        draw(self.home / "data", 0, self.frames)
        place = Place(store=Store(store), data=str(self.home / "data"), stand_ins=True)
        place.store.prepare()
        planned = plan(cells(self.request), place)
        write_orders(planned, place)
        *teachers, student = planned
        assert student.labels is not None, "a self-trained student has labels"
        return [*teachers, student.labels, student]


def finish(node: Node, start: Start, watch: Watch) -> None:
    """Start workers on a node until one finishes it."""
    while not watch(start(node.folder), node):
        pass


def in_peace(worker: Worker, node: Node) -> bool:
    """Wait for a worker, which must finish."""
    ended = worker.wait()
    if ended != DONE:
        raise BenchError(f"{node.title} was not disturbed, and ended all the same: {ended}")
    return True


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long an undisturbed worker took to get to work, and then to do it, in seconds."""

    start_s: float
    work_s: float

    def span_s(self, blows: int) -> float:
        """Return within which time after its beginning a worker is to be cut off.

        At random moments in there, so many blows fall on the work from its first to its last
        second: of a moment m, max(0, m - start_s) is work, on average 1 / blows of it.
        """
        both_s = self.start_s + self.work_s / blows
        return both_s + math.sqrt(both_s**2 - self.start_s**2)


def pace(worker: Worker, node: Node) -> Pace:
    """See an undisturbed worker to its end; return the time that it took."""
    wait_for_attempt(worker, node)
    began = time.monotonic()
    while not worker.over() and not any(node.folder.glob("state.pt")) and not made(node):
        time.sleep(POLL_S)
    at_work = time.monotonic()
    in_peace(worker, node)
    return Pace(start_s=at_work - began + SAVE_S / 2, work_s=time.monotonic() - at_work)


@dataclass
class Moments:
    """Random moments for so many blows, spread over all nodes by the time that they take."""

    left: int
    dice: random.Random
    paces: dict[str, Pace]
    title: str = ""
    quota: int = 0  # how many blows are left for the node with this title
    span_s: float = 0.0  # within which time each of them falls

    def wait(self, worker: Worker, node: Node) -> bool:
        """Wait for the moment of the next blow; False where this worker is to be left in peace."""
        if node.title != self.title:
            self.title, titles = node.title, list(self.paces)
            still_s = [self.paces[title].work_s for title in titles[titles.index(node.title) :]]
            self.quota = math.ceil(self.left * still_s[0] / sum(still_s))
            self.span_s = self.paces[node.title].span_s(max(1, self.quota))
        if not self.quota:
            return False
        if self.dice.random() >= EARLY:
            wait_for_attempt(worker, node)
        until = time.monotonic() + self.dice.random() * self.span_s
        while time.monotonic() < until and not worker.over():
            time.sleep(POLL_S)
        return not worker.over()

    def dealt(self) -> None:
        """Count a blow."""
        self.left, self.quota = self.left - 1, self.quota - 1


class Killer:
    """Sends random signals at random moments."""

    def __init__(self, moments: Moments, say: Callable[[str], None]) -> None:
        self.moments = moments
        self.say = say
        self.blows: list[Blow] = []

    def __call__(self, worker: Worker, node: Node) -> bool:
        """Kill a worker at some moment, unless it is over by then; did it finish its work?"""
        number = self.moments.dice.choice(SIGNALS)
        if not self.moments.wait(worker, node) or not worker.send(number):
            return in_peace(worker, node)
        self.moments.dealt()
        self.blows.append(Blow(what=number.name, title=node.title, where=how_far(node)))
        self.say(f"{len(self.blows):5} {number.name:8} {node.title:30} {self.blows[-1].where}")
        ended = worker.wait()
        if ended not in (DONE, CUT):
            raise BenchError(f"{node.title} failed by itself after {number.name}: {ended}")
        return ended == DONE


def wait_for_attempt(worker: Worker, node: Node) -> None:
    """Wait until a worker records that it begins."""
    file = node.folder / "attempts.jsonl"
    before = len(read_lines(file))
    while len(read_lines(file)) == before and not worker.over():
        time.sleep(POLL_S)


def made(node: Node) -> int:
    """Return how many pseudo labels there are."""
    folders = ("sem", "driv", "det")
    return sum(1 for name in folders for _ in (node.folder / name).glob("[!.]*"))


def how_far(node: Node) -> str:
    """Return in a few words how far the work on a node has come."""
    home = node.folder
    if (home / "result.json").exists() or (home / LABELS_DONE).exists():
        return "at the very end"
    if not (home / "cell.json").exists():
        return f"labels of {made(node)} frames made"
    here = reached(home)
    if here is None:
        return "in its first epoch" if (home / "state.pt").exists() else "before its first step"
    if here.taken == here.total:
        return "scoring, or leaving its results"
    return f"stage {here.last['stage']}, {here.taken} of {here.total} steps reported"


def compare(plain: Path, other: Path) -> list[str]:
    """Return what is different in two folders that ought to hold the same results."""
    names = [
        {str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()}
        for home in (plain, other)
    ]
    found = [f"{name} is in one folder only" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if essence(plain / name) != essence(other / name):
            found.append(f"{name} is not the same")
    return found


def essence(file: Path) -> Any:
    """Return what of a file must be the same each time: all but times, places and attempts."""
    match file.name:
        case "attempts.jsonl" | "cell.json" | "order.json" | "job.json":
            return None
        case "result.json":
            return {k: timeless(v) for k, v in read_json(file).items() if k != "provenance"}
        case "progress.jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            return repr([timeless(line) for line in lines])  # where NaN is NaN
        case _:
            return file.read_bytes()


def timeless(value: Any) -> Any:
    """Return a JSON value without what says how fast a machine was."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value
