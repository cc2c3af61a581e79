"""What a resumed cell starts from: one file, and the one before it.

Nothing about random numbers is in it: samples and dropout are functions of (seed, stage, step).
"""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import BenchError


@dataclass(frozen=True, kw_only=True)
class State:
    """A point of a cell's training: `step` steps of stage number `stage` are done.

    `seconds` is the training time spent on each stage so far, over all attempts.
    """

    stage: int
    step: int
    model: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    seconds: dict[str, float]


def save(state: State, folder: Path) -> None:
    """Write `state.pt`; what it held becomes `state.prev.pt`. Written, flushed, then renamed."""
    newest, unfinished = folder / "state.pt", folder / "state.pt.tmp"
    # By name: written through a stream of Python's, a Ctrl-C would become torch's RuntimeError.
    torch.save(vars(state), str(unfinished))
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    if newest.exists():
        os.replace(newest, folder / "state.prev.pt")
    os.replace(unfinished, newest)


def restore(folder: Path) -> State | None:
    """Return the newest state that can be read, in main memory; None where there is none.

    Where there are states and none can be read, `BenchError`: starting again is not for us to say.
    """
    there = [folder / name for name in ("state.pt", "state.prev.pt") if (folder / name).exists()]
    for file in there:
        try:
            return State(**torch.load(file, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            print(f"{file.name} is damaged ({type(error).__name__}): the one before is taken.")
    if there:
        raise BenchError(f"No state in {folder} can be read. Remove it to start that cell again.")
    return None


def remove(folder: Path) -> None:
    """Remove the states of a finished cell."""
    for name in ("state.pt", "state.prev.pt", "state.pt.tmp"):
        (folder / name).unlink(missing_ok=True)
