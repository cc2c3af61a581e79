"""The plan: which cells a request means, what each would be called, and what is there already.

Torch is imported only where a weight file's hash is not known yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell
from bench.data import bdd100k
from bench.data.bdd100k import Dataset
from bench.data.demo.draw import draw
from bench.store import Store, read_json, state, write_json, write_text
from protocols import VERSION
from protocols.settings import SETTINGS, Split, split
from zoo.catalog import find
from zoo.store import Zoo, default_folder


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
class Planned:
    """A cell with its identity; `order` is what `cell.json` will hold, `split` its frames."""

    cell: Cell
    order: dict[str, Any]
    split: Split
    folder: Path
    state: str  # done, running, failed or pending
    reason: str

    @property
    def to_run(self) -> bool:
        """Return whether `run` has to do anything about it."""
        return self.state not in ("done", "running")

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
            "needs": [],
        }


def plan(cells: list[Cell], place: Place) -> list[Planned]:
    """Return every cell with its key, its state and the reason; nothing is written but caches.

    Missing weights without leave to use stand-ins, and data that do not fit, raise.
    """
    if place.demo and not place.root.is_dir():
        raise BenchError(
            f"The demo data are not drawn yet. bench data demo {place.root} draws them; "
            "bench run does it by itself."
        )
    data = bdd100k.read(place.root)
    weights = _weights(cells, place)
    homes = (home for home in place.store.cells() if (home / "result.json").exists())
    finished = {order["address"]: order for order in (read_json(h / "cell.json") for h in homes)}
    splits: dict[tuple[Any, ...], Split] = {}
    planned = []
    for cell in cells:
        values = (cell.setting, cell.protocol.split_seed, cell.protocol.proportional_split)
        if values not in splits:
            splits[values] = _split(cell, data)
        order = _order(cell, splits[values], weights[cell.zoo], place, data)
        folder = place.store.folder(f"{cell.address}-{order['key'][:8]}")
        now = state(folder)
        reason = _reason(folder, now, order, finished.get(cell.address))
        planned.append(
            Planned(
                cell=cell,
                order=order,
                split=splits[values],
                folder=folder,
                state=now,
                reason=reason,
            )
        )
    return planned


def write_orders(planned: list[Planned], place: Place) -> None:
    """Write what runs start from: the cells' folders with `cell.json`, the split manifests."""
    for one in planned:
        manifest = place.store.root / "splits" / one.order["split"]["file"]
        if not manifest.exists():
            write_text(manifest, one.split.to_json())
        one.folder.mkdir(parents=True, exist_ok=True)
        write_json(one.folder / "cell.json", one.order)


def draw_demo(place: Place) -> None:
    """Draw the demo data where they are asked for and not there yet."""
    if place.demo:
        draw(place.root)


def _split(cell: Cell, data: Dataset) -> Split:
    return split(
        SETTINGS[cell.setting],
        data.labelled("train"),
        data.labelled("val"),
        seed=cell.protocol.split_seed,
        proportional=cell.protocol.proportional_split,
    )


def _weights(cells: list[Cell], place: Place) -> dict[str, dict[str, Any]]:
    """Return for each checkpoint whether it is a stand-in, its hash, and where its files are."""
    published, stand_ins = Zoo(default_folder()), Zoo(place.store.root / "stand-ins")
    checkpoints = [find(name) for name in dict.fromkeys(cell.zoo for cell in cells)]
    missing = published.missing(checkpoints)
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
        }
    return found


def _order(
    cell: Cell, frames: Split, weights: dict[str, Any], place: Place, data: Dataset
) -> dict[str, Any]:
    """Return what `cell.json` holds: all that a run of the cell starts from."""
    return {
        "version": VERSION,
        "key": cell.key(weights=weights["sha256"], split=frames.sha256()),
        "address": cell.address,
        "resolved": cell.resolved(),
        "weights": weights,
        "data": {
            "name": "demo" if place.demo else data.root.name,
            "root": str(data.root),
            "sha256": data.sha256(),
        },
        "split": {
            "file": f"{frames.sha256()[:8]}.json",
            "sha256": frames.sha256(),
            "counts": {
                task: count for task, count in frames.counts().items() if task in cell.tasks
            },
            "frames": sum(bool(set(tasks) & set(cell.tasks)) for tasks in frames.frames.values()),
        },
    }


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
    for name, what in (("weights", "weights"), ("split", "split or data")):
        if old[name]["sha256"] != new[name]["sha256"]:
            return what
    return "protocol version" if old["version"] != new["version"] else "preset"
