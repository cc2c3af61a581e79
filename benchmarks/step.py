"""The training step against the plain one, and adapting against finetuning.

    python -m benchmarks.step        a few minutes; no GPU

Random weights, drawn labels (`cases`); 640x352 with the paper's heads, one image, and the demo's
network at its size and batch. Learning rates are 0, so that all ways see the same weights.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bench import memory
from bench.data.sample import Batch
from bench.model.build import losses
from bench.model.multitask import MultiTask
from bench.train.engine import take_step
from bench.train.optim import adamw
from benchmarks.cases import make_batch, make_model
from benchmarks.counts import operations
from benchmarks.figures import HEADER, Figure, figure, timed
from benchmarks.plain import Plain
from protocols.presets import protocol
from protocols.stages import Protocol, Stage

THREADS = 2
CASES = {"paper": (1, (352, 640), 5), "demo": (4, (96, 160), 15)}  # images, size, rounds
PLAIN = 0.80  # the bars of the paper's network against the plain step
QUICK = {"bf16": 0.50, "fp32": 0.80}  # a processor that only imitates bf16 takes ten times as long
EPOCHS = (6, 30)  # of the paper's two stages


def figures() -> list[Figure]:
    """Measure them all."""
    torch.set_num_threads(THREADS)
    memory.keep()
    return [one for preset in CASES for one in of_preset(preset)]


def of_preset(preset: str) -> list[Figure]:
    """Measure the steps of one network."""
    images, size_hw, rounds = CASES[preset]
    base, batch = protocol("paf", preset), make_batch(images, size_hw)
    adapt, finetune = (replace(stage, lr=1e-30) for stage in base.stages)
    model = make_model(base)
    precision = "bf16" if in_hardware("bf16") else "fp32"
    quick = replace(
        base,
        optim=replace(base.optim, precision=precision),
        model=replace(base.model, mask_loss="quarter"),
    )
    plain = Plain(model, base, finetune)
    spent = timed(
        {
            "finetune": step(model, base, finetune, batch),
            "plain": lambda: plain(batch),
            "adapt": step(model, base, adapt, batch),
            "quick": step(model, quick, finetune, batch),
        },
        rounds,
        # Once a stage, and no part of a step.
        lambda way: model.learn((adapt if way == "adapt" else finetune).learns),
    )
    where = f"{preset}'s network, {images} x {size_hw[1]}x{size_hw[0]}"
    ideal = operations(preset, adapt.learns, size_hw) / operations(preset, finetune.learns, size_hw)
    bars = (PLAIN, QUICK[precision]) if preset == "paper" else (None, None)
    whole = [sum(EPOCHS) * seconds for seconds in spent["finetune"]]
    stages = [
        EPOCHS[0] * mine + EPOCHS[1] * its
        for mine, its in zip(spent["adapt"], spent["finetune"], strict=True)
    ]
    return [
        figure(f"finetune / plain step: {where}", spent["finetune"], spent["plain"], bars[0]),
        figure(
            f"… in {precision} with losses at a quarter / plain: {where}",
            spent["quick"],
            spent["plain"],
            bars[1],
        ),
        figure(
            f"adapt / finetune, {ideal:.3f} of its arithmetic: {where}",
            spent["adapt"],
            spent["finetune"],
            1.1 * ideal,
        ),
        figure(f"training of 6+30 epochs / of 36: {where}", stages, whole, 0.97),
    ]


def in_hardware(kind: str) -> bool:
    """Whether the processor calculates in that precision itself."""
    return (
        re.search(rf"^flags.*_{kind}", Path("/proc/cpuinfo").read_text(), re.MULTILINE) is not None
    )


def step(model: MultiTask, base: Protocol, stage: Stage, batch: Batch) -> Callable[[], object]:
    """Return a step of a stage, with an optimiser of its own, for a model that learns its parts."""
    optimiser = adamw(model.learn(stage.learns), stage, base.optim)
    wanted = losses(base, tuple(model.heads))

    return lambda: take_step(model, wanted, optimiser, base.optim, [batch])


if __name__ == "__main__":
    found = figures()
    print(HEADER, *(one.row() for one in found), sep="\n")
    sys.exit(not all(one.met for one in found))
