"""Images per second and MFU of the paper's network on a GPU.

    python -m benchmarks.gpu        ten minutes; one GPU

Random weights, drawn labels, 1280x736, bf16, without the loader: the mean of ten steps after three.
MFU is the arithmetic of the network by the peak of the device (`bench.train.speed`), if known.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.data.classes import TASKS
from bench.model.build import losses
from bench.train.engine import take_step
from bench.train.optim import adamw
from bench.train.speed import Arithmetic
from benchmarks.cases import make_batch, make_model
from benchmarks.counts import operations
from protocols.presets import protocol
from protocols.stages import Protocol, Stage

SIZE_HW, BATCHES, STEPS = (736, 1280), (2, 8, 16), 10
HEADER = "| | batch | images/s | MFU | memory, GB |\n| --- | ---: | ---: | ---: | ---: |"

Size = tuple[int, int]


def rows(
    preset: str, device: torch.device, batches: tuple[int, ...], size_hw: Size
) -> Iterator[str]:
    """Yield the rows of a Markdown table."""
    for size in ("full", "quarter"):
        base = protocol("paf", preset)
        base = replace(
            base,
            optim=replace(base.optim, precision="bf16"),
            model=replace(base.model, mask_loss=size),
        )
        for stage in base.stages:
            for batch in batches:
                speed, gigabytes = measured(base, stage, device, batch, size_hw)
                share = used(operations(preset, stage.learns, size_hw) * speed, device)
                name = f"{stage.name}, losses at {size} size"
                yield f"| {name} | {batch} | {speed:,.1f} | {share} | {gigabytes:.1f} |"


def measured(
    base: Protocol, stage: Stage, device: torch.device, images: int, size_hw: Size
) -> tuple[float, float]:
    """Return images per second, and the most memory that was in use."""
    model, batch = make_model(base).to(device), make_batch(images, size_hw).to(device)
    optimiser, wanted = adamw(model.learn(stage.learns), stage, base.optim), losses(base, TASKS)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = 0.0
    for step in range(3 + STEPS):
        if step == 3:
            began = time.perf_counter()
        row = take_step(model, wanted, optimiser, base.optim, [batch])
        if step in (2, 2 + STEPS):
            row.tolist()  # waits
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return STEPS * images / seconds, peak / 1e9


def used(gigaflops: float, device: torch.device) -> str:
    """Return the share of the device's peak."""
    peak = Arithmetic(device, "bf16").peak
    return "unknown" if peak is None else f"{1e9 * gigaflops / peak:.0%}"


def main() -> int:
    """Measure on the first GPU."""
    if not torch.cuda.is_available():
        print("No GPU is visible to torch; bench doctor says what it sees.", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    print(torch.cuda.get_device_name(device), torch.__version__, "", HEADER, sep="\n")
    for row in rows("paper", device, BATCHES, SIZE_HW):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
