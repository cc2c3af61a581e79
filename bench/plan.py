"""The plan: which cells a request means, what each would be called, and what is there already.

Torch is imported only where a weight file's hash is not known yet.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell, hashed
from bench.data import bdd100k
from bench.data.classes import TASKS
from bench.data.demo.draw import draw, is_drawn
from bench.grids import teachers
from bench.provenance import code_hash
from bench.reasons import OTHER_CODE, given_up, reason, refused
from bench.store import Store, read_json, state, write_json, write_text
from bench.weights import weights
from protocols import VERSION
from protocols.settings import SETTINGS, Split, split
from zoo.clip_parts import Part

DEMO = "demo-data"  # the folder of a store that the demo data are drawn into
LABELS_DONE = "statistics.json"  # the file that is written last among pseudo labels


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a request is carried out: results, data, weights."""

    store: Store
    data: str  # a BDD100K folder, or "demo"
    stand_ins: bool  # may missing weights be replaced by random ones of their layout?
    allow_code_change: bool = False  # may what was begun with other code go on with this?
    ranks: int = 1  # processes that train a cell together, each on a GPU of its own

    @property
    def demo(self) -> bool:
        """Return whether the data are the drawn ones."""
        return self.data == "demo"

    @property
    def root(self) -> Path:
        """Return the folder of the data."""
        return self.store.root / DEMO if self.demo else Path(self.data).absolute()


@dataclass(frozen=True, kw_only=True)
class Node:
    """A folder of the store, and what is to be done in it: `order` is what its run starts from."""

    folder: Path
    order: dict[str, Any]
    state: str  # as `bench.store.state` has it
    reason: str
    given_up: bool = False  # did it fail in a way that trying again unchanged cannot mend?

    @property
    def title(self) -> str:
        """Return what a person calls it, in a few words."""
        return self.folder.name

    @property
    def to_run(self) -> bool:
        """Return whether `run` has to do anything about it."""
        return self.state not in ("done", "running") and not self.given_up

    @property
    def needs(self) -> tuple["Node", ...]:
        """Return what must be done before it."""
        return ()

    def now(self) -> str:
        """Return its state by now, from the files alone."""
        return state(self.folder)


@dataclass(frozen=True, kw_only=True)
class PseudoLabels(Node):
    """The pseudo labels that all students of a setting share."""

    teachers: tuple["PlannedCell", ...]

    @property
    def title(self) -> str:
        """Return what a person calls it, in a few words."""
        return f"pseudo labels {self.folder.name}"

    def summary(self) -> str:
        """Return in a line what the labels hold, once they are made."""
        statistics = read_json(self.folder / LABELS_DONE)
        return "; ".join(
            f"{task} for {found['frames']:,} frames, "
            + (
                f"{found['boxes_per_frame']:.1f} boxes each"
                if task == "det"
                else f"{found['ignored_percent']:.0f} % of the pixels ignored"
            )
            for task, found in statistics.items()
        )

    @property
    def needs(self) -> tuple[Node, ...]:
        """Return the teachers."""
        return self.teachers

    def now(self) -> str:
        """Return whether the labels are complete, or how far they are, by now."""
        return state(self.folder, LABELS_DONE)


@dataclass(frozen=True, kw_only=True)
class PlannedCell(Node):
    """A cell with its identity, its frames, and the pseudo labels that it needs, if any."""

    cell: Cell
    split: Split
    labels: PseudoLabels | None

    @property
    def needs(self) -> tuple[Node, ...]:
        """Return the labels that it is trained on, where those are made."""
        return (self.labels,) if self.labels else ()

    @property
    def title(self) -> str:
        """Return what a person calls it, in a few words."""
        cell, alone = self.cell, self.cell.tasks != TASKS
        words = [cell.zoo, cell.protocol_label, *(["+".join(cell.tasks)] if alone else [])]
        usual = ("disjoint-normal", "transformer", "self-training", *(["zeroing"] * alone))
        unusual = (cell.setting, cell.protocol.scheme, cell.protocol.heads)
        words += [word for word in unusual if word not in usual]
        return " ".join([*words, f"s{cell.seed}"])

    def to_json(self) -> dict[str, Any]:
        """Return what `plan --json` prints of it."""
        return {
            "key": self.order["key"],
            "cell": self.folder.name,
            "zoo": self.cell.zoo,
            "protocol": self.cell.protocol_label,
            "setting": self.cell.setting,
            "scheme": self.cell.protocol.scheme,
            "heads": self.cell.protocol.heads,
            "tasks": list(self.cell.tasks),
            "seed": self.cell.seed,
            "state": self.state,
            "reason": self.reason,
            "needs": self.order["needs"],
        }


