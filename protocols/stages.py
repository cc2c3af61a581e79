"""Stages and protocols: what learns, for how long, at which rate (paper section 4.1, appendix A).

Everything here is a frozen value. A protocol is what every checkpoint of a comparison gets alike;
nothing in it names a checkpoint, a folder or a machine.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from protocols import check, known

PARTS = ("backbone", "neck", "heads")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run that updates named parts of the model.

    The rate rises linearly from `warmup_factor * lr` to `lr` over `warmup_steps` steps and is
    multiplied by `decay` at each fraction of the stage's steps in `decay_at`.
    """

    name: str
    epochs: int
    lr: float
    learns: tuple[str, ...]
    warmup_steps: int = 1000
    warmup_factor: float = 0.01
    decay_at: tuple[float, ...] = ()
    decay: float = 0.1

    def __post_init__(self) -> None:
        for part in self.learns:
            known("part", part, PARTS)
        where = f"stages.{self.name}"
        check(bool(self.learns), f"{where}.learns", self.learns, "one part or more")
        check(self.epochs >= 0, f"{where}.epochs", self.epochs, "0 or more")
        check(0 < self.lr < math.inf, f"{where}.lr", self.lr, "a positive number")
        check(self.warmup_steps >= 0, f"{where}.warmup_steps", self.warmup_steps, "0 or more")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` (from 0) out of `steps`."""
        progress = min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        warmup = self.warmup_factor + (1.0 - self.warmup_factor) * progress
        passed = sum(step >= round(fraction * steps) for fraction in self.decay_at)
        return self.lr * warmup * self.decay**passed


@dataclass(frozen=True, kw_only=True)
class Input:
    """How a frame becomes the network's input; sizes in pixels.

    In training the short side is drawn from `train_short` for each image, in testing it is
    `test_short`; the long side is at most `max_long`; both are padded to a multiple of `pad_to`.
    """

    train_short: tuple[int, ...]
    test_short: int
    max_long: int
    pad_to: int = 32
    contract: Literal["native", "imagenet"] = (
        "native"  # whose mean and std: its own, or one for all
    )

    def __post_init__(self) -> None:
        known("input.contract", self.contract, ("native", "imagenet"))
        shorts = self.train_short
        check(bool(shorts) and min(shorts) > 0, "input.train_short", shorts, "one size or more")
        check(self.test_short > 0, "input.test_short", self.test_short, "1 or more")
        check(self.max_long > 0, "input.max_long", self.max_long, "1 or more")
        multiple = self.pad_to > 0 and self.pad_to % 32 == 0
        check(multiple, "input.pad_to", self.pad_to, "a multiple of 32")


@dataclass(frozen=True, kw_only=True)
class MaskFormerSizes:
    """Sizes of a MaskFormer head (paper.md 5.2 is facebookresearch/MaskFormer's R50 config)."""

    width: int
    queries: int
    layers: int
    heads: int
    ffn: int
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SparseRCNNSizes:
    """Sizes of a Sparse R-CNN head (PeizeSun/SparseR-CNN, 300 proposals)."""

    proposals: int
    stages: int
    heads: int
    ffn: int
    dynamic: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of everything between the pixels and the predictions."""

    trunk: Literal["full", "tiny"]  # the ResNet-50, or the leading slices of it
    channels: int  # of P2..P5
    seg: MaskFormerSizes
    det: SparseRCNNSizes
    # Pixels without a label: left out, or negatives as in facebookresearch/MaskFormer.
    mask_ignore: Literal["valid", "maskformer"] = "valid"

    def __post_init__(self) -> None:
        known("model.trunk", self.trunk, ("full", "tiny"))
        known("model.mask_ignore", self.mask_ignore, ("valid", "maskformer"))


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weight of each task's loss in the sum (paper, section 5.1)."""

    sem: float = 0.7
    driv: float = 0.7
    det: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW over all that learns, and the norm to which the whole gradient is clipped."""

    batch: int
    weight_decay: float = 1e-4
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        check(self.batch >= 1, "optim.batch", self.batch, "1 or more")
        decay, clip = self.weight_decay, self.clip_norm
        check(0 <= decay < math.inf, "optim.weight_decay", decay, "0 or more")
        check(0 < clip < math.inf, "optim.clip_norm", clip, "a positive number")


@dataclass(frozen=True, kw_only=True)
class Pseudo:
    """What makes pseudo labels (paper section 3.2): the teachers, and what of theirs is kept.

    A box counts from a score of `det_score` on, a pixel from `seg_score` on and is ignored below.
    A segmentation's score is MaskFormer's own, which is the sum over the queries of two
    probabilities' product. Teachers start from the checkpoint `teacher`; all students share them.
    """

    det_score: float = 0.5
    seg_score: float = 0.3
    teacher: str = "supervised_tv_v1"
    teacher_seed: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.det_score <= 1, "pseudo.det_score", self.det_score, "from 0 to 1")
        check(0 <= self.seg_score <= 1, "pseudo.seg_score", self.seg_score, "from 0 to 1")
        check(self.teacher_seed >= 0, "pseudo.teacher_seed", self.teacher_seed, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """An ordered tuple of stages plus everything else that every checkpoint gets alike."""

    name: str
    preset: str
    stages: tuple[Stage, ...]
    scheme: str
    heads: str
    input: Input
    model: Model
    loss: LossWeights
    optim: Optim
    pseudo: Pseudo
    proportional_split: bool  # a data set too small for the setting keeps its proportions
    split_seed: int = 0
    val_every: int = 0  # epochs between validations within a stage, for curves; 0 for none

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the protocol that `dataclasses.asdict` (and JSON) made these values of."""
        model = values["model"]
        seg, det = MaskFormerSizes(**model["seg"]), SparseRCNNSizes(**model["det"])
        groups = {
            "stages": tuple(Stage(**_tuples(stage)) for stage in values["stages"]),
            "input": Input(**_tuples(values["input"])),
            "model": Model(**{**model, "seg": seg, "det": det}),
            "loss": LossWeights(**values["loss"]),
            "optim": Optim(**values["optim"]),
            "pseudo": Pseudo(**values["pseudo"]),
        }
        return cls(**{**values, **groups})


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
