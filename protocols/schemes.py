"""Schemes: how training goes through partly labelled frames (paper section 3.2).

An order is a pure function of its values: step k can be asked for without the steps before it, so
that a run resumed at step k sees what the undisturbed run would have seen, and all ranks see the
same. Whatever the scheme, a stage has the same number of steps.

zeroing, self-training       `Zeroing`: batches mixed over all frames
uniform, weighted,           `OneTask`: each batch has the frames of one task, and its labels alone
round-robin
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from protocols import ProtocolError

ONE_TASK = ("uniform", "weighted", "round-robin")
SCHEMES = ("self-training", "zeroing", *ONE_TASK)


def steps(frames: int, epochs: int, batch: int) -> int:
    """Return after how many full batches `epochs` epochs over so many frames are complete."""
    return -(-epochs * frames // batch)


@dataclass(frozen=True, kw_only=True)
class Order(ABC):
    """Which frames stand in which step of a stage, of `epochs` epochs over `frames`.

    `frames` are all that carry any label: an epoch is as many frames as they are, whichever stand
    in its batches. Every batch is full, and the run ends with the first that completes the last
    epoch.
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

    @abstractmethod
    def batch_at(self, step: int) -> list[str]:
        """Return the names of the frames in step `step` (from 0)."""

    @abstractmethod
    def task_at(self, step: int) -> str | None:
        """Return the task whose labels alone count in a step; None where all do."""


@dataclass(frozen=True, kw_only=True)
class Zeroing(Order):
    """Batches mixed over all labelled frames; a frame counts for the tasks whose label it has.

    The frames are gone through in epochs, each in an order of its own; a batch may hold the end of
    one epoch and the start of the next.
    """

    def batch_at(self, step: int) -> list[str]:
        """Return the names of the frames in step `step` (from 0)."""
        return _batch(self.frames, self.batch, step, self.seed)

    def task_at(self, step: int) -> None:
        """Return None: every label counts."""


@dataclass(frozen=True, kw_only=True)
class OneTask(Order):
    """Batches of one task each: frames that carry its label, gone through in epochs of its own.

    `labelled` holds the frames with the label of each task. Whose turn it is says `scheme`:
    round-robin goes from task to task, uniform draws each step's task anew, all alike, and weighted
    deals each as many steps as its share of the labels and permutes them once (PolyViT's code). The
    heads of the other tasks get gradients of zero in a step, and none is left out.
    """

    scheme: str
    labelled: tuple[tuple[str, tuple[str, ...]], ...]

    def batch_at(self, step: int) -> list[str]:
        """Return the names of the frames in step `step` (from 0)."""
        task, turn = self._turns()[step]
        return _batch(dict(self.labelled)[task], self.batch, turn, f"{self.seed}/{task}")

    def task_at(self, step: int) -> str:
        """Return the task whose turn it is."""
        return self._turns()[step][0]

    def _turns(self) -> tuple[tuple[str, int], ...]:
        counts = tuple((task, len(frames)) for task, frames in self.labelled)
        return _turns(self.scheme, counts, self.steps, self.seed)


def order_of(
    scheme: str,
    carried: Mapping[str, Sequence[str]],
    tasks: Sequence[str],
    *,
    epochs: int,
    batch: int,
    seed: str,
) -> Order:
    """Return a scheme's order of frames, of which `carried` holds the tasks whose labels they have.

    `ProtocolError` where a task has no labelled frame and the scheme would give it a turn.
    """
    frames = tuple(carried)
    if scheme not in ONE_TASK:
        return Zeroing(frames=frames, epochs=epochs, batch=batch, seed=seed)
    labelled = tuple((task, tuple(n for n in frames if task in carried[n])) for task in tasks)
    for task, names in labelled:
        if not names:
            raise ProtocolError(
                f"The scheme {scheme} gives every task its turn, and no training frame has a "
                f"label for {task}. Leave it out of --tasks, or take --scheme zeroing."
            )
    return OneTask(
        frames=frames, epochs=epochs, batch=batch, seed=seed, scheme=scheme, labelled=labelled
    )


def _batch(frames: tuple[str, ...], batch: int, number: int, seed: str) -> list[str]:
    """Return batch `number` (from 0) of going through the frames in epochs without an end."""
    size = len(frames)
    places = [divmod(place, size) for place in range(number * batch, (number + 1) * batch)]
    orders = {epoch: _shuffled(frames, f"{seed}/{epoch}") for epoch, _ in places}
    return [orders[epoch][place] for epoch, place in places]


@lru_cache(maxsize=8)
def _shuffled(frames: Sequence[str], seed: str) -> list[str]:
    order = sorted(frames)
    random.Random(seed).shuffle(order)
    return order


@lru_cache(maxsize=8)
def _turns(
    scheme: str, counts: tuple[tuple[str, int], ...], steps: int, seed: str
) -> tuple[tuple[str, int], ...]:
    """Return for every step its task, and how many steps that task has had before."""
    tasks, chance = [task for task, _ in counts], random.Random(f"{seed}/{scheme}")
    if scheme == "round-robin":
        turns = [tasks[step % len(tasks)] for step in range(steps)]
    elif scheme == "uniform":
        turns = chance.choices(tasks, k=steps)
    else:
        dealt = _shares(dict(counts), steps)
        turns = [task for task, share in dealt.items() for _ in range(share)]
        chance.shuffle(turns)
    had = dict.fromkeys(tasks, 0)
    numbered = []
    for task in turns:
        numbered.append((task, had[task]))
        had[task] += 1
    return tuple(numbered)


def _shares(counts: Mapping[str, int], steps: int) -> dict[str, int]:
    """Deal steps in proportion to the counts; what is over goes to the largest remainders."""
    whole = sum(counts.values())
    dealt = {task: steps * count // whole for task, count in counts.items()}
    remainders = sorted(counts, key=lambda task: -(steps * counts[task] % whole))
    for task in remainders[: steps - sum(dealt.values())]:
        dealt[task] += 1
    return dealt
