"""Table 2: every checkpoint under both protocols, two rows a checkpoint or one."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from reports.cost import ALL, RATIO, cost_of
from reports.entries import cells_of, entry_of, number_causes, runs_of
from reports.paper import within
from reports.tables import (
    FAMILIES,
    METRICS,
    PROTOCOLS,
    Cell,
    Column,
    Entry,
    Reference,
    ReportError,
    Row,
    Table,
    check,
    columns_of,
    explained,
    listed,
    ranked,
    reference,
)

if TYPE_CHECKING:
    from pandas import DataFrame

PAIR = ("pf", "paf")
HEADER = ("Model", "Protocol")
GAIN = "Δ"
WORST_FIRST = ("failed", "na", "running", "pending")


def table2(
    results: "DataFrame",
    references: Mapping[str, Reference] | None = None,
    *,
    number: str = "2",
    title: str = "Every checkpoint under both protocols",
    notes: tuple[str, ...] = (),
) -> Table:
    """Lay out the paper's Table 2: every checkpoint under both protocols, grouped by family.

    A checkpoint has two rows, pretrain-finetune above pretrain-adapt-finetune, and where there are
    other protocols one for each of the results; a row without any cell is pending. `references` are
    further rows, by name. `number`, `title` and further `notes` are for a table of the same layout.
    """
    check(results)
    _check_one_of_each(results)
    causes: dict[str, int] = {}
    rows = [
        _row(cells_of(cells), protocol, causes)
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
        header=HEADER,
        columns=columns_of(METRICS),
        rows=best,
        references=below,
        notes=(*explained(best + below, causes), *notes),
        causes=tuple(causes),
    )


def wide(table: Table) -> Table:
    """Put the rows of each checkpoint side by side, with what paf gains over pf behind them.

    The best and the second are those of a column. A gain is the mean of the differences between
    cells of one seed, and no score. Of the costs the whole is left, and its ratio to pf's.
    """
    if table.header != HEADER:
        raise ReportError(f"Table {table.number} has no wide layout. Tables 2 and d2 have.")
    protocols = tuple(dict.fromkeys(row.protocol for row in table.rows))
    columns = tuple(one for column in table.columns for one in _side_by_side(column, protocols))
    rows = [
        _wide_row(list(same), table.columns, protocols)
        for _, same in groupby(table.rows, lambda row: (row.group, row.header[0]))
    ]
    gains = [f"{GAIN} paf less pf, of the seeds that both have"] if {*PAIR} <= {*protocols} else []
    return replace(
        table,
        header=HEADER[:1],
        columns=columns,
        rows=ranked(rows),
        references=tuple(_wide_reference(row, columns) for row in table.references),
        notes=(*gains, *table.notes),
    )


def _check_one_of_each(results: "DataFrame") -> None:
    for column in ("setting", "scheme"):
        if results[column].nunique() > 1:
            raise ReportError(
                f"Table 2 has one {column}, the results have {listed(results[column])}. "
                "Select one of them."
            )
    twice = results[results.duplicated(["zoo", "protocol", "seed"])]
    if not twice.empty:
        zoo, protocol, seed = twice.iloc[0][["zoo", "protocol", "seed"]]
        raise ReportError(
            f"Two cells are {zoo}, {protocol}, seed {seed}; a table shows one of them. "
            "Leave the stale one out."
        )


def _shown(results: "DataFrame") -> list[str]:
    """The protocols that have rows: those of the results, and of pf or paf alone both.

    The paper's come first, then a user's own as they are in the results.
    """
    there = dict.fromkeys(results["protocol"])
    pair = PAIR if {*there} <= {*PAIR} else ()
    papers = [name for name in PROTOCOLS if name in pair or name in there]
    return [*papers, *(name for name in there if name not in PROTOCOLS)]


def _row(cells: list[Cell], protocol: str, causes: dict[str, int]) -> Row:
    mine = [cell for cell in cells if cell["protocol"] == protocol]
    number_causes(mine, causes)
    first = cells[0]
    return Row(
        group=FAMILIES[first["family"]],
        header=(first["label"], protocol),
        entries=tuple(entry_of(mine, metric, causes) for metric in METRICS),
        model=first["zoo"],
        protocol=protocol,
        shaded=protocol == "paf",
        runs=runs_of(mine),
        cost=cost_of(mine),
    )


def _side_by_side(column: Column, protocols: Iterable[str]) -> list[Column]:
    """Return the columns, one a protocol, that a column becomes."""
    if column.metric not in METRICS:
        others = tuple(name for name in protocols if name != "pf")
        names = {ALL: tuple(protocols), RATIO: others}.get(column.metric, ())
    else:
        names = (*protocols, GAIN) if {*PAIR} <= {*protocols} else tuple(protocols)
    return [
        replace(column, headings=(*column.headings, name), shaded=name == "paf") for name in names
    ]


def _wide_row(rows: list[Row], columns: Iterable[Column], protocols: Iterable[str]) -> Row:
    of = {row.protocol: row for row in rows}
    entries = [
        entry
        for place, column in enumerate(columns)
        for entry in _wide_entries({p: of[p].entries[place] for p in protocols}, column.metric)
    ]
    first, derived = rows[0], any(row.derived for row in rows)
    return replace(
        first, header=first.header[:1], entries=tuple(entries), shaded=False, derived=derived
    )


def _wide_entries(of: Mapping[str, Entry], metric: str) -> list[Entry]:
    if metric == RATIO:
        return [entry for protocol, entry in of.items() if protocol != "pf"]
    if metric not in METRICS:
        return [*of.values()] if metric == ALL else []
    return [*of.values(), *([_gain(of["pf"], of["paf"])] if {*PAIR} <= {*of} else [])]


def _gain(before: Entry, after: Entry) -> Entry:
    """Return what paf has more than pf, seed by seed; what is missing of either is missing here."""
    first = dict(zip(before.seeds, before.values, strict=True))
    second = dict(zip(after.seeds, after.values, strict=True))
    seeds = tuple(seed for seed in first if seed in second)
    values = tuple(second[seed] - first[seed] for seed in seeds)
    states = {before.state, after.state}
    paper = None
    if before.paper is not None and after.paper is not None:
        paper = after.paper - before.paper
    gain = Entry(
        metric=after.metric,
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        asked=max(before.asked, after.asked),
        seeds=seeds,
        values=values,
        state=next((state for state in WORST_FIRST if state in states), ""),
        failures=tuple(sorted({*before.failures, *after.failures})),
        stand_in=bool(values) and (before.stand_in or after.stand_in),
        paper=paper,
        form="+.1f",
    )
    known = before.within is not None and after.within is not None
    return replace(gain, within=within(gain) if known else None)


def _wide_reference(row: Row, columns: Iterable[Column]) -> Row:
    """Repeat a value that is of no protocol below the first of each metric's columns alone."""
    of, entries = {entry.metric: entry for entry in row.entries}, []
    for column in columns:
        gone = Entry(metric=column.metric, state="na")
        entries.append(of.pop(column.metric, gone))
    return replace(row, header=row.header[:1], entries=tuple(entries))
