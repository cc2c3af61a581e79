"""The items as SLURM arrays, through submitit: they outlive the process that submits them.

What became of a job is for its item's own files to say. What SLURM says of it is a hint: that it is
still queued or running. sacct is never asked, so it may be missing, late or wrong.
"""

import io
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from runners.base import RunnerError, Started
from runners.cluster import SlurmOptions, command, submitit_parameters
from runners.resumable import Resumable

TIMEOUTS = 10_000  # submitit counts requeues as time-outs and gives up; we do not
CALL_S = 120.0  # for a client of SLURM to answer: its own patience with the controller is less
IDS_PER_CALL = 500


class SlurmAway(RunnerError):
    """SLURM does not answer; that says nothing about its jobs."""


class Slurm:
    """Jobs of one kind. Their scripts, pickles and logs go into a new folder inside `folder`.

    That is to be on a file system which every node sees, under the same path.
    """

    def __init__(self, folder: Path, options: SlurmOptions) -> None:
        self.folder = folder
        self.options = options

    def submit(
        self, function: Callable[[str], object], items: Sequence[str], after: Iterable[str] = ()
    ) -> list[Started]:
        """Submit one job for each item, as few arrays as the cluster allows, all of them or none.

        They wait for the jobs `after` to end, however those end. `RunnerError` in SLURM's words
        where it refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = time.strftime("%Y%m%d-%H%M%S-")
        size, given = max_array_size(), list[Started]()
        try:
            for first in range(0, len(items), size):
                home = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
                given += self._array(function, items[first : first + size], list(after), home)
        except (FailedJobError, FailedSubmissionError) as error:
            cancel(one.id for one in given)
            raise RunnerError(f"sbatch refuses {len(items)} jobs: {_words(str(error))}") from None
        return given

    def _array(
        self, function: Callable[[str], object], items: Sequence[str], after: list[str], home: Path
    ) -> list[Started]:
        executor = submitit.SlurmExecutor(home, max_num_timeout=TIMEOUTS, python=command())
        parameters = submitit_parameters(self.options)
        if after:
            parameters["dependency"] = "afterany:" + ":".join(dict.fromkeys(after))
        executor.update_parameters(**parameters)
        # sbatch's words are in the exception too.
        with _outside_any_job(), redirect_stderr(io.StringIO()), executor.batch():
            grace_s = self.options.signal_delay_s
            jobs = [executor.submit(Resumable(function, item, grace_s)) for item in items]
        return [
            Started(item=item, id=job.job_id, log=job.paths.stdout)
            for item, job in zip(items, jobs, strict=True)
        ]


def alive(jobs: Iterable[str]) -> dict[str, str]:
    """Return the state of those jobs that are queued or run: `RUNNING`, `PENDING (Dependency)`.

    Raises `SlurmAway` where SLURM does not answer.
    """
    wanted = set(jobs)
    numbers = sorted({job.partition("_")[0] for job in wanted})
    found: dict[str, str] = {}
    for first in range(0, len(numbers), IDS_PER_CALL):
        some = ",".join(numbers[first : first + IDS_PER_CALL])
        # Of one job alone that it has forgotten, but not of several, squeue says that it is wrong.
        listed = _ask("squeue", "--noheader", "--array", "--format=%i %T %r", f"--jobs={some},1")
        for line in listed.splitlines():
            job, state, reason = line.split(maxsplit=2)
            found[job] = state if reason == "None" else f"{state} ({reason})"
    return {job: state for job, state in found.items() if job in wanted}


def cancel(jobs: Iterable[str]) -> None:
    """End jobs, as `scancel` does; those that are over stay as they are."""
    wanted = list(jobs)
    for first in range(0, len(wanted), IDS_PER_CALL):
        _ask("scancel", *wanted[first : first + IDS_PER_CALL])


def max_array_size() -> int:
    """Return how many elements an array may have on this cluster."""
    config = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(1, int(found[1])) if found else 1


def _ask(*words: str) -> str:
    """Run a client of SLURM and return what it prints."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=CALL_S, check=False)
    except FileNotFoundError:
        raise RunnerError(
            f"There is no {words[0]} on this machine. --runner slurm is for a login node of a "
            "SLURM cluster; --runner local runs here."
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmAway(f"{words[0]} has not answered for {CALL_S:.0f} s.") from None
    if done.returncode != 0:
        raise SlurmAway(f"SLURM does not answer: {_words(done.stderr)}")
    return done.stdout


def _words(text: str) -> str:
    """Reduce what a client of SLURM says to one line."""
    lines = dict.fromkeys(re.sub(r"^\w+: (error: )?", "", line) for line in text.splitlines())
    return "; ".join(filter(None, map(str.strip, lines)))


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Hide from sbatch that this process may itself be a job, whose values it would pass on."""
    inside = [n for n in os.environ if n.startswith("SLURM_") and n != "SLURM_CONF"]
    hidden = {n: os.environ.pop(n) for n in inside} if "SLURM_JOB_ID" in os.environ else {}
    try:
        yield
    finally:
        os.environ.update(hidden)
