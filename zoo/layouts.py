"""What each published file may hold, and the way from its names to the canonical ones and back.

A layout is a dialect's trunk plus a list of everything else; whatever is neither is an error.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.catalog import ZooError
from zoo.dialects import COUNTER, DIALECTS, Dialect, Link, dialect, units
from zoo.manifests import manifest


@dataclass(frozen=True)
class Layout:
    """What one published file may hold: a dialect's trunk, and `drops`, {group: pattern} of whole
    names without leading `module.`.
    """

    dialect: str
    drops: dict[str, str]


LAYOUTS: dict[str, Layout] = {
    "torchvision_v1_v2": Layout("torchvision", {"classifier": r"fc\.(weight|bias)"}),
    "moco_v1": Layout(
        "torchvision",
        {
            "projection": r"encoder_q\.fc\.(weight|bias)",
            "momentum encoder": r"encoder_k\..+",
            "queue": r"queue(_ptr)?",
        },
    ),
    "moco_v2": Layout(
        "torchvision",
        {
            "projection": r"encoder_q\.fc\.[02]\.(weight|bias)",
            "momentum encoder": r"encoder_k\..+",
            "queue": r"queue(_ptr)?",
        },
    ),
    "simclr_v1_tf": Layout(
        "simclr_tf",
        {
            "classifier": r"head_supervised/linear_layer/dense/(kernel|bias)",
            "step": r"global_step",
        },
    ),
    "swav": Layout(
        "torchvision",
        {
            "projection": r"projection_head\.[013]\.\w+",
            "prototypes": r"prototypes\.weight",
        },
    ),
    "byol_deepmind_haiku": Layout(
        "haiku",
        {
            "target network": r"target_(params|state)/.+",
            "projector": r"online_(params|state)/projector/.+",
            "predictor": r"online_(params|state)/predictor/.+",
            "classifier": r"online_params/classifier//[wb]",
            "moving-average internals": r"online_state/.+_ema//(counter|hidden)",
        },
    ),
    "detco_pth": Layout("torchvision", {}),
    "densecl": Layout("torchvision", {}),
    "clip_rn50_openai": Layout(
        "clip",
        {
            "attention pool": r"visual\.attnpool\.(positional_embedding|[kqvc]_proj\.\w+)",
            "text tower": r"transformer\.resblocks\.\d+\.(attn|ln_1|ln_2|mlp)\..+"
            r"|(token_embedding|ln_final)\.\w+"
            r"|positional_embedding|text_projection|logit_scale",
            "sizes": r"input_resolution|context_length|vocab_size",
        },
    ),
}

# Words in a prefix that mean the slowly moving copy of a network.
COPY = {"k", "key", "momentum", "target", "teacher", "ema"}


@dataclass(frozen=True, kw_only=True)
class Canonical:
    """A trunk under canonical names, and how it came out of its file.

    `role` is "only", or "online" where the file has a momentum copy too. `counters` tells whether
    BatchNorm's step counters are the file's or zeros. `dropped` counts tensors by group.
    """

    tensors: dict[str, Tensor]
    prefix: str
    role: str
    required: int
    renamed: int
    counters: str
    dropped: dict[str, int]


def to_canonical(published: Mapping[str, Tensor], layout: str) -> Canonical:
    """The canonical tensors of a file of this layout, float32.

    Strict both ways: ZooError for a trunk tensor that is missing, has another shape or is not
    floating-point, and for any other tensor that the layout does not list. Values are not looked
    at here.
    """
    names = dialect(LAYOUTS[layout].dialect)
    prefix, role = _find_trunk(published, layout, names)
    counted = any(link.at(prefix) in published for link in names.counters)
    links = names.trunk + (names.counters if counted else ())
    dropped = _match(published, layout, {link.at(prefix): link for link in links})
    tensors = {link.canonical: link.read(published[link.at(prefix)]) for link in links}
    if not counted:
        tensors |= {f"{u.bn}.{COUNTER}": torch.tensor(0) for u in units(names.variant)}
    return Canonical(
        tensors=tensors,
        prefix=prefix,
        role=role,
        required=len(names.trunk),
        renamed=sum(link.canonical != link.at(prefix) for link in names.trunk),
        counters="file" if counted else "zero",
        dropped=dropped,
    )


def to_published(canonical: Mapping[str, Tensor], layout: str, prefix: str) -> dict[str, Tensor]:
    """The inverse of `to_canonical` for the trunk: the same values, named and laid out as the
    publisher does.
    """
    names = dialect(LAYOUTS[layout].dialect)
    return {link.at(prefix): link.write(canonical[link.canonical]) for link in names.links}


def _match(
    published: Mapping[str, Tensor], layout: str, links: Mapping[str, Link]
) -> dict[str, int]:
    """Every tensor of the file is the one that a link wants or dropped: the drops, by group."""
    faults = [f"'{name}' is missing" for name in links if name not in published]
    dropped: Counter[str] = Counter()
    for name, tensor in published.items():
        group = _group(name, layout)
        if name in links:
            faults += _misfit(name, tensor, links[name])
        elif group is None:
            faults.append(f"'{name}' is neither part of ResNet-50 nor on this layout's drop list")
        else:
            dropped[group] += 1
    if faults:
        shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if faults[4:] else "")
        raise ZooError(f"{layout}: {shown}. Another release of the file? See zoo/layouts.py.")
    return dict(dropped)


def _misfit(name: str, tensor: Tensor, link: Link) -> list[str]:
    if tuple(tensor.shape) != link.shape:
        return [f"'{name}' is {tuple(tensor.shape)}, not {link.shape}"]
    if not link.is_counter and not tensor.is_floating_point():
        return [f"'{name}' is {tensor.dtype}, not floating-point"]
    return []


def _group(name: str, layout: str) -> str | None:
    bare = _without_module(name)
    drops = LAYOUTS[layout].drops
    return next((group for group, names in drops.items() if re.fullmatch(names, bare)), None)


def _without_module(name: str) -> str:
    """Data-parallel wrappers put `module.` in front, once each."""
    return re.sub(r"^(module\.)+", "", name)


# -- Finding the trunk ---------------------------------------------------------------------------


def _find_trunk(published: Mapping[str, Tensor], layout: str, names: Dialect) -> tuple[str, str]:
    """What stands before the trunk's names, and its role; the online network where there is a
    momentum copy too.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    prefixes = _prefixes(shapes, names)
    online = [prefix for prefix in prefixes if not COPY & set(re.split(r"[._/]", prefix))]
    if len(online) == 1:
        return online[0], "online" if len(prefixes) > 1 else "only"
    if online:
        raise ZooError(f"{layout}: the ResNet-50s under {online} could all be meant. Keep one.")
    if prefixes:
        raise ZooError(
            f"{layout}: only a momentum copy is in this file, under {prefixes}. "
            "The online network is needed."
        )
    # With half of the names right it is a damaged or foreign ResNet: let the match name the fault.
    prefix = manifest(layout).prefix
    present = sum(link.at(prefix) in published for link in names.trunk)
    if 2 * present >= len(names.trunk) and _has_landmark(shapes, names, prefix):
        return prefix, "only"
    raise ZooError(f"{layout}: {_what_instead(shapes)}")


