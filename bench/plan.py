"""The plan: which cells a request means, what each would be called, and what is there already.

Torch is imported only where a weight file's hash is not known yet.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell, hashed
from bench.data import bdd100k
from bench.data.classes import TASKS
from bench.data.demo.draw import draw, is_drawn
from bench.grids import teachers
from bench.store import Store, read_json, state, write_json, write_text
from protocols import VERSION
from protocols.settings import SETTINGS, Split, split
from zoo.catalog import Checkpoint, default_folder, find
from zoo.store import Zoo

LABELS_DONE = "statistics.json"  # the file that is written last among pseudo labels


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a request is carried out: results, data, weights."""

    store: Store
    data: str  # a BDD100K folder, or "demo"
    stand_ins: bool  # may missing weights be replaced by random ones of their layout?

    @property
    def demo(self) -> bool:
        """Return whether the data are the drawn ones."""
        return self.data == "demo"

    @property
    def root(self) -> Path:
        """Return the folder of the data."""
        return self.store.root / "demo-data" if self.demo else Path(self.data).absolute()


@dataclass(frozen=True, kw_only=True)
class Node:
    """A folder of the store, and what is to be done in it: `order` is what its run starts from."""

    folder: Path
    order: dict[str, Any]
    state: str  # done, running, failed or pending
    reason: str

    @property
    def title(self) -> str:
        """Return what a person calls it, in a few words."""
        return self.folder.name

    @property
    def to_run(self) -> bool:
        """Return whether `run` has to do anything about it."""
        return self.state not in ("done", "running")


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

    def can_be_made(self) -> bool:
        """Return whether all teachers are done by now."""
        return all(state(teacher.folder) == "done" for teacher in self.teachers)

    def made(self) -> bool:
        """Return whether the labels are complete by now."""
        return state(self.folder, LABELS_DONE) == "done"


@dataclass(frozen=True, kw_only=True)
class PlannedCell(Node):
    """A cell with its identity, its frames, and the pseudo labels that it needs, if any."""

    cell: Cell
    split: Split
    labels: PseudoLabels | None

    @property
    def title(self) -> str:
        """Return what a person calls it, in a few words."""
        cell = self.cell
        tasks = "" if cell.tasks == TASKS else f" {'+'.join(cell.tasks)}"
        return f"{cell.zoo} {cell.protocol_label}{tasks} s{cell.seed}"

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
    for one in planned:
        manifest = place.store.root / "splits" / one.order["split"]["file"]
        if not manifest.exists():
            write_text(manifest, one.split.to_json())
        one.folder.mkdir(parents=True, exist_ok=True)
        write_json(one.folder / "cell.json", one.order)
        if one.labels is not None:
            one.labels.folder.mkdir(parents=True, exist_ok=True)
            write_json(one.labels.folder / "order.json", one.labels.order)


def weights_file(order: dict[str, Any]) -> Path:
    """Return the canonical file of the weights that a cell's order names."""
    weights = order["weights"]
    row, shelf = Checkpoint.from_dict(weights["row"]), Zoo(Path(weights["folder"]))
    return shelf.canonical(row, stand_in=weights["stand_in"])


def draw_demo(place: Place) -> None:
    """Draw the demo data where they are asked for and not there yet."""
    if place.demo:
        draw(place.root)


