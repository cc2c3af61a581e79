"""Finding the ResNet-50 in a file by names and shapes, and saying what is there instead.

A trunk is found by its first and its last convolution; then every one of its tensors has to be
there in its shape, and nothing that looks like more of a trunk may be left.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.catalog import ZooError
from zoo.dialects import COUNTER, DIALECTS, Dialect, Link, dialect, units
from zoo.layouts import LAYOUTS, bare, is_training, layout_of

Shapes = Mapping[str, tuple[int, ...]]

# Words in a prefix that mean the slowly moving copy of a network.
COPY = {"k", "key", "momentum", "target", "teacher", "ema"}


class NotFound(ZooError):
    """There is no ResNet-50, or none that can be told from others; `matched` of its tensors fit."""

    def __init__(self, text: str, matched: int = 0, required: int = 265) -> None:
        super().__init__(text)
        self.matched, self.required = matched, required


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where the ResNet-50 is in a file.

    `layout` is one of LAYOUTS, or "" where no layout accounts for all `dropped` tensors (counted by
    group). `prefix` stands before the trunk's names. `role` is "only", "online" or "teacher".
    `aliases` are prefixes under which the file has the same tensors again.
    """

    dialect: str
    layout: str
    prefix: str
    role: str
    aliases: tuple[str, ...]
    counters: str
    dropped: dict[str, int]

    @property
    def names(self) -> Dialect:
        """The dialect that the trunk is written in."""
        return dialect(self.dialect)

    @property
    def links(self) -> tuple[Link, ...]:
        """The tensors to take; the step counters only where the file has them."""
        return self.names.links if self.counters == "file" else self.names.trunk

    @property
    def required(self) -> int:
        """How many tensors a trunk has, step counters aside: 265, CLIP's 275."""
        return len(self.names.trunk)

    @property
    def like(self) -> str:
        """The row of the catalogue whose padding and normalisation it shares, if names tell."""
        return LAYOUTS[self.layout].like if self.layout else ""


def detect(tensors: Mapping[str, Tensor], wanted: str = "") -> Found:
    """Find the one ResNet-50 in a file's tensors by their names, shapes and dtypes.

    `wanted` is the prefix to take where there are several. NotFound says what is there instead.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    hits = list(_hits(shapes))
    if not hits:
        raise _nothing(shapes)
    name, prefix, role, aliases = _choose(hits, wanted)
    if name == "caffe2_msra":
        raise NotFound(
            "These are Caffe2's MSRA weights, trained with the stride in the 1x1 convolution, on "
            "BGR pixels from 0 to 255: not the network that the others are. Take another file.",
            *_counts(shapes, dialect(name), prefix),
        )
    _check(tensors, shapes, name, prefix, hits)
    links = {link.at(prefix): link for link in dialect(name).links}
    counted = any(at in shapes for at, link in links.items() if link.is_counter)
    layout, dropped = layout_of(name, prefix, (other for other in shapes if other not in links))
    if not layout and dialect(name).exact and dropped:
        raise NotFound(
            "It has the names of CLIP's ResNet-50, as a ResNet-D has, and beside them "
            f"{_listed(dropped)}: which of the two it is cannot be told. Save the trunk alone.",
            *_counts(shapes, dialect(name), prefix),
        )
    return Found(
        dialect=name,
        layout=layout,
        prefix=prefix,
        role=role,
        aliases=aliases,
        counters="file" if counted else "zero",
        dropped=dropped,
    )


def to_canonical(tensors: Mapping[str, Tensor], found: Found) -> dict[str, Tensor]:
    """The trunk's tensors under canonical names: float32, and int64 counters, 0 where none are.

    ZooError where the file has two networks that should be one, or values that float32 cannot hold.
    """
    for link in found.links:
        own = tensors[link.at(found.prefix)]
        for alias in found.aliases:
            other = tensors.get(link.at(alias))
            if other is None or not (own.is_meta or torch.equal(own, other)):
                raise ZooError(
                    f"'{link.at(found.prefix)}' and '{link.at(alias)}' should be the same tensor "
                    "and are not. Which network is meant? Say it: bench zoo add FILE --prefix …"
                )
    canonical = {}
    for link in found.links:
        try:
            canonical[link.canonical] = link.read(tensors[link.at(found.prefix)])
        except ValueError as error:
            raise ZooError(f"'{link.at(found.prefix)}' {error}.") from error
    if found.counters == "zero":
        all_units = units(found.names.variant)
        canonical |= {f"{unit.bn}.{COUNTER}": torch.tensor(0) for unit in all_units}
    return canonical


def to_published(canonical: Mapping[str, Tensor], name: str, prefix: str) -> dict[str, Tensor]:
    """The inverse for the trunk: the same values in the names and axes of a dialect."""
    links = dialect(name).links
    return {link.at(prefix): link.write(canonical[link.canonical]) for link in links}


# -- Finding -------------------------------------------------------------------------------------


def _hits(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Every (dialect, prefix) under which the first and the last convolution have their shapes."""
    for name in DIALECTS:
        first, last = dialect(name).probes
        for prefix in _prefixes(shapes, first.at("")):
            fits = shapes.get(first.at(prefix)), shapes.get(last.at(prefix))
            if fits == (first.shape, last.shape) and not is_training(prefix):
                yield name, prefix


