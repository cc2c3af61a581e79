"""SLURM as a runner that is waited for: a job for each item, one outcome a job."""

import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from bench.store import error_of
from bench.work import now
from runners import slurm
from runners.base import Outcome, Started, nothing

LOOK_S = 2.0  # between two questions to SLURM


class Jobs:
    """Submits items, folders of the store, and waits until their jobs are over.

    A job that SLURM requeues goes on; how it ended is for the folder to say.
    """

    def __init__(self, jobs: slurm.Slurm) -> None:
        self.jobs = jobs

    def run(
        self,
        function: Callable[[str], object],
        items: Iterable[str | None],
        started: Callable[[Started], None] = nothing,
    ) -> Generator[Outcome, None, None]:
        """Yield the outcomes as the jobs end; closing it leaves them to SLURM."""
        given = {one.id: one for one in self.jobs.submit(function, [i for i in items if i])}
        for one in given.values():
            started(one)
        while given:
            time.sleep(LOOK_S)
            alive = slurm.alive(given)
            for job in [job for job in given if job not in alive]:
                yield _outcome(given.pop(job))


def _outcome(one: Started) -> Outcome:
    state = now(Path(one.item))
    if state == "done":
        return Outcome(item=one.item, log=one.log)
    said = error_of(Path(one.item)) if state == "failed" else ""
    return Outcome(item=one.item, error=said or f"Interrupted: job {one.id} is over", log=one.log)
