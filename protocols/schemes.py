"""Schemes: how training goes through partly labelled frames (paper section 3.2).

An order is a pure function of its values: step k can be asked for without the steps before it, so
that a run resumed at step k sees what the undisturbed run would have seen.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


def steps(frames: int, epochs: int, batch: int) -> int:
    """Return after how many full batches `epochs` epochs over so many frames are complete."""
    return -(-epochs * frames // batch)


@dataclass(frozen=True, kw_only=True)
class Zeroing:
    """Batches mixed over all labelled frames; a frame counts for the tasks whose label it has.

    The frames are gone through in epochs, each in an order of its own; a batch may hold the end of
    one epoch and the start of the next, so that every batch is full. The run ends with the first
    batch that completes the last epoch.
    """

    frames: tuple[str, ...]
    epochs: int
    batch: int
    seed: str

    @property
    def steps(self) -> int:
        """Return the number of optimiser steps."""
        return self.epoch_end(self.epochs)

    def epoch_end(self, epoch: int) -> int:
        """Return the number of steps after which `epoch` epochs (from 1) are complete."""
        return steps(len(self.frames), epoch, self.batch)

    def epoch_after(self, step: int) -> int:
        """Return how many epochs are complete after `step` steps."""
        return min(step * self.batch // len(self.frames), self.epochs)

    def ends_epoch(self, step: int) -> bool:
        """Return whether the last of `step` steps completed an epoch."""
        return step == self.epoch_end(self.epoch_after(step))

    def batch_at(self, step: int) -> list[str]:
        """Return the names of the frames in step `step` (from 0)."""
        size = len(self.frames)
        places = [divmod(p, size) for p in range(step * self.batch, (step + 1) * self.batch)]
        orders = {epoch: _shuffled(self.frames, f"{self.seed}/{epoch}") for epoch, _ in places}
        return [orders[epoch][place] for epoch, place in places]


@lru_cache(maxsize=4)
def _shuffled(frames: Sequence[str], seed: str) -> list[str]:
    order = sorted(frames)
    random.Random(seed).shuffle(order)
    return order
