"""What is submitted to SLURM, and what a job does when it is asked to stop.

Progress never lives in what is submitted: `Resumable` holds a function and the name of an item,
and the function finds its own state on disk. That holds when a node dies or an administrator
requeues a job, neither of which lets the job say goodbye.

    SIGTERM   passed on as Ctrl-C: the function saves and ends
    USR2      (before the time is over or a job of higher rank takes the node) likewise, and then
              submitit has the job started again
    no word   SLURM starts the job again by itself, or nobody does
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import submitit
from submitit.helpers import DelayedSubmission

from runners.base import STOP_S, WORKER, Interrupted, like_ctrl_c

PATIENCE = 0.6  # the share of the time before the kill that the function may use to save
REQUEUE_S = 10.0  # between two tries to have the job started again
REQUEUE_TRIES = 60


@dataclass
class Resumable:
    """What is submitted: a function and one item.

    submitit requeues after a time-out only an object that has `checkpoint`. `grace_s` are the
    seconds between USR2 and the kill.
    """

    function: Callable[[str], object]
    item: str
    grace_s: int = STOP_S
    pid: int | None = field(default=None, init=False)

    def __call__(self) -> None:
        self.pid = os.getpid()
        os.environ[WORKER] = "slurm"
        _remove_torn_pickles()
        stop = _Stop(self.grace_s)
        try:
            self.function(self.item)
        except KeyboardInterrupt:
            stop.over()
            raise Interrupted("asked to stop") from None
        finally:
            stop.cancel()

    def checkpoint(self) -> DelayedSubmission | None:
        """Hand back the same work; None (do not requeue) in a fork that inherited the handler."""
        if self.pid not in (None, os.getpid()):
            return None
        return DelayedSubmission(Resumable(self.function, self.item, self.grace_s))


class _Stop:
    """The wish that this job stops: passed on to the function, which may set a SIGINT handler."""

    def __init__(self, grace_s: float) -> None:
        self.requeue = signal.getsignal(signal.SIGUSR2)  # submitit's
        self.again = False  # was it USR2?
        self.leaving = threading.Lock()
        self.overdue = threading.Timer(PATIENCE * grace_s, self._leave)
        self.overdue.daemon = True
        signal.signal(signal.SIGUSR2, self._on_usr2)
        signal.signal(signal.SIGTERM, like_ctrl_c)  # submitit swallows it

    def over(self) -> None:
        """Have the job started again where nobody else does; only when the function has ended."""
        self.cancel()
        with self.leaving:
            if self.again or _slurm_runs_it():
                self._start_again()

    def cancel(self) -> None:
        """Stop waiting for the function."""
        self.overdue.cancel()

    def _on_usr2(self, signum: int, frame: FrameType | None) -> None:
        if self.again:
            return
        self.again = True
        self.overdue.start()
        like_ctrl_c(signum, frame)

    def _leave(self) -> None:
        """End without waiting any longer: what was saved last is where the job goes on."""
        with self.leaving:
            print("Asked to stop, and not stopped in time: leaving as things are.", flush=True)
            try:
                self._start_again()
            finally:
                os._exit(1)

    def _start_again(self) -> None:
        """Have submitit requeue this job; where SLURM does not answer, go on asking."""
        assert callable(self.requeue), "submitit has set its handler"
        for _ in range(REQUEUE_TRIES):
            try:
                self.requeue(signal.SIGUSR2, None)  # ends in SystemExit
            except subprocess.SubprocessError as error:
                print(f"Not requeued ({error}); trying again in {REQUEUE_S:.0f} s.", flush=True)
                time.sleep(REQUEUE_S)


def _slurm_runs_it() -> bool:
    """Return whether SLURM means this job to go on, though it was sent SIGTERM.

    Before it ends a job that was cancelled or requeued SLURM gives it another state. A job that is
    still running is to make way for another one, and would be gone if it ended by itself.
    """
    job = submitit.JobEnvironment().job_id
    ask = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "RUNNING"


def _remove_torn_pickles() -> None:
    """Remove what an earlier start of this job was writing when it was killed.

    submitit would refuse to requeue the job as long as it is there.
    """
    paths = submitit.JobEnvironment().paths
    for file in (paths.submitted_pickle, paths.result_pickle):
        file.with_name(f"{file.name}.save_tmp").unlink(missing_ok=True)
