"""Stages and protocols: what learns, for how long, at which rate (paper section 4.1, appendix A).

Everything here is a frozen value. A protocol is what every checkpoint of a comparison gets alike;
nothing in it names a checkpoint, a folder or a machine.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from protocols import check, known

PARTS = ("backbone", "neck", "adapter", "heads")
ADAPTERS = ("lv", "prompt", "v2l")
POLICIES = ("drop", "keep", "error")


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
        factor, decay_at = self.warmup_factor, self.decay_at
        check(0 <= factor <= 1, f"{where}.warmup_factor", factor, "from 0 to 1")
        right = all(0 <= fraction <= 1 for fraction in decay_at)
        check(right, f"{where}.decay_at", decay_at, "fractions of the stage, from 0 to 1")
        check(0 < self.decay < math.inf, f"{where}.decay", self.decay, "a positive number")

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
    """Sizes of a MaskFormer head (facebookresearch/MaskFormer's R50 configuration)."""

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
class SemanticFPNSizes:
    """Sizes of a Semantic-FPN head (detectron2's `SemSegFPNHead`)."""

    width: int


@dataclass(frozen=True, kw_only=True)
class FasterRCNNSizes:
    """Sizes of a Faster R-CNN head (torchvision's defaults).

    `anchors` are sides in pixels of the network's input, for P2 to P6. Of an image `proposals`
    regions are kept, in training twice as many, and `samples` of those learned from.
    """

    anchors: tuple[int, ...]
    proposals: int
    samples: int
    hidden: int

    def __post_init__(self) -> None:
        sides = self.anchors
        right = len(sides) == 5 and min(sides) > 0
        check(right, "model.det.anchors", sides, "five sizes, as in 32,64,128,256,512")


HEAD_SIZES = {
    "transformer": (MaskFormerSizes, SparseRCNNSizes),
    "conv": (SemanticFPNSizes, FasterRCNNSizes),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of everything between the pixels and the predictions."""

    trunk: Literal["full", "tiny"]  # the ResNet-50, or the leading slices of it
    channels: int  # of P2..P5
    seg: MaskFormerSizes | SemanticFPNSizes
    det: SparseRCNNSizes | FasterRCNNSizes
    # Pixels without a label: left out, or negatives as in facebookresearch/MaskFormer.
    mask_ignore: Literal["valid", "maskformer"] = "valid"
    # The size at which MaskFormer's masks meet the labels in the loss: the image's, or a quarter.
    mask_loss: Literal["full", "quarter"] = "full"

    def __post_init__(self) -> None:
        known("model.trunk", self.trunk, ("full", "tiny"))
        known("model.mask_ignore", self.mask_ignore, ("valid", "maskformer"))
        known("model.mask_loss", self.mask_loss, ("full", "quarter"))


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What puts another P5 between neck and heads, with CLIP's text encoder (paper section 4.2).

    "lv" is the LV-Adapter, "prompt" and "v2l" the other rows of Table 4. `text` names the
    checkpoint whose text encoder it is, or "own": the cell's. Each task learns `vectors` vectors
    that stand before its class names; those of `driv` are said as `driv_names`. The decoder has
    `layers` layers of `heads` heads.
    """

    name: Literal["lv", "prompt", "v2l"]
    text: str = "own"
    vectors: int = 16
    layers: int = 3
    heads: int = 4
    dropout: float = 0.1
    driv_names: tuple[str, ...] = (
        "directly drivable area",
        "alternatively drivable area",
        "background",
    )

    def __post_init__(self) -> None:
        known("adapter", self.name, ADAPTERS)
        check(bool(self.text), "adapter.text", self.text, "a checkpoint's name, or own")
        check(1 <= self.vectors <= 50, "adapter.vectors", self.vectors, "from 1 to 50")
        check(self.layers >= 1, "adapter.layers", self.layers, "1 or more")
        check(self.heads >= 1, "adapter.heads", self.heads, "1 or more")
        check(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "from 0 to below 1")
        names = self.driv_names
        right = len(names) == 3 and all(names)
        check(right, "adapter.driv_names", names, "three names: direct, alternative, background")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weight of each task's loss in the sum (paper, section 5.1)."""

    sem: float = 0.7
    driv: float = 0.7
    det: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW over all that learns, and the norm to which the whole gradient is clipped.

    A step's `batch` images go through the network in `accumulate` parts, where memory is short:
    BatchNorm sees one part at a time, and losses are averaged over the parts. With precision "bf16"
    the network computes under autocast; losses, matching and all scores stay fp32. `compile` lets
    torch.compile fuse what it can, which changes rounding.
    """

    batch: int
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    weight_decay: float = 1e-4
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        known("optim.precision", self.precision, ("fp32", "bf16"))
        check(self.batch >= 1, "optim.batch", self.batch, "1 or more")
        parts, fits = self.accumulate, self.accumulate >= 1 and self.batch % self.accumulate == 0
        check(fits, "optim.accumulate", parts, f"a divisor of the batch, {self.batch}")
        decay, clip = self.weight_decay, self.clip_norm
        check(0 <= decay < math.inf, "optim.weight_decay", decay, "0 or more")
        check(0 < clip < math.inf, "optim.clip_norm", clip, "a positive number")


@dataclass(frozen=True, kw_only=True)
class Pseudo:
    """What makes pseudo labels (paper section 3.2): the teachers, and what of theirs is kept.

    A box counts from a score of `det_score` on, a pixel from `seg_score` on and is ignored below.
    A segmentation's score is its head's own: a probability, or with MaskFormer the sum over the
    queries of two probabilities' product. Teachers start from the checkpoint `teacher`; all
    students share them.
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
    # Frames of a validation set among those to train on are dropped, kept, or an error.
    cross_split_policy: Literal["drop", "keep", "error"] = "drop"
    val_every: int = 0  # epochs between validations within a stage, for curves; 0 for none
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        known("cross_split_policy", self.cross_split_policy, POLICIES)
        for stage in self.stages:
            right = self.adapter is not None or "adapter" not in stage.learns
            where = f"stages.{stage.name}.learns"
            check(right, where, stage.learns, f"without adapter: {self.name} has none")
        if self.adapter is not None:
            heads, channels = self.adapter.heads, self.model.channels
            check(channels % heads == 0, "adapter.heads", heads, f"a divisor of {channels}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the protocol that `dataclasses.asdict` (and JSON) made these values of."""
        model = values["model"]
        of_seg, of_det = HEAD_SIZES[values["heads"]]
        seg, det = of_seg(**model["seg"]), of_det(**_tuples(model["det"]))
        groups = {
            "stages": tuple(Stage(**_tuples(stage)) for stage in values["stages"]),
            "input": Input(**_tuples(values["input"])),
            "model": Model(**{**model, "seg": seg, "det": det}),
            "loss": LossWeights(**values["loss"]),
            "optim": Optim(**values["optim"]),
            "pseudo": Pseudo(**values["pseudo"]),
            "adapter": Adapter(**_tuples(adapter)) if (adapter := values.get("adapter")) else None,
        }
        return cls(**{**values, **groups})


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
