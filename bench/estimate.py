"""What a plan will cost: device-hours, wall time and disk, from what is measured in its store.

Nothing is guessed: work of a kind that was never measured is unknown, and counted as that.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import BenchError
from bench.measured import SCORING, Measured, kinds, scorings
from bench.plan import Node, PlannedCell, PseudoLabels
from bench.store import read_lines
from protocols.schemes import steps

FEW, MARGIN = 3, 1.25  # with fewer finished cells: as far is low from expected, and that from high
SHOWN = 3  # names of what is unknown, in the plan for people
LABEL_BYTES = 10_000  # of one pseudo label: a mask of BDD100K as a PNG has 3 to 6 kB
STATES = 6  # times a model: model and both moments of AdamW, in state.pt and state.prev.pt


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time from `low` over `expected` to `high`, in seconds unless said otherwise."""

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        return Span(
            low=self.low + other.low,
            expected=self.expected + other.expected,
            high=self.high + other.high,
        )

    def hours(self, devices: int = 1) -> Span:
        """Return as many hours on so many devices."""
        low, expected, high = (
            seconds * devices / 3600 for seconds in (self.low, self.expected, self.high)
        )
        return Span(low=low, expected=expected, high=high)

    def rounded(self) -> dict[str, float]:
        """Return its fields for JSON."""
        return {name: float(f"{value:.4g}") for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the nodes of a plan that are to be run will cost.

    `device` is that of the newest measurement, whose speeds alone count (None: there is none);
    `others` are the measurements on others. `seconds` has each node whose cost is known, `unknown`
    the names of the rest. `disk_bytes` is None where the size of any model is unknown.
    """

    device: str | None
    others: int
    ranks: int
    jobs: int
    seconds: Mapping[Path, Span] = field(repr=False)
    unknown: tuple[str, ...]
    wall: Span | None
    disk_bytes: float | None

    @property
    def known(self) -> Span:
        """The device-hours of all that is known."""
        return sum(self.seconds.values(), Span()).hours(self.ranks)

    @property
    def hours(self) -> Span | None:
        """The device-hours of the whole plan; None where those of any node are unknown."""
        return None if self.unknown else self.known

    def to_json(self) -> dict[str, Any]:
        """Return what `plan --json` prints of it."""
        nothing = dict.fromkeys(("low", "expected", "high"))
        hours, wall = self.hours, self.wall
        disk = self.disk_bytes
        return {
            "gpu_hours": hours.rounded() if hours else nothing,
            "disk_gb": None if disk is None else round(disk / 1e9, 3),
            "wall_hours": wall.hours().rounded() if wall else nothing,
            "device": self.device,
            "jobs": self.jobs,
            "unknown": list(self.unknown),
            "known_gpu_hours": self.known.rounded(),
        }

    def lines(self) -> list[str]:
        """Return what a person reads of it."""
        known, count = _hours(self.known), len(self.seconds)
        what = f"hours of {self.device}" if self.device else "hours"
        lines = []
        if self.hours and self.wall:
            low, expected, high = (_time(s) for s in vars(self.wall).values())
            lines.append(f"Expected: {known} {what}.")
            lines.append(f"Wall time: {expected} ({low} to {high}) with {self.jobs} at once.")
        elif self.unknown:
            on = f" on {self.device}" if self.device else ""
            lines.append(
                f"Hours: unknown for {len(self.unknown)} of {count + len(self.unknown)} to run, "
                f"labels counted: nothing of their kind has finished{on}. "
                "bench plan --probe times a few steps."
            )
            more = f" and {len(self.unknown) - SHOWN} more" if len(self.unknown) > SHOWN else ""
            lines.append(f"Unknown: {', '.join(self.unknown[:SHOWN])}{more}.")
            lines += [f"The other {count}: {known} {what}."] if count else []
        disk = "unknown" if self.disk_bytes is None else f"{self.disk_bytes / 1e9:.1f} GB"
        lines.append(f"Disk: {disk}.")
        if self.others:
            lines.append(f"Left out: {self.others} measurements on other devices.")
        return lines


def estimate(
    todo: Sequence[Node], found: Sequence[Measured], *, jobs: int, ranks: int = 1
) -> Estimate:
    """Return what nodes will cost, `jobs` of them at once, by what was `found` to be their speed.

    `found` is ordered by time. Of what was begun only the rest counts.
    """
    on = found[-1].device if found else None
    mine = [one for one in found if one.device == on]
    rates = {
        **_gathered(one.speeds for one in mine if not one.finished),
        **_gathered(one.speeds for one in mine if one.finished),  # better than a few steps
    }
    work = Work()
    costs = {node.folder: _sum(work.of(node), rates) for node in todo}
    seconds = {folder: cost for folder, cost in costs.items() if cost is not None}
    return Estimate(
        device=on,
        others=len(found) - len(mine),
        ranks=ranks,
        jobs=jobs,
        seconds=seconds,
        unknown=tuple(folder.name for folder, cost in costs.items() if cost is None),
        wall=_wall(todo, seconds, jobs) if len(seconds) == len(todo) else None,
        disk_bytes=_disk(todo, found, work, jobs),
    )


def check_hours(found: Estimate, limit: float) -> None:
    """Raise `BenchError` where a plan may take more device-hours than `limit`, or nobody knows."""
    if found.known.high > limit:
        more = f", and {len(found.unknown)} more that are unknown" if found.unknown else ""
        raise BenchError(
            f"--max-gpu-hours {limit:g}: the plan takes {_hours(found.known)} hours of "
            f"{found.device}{more}. Ask for less of it (bench plan), or allow more."
        )
    if found.unknown:
        raise BenchError(
            f"--max-gpu-hours {limit:g}: how long {len(found.unknown)} of the cells to run take is "
            "unknown. bench plan --probe, with the same options, times a few steps of each kind."
        )


class Work:
    """How much there is to do in each node: images by kind of work; frames are counted once."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def of(self, node: Node) -> list[tuple[str, int]]:
        """Return the kinds of a node's work, and how many images there are of each."""
        if isinstance(node, PseudoLabels):
            teachers = ((one, kinds(one.cell, one.order)) for one in node.teachers)
            return [(kind_of[SCORING], self.lacking(one)) for one, kind_of in teachers]
        assert isinstance(node, PlannedCell)
        protocol, kind_of, done = node.cell.protocol, kinds(node.cell, node.order), _taken(node)
        frames, batch = node.order["split"]["frames"], protocol.optim.batch
        left = {
            stage.name: steps(frames, stage.epochs, batch) - done.get(stage.name, 0)
            for stage in protocol.stages
        }
        trained = [(kind_of[name], batch * count) for name, count in left.items()]
        return [*trained, (kind_of[SCORING], self.scored(node) * scorings(protocol))]

    def scored(self, one: PlannedCell) -> int:
        """Return how many validation frames a cell is scored on."""
        key = ("val", one.split.sha256, one.cell.tasks)
        if key not in self.counts:
            tasks = {*one.cell.tasks}
            self.counts[key] = sum(bool(tasks & {*own}) for own in one.split.val.values())
        return self.counts[key]

    def lacking(self, teacher: PlannedCell) -> int:
        """Return how many training frames a teacher labels."""
        key, (task,) = ("train", teacher.split.sha256, teacher.cell.tasks), teacher.cell.tasks
        if key not in self.counts:
            self.counts[key] = sum(task not in own for own in teacher.split.frames.values())
        return self.counts[key]


def _taken(node: Node) -> dict[str, int]:
    """Return the steps of each stage that need not be taken again."""
    if not (node.folder / "state.pt").exists():
        return {}
    lines = read_lines(node.folder / "progress.jsonl")
    return {line["stage"]: line["step"] for line in lines if line.get("kind") == "train"}


def _sum(work: Iterable[tuple[str, int]], rates: Mapping[str, list[float]]) -> Span | None:
    """Return the time of so many images of each kind of work; None where any is unknown."""
    total = Span()
    for kind, images in work:
        if images and kind not in rates:
            return None
        if images:
            total += _span(images, rates[kind])
    return total


def _span(images: int, rates: list[float]) -> Span:
    expected = images / median(rates)
    if len(rates) < FEW:
        return Span(low=expected / MARGIN, expected=expected, high=expected * MARGIN)
    return Span(low=images / max(rates), expected=expected, high=images / min(rates))


def _gathered(tables: Iterable[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for table in tables:
        for kind, values in table.items():
            found.setdefault(kind, []).extend(values)
    return found


def _wall(todo: Sequence[Node], seconds: Mapping[Path, Span], jobs: int) -> Span:
    """Return when the last node ends, each begun in turn when what it needs is done."""
    return Span(
        **{
            name: _makespan(todo, {home: getattr(s, name) for home, s in seconds.items()}, jobs)
            for name in ("low", "expected", "high")
        }
    )


def _makespan(todo: Sequence[Node], seconds: Mapping[Path, float], jobs: int) -> float:
    folders = [node.folder for node in todo]
    place = {folder: number for number, folder in enumerate(folders)}
    lacks = {node.folder: {n.folder for n in node.needs if n.folder in place} for node in todo}
    needed_by: dict[Path, list[Path]] = {}
    for folder, needs in lacks.items():
        for need in needs:
            needed_by.setdefault(need, []).append(folder)
    ready = [place[folder] for folder in folders if not lacks[folder]]
    busy: list[tuple[float, int]] = []
    now = 0.0
    while ready or busy:
        while ready and len(busy) < jobs:
            number = heapq.heappop(ready)
            heapq.heappush(busy, (now + seconds[folders[number]], number))
        now, number = heapq.heappop(busy)
        for folder in needed_by.get(folders[number], ()):
            lacks[folder].discard(folders[number])
            if not lacks[folder]:
                heapq.heappush(ready, place[folder])
    return now


def _disk(todo: Sequence[Node], found: Sequence[Measured], work: Work, jobs: int) -> float | None:
    """Return the bytes that nodes leave, and those of the states of the largest at once."""
    models = {kind: size for one in found for kind, size in one.model_bytes.items()}
    images = {kind: size for one in found for kind, size in one.image_bytes.items()}
    total, largest = 0.0, 0
    for node in todo:
        if isinstance(node, PseudoLabels):
            total += LABEL_BYTES * sum(map(work.lacking, node.teachers))
            continue
        assert isinstance(node, PlannedCell)
        scoring = kinds(node.cell, node.order)[SCORING]
        if scoring not in models or scoring not in images:
            return None
        total += models[scoring] + images[scoring] * work.scored(node)
        largest = max(largest, models[scoring])
    cells = sum(isinstance(node, PlannedCell) for node in todo)
    return total + STATES * largest * min(jobs, cells)


def _hours(span: Span) -> str:
    return f"{span.expected:.3g} ({span.low:.3g} to {span.high:.3g})"


def _time(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 120 * 60 else f"{seconds / 3600:.1f} h"
