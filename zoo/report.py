"""The load report: what a trunk was loaded from, and the scale of what it puts out.

The scale per stage is the one early sign of the collapse that some checkpoints show in training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.canonical import Record
from zoo.resnet50 import Normalisation, ResNet50
from zoo.values import LOOKS_RANDOM_BELOW, random_ratio

STAGES = ("C2", "C3", "C4", "C5")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `Record` says, as far as readers of a result need it, and the measured trunk.

    `activation` is the standard deviation of each stage's output over `probe_images`, in eval
    mode. `warnings` are sentences. All fields can go into JSON.
    """

    name: str
    file: str
    sha256: str
    stand_in: bool
    container: str
    layout: str
    variant: str
    padding: str
    stride: str
    order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nesting: tuple[str, ...]
    prefix: str
    role: str
    required: int
    matched: int
    counters: str
    dropped: dict[str, int]
    renamed: int
    activation: dict[str, float]
    warnings: list[str]


def probe_images(normalisation: Normalisation) -> Tensor:
    """Four smooth random images [4, 3, 96, 96], always the same, normalised; float64."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    fine = torch.rand(4, 3, 96, 96, generator=generator, dtype=torch.float64)
    smooth = F.interpolate(coarse, size=(96, 96), mode="bilinear", align_corners=False)
    return normalisation(0.8 * smooth + 0.2 * fine)


@torch.no_grad()
def measure(net: ResNet50, record: Record, *, whole: bool) -> LoadReport:
    """The report of a loaded trunk; the trunk is left in eval mode.

    Only a whole trunk can give warnings: a cut one is not the file's network any more.
    """
    stages = net.eval()(probe_images(net.input).float())
    activation = {stage: output.std().item() for stage, output in zip(STAGES, stages, strict=True)}
    measured = [*_zero_residuals(net), *_odd_scales(activation), *_alike(stages[-1])]
    if whole and not record.stand_in:  # a stand-in is random, and says so
        measured += _as_random(net)
    return LoadReport(
        name=record.checkpoint.name,
        file=record.checkpoint.file,
        sha256=record.sha256,
        stand_in=record.stand_in,
        container=record.container,
        layout=record.layout,
        variant=record.checkpoint.variant,
        padding=record.checkpoint.padding,
        stride=record.checkpoint.stride,
        order=record.checkpoint.order,
        mean=record.checkpoint.mean,
        std=record.checkpoint.std,
        nesting=record.nesting,
        prefix=record.prefix,
        role=record.role,
        required=record.required,
        matched=record.required,
        counters=record.counters,
        dropped=record.dropped,
        renamed=record.renamed,
        activation=activation,
        warnings=[*record.warnings, *(measured if whole else [])],
    )


def _zero_residuals(net: ResNet50) -> list[str]:
    last = [m for name, m in net.named_modules() if name.endswith("bn3") and "layer" in name]
    if all(isinstance(m, nn.BatchNorm2d) and not m.weight.any() for m in last):
        return ["the last BatchNorm of every block is zero, as before training"]
    return []


def _as_random(net: ResNet50) -> list[str]:
    ratio = random_ratio(net.state_dict())
    if ratio < LOOKS_RANDOM_BELOW:
        return [f"the weights look random: singular values {ratio:.2f} times those of noise"]
    return []


def _odd_scales(activation: dict[str, float]) -> list[str]:
    return [
        f"{stage} has a standard deviation of {scale:.2g}, outside 1e-4 to 1e4"
        for stage, scale in activation.items()
        if not 1e-4 < scale < 1e4
    ]


def _alike(c5: Tensor) -> list[str]:
    first, second = c5.mean(dim=(2, 3))[:2]
    cosine = F.cosine_similarity(first, second, dim=0).item()
    if cosine > 0.999:
        return [f"two different images look the same to it (cosine {cosine:.5f})"]
    return []