def _prefixes(names: Iterable[str], ending: str) -> list[str]:
    """What stands before the names that end so, at a boundary."""
    found = (name.removesuffix(ending) for name in names if name.endswith(ending))
    return [prefix for prefix in found if not prefix or prefix[-1] in "./"]


def _choose(hits: list[tuple[str, str]], wanted: str) -> tuple[str, str, str, tuple[str, ...]]:
    """The hit to take, its role, and the prefixes of its aliases."""
    at = {prefix: name for name, prefix in hits}
    copies = [prefix for prefix in at if COPY & _words(prefix)]
    online = [prefix for prefix in at if prefix not in copies]
    students = [prefix for prefix in at if "student" in _words(prefix)]
    again = tuple(p for p in online if re.search(r"(^|\.)(encoder_q|online_net)\.0\.$", p))
    if wanted:
        fitting = [prefix for prefix in at if prefix == wanted or prefix.endswith("." + wanted)]
        if len(fitting) != 1:
            raise NotFound(f"No ResNet-50 is under '{wanted}'; those here are under {list(at)}.")
        role = "teacher" if COPY & _words(fitting[0]) else "online" if len(at) > 1 else "only"
        return at[fitting[0]], fitting[0], role, ()
    if len(students) == 1 and len(at) == 2:  # DINO is used by its teacher
        teacher = next(prefix for prefix in at if prefix not in students)
        return at[teacher], teacher, "teacher", ()
    if len(online) - len(again) == 1 and len(online) > 1 and not students:
        own = next(prefix for prefix in online if prefix not in again)
        return at[own], own, "online", again
    if len(online) != 1 or students:
        only = "be momentum copies only" if not online else "be students only"
        raise NotFound(
            f"The ResNet-50s under {online or copies} could "
            + ("all be meant" if online != students and online else only)
            + ". Name one: bench zoo add FILE --name NAME --prefix PREFIX."
        )
    return at[online[0]], online[0], "online" if len(at) > 1 else "only", ()


def _words(prefix: str) -> set[str]:
    return set(re.split(r"[._/]", prefix))


def _check(
    tensors: Mapping[str, Tensor],
    shapes: Shapes,
    name: str,
    prefix: str,
    hits: list[tuple[str, str]],
) -> None:
    """NotFound unless the trunk is whole, in its shapes and dtypes, and nothing but a trunk."""
    names = dialect(name)
    links = {link.at(prefix): link for link in names.links}
    counted = any(at in shapes for at, link in links.items() if link.is_counter)
    wanted = {at: link for at, link in links.items() if counted or not link.is_counter}
    faults = [f"'{at}' is missing" for at in wanted if at not in shapes]
    faults += [
        fault for at in wanted if at in shapes for fault in _misfit(at, tensors[at], wanted[at])
    ]
    inner = [p for _, p in hits if p != prefix and p.startswith(prefix)]
    left = [
        other
        for other in shapes
        if other.startswith(prefix)
        and other not in links
        and not any(other.startswith(p) for p in inner)
        and not is_training(other)
        and re.fullmatch(names.leftover, other.removeprefix(prefix))
    ]
    faults += [f"'{other}' belongs to no ResNet-50" for other in left]
    if faults:
        counts = _counts(shapes, names, prefix)
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise NotFound(
            f"{counts[0]} of a ResNet-50's {counts[1]} tensors are here ({name} names"
            f"{f' under {prefix!r}' if prefix else ''}), but {'; '.join(faults[:4])}{more}."
            f"{_hint(shapes)}",
            *counts,
        )


def _misfit(at: str, tensor: Tensor, link: Link) -> list[str]:
    if tuple(tensor.shape) != link.shape:
        return [f"'{at}' is {tuple(tensor.shape)}, not {link.shape}"]
    if link.is_counter:
        fits = not tensor.dtype.is_floating_point and not tensor.is_complex()
        return [] if fits else [f"'{at}' is {tensor.dtype}, not a whole number"]
    return [] if tensor.is_floating_point() else [f"'{at}' is {tensor.dtype}, not floating-point"]


