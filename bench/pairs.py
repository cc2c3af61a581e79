"""Which finished cells are compared with which: those that are equal but for what is compared.

Compared are two cells; or two protocols, or two checkpoints, and then every cell of the one with
its like of the other. Cells that differ by their seeds alone are one pair.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell, hashed
from bench.status import Stored, find, stored
from bench.store import Store
from protocols.presets import PROTOCOLS
from zoo.catalog import ZooError
from zoo.catalog import find as checkpoint

CELL = "cell"
SAYS = ("name", "stages", "adapter")  # what a protocol's name says, of all its values


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A cell with a result, its folder, and what was to be run there."""

    home: Path
    cell: Cell
    order: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The first and the second cell of each seed; `names` tell the two apart.

    `where` says what both have in common, and is empty where two cells were named.
    """

    names: tuple[str, str]
    where: str
    seeds: dict[int, tuple[Finished, Finished]]

    def cells(self) -> list[Finished]:
        """Return all of them."""
        return [cell for both in self.seeds.values() for cell in both]


def pairs(
    store: Store, first: str, second: str, fits: Callable[[Cell], bool]
) -> tuple[list[Pair], list[str]]:
    """Return the pairs that two texts mean, and a line on cells that have no partner.

    A text is a protocol, a checkpoint, or a cell as `bench.status.find` takes it; of the first two
    only cells that are done and fit are meant. Raises `BenchError` where none is left, where one
    text means several cells, and where two are not of the same data and protocol version.
    """
    listed = [one for one in stored(store) if one.cell is not None]
    there = [one.cell for one in listed if one.cell]
    kinds = [_kind(text, there) for text in (first, second)]
    cells = [
        _cell(store, t, there) for t, k in zip((first, second), kinds, strict=True) if k == CELL
    ]
    if kinds[0] == kinds[1] != CELL and _one(kinds[0], first) == _one(kinds[1], second):
        raise BenchError(
            f"{second} is compared with itself: both sides are the same {kinds[0]}. "
            "Give two that differ."
        )
    if kinds[0] != kinds[1]:
        told = " and ".join(f"{t!r} is a {k}" for t, k in zip((first, second), kinds, strict=True))
        raise BenchError(f"{told}. Give two cells, two protocols or two checkpoints.")
    if cells:
        found, alone = [_named(*cells)], []
    else:
        done = [_finished(one) for one in listed if one.state == "done"]
        found, alone = _matched(kinds[0], (first, second), [one for one in done if fits(one.cell)])
    for both in (both for pair in found for both in pair.seeds.values()):
        _check_alike(*both)
    names = ", ".join(one.home.name for one in alone)
    return found, [f"Left out, for want of a partner that is done: {names}."] if alone else []


def _kind(text: str, cells: Sequence[Cell]) -> str:
    if text in PROTOCOLS or any(text in (c.protocol_label, c.protocol.name) for c in cells):
        return "protocol"
    try:
        checkpoint(text)
    except ZooError:
        return "checkpoint" if any(text == cell.zoo for cell in cells) else CELL
    return "checkpoint"


def _one(kind: str, text: str) -> str:
    """Return the name of what a text means, for a checkpoint may have two."""
    if kind == "checkpoint":
        with suppress(ZooError):  # a user's own, of another machine
            return checkpoint(text).name
    return text


def _finished(one: Stored) -> Finished:
    assert one.cell is not None
    return Finished(home=one.home, cell=one.cell, order=one.order)


def _cell(store: Store, text: str, there: Sequence[Cell]) -> Finished:
    try:
        one = find(store, text)
    except BenchError as error:
        names = sorted({name for cell in there for name in (cell.protocol_label, cell.zoo)})
        known = f" Protocols and checkpoints there: {', '.join(names)}." if names else ""
        raise BenchError(f"{error}{known}") from None
    if one.error:
        raise BenchError(one.error)
    if one.cell is None or not (one.home / "result.json").exists():
        raise BenchError(
            f"{one.home.name} is {one.state}: it has no scores to compare (bench status)."
        )
    return _finished(one)


def _named(first: Finished, second: Finished) -> Pair:
    """Return a pair of any two cells, named by what is different."""
    told = [_fields(first.cell), _fields(second.cell)]
    names = [" ".join(v for k, v in one.items() if told[0][k] != told[1][k]) for one in told]
    if names[0] == names[1]:  # other values, weights or data
        names = [first.home.name, second.home.name]
    return Pair(names=(names[0], names[1]), where="", seeds={first.cell.seed: (first, second)})


def _matched(
    kind: str, texts: tuple[str, str], done: Sequence[Finished]
) -> tuple[list[Pair], list[Finished]]:
    """Return the pairs of two protocols or checkpoints, and the cells that are in none."""
    one, other = (_by_rest(kind, text, done) for text in texts)
    both = {
        rest: {
            seed: (cells[seed], other[rest][seed]) for seed in sorted(cells) if seed in other[rest]
        }
        for rest, cells in one.items()
        if rest in other
    }
    both = {rest: seeds for rest, seeds in both.items() if seeds}
    if not both:
        raise BenchError(
            f"No finished cell of {texts[0]} is equal to one of {texts[1]} but for the {kind}. "
            "bench status shows what there is."
        )
    where = _places(kind, [next(iter(seeds.values()))[0].cell for seeds in both.values()])
    found = [
        Pair(names=texts, where=name, seeds=seeds)
        for name, seeds in zip(where, both.values(), strict=True)
    ]
    paired = {cell.home for pair in found for cell in pair.cells()}
    every = [cell for side in (one, other) for seeds in side.values() for cell in seeds.values()]
    return found, [cell for cell in every if cell.home not in paired]


def _by_rest(kind: str, text: str, done: Sequence[Finished]) -> dict[str, dict[int, Finished]]:
    """Return the cells that a text means: by all that is not compared, and then by seed."""
    if kind == "checkpoint":
        mine = [one for one in done if one.cell.zoo == _one(kind, text)]
    else:
        mine = [one for one in done if one.cell.protocol_label == text] or [
            one for one in done if one.cell.protocol.name == text
        ]
    if not mine:
        raise BenchError(f"No cell of {text} is done that is meant. bench status shows all cells.")
    found: dict[str, dict[int, Finished]] = {}
    for one in mine:
        there = found.setdefault(_rest(kind, one.cell), {}).setdefault(one.cell.seed, one)
        if there is not one:
            raise BenchError(
                f"{text} means {there.home.name} and {one.home.name}. Name the cells themselves."
            )
    return found


def _rest(kind: str, cell: Cell) -> str:
    """Return all values of a cell but its seed and what is compared."""
    protocol = asdict(cell.protocol)
    if kind == "protocol":
        rest = [cell.zoo, {name: v for name, v in protocol.items() if name not in SAYS}]
    else:
        rest = [protocol]
    return json.dumps([*rest, cell.setting, cell.tasks], sort_keys=True)


def _fields(cell: Cell) -> dict[str, str]:
    """Return what people call a cell by."""
    protocol = cell.protocol
    return {
        "checkpoint": cell.zoo,
        "protocol": cell.protocol_label,
        "setting": cell.setting,
        "scheme": protocol.scheme,
        "heads": protocol.heads,
        "tasks": "+".join(cell.tasks),
        "preset": protocol.preset,
        "seed": f"seed {cell.seed}",
    }


def _places(kind: str, cells: Sequence[Cell]) -> list[str]:
    """Return what to call each pair by: checkpoint or protocol, and whatever else varies."""
    always = "checkpoint" if kind == "protocol" else "protocol"
    told = [_fields(cell) for cell in cells]
    shown = [
        name
        for name in told[0]
        if name == always or (name not in (kind, "seed") and len({one[name] for one in told}) > 1)
    ]
    names = [" ".join(one[name] for name in shown) for one in told]
    return [
        name if names.count(name) == 1 else f"{name} {hashed(_rest(kind, cell))[:6]}"
        for name, cell in zip(names, cells, strict=True)
    ]


def _check_alike(first: Finished, second: Finished) -> None:
    """Raise `BenchError` where two cells are one, or their scores cannot mean the same."""
    if first.home == second.home:
        raise BenchError(f"{first.home.name} is compared with itself. Give two that differ.")
    a, b = first.order, second.order
    names = f"{first.home.name} and {second.home.name}"
    if a["version"] != b["version"]:
        raise BenchError(
            f"{names} are of the protocol versions {a['version']} and {b['version']}: their scores "
            "do not mean the same. bench run makes them again."
        )
    if a["data"]["sha256"] != b["data"]["sha256"]:
        raise BenchError(
            f"{names} were scored on different data ({a['data']['root']}, {b['data']['root']}, or "
            "files that were changed in between). Compare cells of the same data."
        )
