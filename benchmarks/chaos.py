"""Is anything ever lost? A tiny cell killed at random moments, and run on a full disk.

    python benchmarks/chaos.py                       100 kills and 20 full disks, one core, minutes
    python benchmarks/chaos.py --small --kills 5     the cell of `bench selftest`, and fewer kills

`bench selftest --preempt` with a longer cell, whose workers are forks of this process, which has
torch imported already: a start costs what the cell does, and most kills hit its work. A full disk
is a small tmpfs that is filled at a random moment and emptied when the worker has ended, so this
part needs root. Prints Markdown; exit code 1: something differed.
"""

import argparse
import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from bench import BenchError
from bench.data.demo.draw import Counts
from bench.failure import DISK, cause
from bench.plan import LABELS_DONE, Node
from bench.selftest import REQUEST, Blow, Killer, Moments, Trial, how_far, in_peace
from bench.store import owner, state
from bench.train import stop
from bench.worker import CUT, DONE, SIGNALS, Worker, main

FRAMES = Counts(train_100k=20, train_10k=10, shared=4, val_100k=6, val_10k=4)
LONGER = replace(
    REQUEST, overrides=(*REQUEST.overrides, "stages.adapt.epochs=2", "stages.finetune.epochs=4")
)
DISK_MB = 500  # stand-ins 190, data 15, cells and states of both rounds 170
PHASES = ("start", "first epoch", "adapt", "finetune", "scoring", "labels", "end")


class Forked:
    """A worker that is a fork of this process; its log is outside the store, whose disk is full."""

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(prefix="chaos-")
        self.log = Path(name)
        fork = multiprocessing.get_context("fork")
        self.process = fork.Process(target=_work, args=(str(folder), handle))
        self.process.start()
        os.close(handle)

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False where it is over."""
        if self.over():
            return False
        assert self.process.pid is not None, "it was started"
        os.kill(self.process.pid, number)
        return True

    def over(self) -> bool:
        """Return whether it has ended."""
        return self.process.exitcode is not None

    def wait(self) -> str:
        """Return how it ended: DONE, CUT (killed, or asked to stop), or its log."""
        self.process.join()
        words = self.log.read_text(errors="replace")
        self.log.unlink()
        code = self.process.exitcode
        if code == 0:
            return DONE
        return CUT if code in (stop.EXIT_CODE, *(-number for number in SIGNALS)) else words


def _work(folder: str, log: int) -> None:
    for stream in (1, 2):
        os.dup2(log, stream)
    torch.set_num_threads(1)
    sys.exit(main([folder]))


class Filler:
    """Fills the disk at random moments."""

    def __init__(self, moments: Moments, say: Callable[[str], None], file: Path) -> None:
        self.moments = moments
        self.say = say
        self.file = file
        self.blows: list[Blow] = []
        self.kept = 0  # how often error.txt could be written

    def __call__(self, worker: Worker, node: Node) -> bool:
        """Fill the disk under a worker, see how it ends, and make room again; did it finish?"""
        if not self.moments.wait(worker, node):
            return in_peace(worker, node)
        where = how_far(node)
        fill(self.file)
        ended = worker.wait()
        self.file.unlink()
        if ended == DONE:  # it had written all it had to
            return True
        self.judge(node, ended)
        self.moments.dealt()
        self.blows.append(Blow(what="full disk", title=node.title, where=where))
        self.say(f"{len(self.blows):5} full disk {node.title:30} {where}")
        return False

    def judge(self, node: Node, ended: str) -> None:
        """Raise `BenchError` where a full disk was not named, or a lock was left."""
        error = node.folder / "error.txt"
        words = error.read_text() if error.exists() else ended
        self.kept += error.exists()
        first = words if error.exists() else ended.strip().rpartition("\n")[2]
        if cause(first.partition("\n")[0]) != DISK:
            raise BenchError(f"A full disk is not called by its name: {words}")
        if owner(node.folder) is not None:
            raise BenchError(f"{node.title} is still locked")
        if state(node.folder, LABELS_DONE) not in ("failed", "preempted", "pending"):
            raise BenchError(f"{node.title} is {state(node.folder)}")


def fill(file: Path) -> None:
    """Write a file until nothing more fits on its disk."""
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            try:
                while stream.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """Mount a tmpfs of `DISK_MB`, or hand out None where that is not allowed."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def phase(blow: Blow) -> str:
    """Return during what a blow hit: one of PHASES."""
    words = blow.where.split()
    known = {"before": "start", "in": "first epoch", "scoring,": "scoring", "at": "end"}
    return words[1].rstrip(",") if words[0] == "stage" else known.get(words[0], words[0])


def table(blows: list[Blow]) -> str:
    """Return how many blows of each kind hit each phase, as a Markdown table."""
    counts = Counter((blow.what, phase(blow)) for blow in blows)
    kinds = sorted({blow.what for blow in blows})
    rows = [["", *PHASES, "all"], ["---", *["---:"] * (len(PHASES) + 1)]]
    for kind in kinds:
        numbers = [counts[kind, each] for each in PHASES]
        rows.append([kind, *map(str, [*numbers, sum(numbers)])])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tell(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def a_trial(home: Path, small: bool) -> Trial:
    """Return the cell that is disturbed."""
    if small:
        return Trial(home=home, start=Forked, say=tell)
    return Trial(home=home, start=Forked, say=tell, frames=FRAMES, request=LONGER)


def kills(number: int, small: bool, dice: random.Random) -> bool:
    """Kill a cell so often; return whether the result was that of the undisturbed one."""
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    trial = a_trial(home, small)
    began = time.monotonic()
    plain, paces = trial.undisturbed()
    between = time.monotonic()
    moments = Moments(number, dice, paces)
    killer = Killer(moments, tell)
    rounds, differences = trial.disturbed(plain, killer, lambda: not moments.left)
    ended = time.monotonic()
    tell(f"\n{len(killer.blows)} kills, {rounds} time(s) through teachers, labels and student:")
    tell(f"{between - began:.0f} s undisturbed, {ended - between:.0f} s disturbed.\n")
    tell(table(killer.blows))
    return done(home, differences)


def fills(number: int, small: bool, dice: random.Random) -> bool:
    """Fill a cell's disk so often; return whether the result was that of the undisturbed one."""
    with small_disk() as home:
        if home is None:
            tell("\nNo full disks: a tmpfs cannot be mounted here; that takes root.")
            return True
        trial = a_trial(home, small)
        plain, paces = trial.undisturbed()
        filler = Filler(Moments(number, dice, paces), tell, home / "filler")
        rounds, differences = trial.disturbed(plain, filler, lambda: not filler.moments.left)
        tell(f"\n{len(filler.blows)} full disks, {rounds} time(s) through, all named as such;")
        tell(f"{filler.kept} times error.txt could still be written.\n")
        tell(table(filler.blows))
        return done(home, differences)


def done(home: Path, differences: list[str]) -> bool:
    """Say what is different, and clean up; return whether nothing is."""
    for line in differences:
        tell(f"different: {line}")
    tell("\nNOT the same." if differences else "\nThe same to the bit; nothing left over.")
    if not differences:
        shutil.rmtree(home, ignore_errors=True)  # a mounted folder itself stays
    return not differences


def run() -> int:
    """Do both parts; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--fills", type=int, default=20, help="full disks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="the cell of bench selftest")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import_module("bench.run")  # once, before the forks
    dice = random.Random(asked.seed)
    same = [kills(asked.kills, asked.small, dice)] if asked.kills else []
    same += [fills(asked.fills, asked.small, dice)] if asked.fills else []
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(run())
