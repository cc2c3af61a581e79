"""What every runner promises: a function, items, and one outcome for each item."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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


class Runner(Protocol):
    """Something that can run a function on items.

    What the function returns is dropped: a function leaves its results on disk. Closing the
    iterator, or an exception such as KeyboardInterrupt inside it, ends what still runs.
    """

    def run(
        self, function: Callable[[str], object], items: Iterable[str]
    ) -> Generator[Outcome, None, None]: ...


def last_words(traceback: str) -> str:
    """Reduce a printed traceback to its exception, `ValueError: the message`, on one line."""
    lines = traceback.rstrip().splitlines()
    last_indented = max((i for i, line in enumerate(lines) if line.startswith(" ")), default=-1)
    words = " ".join(line.strip() for line in lines[last_indented + 1 :])
    name, colon, message = words.partition(":")
    return name.rpartition(".")[2] + colon + message