def plan(cells: list[Cell], place: Place) -> list[PlannedCell]:
    """Return the cells and before them the teachers they need, each with its key and its state.

    Nothing is written but caches. Missing weights without leave to use stand-ins, and data that
    do not fit, raise `BenchError` or one of its kin.
    """
    if place.demo and not place.root.is_dir():
        raise BenchError(
            f"The demo data are not drawn yet. bench data demo {place.root} draws them; "
            "bench run does it by itself."
        )
    planner = _Planner(cells, place)
    for cell in cells:
        planner.planned(cell)
    return list(planner.known.values())


def write_orders(planned: list[PlannedCell], place: Place) -> None:
    """Write what runs start from: the cells' folders with `cell.json`, the split manifests."""
    labels = {one.labels.folder: one.labels for one in planned if one.labels}
    for split_of in {one.split.sha256: one.split for one in planned}.values():
        manifest = place.store.root / "splits" / _manifest(split_of)
        if not manifest.exists():
            write_text(manifest, split_of.to_json())
    for node, name in (
        *((one, "cell.json") for one in planned),
        *((one, "order.json") for one in labels.values()),
    ):
        node.folder.mkdir(parents=True, exist_ok=True)
        if not _holds(node.folder / name, node.order):  # each write waits for the disk
            write_json(node.folder / name, node.order)


def _holds(file: Path, order: dict[str, Any]) -> bool:
    with suppress(FileNotFoundError, BenchError):
        return read_json(file) == order
    return False


def draw_demo(place: Place) -> None:
    """Draw the demo data where they are asked for and not there yet."""
    if place.demo:
        draw(place.root)


