"""What a resumed cell starts from: one file, and the one before it.

Nothing about random numbers is in it: samples and dropout are functions of (seed, stage, step).
"""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


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
    with unfinished.open("wb") as stream:
        torch.save(vars(state), stream)
        stream.flush()
        os.fsync(stream.fileno())
    if newest.exists():
        os.replace(newest, folder / "state.prev.pt")
    os.replace(unfinished, newest)


def restore(folder: Path, device: torch.device) -> State | None:
    """Return the newest state that can be read, or None where there is none."""
    for name in ("state.pt", "state.prev.pt"):
        try:
            return State(**torch.load(folder / name, map_location=device, weights_only=True))
        except FileNotFoundError:
            continue
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            print(f"{name} is damaged ({type(error).__name__}); falling back to the one before.")
    return None


def remove(folder: Path) -> None:
    """Remove the states of a finished cell."""
    for name in ("state.pt", "state.prev.pt", "state.pt.tmp"):
        (folder / name).unlink(missing_ok=True)
