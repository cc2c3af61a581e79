"""From a table to text: console, Markdown, LaTeX, CSV and JSON.

Console, Markdown and LaTeX print one decimal and put † and ‡ on the row that they hold for; CSV
and JSON keep every digit and put them on the number.
"""

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jinja2
import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from reports.tables import METRICS, Entry, ReportError, Row, Table, to_json

DIGITS = 4  # of a percentage such as 61.2, so that the points of a column stand in line
FORMATS = ("console", "markdown", "latex", "csv", "json")

LAST_LATIN_LETTER = 0x017F
TEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "✗": r"$\times$",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    **{mark: rf"\textsuperscript{{{digit}}}" for digit, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}


def render(table: Table, format: str, width: int = 100, color: bool = False) -> str:
    """Write a table in one of FORMATS; `width` (in characters) and `color` are the console's."""
    if format == "console":
        return console(table, width, color)
    writers = {"markdown": markdown, "latex": latex, "csv": csv, "json": _json}
    if format not in writers:
        raise ReportError(f"Unknown format '{format}'. Known: {', '.join(FORMATS)}.")
    return writers[format](table)


def console(table: Table, width: int, color: bool) -> str:
    """Write a table for a terminal; without `color` there is no escape sequence in it.

    Where `width` is short the deviations go below the means; a table that does not fit even so
    is wider than `width`, for nothing is cut off.
    """
    text = io.StringIO()
    terminal = Console(
        file=text,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
    )
    grid = _console_grid(table, between=" ")
    if _console_width(terminal, grid) > width:
        grid = _console_grid(table, between="\n")
    terminal.width = max(width, _console_width(terminal, grid))
    terminal.print(Text(f"Table {table.number}. {table.title}"))
    terminal.print(grid)
    for note in _notes(table) if color else table.notes:
        terminal.print(Text(note, style="dim"))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _console_grid(table: Table, between: str) -> RichTable:
    """Build the table with `between` a mean and its deviation; no cell is wrapped."""
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    above = ("\n".join(METRICS[metric]) for metric in table.metrics)
    for heading in (*table.header, *above):
        grid.add_column(heading, no_wrap=True)
    for group, rows in _groups(table):
        grid.add_section()
        grid.add_row(Text(group, style="italic"))
        for row in _without_repeats(rows):
            entries = (_console_entry(entry, between) for entry in row.entries)
            grid.add_row(*map(Text, row.header), *entries)
    return grid


def _console_width(terminal: Console, grid: RichTable) -> int:
    unbounded = terminal.options.update(width=1000)
    return Measurement.get(terminal, unbounded, grid).maximum


def _console_entry(entry: Entry, between: str) -> Text:
    style = "bold" if entry.best else "underline" if entry.second else ""
    number, missing = _number(entry), entry.state_mark
    if not number:
        return Text(missing.rjust(DIGITS))
    indent = " " * (DIGITS - len(number))
    deviation = between + _deviation(entry) if entry.std is not None else ""
    return Text.assemble(indent, (number, style), deviation, missing)


