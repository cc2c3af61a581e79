"""A table for a terminal."""

import io

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from reports.tables import Entry, Row, Table
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
    without_repeats,
)

DIGITS = 4  # of a percentage such as 61.2, so that the points of a column stand in line


def console(table: Table, width: int, color: bool) -> str:
    """Write a table for a terminal; without `color` there is no escape sequence in it.

    Where `width` is short the deviations go below the means, and the differences from the paper's
    values below these; a table that does not fit even so is wider than `width`, for nothing is cut
    off.
    """
    text = io.StringIO()
    terminal = Console(
        file=text,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
    )
    grid = _grid(table, between=" ")
    if _width(terminal, grid) > width:
        grid = _grid(table, between="\n")
    terminal.width = max(width, _width(terminal, grid))
    terminal.print(Text(f"Table {table.number}. {table.title}"))
    terminal.print(grid)
    for note in notes(table) if color else table.notes:
        terminal.print(Text(note, style="dim"))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _grid(table: Table, between: str) -> RichTable:
    """Build the table with `between` a value and what belongs to it; no cell is wrapped."""
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    deep = levels(table)
    for heading in table.header:
        grid.add_column("\n" * (deep - 1) + heading, no_wrap=True)
    for column in table.columns:
        grid.add_column("\n".join(column.headings), no_wrap=True)
    for group, rows in groups(table):
        grid.add_section()
        grid.add_row(Text(group, style="italic"))
        for row, named in zip(rows, without_repeats(rows), strict=True):
            entries = (_entry(row, entry, between) for entry in row.entries)
            grid.add_row(*map(Text, named.header), *entries)
            if row.has_paper:
                papers = (_paper(entry, between) for entry in row.entries)
                grid.add_row(*map(Text, paper_header(row)), *papers, style="dim")
    return grid


def _width(terminal: Console, grid: RichTable) -> int:
    unbounded = terminal.options.update(width=1000)
    return Measurement.get(terminal, unbounded, grid).maximum


def _entry(row: Row, entry: Entry, between: str) -> Text:
    style = "bold" if entry.best else "underline" if entry.second else ""
    text, own = number(entry), marks(row, entry)
    if not text:
        return Text(own.rjust(DIGITS))
    behind = between + deviation(entry) if entry.std is not None else ""
    return Text.assemble(_indent(text), (text, style), behind, own)


def _paper(entry: Entry, between: str) -> Text:
    text, ours = published(entry), difference(entry)
    return Text(_indent(text) + text + (between + ours if ours else ""))


def _indent(text: str) -> str:
    return " " * (DIGITS - len(text)) if text else ""
