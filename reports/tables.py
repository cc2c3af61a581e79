"""From the DataFrame of cells to a table: which numbers, which marks, which footnotes.

The DataFrame has one row per cell (one training run with one seed) and the columns CELL_COLUMNS
and METRICS. Metrics are percentages 0-100, NaN where a cell has none.
"""

import math
import statistics
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

CELL_COLUMNS = (
    *("zoo", "label", "family", "protocol", "setting", "scheme", "seed"),
    *("state", "error", "stand_in", "key"),
)
METRICS = {  # metric: the heading above it, its own heading
    "sem/mIoU": ("SS", "mIoU"),
    "sem/pACC": ("SS", "pACC"),
    "driv/mIoU": ("DA", "mIoU"),
    "driv/pACC": ("DA", "pACC"),
    "det/mAP": ("Det", "mAP"),
    "det/AP50": ("Det", "AP50"),
    "det/AP75": ("Det", "AP75"),
}
FAMILIES = {
    "classification": "Classification-oriented",
    "detection": "Detection-oriented",
    "segmentation": "Segmentation-oriented",
    "vision-language": "Vision-language",
    "own": "Own",
}
PROTOCOLS = {
    "pf": "pretrain-finetune",
    "paf": "pretrain-adapt-finetune",
    "lv": "paf with the LV-Adapter",
    "prompt": "paf with score maps of prompts",
    "v2l": "prompt with vision-to-language",
}
TABLE_2 = ("pf", "paf")

MARKS = {"pending": "·", "running": "…", "failed": "✗", "na": "–"}
ONE_SEED = "†"
STAND_IN = "‡"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class ReportError(ValueError):
    """Raised when results cannot be shown in the table that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of a table, or the reason why there is none.

    `mean` and the sample deviation `std` are over the `n` seeds that are done. `state` is a name
    of MARKS when seeds are missing or the metric does not apply, and empty otherwise. `failures`
    are the numbers of the footnotes with the causes, `keys` the cells behind `mean`.
    """

    metric: str
    mean: float | None = None
    std: float | None = None
    n: int = 0
    state: str = ""
    failures: tuple[int, ...] = ()
    stand_in: bool = False
    best: bool = False
    second: bool = False
    keys: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """All marks of this entry, such as `†‡`, `·` or `✗¹`."""
        one_seed = ONE_SEED if self.n == 1 else ""
        stand_in = STAND_IN if self.stand_in else ""
        return self.state_mark + one_seed + stand_in

    @property
    def state_mark(self) -> str:
        """The mark of `state`, with the numbers of its footnotes."""
        return MARKS.get(self.state, "") + "".join(map(_superscript, self.failures))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: its `header` cells, the group of rows it stands in, and its entries.

    `shaded` sets the rows of the paper's own protocol apart.
    """

    group: str
    header: tuple[str, ...]
    entries: tuple[Entry, ...]
    shaded: bool = False

    @property
    def mark(self) -> str:
        """† and ‡ where they hold for any number of this row."""
        marks = {mark for entry in self.entries for mark in entry.mark}
        return "".join(mark for mark in (ONE_SEED, STAND_IN) if mark in marks)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as values: `rows` by group in order, `references` below a rule, `notes` below all."""

    number: str
    title: str
    header: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    references: tuple[Row, ...]
    notes: tuple[str, ...]


