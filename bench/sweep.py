"""The cells of a plan and their pseudo labels, each after what it needs: here, or through SLURM.

Whoever runs them, the folders say how they end: one that is done by then, or that somebody else
fails, is taken as it is; one that somebody else works in is waited for, and taken over where his
heart stops beating. So two of us in one store compute nothing twice.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from fcntl import LOCK_EX, flock
from functools import partial
from pathlib import Path
from typing import Any

from bench.failure import STOPPED, cause
from bench.plan import Node, PlannedCell
from bench.reasons import OTHER_CODE
from bench.store import JOB, error_of, handed_to, owner, write_failure, write_json
from bench.work import lacking, now, work, work_in_job
from runners import slurm
from runners.base import Outcome, Runner, Started, last_line

LOOK_S = 1.0  # between two looks at folders that somebody else works in
ASK_S = 15.0  # between two questions to SLURM

Ended = Callable[[Node, str | None], None]  # is told how each node ended; None is done


def nodes(planned: Sequence[PlannedCell]) -> list[Node]:
    """Return what is not done yet of a plan: cells and labels, each after what it needs."""
    todo = [one for one in planned if one.state != "done"]
    labels = {one.labels.folder: one.labels for one in todo if one.labels}
    return [
        *(one for one in todo if one.labels is None),
        *(one for one in labels.values() if one.state != "done"),
        *(one for one in todo if one.labels is not None),
    ]


def run(todo: Sequence[Node], runner: Runner, ended: Ended) -> None:
    """Run nodes, each when what it needs is done; return when all have ended."""
    for node in todo:
        if node.to_run:
            (node.folder / "error.txt").unlink(missing_ok=True)
            _forgive(node.folder)
    graph = _Graph(todo, ended)
    # Closing the outcomes, as Ctrl-C does, ends the workers.
    with closing(runner.run(work, graph.ready(), partial(_given, "local"))) as outcomes:
        for outcome in outcomes:
            graph.over(outcome)


class _Graph:
    """What waits, what runs here, and what ended otherwise than done."""

    def __init__(self, todo: Sequence[Node], ended: Ended) -> None:
        self.waiting = {node.folder: node for node in todo}
        self.running: dict[str, Node] = {}
        self.missing: set[Path] = set()
        self.tell = ended
        self.looked = 0.0

    def ready(self) -> Iterator[str | None]:
        """Yield the folders that can be worked in; None while there is none."""
        while self.waiting or self.running:
            yield self._next()

    def over(self, outcome: Outcome) -> None:
        """Take note of how a worker ended."""
        node, error = self.running.pop(outcome.item), outcome.error
        self.looked = 0.0
        if error and error.startswith("Busy"):  # somebody else was first
            self.waiting[node.folder] = node
            return
        if error and not error.startswith(STOPPED):
            _keep(node.folder, error, outcome.traceback)
        self._end(node, error)

    def _next(self) -> str | None:
        if time.monotonic() - self.looked < LOOK_S:
            return None
        unended = {*self.waiting, *map(Path, self.running)}
        for node in list(self.waiting.values()):
            missing = [need.folder for need in node.needs if need.folder in self.missing]
            if missing or node.given_up:
                self._end(node, _refuse(node, missing))
            elif unended.isdisjoint(need.folder for need in node.needs) and self._is_free(node):
                self.running[str(node.folder)] = self.waiting.pop(node.folder)
                return str(node.folder)
        self.looked = time.monotonic()
        return None

    def _is_free(self, node: Node) -> bool:
        """Return whether it is for us to do; take note of it where somebody else has done it."""
        state = node.now()
        cancelled = state != "done" and handed_to(node.folder).get("cancelled")
        if state in ("done", "failed"):
            self._end(node, None if state == "done" else error_of(node.folder))
        elif cancelled:
            self._end(node, f"{STOPPED}: cancelled")
        return not cancelled and state not in ("done", "failed", "running")

    def _end(self, node: Node, error: str | None) -> None:
        self.waiting.pop(node.folder, None)
        if error is not None:
            self.missing.add(node.folder)
        self.tell(node, error)


def submit(
    todo: Sequence[Node],
    jobs: slurm.Slurm,
    store: Path,
    ended: Ended,
    say: Callable[[str], None],
) -> dict[Path, str]:
    """Submit nodes to SLURM, all at once; return the job of each that has one.

    What a job of an earlier submission will do is left to it, and what somebody else works in to
    him. A job waits for those that do what it needs, and then looks at how they ended. What needs
    something that is given up ends here.
    """
    with _alone(store):
        given, missing = queued(node.folder for node in todo), set[Path]()
        if given:
            say(f"{len(given)} are with SLURM already.")
        fresh = []
        for node in todo:
            lacks = [need.folder for need in node.needs if need.folder in missing]
            if lacks or node.given_up:
                missing.add(node.folder)
                ended(node, _refuse(node, lacks))
            elif node.folder not in given and node.now() not in ("done", "running"):
                fresh.append(node)
        for needed, group in waves(fresh):
            after = [given[need.folder] for need in needed if need.folder in given]
            for node in group:
                (node.folder / "error.txt").unlink(missing_ok=True)
            new = hand_over(work_in_job, [node.folder for node in group], jobs, after)
            say(f"{len(new)} submitted: {', '.join(arrays(new.values()))}")
            given |= new
        return given


def waves(todo: Sequence[Node]) -> list[tuple[tuple[Node, ...], list[Node]]]:
    """Return what can be submitted together: what is needed, and the nodes that need just that."""
    groups: dict[tuple[Path, ...], tuple[tuple[Node, ...], list[Node]]] = {}
    for node in todo:
        key = tuple(need.folder for need in node.needs)
        groups.setdefault(key, (node.needs, []))[1].append(node)
    return list(groups.values())


def hand_over(
    function: Callable[[str], object],
    folders: Sequence[Path],
    jobs: slurm.Slurm,
    after: Iterable[str],
) -> dict[Path, str]:
    """Submit a job for each folder, and write that down there; return the jobs."""
    given = jobs.submit(function, [str(folder) for folder in folders], after)
    for one in given:
        _given("slurm", one)
    return {Path(one.item): one.id for one in given}


def arrays(jobs: Iterable[str]) -> list[str]:
    """Return the arrays that jobs are elements of, as few words for as many."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def queued(folders: Iterable[Path]) -> dict[Path, str]:
    """Return the SLURM jobs that were given these folders and are queued or run.

    Not those that were cancelled, though they may still be saving.
    """
    given = {home: handed_to(home) for home in folders}
    jobs = {
        home: job["id"]
        for home, job in given.items()
        if job.get("cluster") == "slurm" and not job.get("cancelled")
    }
    alive = slurm.alive(jobs.values()) if jobs else {}
    return {home: job for home, job in jobs.items() if job in alive}


