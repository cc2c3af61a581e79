"""How cells that differ by their seeds become one entry of a table, and why one has none."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from reports.tables import METRICS, Cell, Entry, Run

if TYPE_CHECKING:
    from pandas import DataFrame


def cells_of(results: "DataFrame") -> list[Cell]:
    """Return the rows of a DataFrame as plain values, by their seeds."""
    return sorted(results.to_dict("records"), key=lambda cell: cell["seed"])


def number_causes(
    cells: list[Cell], causes: dict[str, int], metrics: Iterable[str] = METRICS
) -> None:
    """Add to `causes` why cells lack one of these metrics, each with the number of its footnote."""
    for cell in cells:
        for metric in metrics:
            if (cause := _cause(cell, metric)) is not None:
                causes.setdefault(cause, len(causes) + 1)


def entry_of(cells: list[Cell], metric: str, causes: Mapping[str, int]) -> Entry:
    """Return the number that cells, which differ by their seeds, have of a metric."""
    done = [cell for cell in cells if cell["state"] == "done" and not math.isnan(cell[metric])]
    failed = {cause for cell in cells if (cause := _cause(cell, metric)) is not None}
    values = tuple(float(cell[metric]) for cell in done)
    return Entry(
        metric=metric,
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        asked=len(cells),
        seeds=tuple(cell["seed"] for cell in done),
        values=values,
        interval=_interval(done[0], metric) if len(done) == 1 else None,
        state=_state(cells, metric, failed=bool(failed)),
        failures=tuple(sorted(causes[cause] for cause in failed)),
        stand_in=any(cell["stand_in"] for cell in done),
        keys=tuple(cell["key"] for cell in done),
    )


def runs_of(cells: list[Cell]) -> tuple[Run, ...]:
    """Return the cells of a row by their seeds, whatever became of each."""
    return tuple(
        Run(
            seed=int(cell["seed"]),
            state=cell["state"],
            key=cell["key"] if isinstance(cell["key"], str) else None,
            stand_in=bool(cell["stand_in"]),
            cause=error if isinstance(error := cell["error"], str) and error else None,
        )
        for cell in cells
    )


def _cause(cell: Cell, metric: str) -> str | None:
    """Say why a cell has failed to have a metric; None where it has it, or is not to have it."""
    if not _is_of(cell, metric):
        return None
    if cell["state"] == "failed":
        return _one_line(cell["error"])
    lacks = cell["state"] == "done" and math.isnan(cell[metric])
    return f"finished, but its result has no {metric}" if lacks else None


def _is_of(cell: Cell, metric: str) -> bool:
    return metric.partition("/")[0] in cell["tasks"]


def _interval(cell: Cell, metric: str) -> tuple[float, float] | None:
    low, high = (cell.get(f"{metric} {end}", math.nan) for end in ("low", "high"))
    return None if math.isnan(low) or math.isnan(high) else (float(low), float(high))


def _state(cells: list[Cell], metric: str, *, failed: bool) -> str:
    """Name what is missing, worst first; empty when all seeds have the metric."""
    if cells and not any(_is_of(cell, metric) for cell in cells):
        return "na"
    states = {cell["state"] for cell in cells} or {"pending"}
    names = [*(["failed"] if failed else []), "running", "pending"]
    return next((state for state in names if state in states or state == "failed"), "")


def _one_line(error: object) -> str:
    words = error.split() if isinstance(error, str) else ()
    return " ".join(words) or "no cause was recorded"