def table2(
    results: "DataFrame",
    references: Mapping[str, Mapping[str, float]] | None = None,
    *,
    number: str = "2",
    title: str = "Every checkpoint under both protocols",
    notes: tuple[str, ...] = (),
) -> Table:
    """Lay out the paper's Table 2: every checkpoint under both protocols, grouped by family.

    A checkpoint has two rows, pretrain-finetune above pretrain-adapt-finetune, and one for each
    other protocol in the results; a protocol without any cell is pending. `references` are further
    rows, by name: metric to value. `number`, `title` and further `notes` are for a table of the
    same layout.
    """
    check(results)
    _check_one_of_each(results)
    causes: dict[str, int] = {}
    rows = [
        _row(cells, protocol, causes)
        for family in FAMILIES
        for _, cells in results[results["family"] == family].groupby("zoo", sort=False)
        for protocol in _shown(results)
    ]
    best = ranked(rows)
    below = tuple(reference(name, values, columns=2) for name, values in (references or {}).items())
    setting, scheme = results["setting"].iloc[0], results["scheme"].iloc[0]
    return Table(
        number=number,
        title=f"{title} ({setting}, {scheme})",
        header=("Model", "Protocol"),
        metrics=tuple(METRICS),
        rows=best,
        references=below,
        notes=(*explained(best + below, causes), *notes),
    )


def to_json(table: Table) -> dict[str, Any]:
    """Turn a table into the plain values of `report --format json`."""
    return {
        "table": table.number,
        "title": table.title,
        "columns": list(table.metrics),
        "rows": [_row_json(table, row) for row in (*table.rows, *table.references)],
        "notes": list(table.notes),
    }


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    names = [name.lower() for name in table.header]
    cells = [
        {
            "metric": entry.metric,
            "mean": entry.mean,
            "std": entry.std,
            "n": entry.n,
            "mark": entry.mark,
            "key": list(entry.keys),
            "paper": None,
            "difference": None,
        }
        for entry in row.entries
    ]
    return {"group": row.group, **dict(zip(names, row.header, strict=True)), "cells": cells}


def check(results: "DataFrame") -> None:
    """Raise `ReportError` where results lack a column, have no cell, or hold what is not known."""
    missing = [name for name in (*CELL_COLUMNS, *METRICS) if name not in results.columns]
    if missing:
        raise ReportError(f"The results have no column {', '.join(missing)}.")
    if results.empty:
        raise ReportError("There are no cells to report. Select some, or run them first.")
    states = ("done", *(state for state in MARKS if state != "na"))
    for column, known in (("family", FAMILIES), ("state", states)):
        _check_known(results, column, known)


def _check_one_of_each(results: "DataFrame") -> None:
    for column in ("setting", "scheme"):
        if results[column].nunique() > 1:
            raise ReportError(
                f"Table 2 has one {column}, the results have {_listed(results[column])}. "
                "Select one of them."
            )
    twice = results[results.duplicated(["zoo", "protocol", "seed"])]
    if not twice.empty:
        zoo, protocol, seed = twice.iloc[0][["zoo", "protocol", "seed"]]
        raise ReportError(
            f"Two cells are {zoo}, {protocol}, seed {seed}; a table shows one of them. "
            "Leave the stale one out."
        )


def _check_known(results: "DataFrame", column: str, known: Iterable[str]) -> None:
    unknown = results[~results[column].isin(list(known))][column]
    if not unknown.empty:
        raise ReportError(
            f"There is no {column} {_listed(unknown)}. A table shows: {', '.join(known)}."
        )


def _shown(results: "DataFrame") -> list[str]:
    """The protocols that have rows: the table's two, unless there are others only.

    The paper's come first, then a user's own as they are in the results.
    """
    there = dict.fromkeys(results["protocol"])
    pair = TABLE_2 if there.keys() & set(TABLE_2) else ()
    papers = [name for name in PROTOCOLS if name in pair or name in there]
    return [*papers, *(name for name in there if name not in PROTOCOLS)]