def _prefixes(shapes: Mapping[str, tuple[int, ...]], names: Dialect) -> list[str]:
    """Where the stem's and the last block's convolutions stand in their shapes."""
    first, last = names.probes
    ending = first.at("")
    candidates = [
        name.removesuffix(ending)
        for name, shape in shapes.items()
        if name.endswith(ending) and shape == first.shape
    ]
    return [
        prefix
        for prefix in candidates
        if (not prefix or prefix[-1] in "./")
        and shapes.get(last.at(prefix)) == last.shape
        and _has_landmark(shapes, names, prefix)
    ]


def _has_landmark(shapes: Mapping[str, tuple[int, ...]], names: Dialect, prefix: str) -> bool:
    if names.landmark is None:
        return True
    name, shape = names.landmark
    return shapes.get(prefix + name) == shape


def identify(published: Mapping[str, Tensor], file: str) -> str:
    """A sentence on the ResNet-50 in a file of unknown layout; ZooError tells why there is none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    for name in DIALECTS:
        for prefix in _prefixes(shapes, dialect(name)):
            return f"It holds a ResNet-50 with {name} names under '{prefix}'."
    raise ZooError(f"{file}: {_what_instead(shapes)}")


def _what_instead(shapes: Mapping[str, tuple[int, ...]]) -> str:
    begins = Counter(re.split(r"[./]", name)[0] for name in shapes)
    counts = ", ".join(f"{name} ({count})" for name, count in begins.most_common(5))
    stem = next((item for item in shapes.items() if len(item[1]) == 4), None)
    if stem is None:
        return f"No ResNet-50 in this file: no convolution among {counts}."
    name, shape = stem
    if shape in ((64, 3, 7, 7), (32, 3, 3, 3)):
        kind = "which fits, but the blocks' names or shapes do not."
    elif shape[2:] == (3, 3):
        kind = "a 3x3 stem, as in ResNets for CIFAR, where (64, 3, 7, 7) belongs."
    else:
        kind = "where (64, 3, 7, 7) belongs."
    return (
        f"No ResNet-50 in this file: its first convolution '{name}' is {shape}, {kind} "
        f"Names begin with {counts}."
    )
