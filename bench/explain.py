"""`plan --explain CELL`: in which fields a planned cell differs from the nearest stored one.

Values go by the names that `--set` and the options take; beside them stand the files: weights,
data, split, and the teachers, each with what makes it another teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import BenchError
from bench.cell import Cell
from bench.plan import PlannedCell
from bench.status import Stored, stored
from bench.store import Store

Order = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field with its value in the stored and in the planned cell; None where it has none.

    `because` says in what two teachers differ.
    """

    field: str
    stored: Any
    planned: Any
    because: tuple[Difference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `plan --explain --json` prints of it."""
        because = [one.to_json() for one in self.because]
        return {**vars(self), "because": because}

    def lines(self) -> Iterator[str]:
        """Yield what a person reads of it."""
        because = ", because" if self.because else ""
        yield f"{self.field}: {_said(self.stored)} -> {_said(self.planned)}{because}"
        for one in self.because:
            yield from (f"  {line}" for line in one.lines())


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A planned cell, the stored cell that is nearest to it (None: there is no other), and why."""

    cell: PlannedCell
    nearest: Stored | None
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `plan --explain --json` prints."""
        return {
            **self.cell.to_json(),
            "nearest": self.nearest.home.name if self.nearest else None,
            "differences": [one.to_json() for one in self.differences],
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person reads."""
        yield f"{self.cell.folder.name}: {self.cell.reason}"
        if self.nearest is None:
            yield "The store has no other cell to compare it with."
            return
        yield f"nearest: {self.nearest.home.name} ({self.nearest.state}); stored -> planned:"
        for one in self.differences:
            yield from (f"  {line}" for line in one.lines())


def named(planned: Sequence[PlannedCell], text: str) -> PlannedCell:
    """Return the planned cell that a text means: its folder's name, or a beginning of its key."""
    fits = [one for one in planned if one.folder.name == text] or [
        one for one in planned if text and one.order["key"].startswith(text)
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(one.folder.name for one in fits)
        raise BenchError(f"--explain {text!r} begins the keys of {len(fits)} cells: {names}.")
    raise BenchError(
        f"--explain {text!r} is neither the name nor the beginning of the key of one of these "
        f"{len(planned)} planned cells. bench plan with the same options lists them; the end of a "
        "name begins its key."
    )


def explain(one: PlannedCell, planned: Sequence[PlannedCell], store: Store) -> Explanation:
    """Compare a planned cell with the nearest stored one.

    That is one at the same address, else one of the same checkpoint, else any; the fewest fields
    decide among those, then whether it is done, then its age.
    """
    there = [found for found in stored(store) if found.cell and found.home != one.folder]
    teachers = {found.order["key"]: found.order for found in there}
    teachers |= {other.order["key"]: other.order for other in planned}
    compared = [(found, _compare(found.order, one.order, teachers)) for found in there]
    if not compared:
        return Explanation(cell=one, nearest=None, differences=())

    def distance(pair: tuple[Stored, list[Difference]]) -> tuple[Any, ...]:
        found, differences = pair
        return (
            found.order["address"] != one.order["address"],
            found.order["resolved"]["zoo"] != one.cell.zoo,
            found.order["resolved"]["tasks"] != list(one.cell.tasks),
            len(differences),
            not (found.home / "result.json").exists(),
            -(found.home / "cell.json").stat().st_mtime,
        )

    nearest, differences = min(compared, key=distance)
    return Explanation(cell=one, nearest=nearest, differences=tuple(differences))


def _compare(old: Order, new: Order, teachers: Mapping[str, Order]) -> list[Difference]:
    """Return in what two orders differ, as far as it can change a number."""
    values = [Cell.from_resolved(order["resolved"]).affecting() for order in (old, new)]
    found = [replace(one, field=_option(one.field)) for one in _values("", *values)]
    if old["resolved"]["zoo"] == new["resolved"]["zoo"]:
        found += _files("weights", old["weights"], new["weights"])
    parts = [order.get("parts", {}) for order in (old, new)]
    for part in dict.fromkeys([*parts[0], *parts[1]]):
        found += _files(f"{part} weights", *(one.get(part) for one in parts))
    for name in ("data", "split"):
        found += _files(name, old[name], new[name])
    found += _teachers(old, new, teachers)
    if old["version"] != new["version"]:
        versions = {"stored": old["version"], "planned": new["version"]}
        found.append(Difference(field="protocol version", **versions))
    return found


def _values(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Yield the values that differ between two trees; stages go by their names."""
    if _stages(old) and _stages(new):
        orders = [[stage["name"] for stage in stages] for stages in (old, new)]
        if sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]:
            yield Difference(field=key, stored=orders[0], planned=orders[1])
        old, new = ({stage["name"]: stage for stage in stages} for stages in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _values(f"{key}.{name}" if key else name, old.get(name), new.get(name))
    elif old != new:
        yield Difference(field=key, stored=old, planned=new)


def _stages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _option(field: str) -> str:
    """Return a field of `resolved` by the name that `--set`, or its own option, has for it."""
    return "protocol" if field == "protocol.name" else field.removeprefix("protocol.")


def _files(field: str, old: Order | None, new: Order | None) -> list[Difference]:
    if old and new and old["sha256"] == new["sha256"]:
        return []
    return [Difference(field=field, stored=_file(old), planned=_file(new))]


def _file(found: Order | None) -> str | None:
    """Return in a few words which file, folder or split it is."""
    if found is None:
        return None
    words = [found.get("name", ""), found["sha256"][:8]]
    words += ["(a random stand-in)"] if found.get("stand_in") else []
    if counts := found.get("counts"):
        frames = ", ".join(f"{count:,} {task}" for task, count in counts.items())
        words.append(f"({found['frames']:,} frames: {frames})")
    return " ".join(word for word in words if word)


def _teachers(old: Order, new: Order, known: Mapping[str, Order]) -> list[Difference]:
    """Return the teachers that are others, each with the reason."""
    by_task = [
        {_task(known[key]) if key in known else key: key for key in order["needs"]}
        for order in (old, new)
    ]
    found = []
    for task in dict.fromkeys([*by_task[1], *by_task[0]]):
        keys = [keys.get(task) for keys in by_task]
        if keys[0] == keys[1]:
            continue
        orders = [known[key] for key in keys if key is not None and key in known]
        because = _compare(orders[0], orders[1], known) if len(orders) == 2 else []
        short = [key and key[:8] for key in keys]
        found.append(
            Difference(
                field=f"teacher of {task}" if task in ("sem", "driv", "det") else "teacher",
                stored=short[0],
                planned=short[1],
                because=tuple(because),
            )
        )
    return found


def _task(order: Order) -> str:
    return order["resolved"]["tasks"][0]


def _said(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, dict):
        inside = (f"{key} {_said(one)}" for key, one in value.items() if key != "name")
        return f"({', '.join(inside)})"
    return ",".join(map(_said, value)) if isinstance(value, list) else str(value)
