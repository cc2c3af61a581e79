"""Finished results as a table of rows: what `reports` gets to see."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cell import Cell
from bench.store import Store, read_json, state
from reports.tables import METRICS
from zoo.catalog import find

if TYPE_CHECKING:
    from pandas import DataFrame


def rows(cells: Iterable[Cell], store: Store) -> tuple[DataFrame, list[Path]]:
    """Return one row a cell, and the folders of results that are left out as stale.

    Cells are found by their addresses. Where several finished results have one address (other
    weights, other data) the newest counts; and all rows come from the protocol version and the
    data of the newest result of all, for a table never mixes them. The others are stale.
    """
    from pandas import DataFrame

    listed = list(cells)
    addresses = {cell.address for cell in listed}
    orders = {home: read_json(home / "cell.json") for home in store.cells()}
    orders = {home: order for home, order in orders.items() if order["address"] in addresses}
    finished = [home for home in orders if (home / "result.json").exists()]
    newest = max(finished, key=lambda home: (home / "result.json").stat().st_mtime, default=None)
    group = _group(orders[newest]) if newest else None
    chosen: dict[str, Path] = {}
    for home in sorted(orders, key=lambda home: (home in finished, _age(home))):
        if group is None or _group(orders[home]) == group:
            chosen[orders[home]["address"]] = home
    stale = [home for home in finished if home not in chosen.values()]
    return DataFrame([_row(cell, chosen.get(cell.address)) for cell in listed]), stale


def constants(frame: DataFrame) -> dict[str, float]:
    """Return the scores of the best constant prediction on the frames' validation set."""
    for home in frame["folder"].dropna():
        if (Path(home) / "result.json").exists():
            scores = read_json(Path(home) / "result.json")["constant"]
            return {name: value for name, value in scores.items() if value is not None}
    return {}


def _group(order: dict[str, Any]) -> tuple[Any, ...]:
    return (order["version"], order["data"]["sha256"])


def _age(home: Path) -> float:
    return (home / "cell.json").stat().st_mtime


def _row(cell: Cell, home: Path | None) -> dict[str, Any]:
    checkpoint = find(cell.zoo)
    now = "pending" if home is None else state(home)
    row: dict[str, Any] = {
        "zoo": cell.zoo,
        "label": checkpoint.label,
        "family": checkpoint.family,
        "protocol": cell.protocol.name,
        "setting": cell.setting,
        "scheme": cell.protocol.scheme,
        "seed": cell.seed,
        "state": now,
        "error": None,
        "stand_in": False,
        "key": None,
        "folder": None if home is None else str(home),
        **dict.fromkeys(METRICS, float("nan")),
    }
    if home is None:
        return row
    order = read_json(home / "cell.json")
    row["key"] = order["key"]
    row["stand_in"] = order["weights"]["stand_in"] or order["data"]["name"] == "demo"
    if now == "failed":
        row["error"] = (home / "error.txt").read_text().partition("\n")[0]
    if now == "done":
        scores = read_json(home / "result.json")["metrics"]
        row |= {name: value for name, value in scores.items() if value is not None}
    return row