def follow(todo: Sequence[Node], ended: Ended, say: Callable[[str], None]) -> None:
    """Wait until nodes have ended, by their folders; one whose job is gone has failed.

    While SLURM does not answer, nothing is gone.
    """
    waiting, asked = {node.folder: node for node in todo}, 0.0
    gone, away = set[Path](), False
    while waiting:
        for home, node in list(waiting.items()):
            if (state := node.now()) in ("done", "failed"):
                ended(waiting.pop(home), None if state == "done" else error_of(home))
        if time.monotonic() - asked > ASK_S:
            before, gone = gone, set()
            try:
                gone, away = _gone(waiting), False
            except slurm.SlurmAway as error:
                if not away:
                    say(f"{error} The cells are followed by their folders alone.")
                away = True
            for home in gone:
                if home in before or handed_to(home).get("cancelled"):  # twice: files may come late
                    ended(waiting.pop(home), settle(home))
            asked = time.monotonic()
        time.sleep(LOOK_S)


def _gone(waiting: Iterable[Path]) -> set[Path]:
    """Return the folders that have no job any longer, and in which nobody works."""
    alive, ended = queued(waiting), ("done", "failed", "running")
    return {home for home in waiting if home not in alive and now(home) not in ended}


def settle(home: Path) -> str | None:
    """Write down that a folder's job is gone; return the error, None where the work is done.

    Only for a folder whose job is gone for certain. One that was cancelled has not failed.
    """
    state, job = now(home), handed_to(home)
    if state in ("done", "failed"):
        return error_of(home) or None
    if job.get("cancelled") or job.get("cluster") != "slurm":
        return f"{STOPPED}: {'cancelled' if job.get('cancelled') else 'whoever ran it is gone'}"
    words = last_line(Path(job["log"]))
    _keep(home, error := f"NodeFailure: job {job['id']} is gone; its log ends: {words}")
    return error


def cancel(folders: Sequence[Path]) -> tuple[dict[Path, str], list[Path]]:
    """End the jobs and the local workers that were given these folders; return how, for each.

    They save before they end, where they are left the time. Returns second the folders in which
    nothing runs and something is left to do: no `bench run` that goes on now begins that.
    """
    alive, done, held = queued(folders), dict[Path, str](), list[Path]()
    for home, job in alive.items():  # first, so that nobody takes it for a failure
        write_json(home / JOB, {**handed_to(home), "cancelled": True})
        done[home] = f"job {job} cancelled"
    slurm.cancel(alive.values())
    for home in folders:
        holder = None if home in alive else owner(home)
        if holder is not None:
            done[home] = _stop(holder, handed_to(home))
        elif home not in alive and now(home) in ("pending", "preempted"):
            write_json(home / JOB, {**handed_to(home), "cancelled": True})
            held.append(home)
    return done, held


def _forgive(home: Path) -> None:
    """Forget that what is to be run now was cancelled once."""
    if handed_to(home).get("cancelled"):
        (home / JOB).unlink()


def _stop(holder: dict[str, Any], job: dict[str, Any]) -> str:
    """Ask a local worker to stop; say what came of it."""
    host, pid = holder["host"], holder["pid"]
    if host != socket.gethostname():
        return f"runs on {host} (process {pid}): cancel it there"
    with suppress(ProcessLookupError):
        if job.get("cluster") != "local" or os.getpgid(pid) != int(job["id"]):
            return f"runs in process {pid}, which does more than this: Ctrl-C there"
        os.kill(pid, signal.SIGTERM)
    return f"process {pid} asked to stop"


def _given(cluster: str, started: Started) -> None:
    """Write down who was given a folder."""
    told = {"cluster": cluster, "id": started.id, "log": str(started.log)}
    write_json(Path(started.item) / JOB, {**told, "host": socket.gethostname()})


def _refuse(node: Node, missing: Sequence[Path]) -> str:
    """Return why a node is not run; write it down where that is the fault of others."""
    if not missing and node.reason.startswith(("failed: ", OTHER_CODE)):
        return node.reason.removeprefix("failed: ")  # with what to do about it
    if not missing:
        error = error_of(node.folder)
        return f"{error.rstrip('.')}. Not tried again: {cause(error).cure}"
    error = lacking([home.name for home in missing])
    with suppress(OSError):
        write_failure(node.folder, error, "")
    return error


def _keep(home: Path, error: str, story: str = "") -> None:
    """Write the failure of what could not write it itself, as when it was killed."""
    with suppress(OSError):
        if not (home / "error.txt").exists():
            write_failure(home, error, story)


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Let one at a time submit from a store: the next then sees what is submitted already."""
    with (store / ".submitting").open("w") as door:
        flock(door, LOCK_EX)
        yield