class _Planner:
    """Plans cells one by one, each after its teachers; what they share is read once."""

    def __init__(self, cells: list[Cell], place: Place) -> None:
        self.place = place
        self.data = bdd100k.read(place.root)
        self.weights = _weights([*cells, *(t for cell in cells for t in teachers(cell))], place)
        self.splits: dict[tuple[Any, ...], Split] = {}
        homes = (home for home in place.store.cells() if state(home) == "done")
        orders = (read_json(home / "cell.json") for home in homes)
        self.finished = {order["address"]: order for order in orders}
        self.known: dict[Cell, PlannedCell] = {}

    def planned(self, cell: Cell) -> PlannedCell:
        """Return the plan of a cell, after that of its teachers."""
        if cell not in self.known:
            taught_by = tuple(self.planned(teacher) for teacher in teachers(cell))
            frames = self._split(cell)
            labels = self._labels(cell, frames, taught_by) if taught_by else None
            order = self._order(cell, frames, labels)
            folder = self.place.store.folder(f"{cell.address}-{order['key'][:8]}")
            now = state(folder)
            self.known[cell] = PlannedCell(
                cell=cell,
                order=order,
                split=frames,
                labels=labels,
                folder=folder,
                state=now,
                reason=_reason(folder, now, order, self.finished.get(cell.address)),
            )
        return self.known[cell]

    def _split(self, cell: Cell) -> Split:
        protocol = cell.protocol
        values = (cell.setting, protocol.split_seed, protocol.proportional_split)
        if values not in self.splits:
            self.splits[values] = split(
                SETTINGS[cell.setting],
                self.data.labelled("train"),
                self.data.labelled("val"),
                seed=protocol.split_seed,
                proportional=protocol.proportional_split,
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
        order = {
            "key": key,
            "teachers": {one.cell.tasks[0]: one.folder.name for one in taught_by},
            "scores": scores,
            "split": {"file": _manifest(frames)},
            "data": {"root": str(self.data.root)},
        }
        now = state(folder, LABELS_DONE)
        return PseudoLabels(folder=folder, order=order, state=now, reason=now, teachers=taught_by)

    def _order(self, cell: Cell, frames: Split, labels: PseudoLabels | None) -> dict[str, Any]:
        """Return what `cell.json` holds: all that a run of the cell starts from."""
        weights = self.weights[cell.zoo]
        needs = tuple(one.order["key"] for one in labels.teachers) if labels else ()
        own = {name: set(tasks) & set(cell.tasks) for name, tasks in frames.frames.items()}
        return {
            "version": VERSION,
            "key": cell.key(
                weights=weights["sha256"],
                data=self.data.sha256,
                split=frames.sha256,
                needs=needs,
            ),
            "address": cell.address,
            "resolved": cell.resolved(),
            "needs": list(needs),
            "pseudo": labels.folder.name if labels else None,
            "weights": weights,
            "data": {
                "name": self.data.root.name,
                "drawn": is_drawn(self.data.root),
                "root": str(self.data.root),
                "sha256": self.data.sha256,
            },
            "split": {
                "file": _manifest(frames),
                "sha256": frames.sha256,
                "counts": {t: sum(t in tasks for tasks in own.values()) for t in cell.tasks},
                "frames": sum(bool(tasks) for tasks in own.values()),
            },
        }


def _manifest(frames: Split) -> str:
    return f"{frames.sha256[:8]}.json"


def _weights(cells: list[Cell], place: Place) -> dict[str, dict[str, Any]]:
    """Return for each checkpoint whether it is a stand-in, its hash, and where its files are."""
    published, stand_ins = Zoo(default_folder()), Zoo(place.store.root / "stand-ins")
    checkpoints = [find(name) for name in dict.fromkeys(cell.zoo for cell in cells)]
    missing = published.missing(checkpoints)
    if lost := [one for one in missing if one.family == "own"]:  # no file to stand in for
        raise BenchError(published.how_to_get(lost))
    if missing and not place.stand_ins:
        raise BenchError(
            f"{published.how_to_get(missing)}\n"
            "(--stand-ins runs with random weights of the same layout, and marks every number.)"
        )
    found = {}
    for one in checkpoints:
        stand_in = one in missing
        shelf = stand_ins if stand_in else published
        found[one.name] = {
            "name": one.name,
            "sha256": shelf.identity(one, stand_in=stand_in),
            "stand_in": stand_in,
            "folder": str(shelf.folder),
            "row": asdict(one),
        }
    return found


def _reason(folder: Path, now: str, order: dict[str, Any], finished: dict[str, Any] | None) -> str:
    if now == "done":
        return f"done {read_json(folder / 'result.json')['provenance']['finished']}"
    if now == "failed":
        return "failed: " + (folder / "error.txt").read_text().partition("\n")[0]
    if now == "running":
        return "another process runs it"
    if (folder / "state.pt").exists():
        return "begun: resumes from its last saved epoch"
    if finished is not None:
        return f"stale: {_difference(finished, order)} changed since {finished['key'][:8]}"
    return "missing"


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the first thing in which two orders for one address differ."""
    for name, what in (("weights", "weights"), ("data", "data"), ("split", "split")):
        if old[name]["sha256"] != new[name]["sha256"]:
            return what
    if old["needs"] != new["needs"]:
        return "teachers"
    return "protocol version" if old["version"] != new["version"] else "preset"
