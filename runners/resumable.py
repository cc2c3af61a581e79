"""What is submitted to a worker, and what a worker does when it is asked to stop.

Progress never lives in what is submitted: `Resumable` holds a function and the name of an item,
and the function finds its own state on disk. That holds when a node dies or an administrator
requeues a job, neither of which lets the job say goodbye.

    SIGTERM   passed on as Ctrl-C: the function saves and ends
    USR2      (SLURM, before the time is over or a job of higher rank takes the node) likewise, and
              then submitit has the job started again
    no word   SLURM starts the job again by itself, or nobody does
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import submitit
from submitit.helpers import DelayedSubmission

STOP_S = 30  # for a local worker that was asked to stop: one step of training and a save
PATIENCE = 0.6  # the share of the time before the kill that the function may use to save
REQUEUE_S = 10.0  # between two tries to have the job started again
REQUEUE_TRIES = 60
LOOK_S = 1.0  # between two looks at whether the launcher lives
LAUNCHER = "RUNNERS_LAUNCHER"  # in a local worker: the process that started it


class Interrupted(Exception):
    """The function was asked to stop, and did: no failure of its item."""


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
        executor = os.environ.get("SUBMITIT_EXECUTOR")
        if executor is None:
            self.function(self.item)
            return
        _remove_torn_pickles()
        if executor == "local" and LAUNCHER in os.environ:
            watched = int(os.environ[LAUNCHER])
            threading.Thread(target=_outlive, args=(watched,), daemon=True).start()
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
        signal.signal(signal.SIGTERM, _like_ctrl_c)  # submitit swallows it

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
        _like_ctrl_c(signum, frame)

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


def _like_ctrl_c(signum: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    stop = handler if callable(handler) else signal.default_int_handler
    stop(signal.SIGINT, frame)


def _slurm_runs_it() -> bool:
    """Return whether SLURM means this job to go on, though it was sent SIGTERM.

    Before it ends a job that was cancelled or requeued SLURM gives it another state. A job that is
    still running is to make way for another one, and would be gone if it ended by itself.
    """
    if os.environ["SUBMITIT_EXECUTOR"] != "slurm":
        return False
    job = submitit.JobEnvironment().job_id
    ask = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "RUNNING"


def _outlive(launcher: int) -> None:
    """Wait for the death of the launcher, the parent of our parent; then stop, as it would ask.

    A launcher that is killed cannot stop its workers, and nobody would take their place. Where
    there is no /proc nobody is watched.
    """
    while (found := _grandparent()) == launcher:
        time.sleep(LOOK_S)
    if found is None:
        return
    print("The launcher is gone: stopping.", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os.killpg(0, signal.SIGKILL)


def _grandparent() -> int | None:
    try:
        words = Path(f"/proc/{os.getppid()}/stat").read_text()
    except FileNotFoundError:
        return None if not Path("/proc/self/stat").exists() else 0
    return int(words.rpartition(")")[2].split()[1])


def _remove_torn_pickles() -> None:
    """Remove what an earlier start of this job was writing when it was killed.

    submitit would refuse to requeue the job as long as it is there.
    """
    paths = submitit.JobEnvironment().paths
    for file in (paths.submitted_pickle, paths.result_pickle):
        file.with_name(f"{file.name}.save_tmp").unlink(missing_ok=True)
