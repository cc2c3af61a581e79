"""What every runner promises: a function, items, and one outcome for each item."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POLL_S = 0.1  # between two looks at what runs, and at whether another item is ready


class RunnerError(ValueError):
    """Raised when a runner is asked for something that it cannot do."""


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
