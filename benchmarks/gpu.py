"""Images per second, MFU and memory of the paper's network on a GPU.

    python -m benchmarks.gpu        half an hour or more; one GPU

Random weights, drawn labels, bf16, without the loader: ten steps after three. Both sizes of the
paper's inputs, all sizes of batch, each stage and predicting, as it is, compiled, and with losses
at a quarter of the size. MFU is the arithmetic of the network by the peak of the device
(`bench.train.speed`), if known. Out of memory is a row too.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from bench.data.classes import TASKS
from bench.model.build import losses
from bench.train.engine import take_step
from bench.train.optim import adamw
from bench.train.speed import Arithmetic
from benchmarks.cases import make_batch, make_model
from benchmarks.counts import operations
from protocols.presets import protocol
from protocols.stages import Protocol

Size = tuple[int, int]

SIZES_HW: tuple[Size, ...] = ((736, 1280), (608, 1088))
BATCHES, WARM, STEPS = (2, 8, 16), 3, 10
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "as it is": {},
    "compiled": {"optim": {"compile": True}},
    "losses at a quarter": {"model": {"mask_loss": "quarter"}},
}
HEADER = (
    "| | size | batch | images/s | MFU | memory, GB |\n| --- | ---: | ---: | ---: | ---: | ---: |"
)


def rows(
    preset: str,
    device: torch.device,
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]] = VARIANTS,
    sizes_hw: tuple[Size, ...] = SIZES_HW,
    batches: tuple[int, ...] = BATCHES,
) -> Iterator[str]:
    """Yield the rows of a Markdown table."""
    for name, changes in variants.items():
        base = protocol("paf", preset)
        base = replace(base, optim=replace(base.optim, precision="bf16"))
        base = replace(base, **{k: replace(getattr(base, k), **v) for k, v in changes.items()})
        for doing in ("adapt", "finetune", "predict"):
            learns = next((s.learns for s in base.stages if s.name == doing), ())
            for size_hw in sizes_hw:
                gigaflops = operations(preset, learns, size_hw)
                for images in batches:
                    title = f"| {doing}, {name} | {size_hw[1]}x{size_hw[0]} | {images} |"
                    try:
                        speed, gigabytes = measured(base, doing, device, images, size_hw)
                    except torch.OutOfMemoryError:
                        yield f"{title} out of memory | | |"
                    else:
                        share = used(gigaflops * speed, device)
                        yield f"{title} {speed:,.1f} | {share} | {gigabytes:.1f} |"


def measured(
    base: Protocol, doing: str, device: torch.device, images: int, size_hw: Size
) -> tuple[float, float]:
    """Return images per second, and the most memory that was in use."""
    step, began = stepper(base, doing, device, images, size_hw), 0.0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(WARM + STEPS):
        if number == WARM:
            began = time.perf_counter()
        told = step()
        if number in (WARM - 1, WARM + STEPS - 1):
            told.tolist()  # waits
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return STEPS * images / seconds, peak / 1e9


def stepper(
    base: Protocol, doing: str, device: torch.device, images: int, size_hw: Size
) -> Callable[[], torch.Tensor]:
    """Return a step of a stage, or a prediction; it returns something small to wait for."""
    model, batch = make_model(base).to(device), make_batch(images, size_hw).to(device)
    if base.optim.compile:
        torch.compiler.reset()
        model.compile_maps()
    stage = next((stage for stage in base.stages if stage.name == doing), None)
    if stage is not None:
        optimiser, wanted = adamw(model.learn(stage.learns), stage, base.optim), losses(base, TASKS)
        return lambda: take_step(model, wanted, optimiser, base.optim, [batch])
    model.eval()

    @torch.inference_mode()
    def predict() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            outputs = model(batch.images, batch.sizes_hw)
        return torch.stack([output["logits"].sum() for output in outputs.values()])

    return predict


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
    for row in rows("paper", device):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