def _counts(shapes: Shapes, names: Dialect, prefix: str) -> tuple[int, int]:
    return sum(shapes.get(link.at(prefix)) == link.shape for link in names.trunk), len(names.trunk)


# -- Saying what is there instead ----------------------------------------------------------------

HINTS = (  # (a name's ending, a shape or None, what it means)
    ("conv1.weight", (64, 3, 3, 3), "conv1 is 3x3: a stem for CIFAR"),
    ("conv1.weight", (16, 3, 3, 3), "conv1 is 3x3 with 16 channels: a ResNet for CIFAR"),
    ("conv1.weight", (128, 3, 7, 7), "conv1 has 128 channels: twice as wide"),
    ("conv1.weight", (256, 3, 7, 7), "conv1 has 256 channels: four times as wide"),
    ("layer1.0.conv2.weight", (128, 128, 3, 3), "layer1's 3x3 is 128 wide: a Wide ResNet"),
    ("layer1.0.conv2.weight", (128, 4, 3, 3), "layer1's 3x3 is grouped: a ResNeXt"),
    ("layer1.0.conv1.weight", (64, 64, 3, 3), "blocks of two 3x3: ResNet-18 or -34"),
    ("layer3.6.conv1.weight", None, "layer3 has more than 6 blocks: ResNet-101 or -152"),
    ("res4.6.conv1.weight", None, "res4 has more than 6 blocks: ResNet-101 or -152"),
    ("block_group_2/~/block_6/~/conv_0.w", None, "more than 6 blocks: ResNet-101 or deeper"),
    ("conv2d_53/kernel", None, "more than 53 convolutions: deeper, or selective kernels"),
    ("layer1.0.se.fc1.weight", None, "squeeze and excitation in the blocks: an SE-ResNet"),
    ("layer1.0.se.conv_reduce.weight", None, "squeeze and excitation in the blocks: an SE-ResNet"),
    ("layer1.0.se_module.fc1.weight", None, "squeeze and excitation in the blocks: an SE-ResNet"),
    ("layer1.0.conv2.attn.fc_reduce.weight", None, "selective kernels in the blocks: an SK-ResNet"),
    ("conv1.0.weight", (32, 3, 3, 3), "a deep stem: ResNet-C, -D, -S or -T"),
    ("patch_embed.proj.weight", None, "patches: a vision transformer"),
    ("conv_proj.weight", None, "patches: a vision transformer"),
)


def _hint(shapes: Shapes) -> str:
    for ending, wanted, meaning in HINTS:
        for name, shape in shapes.items():
            at_boundary = name.endswith(ending) and (
                name == ending or name[-len(ending) - 1] in "./"
            )
            if at_boundary and wanted in (None, shape):
                return f" {meaning[0].upper()}{meaning[1:]}."
    return ""


def _nothing(shapes: Shapes) -> NotFound:
    """The refusal of a file without a trunk: the nearest dialects, first conflicts, its names."""
    nearest = sorted(_near(shapes), key=lambda near: -near[0])[:3]
    words = [
        f"{name} {matched}/{required}{conflict}" for _, name, matched, required, conflict in nearest
    ]
    matched, required = nearest[0][2:4] if nearest else (0, 265)
    begins = Counter(re.split(r"[./]", bare(name))[0] for name in shapes)
    return NotFound(
        "No ResNet-50 is in this file."
        + _hint(shapes)
        + (f" Nearest: {'; '.join(words)}." if words else "")
        + f" Names begin with {_listed(dict(begins.most_common(5)))}.",
        matched,
        required,
    )


def _near(shapes: Shapes) -> Iterator[tuple[int, str, int, int, str]]:
    """For each dialect of which any name is here: how many are, its name, how many also fit."""
    for name in DIALECTS:
        names = dialect(name)
        prefixes = _prefixes(shapes, names.probes[0].at("")) or [""]
        present = {p: sum(link.at(p) in shapes for link in names.trunk) for p in prefixes[:8]}
        prefix = max(present, key=lambda p: present[p])
        if present[prefix]:
            counts = _counts(shapes, names, prefix)
            yield present[prefix], name, *counts, _conflict(shapes, names, prefix)


def _conflict(shapes: Shapes, names: Dialect, prefix: str) -> str:
    """The first tensor of a trunk with another shape here, or else the first that is missing."""
    missing = ""
    for link in names.trunk:
        shape = shapes.get(link.at(prefix))
        if shape is None:
            missing = missing or f" ('{link.at(prefix)}' is missing)"
        elif shape != link.shape:
            return f" ('{link.at(prefix)}' is {shape}, not {link.shape})"
    return missing


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
