"""What every runner promises: a function, items, and one outcome for each item."""

import re
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

POLL_S = 0.1  # between two looks at what runs, and at whether another item is ready
STOP_S = 30  # for a local worker that was asked to stop: one step of training and a save
TAIL_LINES = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # that ask a process to stop
WORKER = "RUNNERS_WORKER"  # set where the function runs in a process of its own, with a log


class RunnerError(ValueError):
    """Raised when a runner is asked for something that it cannot do."""


class Interrupted(Exception):
    """The function was asked to stop, and did: no failure of its item."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one item ended.

    `error` is None when the function returned, otherwise one line with the cause. `traceback` is
    the whole story as far as it is known; `log` is the file with what the worker printed, None
    where the function ran in this process.
    """

    item: str
    error: str | None = None
    traceback: str = ""
    log: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Started:
    """An item given to a worker, which is a process or a SLURM job with this id and this log."""

    item: str
    id: str
    log: Path


class Runner(Protocol):
    """Something that can run a function on items.

    Items are taken as there is room for them; None among them says that the next is not ready yet:
    it is asked for again a little later. `started` is told of every worker. What the function
    returns is dropped: a function leaves its results on disk. Closing the iterator, or an exception
    such as KeyboardInterrupt inside it, ends what still runs.
    """

    def run(
        self,
        function: Callable[[str], object],
        items: Iterable[str | None],
        started: Callable[[Started], None] = ...,
    ) -> Generator[Outcome, None, None]: ...


def nothing(started: Started) -> None:
    """Take no notice."""


def last_words(traceback: str) -> str:
    """Reduce a printed traceback to its exception, `ValueError: the message`, on one line."""
    lines = traceback.rstrip().splitlines()
    last_indented = max((i for i, line in enumerate(lines) if line.startswith(" ")), default=-1)
    words = " ".join(line.strip() for line in lines[last_indented + 1 :])
    name, colon, message = words.partition(":")
    return name.rpartition(".")[2] + colon + message


def last_line(log: Path) -> str:
    """Return the last thing that a worker's log says, or that it was killed for its memory."""
    told = (line for line in tail(log).splitlines() if line.strip())
    lines = [line for line in told if not line.startswith("submitit INFO")] or ["(nothing)"]
    return next((line for line in lines if re.search("oom.kill", line, re.I)), lines[-1])


def tail(log: Path) -> str:
    """Return the last lines of a log; nothing where there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def like_ctrl_c(signum: int, frame: FrameType | None) -> None:
    """Handle a signal as this process handles Ctrl-C now."""
    handler = signal.getsignal(signal.SIGINT)
    stop = handler if callable(handler) else signal.default_int_handler
    stop(signal.SIGINT, frame)


@contextmanager
def held_back() -> Iterator[None]:
    """Have processes that are started here told to stop only when they listen.

    Terminals and SLURM tell every process of a job, and one that is still starting would die.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
