"""Is a changed file ever taken for what it is not? 5,000 mutations of published layouts and files.

    python -m benchmarks.mutations          two cores, minutes; prints tables for BENCHMARKS.md

4,500 change names, shapes and dtypes of what `zoo/manifests` lists, as tensors without values (this
file); 500 change bytes of whole files (`benchmarks/damage.py`).

Each tensor is an object of its own, so what detection takes is followed by identity: a mutation is
either refused, or every one of the 265 (CLIP: 275) trunk tensors that are taken, each in its own
canonical place, is the very tensor of the unchanged layout (`tests/zoo/test_manifests.py` shows
that those are the right ones), the step counters are the layout's or none, and no padding or
normalisation is told of the network that was not told before. A tensor in another floating-point
dtype stands for itself: its values are converted exactly, or refused. What breaks the trunk
(MUST_REFUSE) has to be refused, unless the file holds the very same trunk twice and the other one
is taken. Exit code 1: something was not so.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

import torch
from torch import Tensor

from benchmarks.damage import damages
from zoo import manifests
from zoo.catalog import ZooError, find
from zoo.detect import detect, to_canonical
from zoo.dialects import COUNTER
from zoo.manifests import manifest

STRUCTURES, BYTES = 4500, 500
Tensors = dict[str, Tensor]


# -- Names, shapes and dtypes ----------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A manifest as tensors without values, and where in it the trunk is: {canonical: name}.

    `leftover` is a tensor of a deeper network, `told` what the names say of padding and
    normalisation. The trunk of the one layout that is refused as it is is all of it.
    """

    tensors: Tensors
    trunk: dict[str, str]
    prefix: str
    leftover: str
    told: object
    is_refused: bool = False
    is_twice: bool = False

    @property
    def counters(self) -> list[str]:
        return [name for canonical, name in self.trunk.items() if canonical.endswith(COUNTER)]

    @property
    def weights(self) -> list[str]:
        return [name for canonical, name in self.trunk.items() if not canonical.endswith(COUNTER)]

    @property
    def others(self) -> list[str]:
        return [name for name in self.tensors if name not in self.trunk.values()]


def layout(name: str) -> Layout:
    listed = manifest(name)
    tensors = {
        ".".join(listed.keys(path)): _meta(shape, getattr(torch, dtype))
        for path, (dtype, shape) in listed.tensors.items()
    }
    try:
        found = detect(tensors)
    except ZooError:
        every = {path: path for path in tensors}
        return Layout(tensors, every, "", LEFTOVER["caffe2_msra"], None, is_refused=True)
    trunk = {link.canonical: link.at(found.prefix) for link in found.links}
    for alias in found.aliases:  # as in the real file
        tensors |= {link.at(alias): tensors[link.at(found.prefix)] for link in found.links}
    names, told = LEFTOVER[found.dialect], _told(found.like)
    return Layout(tensors, trunk, found.prefix, names, told, is_twice=bool(found.aliases))


def _meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _told(like: str) -> object:
    return find(like).semantics if like else None


# A tensor of a deeper network, in each family of names.
LEFTOVER = defaultdict(lambda: "layer3.6.conv1.weight") | {
    "detectron2": "res4.6.conv1.weight",
    "separius": "net.3.blocks.6.net.0.weight",
    "sequential": "6.6.conv1.weight",
    "timm_clip": "stages.2.6.conv1_1x1.conv.weight",
    "simclr_tf": "conv2d_53/kernel",
    "haiku": "block_group_2/~/block_6/~/conv_0.w",
    "caffe2_msra": "res4_6_branch2a_w",
}
PREFIXES = ("encoder_k.", "momentum_backbone.", "teacher.", "student.", "ema.", "net2.", "module.")
WRAPPERS = ("module.", "model.", "state_dict.", "net.", "_orig_mod.", "module.module.", "my_model.")
NO_WEIGHTS = (torch.int64, torch.int8, torch.bool, torch.complex64, torch.uint8)
WEIGHTS = (torch.float16, torch.bfloat16, torch.float64)


def remove_a_weight(random: Random, of: Layout) -> Tensors:
    return _without(of, {random.choice(of.weights)})


def remove_a_counter(random: Random, of: Layout) -> Tensors:
    return _without(of, {random.choice(of.counters)})


def remove_all_counters(random: Random, of: Layout) -> Tensors:
    return _without(of, set(of.counters or [None]))


def rename_a_tensor(random: Random, of: Layout) -> Tensors:
    old = random.choice(list(of.trunk.values()))
    changes = (
        lambda name: name + "_x",
        lambda name: "x" + name,
        lambda name: name.replace("weight", "Weight").replace("w", "v", 1),
        lambda name: name[:-1],
        lambda name: name.replace("1", "7") + "7",
    )
    new = next(name for change in _shuffled(random, changes) if (name := change(old)) != old)
    return _renamed(of, {old: new})


