"""Where the time of a step goes, and how much of a GPU's arithmetic it uses."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.data.sample import Batch

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimiser")

# Dense bf16 operations per second by data sheet, the first name that fits a device's.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


class Stopwatch:
    """Splits time by what it went to. A GPU notes its own times, which nobody waits for.

    There "data" is how long it had nothing to do before a step, not how long the host waited.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.skip()

    def mark(self, part: str) -> None:
        """Say that the time since the last mark went to a part of the step."""
        self._marks.append((part, self._now()))

    def skip(self) -> None:
        """Count from now, and forget what was not read."""
        self._marks = [("", self._now())]

    def read(self) -> dict[str, float]:
        """Return the seconds of each part since the last `skip`; on a GPU this waits for it."""
        spent = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in pairwise(self._marks):
            spent[part] += self._passed(before, after)
        self.skip()
        return spent

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _passed(self, before: Any, after: Any) -> float:
        if not self._on_gpu:
            return after - before
        after.synchronize()
        return before.elapsed_time(after) / 1000


class Arithmetic:
    """Counts the operations of steps, where it is known how many the device could do.

    That is so for bf16 on the GPUs in `PEAKS`. Each size of batch is counted once, while its first
    step is taken; the optimiser's are not among them.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        known = (peak for model, peak in PEAKS.items() if model in name and precision == "bf16")
        self.peak = next(known, None)
        self._of_size: dict[tuple[torch.Size, ...], int] = {}
        self._counts: list[int] = []

    @contextmanager
    def of_step(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Count what is done inside as one step."""
        size = tuple(batch.images.shape for batch in batches)
        if self.peak is None or size in self._of_size:
            yield
        else:
            # The counter sees no operators in compiled code.
            with (
                torch.compiler.set_stance("force_eager"),
                FlopCounterMode(display=False) as counter,
            ):
                yield
            self._of_size[size] = counter.get_total_flops()
        if self.peak is not None:
            self._counts.append(self._of_size[size])

    def used(self, steps: int, seconds: float) -> float | None:
        """Return the share of the device's peak (MFU) in so many steps like those last counted."""
        counts, self._counts = self._counts, []
        if self.peak is None or not counts:
            return None
        return sum(counts) / len(counts) * steps / seconds / self.peak
