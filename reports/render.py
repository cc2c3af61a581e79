"""From a table to text in one of the formats.

What people read prints one decimal, and puts † and ‡ on the row where all its numbers have them;
CSV and JSON keep every digit, and have the same records whatever the layout.
"""

from collections.abc import Callable
from dataclasses import dataclass

from reports.console import console
from reports.cost import with_cost
from reports.data import csv, json_text
from reports.html import html
from reports.latex import latex
from reports.markdown import markdown
from reports.table2 import wide
from reports.tables import ReportError, Table

FORMATS = ("console", "markdown", "latex", "csv", "json", "html")
LAYOUTS = ("long", "wide")
_WRITERS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
    "json": json_text,
    "html": html,
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How tables are shown: one of LAYOUTS (of Table 2), with the columns of cost or without."""

    layout: str = "long"
    cost: bool = False

    def of(self, table: Table, format: str) -> Table:
        """Return a table as it is shown in a format."""
        table = with_cost(table) if self.cost else table
        return wide(table) if self.layout == "wide" and format not in ("csv", "json") else table


def render(table: Table, format: str, width: int = 100, color: bool = False) -> str:
    """Write a table in one of FORMATS; `width` (in characters) and `color` are the console's."""
    if format == "console":
        return console(table, width, color)
    if format not in _WRITERS:
        raise ReportError(f"Unknown format '{format}'. Known: {', '.join(FORMATS)}.")
    return _WRITERS[format](table)