def _superscript(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(f"'{value}'" for value in dict.fromkeys(values))


def _row(cells: "DataFrame", protocol: str, causes: dict[str, int]) -> Row:
    mine = cells[cells["protocol"] == protocol]
    number_causes(mine, causes)
    first = cells.iloc[0]
    return Row(
        group=FAMILIES[first["family"]],
        header=(first["label"], protocol),
        entries=tuple(entry_of(mine, metric, causes) for metric in METRICS),
        shaded=protocol == "paf",
    )


def number_causes(cells: "DataFrame", causes: dict[str, int]) -> None:
    """Add to `causes` why cells failed, each cause with the number of its footnote."""
    for error in cells[cells["state"] == "failed"]["error"]:
        causes.setdefault(_one_line(error), len(causes) + 1)


def entry_of(cells: "DataFrame", metric: str, causes: Mapping[str, int]) -> Entry:
    """Return the number that cells, which differ by their seeds, have of a metric."""
    done = cells[(cells["state"] == "done") & cells[metric].notna()]
    failed = cells[cells["state"] == "failed"]
    values = [float(value) for value in done[metric]]
    return Entry(
        metric=metric,
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        state=_state(set(cells["state"]), bool(values)),
        failures=tuple(sorted({causes[_one_line(error)] for error in failed["error"]})),
        stand_in=bool(done["stand_in"].any()),
        keys=tuple(done["key"]),
    )


def _state(states: set[str], has_value: bool) -> str:
    """Name what is missing, worst first; empty when all seeds are done."""
    for state in ("failed", "running", "pending"):
        if state in states:
            return state
    if not states:
        return "pending"
    return "" if has_value else "na"


def _one_line(error: object) -> str:
    words = error.strip() if isinstance(error, str) else ""
    return textwrap.shorten(words, 200, placeholder=" …") or "no cause was recorded"


def reference(
    name: str,
    values: Mapping[str, float],
    *,
    columns: int,
    metrics: Iterable[str] = METRICS,
) -> Row:
    """Return a row for comparison, of values by metric; `columns` stand before its numbers."""
    unknown = [metric for metric in values if metric not in METRICS]
    if unknown:
        raise ReportError(
            f"'{name}' has a value for {_listed(unknown)}. Metrics are: {', '.join(METRICS)}."
        )
    entries = tuple(
        Entry(metric=metric, mean=values[metric])
        if metric in values
        else Entry(metric=metric, state="na")
        for metric in metrics
    )
    return Row(group="Reference", header=(name, *[""] * (columns - 1)), entries=entries)


def ranked(rows: list[Row]) -> tuple[Row, ...]:
    """Mark the best and the second value of every column, by what is printed: ties share."""
    columns = zip(*(row.entries for row in rows), strict=True)
    marked = [_rank_column(column) for column in columns]
    return tuple(
        replace(row, entries=entries)
        for row, entries in zip(rows, zip(*marked, strict=True), strict=True)
    )


def _rank_column(column: tuple[Entry, ...]) -> list[Entry]:
    printed = [_printed(entry) for entry in column]
    values = sorted({value for value in printed if not math.isnan(value)}, reverse=True)
    return [
        replace(entry, best=value in values[:1], second=value in values[1:2])
        for entry, value in zip(column, printed, strict=True)
    ]


def _printed(entry: Entry) -> float:
    """The value as printed, with one decimal; NaN where seeds are missing."""
    return math.nan if entry.mean is None or entry.state else float(f"{entry.mean:.1f}")


def explained(rows: tuple[Row, ...], causes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the notes on what the rows use, and on nothing else."""
    entries = [entry for row in rows for entry in row.entries]
    shown = {name for row in rows for name in row.header}
    seeds = sorted({entry.n for entry in entries if entry.n > 1})
    span = "-".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else ""
    marks = {mark for entry in entries for mark in entry.mark}
    legend = {
        ONE_SEED: "one seed",
        STAND_IN: "stand-in weights or demo data: says nothing about the published checkpoint",
        MARKS["pending"]: "pending",
        MARKS["running"]: "running",
        MARKS["na"]: "does not apply",
    }
    failed = MARKS["failed"]
    protocols = "; ".join(f"{name} {PROTOCOLS[name]}" for name in PROTOCOLS if name in shown)
    return (
        *([protocols] if protocols else []),
        *([f"± sample standard deviation over {span} seeds"] if seeds else []),
        *(f"{mark} {meaning}" for mark, meaning in legend.items() if mark in marks),
        *(f"{failed}{_superscript(number)} failed: {cause}" for cause, number in causes.items()),
    )
