"""How each family of code names a ResNet-50's tensors: one table for both directions.

Sources: torchvision `resnet.py`; openai/CLIP `model.py`; google-research/simclr `resnet.py`
(variables numbered in the order of their creation); dm-haiku `nets/resnet.py`; detectron2
`tools/convert-torchvision-to-d2.py` and `c2_model_loading.py`; Separius/SimCLRv2-Pytorch
`resnet.py`; timm `byobnet.py` and `resnet.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.catalog import Variant

BN_LEAVES = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)


# -- The canonical tensors -----------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """One convolution and the BatchNorm after it.

    `stage` 0 is the stem, whose `part` counts its convolutions from 1; in a block, part 0 is the
    shortcut and 1 to 3 are the main path. `conv` and `bn` are canonical module names.
    """

    stage: int
    block: int
    part: int
    conv: str
    bn: str
    shape: tuple[int, int, int, int]


def units(variant: Variant) -> tuple[Unit, ...]:
    """The 53 units of a ResNet-50 (CLIP's 55) in the order in which TensorFlow numbers them:
    in the first block of a stage the shortcut comes before the main path.
    """
    return (*_stem(variant), *_blocks(first=1 if variant == "clip" else 0))


def _stem(variant: Variant) -> tuple[Unit, ...]:
    if variant == "plain":
        return (Unit(0, 0, 1, "conv1", "bn1", (64, 3, 7, 7)),)
    return (
        Unit(0, 0, 1, "conv1.0", "conv1.1", (32, 3, 3, 3)),
        Unit(0, 0, 2, "conv1.3", "conv1.4", (32, 32, 3, 3)),
        Unit(0, 0, 3, "conv1.6", "bn1", (64, 32, 3, 3)),
    )


def _blocks(first: int) -> Iterator[Unit]:
    """`first` is the position of the shortcut's convolution in its Sequential."""
    channels = 64
    for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            if block == 0:
                conv, bn = f"{at}.downsample.{first}", f"{at}.downsample.{first + 1}"
                yield Unit(stage, block, 0, conv, bn, (4 * width, channels, 1, 1))
            shapes = ((width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for part, shape in enumerate(shapes, start=1):
                yield Unit(stage, block, part, f"{at}.conv{part}", f"{at}.bn{part}", shape)
            channels = 4 * width


# -- Dialects ------------------------------------------------------------------------------------


class Form(NamedTuple):
    """How a published tensor's axes become canonical (`read`) and published again (`write`)."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], Tensor]


AS_IS = Form(lambda tensor: tensor, lambda tensor: tensor)
HWIO = Form(lambda tensor: tensor.permute(3, 2, 0, 1), lambda tensor: tensor.permute(2, 3, 1, 0))
ROW = Form(lambda tensor: tensor.reshape(-1), lambda tensor: tensor.reshape(1, 1, 1, -1))


@dataclass(frozen=True)
class Link:
    """One canonical tensor and where a dialect keeps it.

    `published` is a template: {prefix} is what stands before the trunk's names, {state} the same
    place in Haiku's second tree, which holds the running statistics.
    """

    canonical: str
    published: str
    shape: tuple[int, ...]  # as published
    form: Form

    @property
    def is_counter(self) -> bool:
        return self.canonical.endswith(COUNTER)

    def read(self, published: Tensor) -> Tensor:
        """The canonical tensor: float32, or int64 for a counter.

        ValueError where float32 cannot hold what float64 does.
        """
        tensor = self.form.read(published)
        canonical = tensor.to(torch.int64 if self.is_counter else torch.float32)
        if tensor.dtype == torch.float64 and not tensor.is_meta:
            same = (canonical == tensor) | (tensor != tensor)  # what is not a number is not equal
            if not same.all():
                raise ValueError("holds float64 values that float32 cannot")
        return canonical

    def write(self, canonical: Tensor) -> Tensor:
        """The canonical tensor in the published axes."""
        return self.form.write(canonical)

    def at(self, prefix: str) -> str:
        """The published name under this prefix."""
        return self.published.format(prefix=prefix, state=prefix.replace("_params.", "_state."))


@dataclass(frozen=True)
class Dialect:
    """One family of code's names.

    `leftover` matches names that belong to a trunk: one under the same prefix that no link wants
    shows that the network is another (deeper, with attention). An `exact` dialect shares its names
    with networks that differ in nothing else, so nothing at all may be left over.
    """

    variant: Variant
    links: tuple[Link, ...]
    leftover: str
    exact: bool = False

    @property
    def trunk(self) -> tuple[Link, ...]:
        """All links but BatchNorm's step counters, which no file needs to have."""
        return tuple(link for link in self.links if not link.is_counter)

    @property
    def probes(self) -> tuple[Link, Link]:
        """The first and the last convolution: by their shapes a file is known to hold a trunk."""
        weights = {unit.conv + ".weight" for unit in units(self.variant)}
        convolutions = [link for link in self.links if link.canonical in weights]
        return convolutions[0], convolutions[-1]

    @property
    def counters(self) -> tuple[Link, ...]:
        """The links of the step counters; none where the dialect has no such thing."""
        return tuple(link for link in self.links if link.is_counter)


TORCH_BN = {leaf: f"{{prefix}}@.{leaf}" for leaf in (*BN_LEAVES, COUNTER)}
TF_BN = {
    "weight": "{prefix}@/gamma",
    "bias": "{prefix}@/beta",
    "running_mean": "{prefix}@/moving_mean",
    "running_var": "{prefix}@/moving_variance",
}
HAIKU_BN = {
    "weight": "{prefix}@.scale",
    "bias": "{prefix}@.offset",
    "running_mean": "{state}@/~/mean_ema.average",
    "running_var": "{state}@/~/var_ema.average",
}
CAFFE2_BN = {
    "weight": "{prefix}@_bn_gamma",
    "bias": "{prefix}@_bn_beta",
    "running_mean": "{prefix}@_bn_running_mean",
    "running_var": "{prefix}@_bn_running_var",
}
TORCH_LEFTOVER = r"(.*\.)?(layer\d|res\d|stages|blocks)\..+"
DIALECTS = (
    "torchvision",
    "detectron2",
    "separius",
    "sequential",
    "clip",
    "timm_clip",
    "timm_deep_stem",
    "simclr_tf",
    "haiku",
    "caffe2_msra",
)


@cache
def dialect(name: str) -> Dialect:
    """One of DIALECTS."""
    if name == "simclr_tf":
        links = _links("plain", _tf_names, "{prefix}@/kernel", HWIO, TF_BN, AS_IS)
        kernels = r"(conv2d|batch_normalization)(_\d+)?/(kernel|gamma|beta|moving_\w+)"
        return Dialect("plain", tuple(links), kernels)
    if name == "haiku":
        links = _links("plain", _haiku_names, "{prefix}@.w", HWIO, HAIKU_BN, ROW)
        return Dialect("plain", tuple(links), r"block_group_.+")
    if name == "caffe2_msra":
        links = _links("plain", _caffe2_names, "{prefix}@_w", AS_IS, CAFFE2_BN, AS_IS)
        return Dialect("plain", tuple(links), r"res\d_.+")
    variant, names, leftover = TORCH_NAMES[name]
    links = _links(variant, names, "{prefix}@.weight", AS_IS, TORCH_BN, AS_IS)
    return Dialect(variant, tuple(links), leftover, exact=name.startswith("timm_"))


def _links(
    variant: Variant,
    names: Callable[[int, Unit], tuple[str, str]],
    conv_template: str,
    conv_form: Form,
    bn_templates: Mapping[str, str],
    bn_form: Form,
) -> Iterator[Link]:
    """`names` gives a unit's convolution and BatchNorm in the dialect, for the templates' @."""
    for index, unit in enumerate(units(variant)):
        conv, bn = names(index, unit)
        conv_at = conv_template.replace("@", conv)
        yield Link(f"{unit.conv}.weight", conv_at, _written(unit.shape, conv_form), conv_form)
        for leaf, template in bn_templates.items():
            shape = () if leaf == COUNTER else _written(unit.shape[:1], bn_form)
            yield Link(f"{unit.bn}.{leaf}", template.replace("@", bn), shape, bn_form)


def _written(shape: tuple[int, ...], form: Form) -> tuple[int, ...]:
    return tuple(form.write(torch.empty(shape, device="meta")).shape)


def _same_names(index: int, unit: Unit) -> tuple[str, str]:
    return unit.conv, unit.bn


def _clip_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        return f"conv{unit.part}", f"bn{unit.part}"
    if unit.part == 0:
        at = f"layer{unit.stage}.{unit.block}.downsample"
        return f"{at}.0", f"{at}.1"
    return unit.conv, unit.bn


def _detectron2_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        return "stem.conv1", "stem.conv1.norm"
    part = f"conv{unit.part}" if unit.part else "shortcut"
    conv = f"res{unit.stage + 1}.{unit.block}.{part}"
    return conv, f"{conv}.norm"


def _separius_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        return "net.0.0", "net.0.1.0"
    at = f"net.{unit.stage}.blocks.{unit.block}"
    if unit.part == 0:
        return f"{at}.projection.shortcut", f"{at}.projection.bn.0"
    return f"{at}.net.{2 * unit.part - 2}", f"{at}.net.{2 * unit.part - 1}.0"


def _sequential_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        return "0", "1"
    layer, child = f"layer{unit.stage}", str(unit.stage + 3)
    return unit.conv.replace(layer, child), unit.bn.replace(layer, child)


def _timm_clip_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        at = f"stem.conv{unit.part}"
    elif unit.part == 0:
        at = f"stages.{unit.stage - 1}.{unit.block}.shortcut.conv"
    else:
        kernel = "kxk" if unit.part == 2 else "1x1"
        at = f"stages.{unit.stage - 1}.{unit.block}.conv{unit.part}_{kernel}"
    return f"{at}.conv", f"{at}.bn"


def _tf_names(index: int, unit: Unit) -> tuple[str, str]:
    number = f"_{index}" if index else ""
    return f"conv2d{number}", f"batch_normalization{number}"


def _haiku_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        return "initial_conv", "initial_batchnorm"
    at = f"block_group_{unit.stage - 1}/~/block_{unit.block}/~"
    if unit.part == 0:
        return f"{at}/shortcut_conv", f"{at}/shortcut_batchnorm"
    return f"{at}/conv_{unit.part - 1}", f"{at}/batchnorm_{unit.part - 1}"


def _caffe2_names(index: int, unit: Unit) -> tuple[str, str]:
    if unit.stage == 0:
        return "conv1", "res_conv1"
    branch = f"2{' abc'[unit.part]}" if unit.part else "1"
    at = f"res{unit.stage + 1}_{unit.block}_branch{branch}"
    return at, at


# What torch modules are called, in each code base that has names of its own for them.
TORCH_NAMES: dict[str, tuple[Variant, Callable[[int, Unit], tuple[str, str]], str]] = {
    "torchvision": ("plain", _same_names, TORCH_LEFTOVER),
    "detectron2": ("plain", _detectron2_names, TORCH_LEFTOVER),
    "separius": ("plain", _separius_names, TORCH_LEFTOVER),
    "sequential": ("plain", _sequential_names, r"[4-7]\.\d+\..+"),
    "clip": ("clip", _clip_names, TORCH_LEFTOVER),
    "timm_clip": ("clip", _timm_clip_names, TORCH_LEFTOVER),
    "timm_deep_stem": ("clip", _same_names, TORCH_LEFTOVER),
}
