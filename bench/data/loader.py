"""Batches ahead of time: decoded by threads (the decoders release the interpreter lock), then
resized and put together where they are used, on a GPU while it still works on the step before.

A training sample is a pure function of its frame and of (seed, step, position), so a run that
resumes at step k needs no state of the loader.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from bench import dist
from bench.data.bdd100k import Frame
from bench.data.classes import TASKS
from bench.data.sample import Batch, Sample, collate, decode, padded
from bench.data.transforms import fit, resize, resize_image
from protocols.schemes import Order
from protocols.stages import Input

CPU = torch.device("cpu")
AHEAD = 3  # batches in the making while one is used

Size = tuple[int, int]  # height, width
T = TypeVar("T")


def training_batches(
    order: Order,
    frames: Mapping[str, Frame],
    sizes: Input,
    *,
    start: int,
    parts: int = 1,
    device: torch.device = CPU,
) -> Iterator[tuple[Batch, ...]]:
    """Yield the batches of steps `start`, `start + 1`, … of an order, with the labels that count.

    Each comes in so many equal parts, and of each part what is this rank's; all ranks pad a part to
    one size.
    """

    def size_hw(step: int, position: int, name: str) -> Size:
        short = random.Random(f"{order.seed}/{step}/{position}").choice(sizes.train_short)
        return fit(frames[name].size_hw, short, sizes.max_long)

    def sample(
        name: str, tasks: tuple[str, ...], size_hw: Size, padded_hw: Size
    ) -> tuple[Sample, Size, Size]:
        stored = decode(frames[name], tasks)
        return stored if device == CPU else stored.pinned(), size_hw, padded_hw

    def work() -> Iterator[list[tuple[str, tuple[str, ...], Size, Size]]]:
        together = order.batch // parts
        each = together // dist.size()
        for step in range(start, order.steps):
            tasks = TASKS if (one := order.task_at(step)) is None else (one,)
            batch = [
                (name, tasks, size_hw(step, position, name))
                for position, name in enumerate(order.batch_at(step))
            ]
            for first in range(0, order.batch, together):
                padded_hw = padded([hw for *_, hw in batch[first : first + together]], sizes.pad_to)
                mine = first + dist.rank() * each
                yield [(*item, padded_hw) for item in batch[mine : mine + each]]

    yield from zip(*[_put_together(_ahead(work(), sample), device)] * parts, strict=True)


def _put_together(
    decoded: Iterable[list[tuple[Sample, Size, Size]]], device: torch.device
) -> Iterator[Batch]:
    """Yield batches on a device: each sample in its size, padded to the size of all."""
    beside = torch.cuda.Stream(device) if device.type == "cuda" else None
    for items in decoded:
        with torch.cuda.stream(beside):
            resized = [resize(stored.to(device), size_hw) for stored, size_hw, _ in items]
            batch = collate(resized, items[0][-1]).to(device)
        if beside is not None:
            now = torch.cuda.current_stream(device)
            now.wait_stream(beside)
            for tensor in batch.tensors():  # or their memory is given away too early
                tensor.record_stream(now)
        yield batch


def test_batches(
    frames: Iterable[Frame], tasks: tuple[str, ...], sizes: Input, *, batch: int
) -> Iterator[tuple[Batch, list[Sample]]]:
    """Yield frames in order: a batch of their images at test size, and the frames as stored."""

    def pair(frame: Frame) -> tuple[Sample, Sample]:
        stored = decode(frame, tasks)
        size_hw = fit(stored.size_hw, sizes.test_short, sizes.max_long)
        return Sample(name=frame.name, image=resize_image(stored.image, size_hw)), stored

    listed = iter([(frame,) for frame in frames])
    for pairs in _ahead(iter(lambda: list(islice(listed, batch)), []), pair):
        resized, stored = zip(*pairs, strict=True)
        size_hw = padded([sample.size_hw for sample in resized], sizes.pad_to)
        yield collate(list(resized), size_hw), list(stored)


def _ahead(work: Iterator[list[tuple]], make: Callable[..., T]) -> Iterator[list[T]]:
    """Yield `[make(*item) for item in items]` for each list of items, some lists ahead.

    There are as many threads as torch was given for its own work.
    """
    waiting: deque[list[Future[T]]] = deque()
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="loader") as pool:
        try:
            for items in work:
                waiting.append([pool.submit(make, *item) for item in items])
                if len(waiting) > AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()
