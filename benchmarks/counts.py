"""What a training step asks of a device: waits and calls, and the arithmetic of an image.

    python -m benchmarks.counts        half a minute; no GPU

Counted on two small images with the paper's heads: the numbers do not depend on the size. They are
those of a step after the first, optimiser included.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.model.build import losses
from bench.train.engine import take_step
from bench.train.optim import adamw
from benchmarks.cases import make_batch, make_model
from benchmarks.counting import Calls, Waits
from benchmarks.plain import Plain
from protocols.presets import protocol

SIZE_HW = (736, 1280)


def rows() -> list[str]:
    """Return the rows of a Markdown table."""
    (ours, our_calls), (theirs, their_calls) = counted()
    adapt, finetune = (stage.learns for stage in protocol("paf").stages)
    counts = [operations("paper", learns, SIZE_HW) for learns in (finetune, adapt, ())]
    gigaflop = " / ".join(f"{count:,.0f}" for count in counts)
    return [
        "| | ours | plain | bar |",
        "| --- | ---: | ---: | --- |",
        f"| waits for the device in a step | {ours} | {theirs} | ≤ 4 |",
        f"| operator calls in a step | {our_calls:,} | {their_calls:,} "
        f"| {our_calls / their_calls:.2f}, ≤ 0.5 |",
        f"| GFLOP an image of 1280x736: finetune / adapt / inference | {gigaflop} "
        "| | 2,102 / 1,380 / 671 within 3 % |",
    ]


def counted() -> list[tuple[int, int]]:
    """Return the waits and the calls of our step, and of the plain one."""
    paper, batch = protocol("paf"), make_batch(2, (96, 160))
    model, stage = make_model(paper), paper.stages[1]
    optimiser = adamw(model.learn(stage.learns), stage, paper.optim)
    wanted, plain = losses(paper, tuple(model.heads)), Plain(model, paper, stage)
    found = []
    for step in (
        lambda: take_step(model, wanted, optimiser, paper.optim, [batch]),
        lambda: plain(batch),
    ):
        step()  # the optimiser's state is made
        with Waits() as waits:
            step()
        with Calls() as calls:
            step()
        # AdamW's step counters are on the CPU wherever the weights are.
        own = waits.count - waits.by_name["_local_scalar_dense"]
        found.append((own, calls.count))
    return found


def operations(preset: str, learns: tuple[str, ...], size_hw: tuple[int, int]) -> float:
    """Return 10^9 operations on one image, backward pass included where anything learns.

    A multiplication and an addition are two. Those of the losses are not counted.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = make_model(protocol("paf", preset))
        model.learn(learns)
        model.train(bool(learns))
        images = torch.zeros(1, 3, *size_hw, dtype=torch.uint8)
        outputs = model(images, torch.zeros(1, 2, dtype=torch.long))
        if learns:
            sums = [x.sum() for head in outputs.values() for x in head.values()]
            torch.stack(sums).sum().backward()
    return counter.get_total_flops() / 1e9


if __name__ == "__main__":
    print(*rows(), sep="\n")