def reshape_a_tensor(random: Random, of: Layout) -> Tensors:
    name = random.choice(list(of.trunk.values()))
    shape = tuple(of.tensors[name].shape)
    at = random.randrange(len(shape)) if shape else 0
    first, *rest = shape[at:] or (1,)
    choices = [(*shape, 1), (1, *shape), (*shape[:at], 2 * first, *rest)]
    choices += [(*shape[:at], first + 1, *rest), (*shape[:at], 0, *rest)]
    choices += [shape[1:]] if shape and shape != (1,) else []
    return of.tensors | {name: _meta(random.choice(choices), of.tensors[name].dtype)}


def transpose_a_tensor(random: Random, of: Layout) -> Tensors:
    fitting = [name for name in of.weights if len(set(of.tensors[name].shape)) > 1]
    tensor = of.tensors[name := random.choice(fitting)]
    orders = _shuffled(random, [(1, 0, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0), (0, 2, 1, 3)])
    shapes = (tuple(tensor.shape[axis] for axis in order) for order in orders)
    shape = next(shape for shape in shapes if shape != tuple(tensor.shape))
    return of.tensors | {name: _meta(shape, tensor.dtype)}


def no_floating_point(random: Random, of: Layout) -> Tensors:
    name = random.choice(of.weights)
    return of.tensors | {name: _meta(of.tensors[name].shape, random.choice(NO_WEIGHTS))}


def counters_with_fractions(random: Random, of: Layout) -> Tensors:
    return of.tensors | {random.choice(of.counters): _meta((), random.choice(WEIGHTS))}


def another_precision(random: Random, of: Layout) -> Tensors:
    dtype = random.choice(WEIGHTS)
    some = random.sample(of.weights, random.choice([1, 20, len(of.weights)]))
    return of.tensors | {name: _standing_for(of.tensors[name], dtype) for name in some}


def swap_two_names(random: Random, of: Layout) -> Tensors:
    one = random.choice(of.weights)
    shape = of.tensors[one].shape
    other = random.choice([name for name in of.weights if of.tensors[name].shape != shape])
    return of.tensors | {one: of.tensors[other], other: of.tensors[one]}


