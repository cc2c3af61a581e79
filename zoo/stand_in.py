"""Stand-ins: random weights in a published file's own layout, for machines without the file.

They go through reading, layout and conversion like any real file. Every result made with one says
so. What is here is versioned by `zoo.store.STAND_IN_RECIPE`.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.catalog import Checkpoint
from zoo.detect import Found, detect, to_published
from zoo.dialects import COUNTER, units
from zoo.manifests import Manifest, manifest
from zoo.report import probe_images
from zoo.resnet50 import Normalisation, resnet50

DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "int32": torch.int32,
    "int64": torch.int64,
}


def stand_in(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of the layout's manifest, seeded by the checkpoint's name.

    The trunk is He-initialised and its BatchNorm statistics are those of one batch of noise, so
    that activations have a plausible scale.
    """
    seed = int.from_bytes(hashlib.sha256(checkpoint.name.encode()).digest()[:7])
    generator = torch.Generator().manual_seed(seed)
    listed = manifest(checkpoint.manifest)
    found = _found(listed)
    trunk = _as_stored(_random_trunk(checkpoint, generator), listed, found)
    trunk |= _statistics(trunk, checkpoint)
    placed: dict[str, Tensor] = {}
    for prefix in (found.prefix, *found.aliases):
        placed |= to_published(trunk, found.dialect, prefix)
    tensors = {}
    for name, (dtype, shape) in listed.tensors.items():
        joined = ".".join(listed.keys(name))
        values = placed[joined] if joined in placed else _filler(shape, generator)
        tensors[name] = values.to(DTYPES[dtype]).contiguous()
    return tensors


def write_stand_in(checkpoint: Checkpoint, path: Path) -> None:
    """Write a stand-in as a torch zip, nested as its method nests the weights."""
    listed = manifest(checkpoint.manifest)
    content: dict[str, Any] = {}
    for name, tensor in stand_in(checkpoint).items():
        *outer, last = listed.keys(name)
        inner = content
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = tensor
    torch.save(content, path)


def _found(listed: Manifest) -> Found:
    """Where the trunk is among the names of a manifest."""
    shapes = {
        ".".join(listed.keys(name)): torch.empty(shape, dtype=DTYPES[dtype], device="meta")
        for name, (dtype, shape) in listed.tensors.items()
    }
    return detect(shapes)


def _random_trunk(checkpoint: Checkpoint, generator: torch.Generator) -> dict[str, Tensor]:
    trunk: dict[str, Tensor] = {}
    for unit in units(checkpoint.variant):
        channels = unit.shape[:1]
        trunk[f"{unit.conv}.weight"] = _he(unit.shape, generator)
        trunk[f"{unit.bn}.weight"] = 1 + 0.1 * _uniform(channels, generator)
        trunk[f"{unit.bn}.bias"] = 0.1 * _uniform(channels, generator)
        trunk[f"{unit.bn}.running_mean"] = torch.zeros(channels)
        trunk[f"{unit.bn}.running_var"] = torch.ones(channels)
        trunk[f"{unit.bn}.{COUNTER}"] = torch.tensor(1)
    return trunk


def _as_stored(trunk: Mapping[str, Tensor], listed: Manifest, found: Found) -> dict[str, Tensor]:
    """The trunk as a reader will see it: CLIP's convolutions are rounded to float16."""
    dtypes = {
        ".".join(listed.keys(name)): DTYPES[dtype] for name, (dtype, _) in listed.tensors.items()
    }
    stored = dict(trunk)
    for link in found.links:
        written = link.write(trunk[link.canonical]).to(dtypes[link.at(found.prefix)])
        stored[link.canonical] = link.read(written)
    return stored


def _statistics(trunk: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """BatchNorm's running statistics after one batch, by canonical name.

    Taken in float64 so that the float32 values do not depend on the number of threads.
    """
    with torch.device("meta"):
        net = resnet50(
            variant=checkpoint.variant, padding=checkpoint.padding, stride=checkpoint.stride
        )
    net.load_state_dict(trunk, assign=True)
    net.double().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net(probe_images(Normalisation(checkpoint.mean, checkpoint.std, checkpoint.order)))
    return {name: value.float() for name, value in net.state_dict().items() if "running" in name}


def _filler(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A tensor outside the trunk: heads, momentum copies, counters."""
    if math.prod(shape) == max(shape, default=1):  # a vector or a number
        return 1 + 0.1 * _uniform(shape, generator)
    return _he(shape, generator)


def _he(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    fan_in = math.prod(shape[1:])
    return math.sqrt(6 / fan_in) * _uniform(shape, generator)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1)."""
    return torch.rand(shape, generator=generator).mul_(2).sub_(1)
