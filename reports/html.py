"""A table as a bare `<table>` for a page, with what a page needs to sort it and to explain it.

Classes: `results` the table; `group` the line that names a group; `row` a line of numbers, `shaded`
where it is of the paper's own protocol (on a cell, where protocols are side by side), `reference`;
`paper` the line below it with the published values; `repeat` a name that the line above has too;
`best`, `second`; `std`, `mark`, `difference` the parts of a cell. Our cells carry `data-metric`,
`data-state`, `data-keys`, and `data-value` where they have a number; `title` says in words what
lies behind it. A line of the paper has the model and the protocol of ours, and no `data-value`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from reports.tables import Column, Entry, Row, Table
from reports.wording import (
    deviation,
    difference,
    groups,
    levels,
    marks,
    notes,
    number,
    paper_header,
    published,
    spans,
)

REFERENCE = "reference"


def html(table: Table) -> str:
    """Write a table as a `<table>` element; text is escaped, nothing outside it is referred to."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("table.html.j2").render(
        table=table,
        notes=notes(table),
        headings=[list(spans(table.columns, level)) for level in range(levels(table) - 1)],
        groups=[(name, list(_lines(rows, table))) for name, rows in groups(table)],
        width=len(table.header) + len(table.columns),
    )


def _lines(rows: list[Row], table: Table) -> Iterator[dict[str, Any]]:
    before = ""
    for row in rows:
        shaded = ["shaded"] if row.shaded else []
        first, *rest = row.header
        repeat = bool(rest) and first == before
        yield {
            "classes": " ".join(
                ["row", *shaded, *([REFERENCE] if row in table.references else [])]
            ),
            "row": row,
            "header": _header(row.header, repeat),
            "cells": [
                _cell(row, entry, column, table.causes)
                for entry, column in zip(row.entries, table.columns, strict=True)
            ],
            "paper": _paper(row, table.columns) if row.has_paper else None,
        }
        before = first


def _header(names: tuple[str, ...], repeat: bool) -> list[dict[str, Any]]:
    return [{"text": text, "repeat": repeat and place == 0} for place, text in enumerate(names)]


def _paper(row: Row, columns: tuple[Column, ...]) -> dict[str, Any]:
    """Return the line of the published values; it repeats which model they are of."""
    name, *rest = paper_header(row)
    return {
        "header": _header((row.header[0], *rest) if rest else (name,), repeat=bool(rest)),
        "cells": [
            {
                "classes": "shaded" if column.shaded else "",
                "number": published(entry),
                "difference": difference(entry),
            }
            for entry, column in zip(row.entries, columns, strict=True)
        ],
    }


def _cell(row: Row, entry: Entry, column: Column, causes: tuple[str, ...]) -> dict[str, Any]:
    told = {"best": entry.best, "second": entry.second, "shaded": column.shaded}
    return {
        "entry": entry,
        "classes": " ".join(name for name, holds in told.items() if holds),
        "title": _title(entry, causes),
        "number": number(entry),
        "std": deviation(entry),
        "mark": marks(row, entry),
    }


def _title(entry: Entry, causes: tuple[str, ...]) -> str:
    """Say what lies behind a number, or why there is none."""
    said = [f"failed: {causes[number - 1]}" for number in entry.failures]
    if entry.state in ("pending", "running"):
        said.append(entry.state)
    if entry.seeds:
        values = ", ".join(f"{value:.2f}" for value in entry.values)
        seeds = ", ".join(map(str, entry.seeds))
        said.append(f"{values} (seed{'s' * (entry.n > 1)} {seeds})")
    if entry.interval:
        low, high = entry.interval
        said.append(f"95 % interval over validation frames: {low:.1f} to {high:.1f}")
    return "; ".join(said)