class _Planner:
    """Plans cells one by one, each after its teachers; what they share is read once."""

    def __init__(self, cells: list[Cell], place: Place) -> None:
        self.place = place
        self.data = bdd100k.read(place.root)
        self.drawn = is_drawn(place.root)
        for cell in cells:
            _check_parts(cell, place.ranks)
        alike = {_taught_alike(cell): cell for cell in cells}
        self.teachers = {values: teachers(cell) for values, cell in alike.items()}
        every = [*cells, *chain(*self.teachers.values())]
        self.weights, self.parts = weights(every, place.store.root, stand_ins_too=place.stand_ins)
        self.splits: dict[tuple[Any, ...], Split] = {}
        self.carried: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
        self.labels: dict[Path, PseudoLabels] = {}
        orders = place.store.orders()
        self.finished = {
            order["address"]: order for home, order in orders.items() if state(home) == "done"
        }
        self.known: dict[Cell, PlannedCell] = {}

    def planned(self, cell: Cell) -> PlannedCell:
        """Return the plan of a cell, after that of its teachers."""
        if cell not in self.known:
            taught_by = tuple(
                self.planned(one) for one in self.teachers.get(_taught_alike(cell), ())
            )
            frames = self._split(cell)
            labels = self._labels(cell, frames, taught_by) if taught_by else None
            order = self._order(cell, frames, labels)
            folder = self.place.store.folder(f"{cell.address}-{order['key'][:8]}")
            order |= self._code(folder, "cell.json", ("state.pt", "state.prev.pt"))
            now = state(folder)
            why = reason(folder, now, order, self.finished.get(cell.address))
            unreadable = now == "done" and not why.startswith("done")
            self.known[cell] = PlannedCell(
                cell=cell,
                order=order,
                split=frames,
                labels=labels,
                folder=folder,
                state="failed" if unreadable else now,
                reason=why,
                given_up=given_up(folder, now) or unreadable or why == OTHER_CODE,
            )
        return self.known[cell]

    def _split(self, cell: Cell) -> Split:
        protocol = cell.protocol
        policy = protocol.cross_split_policy
        values = (cell.setting, protocol.split_seed, protocol.proportional_split, policy)
        if values not in self.splits:
            self.splits[values] = split(
                SETTINGS[cell.setting],
                self.data.labelled("train"),
                self.data.labelled("val"),
                seed=protocol.split_seed,
                proportional=protocol.proportional_split,
                cross_split_policy=policy,
            )
        return self.splits[values]

    def _labels(
        self, cell: Cell, frames: Split, taught_by: tuple[PlannedCell, ...]
    ) -> PseudoLabels:
        pseudo = cell.protocol.pseudo
        scores = {"sem": pseudo.seg_score, "driv": pseudo.seg_score, "det": pseudo.det_score}
        keys = {one.cell.tasks[0]: one.order["key"] for one in taught_by}
        key = hashed({"teachers": keys, "scores": scores, "split": frames.sha256})
        folder = self.place.store.root / "pseudo" / key[:8]
        if folder in self.labels:
            return self.labels[folder]
        order = {
            "key": key,
            "teachers": {one.cell.tasks[0]: one.folder.name for one in taught_by},
            "scores": scores,
            "split": {"file": _manifest(frames)},
            "data": {"root": str(self.data.root)},
        }
        order |= self._code(folder, "order.json", tuple(scores))
        now = state(folder, LABELS_DONE)
        why = OTHER_CODE if refused(order) else now
        self.labels[folder] = PseudoLabels(
            folder=folder,
            order=order,
            state=now,
            reason=why,
            given_up=given_up(folder, now) or why == OTHER_CODE,
            teachers=taught_by,
        )
        return self.labels[folder]

    def _code(self, folder: Path, order: str, begun: tuple[str, ...]) -> dict[str, Any]:
        """Return which code an order is for: this, or that with which it was begun.

        It was begun where one of the files or folders `begun` is there.
        """
        here, allowed = code_hash(), self.place.allow_code_change
        if not (folder / order).exists() or not any((folder / name).exists() for name in begun):
            return {"code": here}
        earlier = read_json(folder / order).get("code", here)
        if earlier == here:
            return {"code": here}
        return {"code": here if allowed else earlier, "allow_code_change": allowed}

    def _order(self, cell: Cell, frames: Split, labels: PseudoLabels | None) -> dict[str, Any]:
        """Return what `cell.json` holds: all that a run of the cell starts from."""
        weights = self.weights[cell.zoo]
        parts: dict[Part, Any] = {part: self.parts[name, part] for part, name in cell.parts.items()}
        needs = tuple(one.order["key"] for one in labels.teachers) if labels else ()
        return {
            "version": VERSION,
            "key": cell.key(
                weights=weights["sha256"],
                data=self.data.sha256,
                split=frames.sha256,
                needs=needs,
                parts={part: found["sha256"] for part, found in parts.items()},
            ),
            "address": cell.address,
            "resolved": cell.resolved(),
            "ranks": self.place.ranks,
            "needs": list(needs),
            "pseudo": labels.folder.name if labels else None,
            "weights": weights,
            "parts": parts,
            "data": {
                "name": self.data.root.name,
                "drawn": self.drawn,
                "root": str(self.data.root),
                "sha256": self.data.sha256,
                "packaging": self.data.packaging,
                "excluded": {reason: len(names) for reason, names in self.data.excluded.items()},
            },
            "split": self._carried(frames, cell.tasks),
        }

    def _carried(self, frames: Split, tasks: tuple[str, ...]) -> dict[str, Any]:
        """Return which split it is, and how many frames carry labels of these tasks."""
        if (frames.sha256, tasks) not in self.carried:
            own = [set(tasks) & set(carried) for carried in frames.frames.values()]
            self.carried[frames.sha256, tasks] = {
                "file": _manifest(frames),
                "sha256": frames.sha256,
                "counts": {task: sum(task in one for one in own) for task in tasks},
                "frames": sum(map(bool, own)),
            }
        return self.carried[frames.sha256, tasks]


def _check_parts(cell: Cell, ranks: int) -> None:
    batch, parts = cell.protocol.optim.batch, cell.protocol.optim.accumulate * ranks
    if batch % parts:
        raise BenchError(
            f"A batch of {batch} images cannot be shared out evenly over {parts} parts "
            f"({ranks} GPUs a cell, optim.accumulate {parts // ranks}). Take divisors of it."
        )


def _taught_alike(cell: Cell) -> tuple[Any, ...]:
    """Return what a cell's teachers depend on."""
    return cell.protocol, cell.setting, cell.tasks


def _manifest(frames: Split) -> str:
    return f"{frames.sha256[:8]}.json"
