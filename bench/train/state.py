"""What a resumed cell starts from: one file, and the one before it.

Nothing about random numbers is in it: samples and dropout are functions of (seed, stage, step).
"""

import errno
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import BenchError
from bench.store import whole

NEWEST, BEFORE = "state.pt", "state.prev.pt"
SCORED = "scored.npz"  # how far an evaluation has come, see bench.eval.evaluate

_DAMAGE = (
    *(zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError),
    *(KeyError, TypeError, EOFError),
)


@dataclass(frozen=True, kw_only=True)
class State:
    """A point of a cell's training: `step` steps of stage number `stage` are done.

    `seconds` is the training time spent on each stage so far, over all attempts. `rows` are the
    losses and the gradient norms of the last steps, which no line of the log reports yet, `rows_s`
    is the time these steps took, and `parts_s` what it went to.
    """

    stage: int
    step: int
    model: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    seconds: dict[str, float]
    rows: list[list[float]]
    rows_s: float
    parts_s: dict[str, float] = field(default_factory=dict)


def save(state: State, folder: Path) -> None:
    """Write `state.pt`; what it held becomes `state.prev.pt`. Written, flushed, then renamed.

    Raises OSError where the disk is full; both files are then as they were.
    """
    with whole(folder / NEWEST) as unfinished:
        try:
            # By name: written through a stream of Python's, a Ctrl-C would be a RuntimeError.
            torch.save(vars(state), str(unfinished))
        except RuntimeError:
            _ask_why(unfinished)
            raise
        if (folder / NEWEST).exists():
            os.replace(folder / NEWEST, folder / BEFORE)


def restore(folder: Path) -> State | None:
    """Return the newest state that can be read, in main memory; None where there is none.

    A damaged one is replaced by the one before. Where there are states and none can be read,
    `BenchError`: starting again is not for us to say.
    """
    there = [folder / name for name in (NEWEST, BEFORE) if (folder / name).exists()]
    for file in there:
        try:
            found = State(**_read(file))
        except _DAMAGE as error:
            print(f"{file.name} is damaged ({type(error).__name__}).", flush=True)
            continue
        if file.name != NEWEST:  # or the next save would keep the damaged one, and drop this
            os.replace(file, folder / NEWEST)
        return found
    if there:
        names = " and ".join(file.name for file in there)
        raise BenchError(f"No state in {folder} can be read. Without {names} it starts again.")
    return None


def remove(folder: Path) -> None:
    """Remove what only an unfinished cell has."""
    for name in (NEWEST, BEFORE, SCORED, "error.txt"):
        (folder / name).unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any]:
    """Return what `save` wrote; torch alone would take a flipped bit in a tensor for its value."""
    with zipfile.ZipFile(file) as members:
        damaged = members.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
    return torch.load(file, map_location="cpu", weights_only=True)


def _ask_why(unfinished: Path) -> None:
    """Raise OSError where the disk takes no more: torch says that a write failed, but not why."""
    try:
        with unfinished.open("ab") as stream:
            stream.write(bytes(1 << 20))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise OSError(error.errno, f"{reason}, while saving", str(unfinished.parent)) from None
