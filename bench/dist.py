"""One cell on several devices of one machine: what each of its processes knows of the others.

rank 0     saves, scores and writes
all ranks  train on their parts of every batch: the gradients are those of the whole batch

Alone, as nearly every cell is, a process is rank 0 of one, and nothing here does anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor


def size() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Return which one this process is, from 0."""
    return dist.get_rank() if _together() else 0


def over_all(amount: Tensor) -> Tensor:
    """Return the sum of an amount over all ranks, without a gradient.

    A loss that is divided by it is this rank's part of the whole batch's: the parts of all ranks
    add up to the loss of one process with the whole batch.
    """
    amount = amount.detach()
    if _together():
        amount = amount.clone()
        dist.all_reduce(amount)
    return amount


@contextmanager
def first_alone() -> Iterator[None]:
    """Let rank 0 go through the body before the others do."""
    if rank() > 0:
        dist.barrier()
    yield
    if _together() and rank() == 0:
        dist.barrier()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