def markdown(table: Table) -> str:
    """Write a table as GitHub reads it."""
    headings = [*table.header, *(" ".join(METRICS[metric]) for metric in table.metrics)]
    lines = [
        f"**Table {table.number}.** {_markdown_text(table.title)}",
        "",
        _markdown_line(headings),
        _markdown_line([*("---" for _ in table.header), *("---:" for _ in table.metrics)]),
    ]
    for group, rows in _groups(table):
        lines.append(_markdown_line([f"*{group}*", *("" for _ in headings[1:])]))
        for row in _without_repeats(rows):
            header = map(_markdown_text, row.header)
            lines.append(_markdown_line([*header, *map(_markdown_entry, row.entries)]))
    notes = [f"- {_markdown_text(note)}" for note in _notes(table)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _markdown_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_entry(entry: Entry) -> str:
    number = _number(entry)
    if entry.best:
        number = f"**{number}**"
    elif entry.second:
        number = f"<u>{number}</u>"
    return f"{number} {_deviation(entry)}".rstrip() + entry.state_mark


def _markdown_text(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return text


def latex(table: Table, standalone: bool = False) -> str:
    """Write a table for `\\input`, or with `standalone` as a document of its own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["tex"] = _tex
    spanners, rules = _latex_spanners(table)
    headings = [*table.header, *(METRICS[metric][1] for metric in table.metrics)]
    return environment.get_template("table.tex.j2").render(
        table=table,
        notes=_notes(table),
        standalone=standalone,
        width=len(headings),
        spanners=spanners,
        rules=rules,
        headings=" & ".join(map(_tex, headings)),
        groups=[{"name": name, "lines": _latex_lines(rows)} for name, rows in _groups(table)],
    )


def _latex_spanners(table: Table) -> tuple[str, str]:
    """The heading line over the metrics of one task, and the rules below it."""
    cells = ["" for _ in table.header]
    rules = []
    column = len(cells) + 1
    for name, metrics in itertools.groupby(METRICS[metric][0] for metric in table.metrics):
        count = len(list(metrics))
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{_tex(name)}}}")
        rules.append(rf"\cmidrule(lr){{{column}-{column + count - 1}}}")
        column += count
    return " & ".join(cells), "".join(rules)


def _latex_lines(rows: list[Row]) -> list[str]:
    lines = []
    for _, same in itertools.groupby(rows, key=lambda row: row.header[0]):
        lines += _latex_block(list(same))
    return lines


def _latex_block(rows: list[Row]) -> list[str]:
    """Write the rows of one checkpoint; its name spans them and is never painted over."""
    name = _tex(rows[0].header[0])
    first = rf"\multirow{{{len(rows)}}}{{*}}{{{name}}}" if len(rows) > 1 else name
    lines = []
    for row, start in zip(rows, [first, *("" for _ in rows[1:])], strict=True):
        cells = [*map(_tex, _marked(row).header[1:]), *map(_latex_entry, row.entries)]
        paint = r"\cellcolor{adapted}" if row.shaded else ""
        lines.append(" & ".join([start, *(paint + cell for cell in cells)]))
    return lines


def _latex_entry(entry: Entry) -> str:
    number = _number(entry)
    if entry.best:
        number = rf"\textbf{{{number}}}"
    elif entry.second:
        number = rf"\underline{{{number}}}"
    deviation = _tex(_deviation(entry))
    small = rf" {{\scriptsize {deviation}}}" if deviation else ""
    return number + small + _tex(entry.state_mark)


def _tex(text: str) -> str:
    """Escape for LaTeX; a letter that its default fonts lack becomes a question mark."""
    known = (TEX.get(c, c if ord(c) <= LAST_LATIN_LETTER else "?") for c in text)
    return "".join(known)


def csv(table: Table) -> str:
    """Write one line per number, reference rows included."""
    names = [name.lower() for name in table.header]
    lines = [
        {
            "group": row.group,
            **dict(zip(names, row.header, strict=True)),
            "metric": entry.metric,
            "mean": entry.mean,
            "std": entry.std,
            "n": entry.n,
            "mark": entry.mark,
            "keys": " ".join(entry.keys),
        }
        for row in (*table.rows, *table.references)
        for entry in row.entries
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _json(table: Table) -> str:
    return json.dumps(to_json(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _groups(table: Table) -> Iterator[tuple[str, list[Row]]]:
    for rows in (table.rows, table.references):
        for group, same in itertools.groupby(rows, key=lambda row: row.group):
            yield group, list(same)


def _without_repeats(rows: list[Row]) -> Iterator[Row]:
    """Name a checkpoint on the first of its rows only."""
    before = ""
    for row in map(_marked, rows):
        name, *rest = row.header
        yield replace(row, header=("" if name == before else name, *rest))
        before = name


def _marked(row: Row) -> Row:
    """Put the marks of a row behind its header."""
    *front, last = row.header
    return replace(row, header=(*front, f"{last} {row.mark}".strip()))


def _number(entry: Entry) -> str:
    return "" if entry.mean is None else f"{entry.mean:.1f}"


def _deviation(entry: Entry) -> str:
    return "" if entry.std is None else f"±{entry.std:.1f}"


def _notes(table: Table) -> tuple[str, ...]:
    """Prepend what bold and underlined mean, for the formats that show it."""
    ranked = any(entry.best for row in table.rows for entry in row.entries)
    return ("Best in bold, second underlined.", *table.notes) if ranked else table.notes
