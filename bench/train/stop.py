"""When a run saves, and when it stops.

A process that is asked to stop (Ctrl-C, SIGTERM, SLURM's USR2) finishes its current step, saves,
and ends with `Stopped`; asked again by Ctrl-C or SIGTERM, it ends at once. The handlers do nothing
but set a flag: what saves is the loop, at a point where there is something whole to save.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAVE_S = 300.0  # seconds between two saves within an epoch; $BENCH_SAVE_S in its place, for tests
EXIT_CODE = 75  # of a process that was asked to stop, and did
TWICE_S = 0.3  # SLURM may deliver one SIGTERM twice: to the step, and through srun

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_NOBODYS = (signal.SIG_DFL, signal.default_int_handler)

_asked = False
_ended_at: float | None = None  # when SIGINT or SIGTERM came first
_listening = False


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has saved; it is no failure, and nothing records it as one."""


def ask() -> None:
    """Ask the run in this process to stop."""
    global _asked
    _asked = True


def asked() -> bool:
    """Return whether the run in this process was asked to stop."""
    return _asked


def check() -> None:
    """Raise `Stopped` where the run was asked to stop: only where nothing is left to save."""
    if _asked:
        raise Stopped("asked to stop; what is saved is where it goes on")


def listen() -> None:
    """Have SIGINT, SIGTERM and SIGUSR2 ask this process to stop; main thread only.

    A second SIGINT or SIGTERM, `TWICE_S` seconds later or more, raises KeyboardInterrupt where the
    program stands. SIGTERM and SIGUSR2 are left to whom they belong already: a runner that handles
    them passes them on as SIGINT.
    """
    global _listening
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) in _NOBODYS:
            signal.signal(number, _on_signal)
    _listening = True


@contextmanager
def listening() -> Iterator[None]:
    """Listen while the body runs, and leave the handlers as they were.

    Where this process listens already, and outside the main thread, nothing changes. A request
    that the body did not get to see stays: the next body stops.
    """
    global _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    except KeyboardInterrupt:
        forget()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _listening = False


def forget() -> None:
    """Forget that the run was asked to stop."""
    global _asked, _ended_at
    _asked, _ended_at = False, None


class Clock:
    """Says when it is time to save: every `SAVE_S` seconds, and when the run is asked to stop."""

    def __init__(self) -> None:
        self.every_s = float(os.environ.get("BENCH_SAVE_S", SAVE_S))
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Return whether to save now."""
        return _asked or time.monotonic() - self.saved_at >= self.every_s

    def saved(self) -> None:
        """Count from now."""
        self.saved_at = time.monotonic()


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _ended_at
    ask()
    if number == signal.SIGUSR2:
        return
    now = time.monotonic()
    if _ended_at is None:
        _ended_at = now
    elif now - _ended_at > TWICE_S:
        raise KeyboardInterrupt
