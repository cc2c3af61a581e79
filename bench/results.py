"""Finished results as a table of rows: what `reports` gets to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import BenchError
from bench.cell import Cell
from bench.intervals import resampled
from bench.plan import DEMO
from bench.provenance import device
from bench.status import age
from bench.store import Store, error_of, key8, read_result, state
from protocols import VERSION
from reports.tables import METRICS, Reference
from zoo.catalog import Checkpoint, find

if TYPE_CHECKING:
    from pandas import DataFrame

Orders = dict[Path, dict[str, Any]]  # what the folders of cells were to run


def rows(
    cells: Iterable[Cell],
    store: Store,
    *,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> tuple[DataFrame, list[Path]]:
    """Return one row a cell, and the folders of results that are left out as stale.

    Beside each metric, `<metric> low` and `<metric> high` are the ends of its 95 % interval over
    images (NaN where unknown, and then `unknown` says why).

    Cells are found by their addresses, or by `exactly`, which maps an address to the folder that is
    meant. `root` admits only what was run on the data in that folder (see `of_data`). Where several
    finished results of an address are left (other weights, other values of data) the newest counts
    (see `bench.status.age`); and all rows come from the protocol version and the data of the newest
    of all, or of `exactly`: a table never mixes them. What cannot be read has failed.
    """
    from pandas import DataFrame

    listed, exactly = list(cells), dict(exactly or {})
    addresses = {cell.address for cell in listed}
    every = store.orders()
    every = every if root is None else of_data(every, root, store)
    orders = {home: one for home, one in every.items() if one["address"] in addresses}
    newest = sorted(orders, key=lambda home: age(home, orders[home]))
    group = next((_group(orders[h]) for h in exactly.values() if h in orders), None)
    if group is None and newest:
        group = _group(orders[newest[-1]])
    chosen = {orders[home]["address"]: home for home in newest if _group(orders[home]) == group}
    chosen |= {address: home for address, home in exactly.items() if home in orders}
    stale = [home for home in newest if home not in chosen.values() and state(home) == "done"]
    damaged = {home.name.removesuffix(f"-{key8(home)}"): home for home in store.damaged}
    found = [_row(cell, chosen.get(cell.address), orders) for cell in listed]
    for row in found:
        home = damaged.get(row["address"])
        if home and row["folder"] is None:
            row |= {"state": "failed", "error": store.damaged[home]}
    return DataFrame(found), stale


def of_data(orders: Orders, root: Path, store: Store) -> Orders:
    """Return those orders that are of the data in a folder.

    They are told by the folder's name, and by the hash of what others of that name were run on:
    data, and a store, may have been moved. Where the demo data of a store are asked for and it has
    none of that name, they are those that were drawn.
    """
    here = {h for h, one in orders.items() if Path(one["data"]["root"]).resolve() == root.resolve()}
    alike = {orders[home]["data"]["sha256"] for home in here}
    own = not here and root == store.root / DEMO
    return {
        home: one
        for home, one in orders.items()
        if one["data"]["sha256"] in alike or home in here or (own and one["data"]["drawn"])
    }


def absent(cells: Iterable[Cell], store: Store, root: Path | None) -> str | None:
    """Return a line where a store has nothing for a table, or of another version, or other data.

    `root` is the folder of the data that are asked for, None where all are meant.
    """
    done = {home: one for home, one in store.orders().items() if state(home) == "done"}
    if not done:
        return f"The store {store.root} has no finished cell."
    if all(one["version"] != VERSION for one in done.values()):
        return (
            f"No finished cell of the store is of protocol version {VERSION}: bench status calls "
            "all of them stale, and bench run makes them again."
        )
    if root is None:
        return None
    mine, addresses = of_data(done, root, store), {cell.address for cell in cells}
    others = Counter(one["data"]["root"] for home, one in done.items() if home not in mine)
    if not others or any(one["address"] in addresses for one in mine.values()):
        return None
    told = ", ".join(f"{count} of {other}" for other, count in others.items())
    return f"No cell of this report is finished on the data {root}. Finished on other data: {told}."


def constants(frame: DataFrame, metrics: Iterable[str] = METRICS) -> Reference:
    """Return the scores of the best constant prediction on the frames' validation set.

    Each is from the first cell that has one: all cells are scored on the same frames.
    """
    values: dict[str, float] = {}
    keys: dict[str, str] = {}
    for home in frame["folder"].dropna():
        with suppress(FileNotFoundError, BenchError):
            result = read_result(Path(home))
            for name in metrics:
                value = result["constant"].get(name)
                if value is not None and name not in values:
                    values[name], keys[name] = value, result["key"]
    return Reference(values=values, keys=keys, stand_in=bool(frame["drawn"].any()))


def stands_in(order: dict[str, Any]) -> bool:
    """Return whether a cell is of drawn data or random weights, so that its numbers mean little."""
    weights = [order["weights"], *order.get("parts", {}).values()]
    return order["data"]["drawn"] or any(one["stand_in"] for one in weights)


def _group(order: dict[str, Any]) -> tuple[Any, ...]:
    return (order["version"], order["data"]["sha256"])


def _row(cell: Cell, home: Path | None, orders: Orders) -> dict[str, Any]:
    order = None if home is None else orders[home]
    checkpoint = Checkpoint.from_dict(order["weights"]["row"]) if order else find(cell.zoo)
    now = "pending" if home is None else state(home)
    row: dict[str, Any] = {
        "zoo": cell.zoo,
        "address": cell.address,
        "label": checkpoint.label,
        "family": checkpoint.family,
        "protocol": cell.protocol.name,
        "setting": cell.setting,
        "scheme": cell.protocol.scheme,
        "tasks": cell.tasks,
        "seed": cell.seed,
        "state": "pending" if now == "preempted" else now,
        "error": None,
        "stand_in": False,
        "key": None,
        "folder": None if home is None else str(home),
        "hours": None,
        "device": None,
        "gpus": 1,
        "data": None,
        "drawn": False,
        "unknown": None,
        **dict.fromkeys(
            (f"{metric}{end}" for metric in METRICS for end in ("", " low", " high")), float("nan")
        ),
    }
    if home is None or order is None:
        return row
    row["key"] = order["key"]
    row["stand_in"] = stands_in(order)
    row |= {"data": order["data"]["name"], "drawn": order["data"]["drawn"]}
    if now == "failed":
        row["error"] = error_of(home)
    if now == "done":
        try:
            result = read_result(home)
            row |= {name: v for name, v in result["metrics"].items() if v is not None}
            row |= _intervals(home, result)
            row |= _cost(result)
        except BenchError as error:
            row |= {"state": "failed", "error": str(error)}
    return row


def _intervals(home: Path, result: dict[str, Any]) -> dict[str, Any]:
    found = resampled(home, result)
    ends = ((" low", found.low), (" high", found.high))
    known = {f"{metric}{end}": value for end, of in ends for metric, value in of.items()}
    why = "; ".join(f"{task}: {reason}" for task, reason in found.unknown.items())
    return {**known, "unknown": why or None}


def _cost(result: dict[str, Any]) -> dict[str, Any]:
    """Return the GPU-hours of each stage, and on what; no hours where ranks changed on the way."""
    told = result["provenance"]
    ranks = told.get("ranks", [1])
    hours = {one["name"]: one["seconds"] * ranks[0] / 3600 for one in result["stages"]}
    return {"hours": hours if len(ranks) == 1 else None, "device": device(told), "gpus": max(ranks)}