def move_a_stage(random: Random, of: Layout) -> Tensors:
    some = random.sample(of.weights, random.randrange(2, len(of.weights) // 2))
    return _renamed(of, {name: f"moved.{name}" for name in some})


def add_a_block(random: Random, of: Layout) -> Tensors:
    return of.tensors | {of.prefix + of.leftover: _meta((256, 1024, 1, 1), torch.float32)}


def add_the_unknown(random: Random, of: Layout) -> Tensors:
    before = random.choice(["", of.prefix, "extra."])
    name = before + random.choice(["attention.weight", "mask_token", "cls.bias", "scales/values"])
    return of.tensors | {name: _meta((7, 2048), torch.float32)}


def add_a_second_trunk(random: Random, of: Layout) -> Tensors:
    before = random.choice(PREFIXES)
    at = random.choice([before, of.prefix + before])
    copies = {
        at + name.removeprefix(of.prefix): _meta(of.tensors[name].shape, of.tensors[name].dtype)
        for name in of.trunk.values()
    }
    return copies | of.tensors if random.random() < 0.5 else of.tensors | copies


def add_a_prefix(random: Random, of: Layout) -> Tensors:
    before = random.choice(WRAPPERS)
    return {before + name: tensor for name, tensor in of.tensors.items()}


def strip_a_prefix(random: Random, of: Layout) -> Tensors:
    """But not the word that tells a network from its copies: then nothing would."""
    first = random.choice([name for name in of.tensors if "." in name]).partition(".")[0] + "."
    if first in (*PREFIXES[:-2], "target_net."):
        raise IndexError
    return _renamed(of, {name: name.removeprefix(first) for name in of.tensors})


def move_the_trunk(random: Random, of: Layout) -> Tensors:
    before = random.choice(WRAPPERS)
    return _renamed(of, {name: before + name for name in of.trunk.values()})


def change_another_tensor(random: Random, of: Layout) -> Tensors:
    name = random.choice(of.others)
    changed = [
        _without(of, {name}),
        _renamed(of, {name: name + "_x"}),
        of.tensors | {name: _meta((3, 5), torch.float32)},
        of.tensors | {name: _meta(of.tensors[name].shape, torch.int32)},
    ]
    return random.choice(changed)


def remove_a_tenth(random: Random, of: Layout) -> Tensors:
    return _without(of, set(random.sample(of.weights, len(of.weights) // 10)))


Mutation = Callable[[Random, Layout], Tensors]
MUST_REFUSE: tuple[Mutation, ...] = (
    remove_a_weight,
    remove_a_counter,
    remove_a_tenth,
    rename_a_tensor,
    reshape_a_tensor,
    transpose_a_tensor,
    no_floating_point,
    counters_with_fractions,
    swap_two_names,
    move_a_stage,
    add_a_block,
)
MAY_BE_SAME: tuple[Mutation, ...] = (
    remove_all_counters,
    another_precision,
    add_the_unknown,
    add_a_second_trunk,
    add_a_prefix,
    strip_a_prefix,
    move_the_trunk,
    change_another_tensor,
)


def _without(of: Layout, names: set[str | None]) -> Tensors:
    """IndexError, as `random.choice` raises it, where there is nothing to take away."""
    if names == {None}:
        raise IndexError
    return {name: tensor for name, tensor in of.tensors.items() if name not in names}


def _renamed(of: Layout, names: Mapping[str, str]) -> Tensors:
    """IndexError where two names would become one."""
    renamed = {names.get(name, name): tensor for name, tensor in of.tensors.items()}
    if len(renamed) < len(of.tensors):
        raise IndexError
    return renamed


def _shuffled(random: Random, choices: Any) -> list[Any]:
    return random.sample(list(choices), len(choices))


def _standing_for(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    changed = _meta(tuple(tensor.shape), dtype)
    changed.stands_for = tensor  # pyright: ignore[reportAttributeAccessIssue]
    return changed


def verdict(tensors: Tensors, of: Layout) -> str:
    """What becomes of a mutation: "refused", "same trunk", or what is wrong."""
    try:
        found = detect(tensors)
        to_canonical(tensors, found)
    except ZooError:
        return "refused"
    taken = {link.canonical: tensors[link.at(found.prefix)] for link in found.links}
    own = {canonical: of.tensors[name] for canonical, name in of.trunk.items()}
    if found.counters == "zero":
        own = {canonical: tensor for canonical, tensor in own.items() if COUNTER not in canonical}
    if taken.keys() != own.keys():
        return "WRONG: another set of tensors"
    if any(getattr(taken[name], "stands_for", taken[name]) is not own[name] for name in own):
        return "WRONG: another tensor"
    if _told(found.like) not in (None, of.told):
        return "WRONG: another normalisation"
    return "same trunk"


def _mutation(random: Random, of: Layout) -> tuple[Mutation, Tensors]:
    """One that can be done to this layout: where there are no counters, none can be removed."""
    while True:
        kind = random.choice((*MUST_REFUSE, *MAY_BE_SAME))
        try:
            return kind, kind(random, of)
        except IndexError:
            continue


def structures(count: int) -> Iterator[tuple[str, str, str]]:
    """Each mutation's kind, the layout, and its verdict; a smaller count is a fair sample."""
    names = sorted(file.stem for file in Path(manifests.__path__[0]).glob("*.json"))
    layouts = {name: layout(name) for name in names}
    for number in range(count):
        random = Random(number)
        of = layouts[name := random.choice(names)]
        kind, tensors = _mutation(random, of)
        found = verdict(tensors, of)
        other = of.is_twice and kind is not add_a_block
        if found == "same trunk" and (of.is_refused or (kind in MUST_REFUSE and not other)):
            found = "WRONG: not refused"
        yield kind.__name__.replace("_", " "), name, found


# -- Both ------------------------------------------------------------------------------------------


def run(share: float, out: IO[str]) -> list[str]:
    """Carry out this share of the mutations, print the tables, and return what went wrong."""
    wrong: list[str] = []
    started = time.perf_counter()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, name, found in structures(round(STRUCTURES * share)):
        table[kind][found] += 1
        if found.startswith("WRONG"):
            wrong.append(f"{kind}, {name}: {found}")
    _print(table, ("mutation", "refused", "same trunk"), started, out)

    started, table = time.perf_counter(), defaultdict(Counter)
    for container, by_hash, found in damages(round(BYTES * share)):
        table[container][found] += 1
        table[container]["refused by its hash"] += by_hash
        if found.startswith("WRONG") or not by_hash:
            wrong.append(f"{container}: {found}, refused by its hash: {by_hash}")
    titles = ("container", "refused by its hash", "refused", "as others read it")
    _print(table, (*titles, "others refuse it, trunk as written"), started, out)
    return wrong


def _print(
    table: Mapping[str, Counter[str]], titles: tuple[str, ...], started: float, out: IO[str]
) -> None:
    rows = {**dict(sorted(table.items())), "all": sum(table.values(), Counter())}
    lines = [titles, ("---", *["---:"] * (len(titles) - 1))]
    lines += [
        (row, *(f"{counts[title]:,}" for title in titles[1:])) for row, counts in rows.items()
    ]
    print(*("| " + " | ".join(line) + " |" for line in lines), sep="\n", file=out)
    print(f"\n{time.perf_counter() - started:.0f} s\n", file=out, flush=True)


def main() -> int:
    """Print the tables and what went wrong; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of all mutations")
    wrong = run(parser.parse_args().share, sys.stdout)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
