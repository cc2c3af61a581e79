"""A table for LaTeX: a file for `\\input`, or a document of its own."""

import itertools
from pathlib import Path

import jinja2

from reports.tables import Column, Entry, Row, Table
from reports.wording import (
    deviation,
    difference,
    groups,
    levels,
    marked,
    marks,
    notes,
    number,
    paper_header,
    published,
    spans,
)

LAST_LATIN_LETTER = 0x017F
LANDSCAPE = 12  # columns of numbers and more are for paper on its side
TEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "Δ": r"$\Delta$",
    "§": r"$\mathsection$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "✗": r"$\boxtimes$",  # a bare cross behind a number would be read as a product
    "–": "--",
    "\u200b": "{}",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    **{mark: rf"\textsuperscript{{{digit}}}" for digit, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}


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
    environment.filters["tex"] = tex
    return environment.get_template("table.tex.j2").render(
        table=table,
        notes=notes(table),
        standalone=standalone,
        landscape=len(table.columns) >= LANDSCAPE,
        width=len(table.header) + len(table.columns),
        headings=_headings(table),
        groups=[{"name": name, "lines": _lines(rows, table)} for name, rows in groups(table)],
    )


def tex(text: str) -> str:
    """Escape for LaTeX; a letter that its default fonts lack becomes a question mark."""
    apart = text.replace("--", "-\u200b-")  # two hyphens, as of --set, would become a dash
    known = (TEX.get(c, c if ord(c) <= LAST_LATIN_LETTER else "?") for c in apart)
    return "".join(known)


def _headings(table: Table) -> list[str]:
    """The heading lines, each but the last over several columns and with rules below it."""
    found, last = [], levels(table) - 1
    for level in range(last):
        cells, rules, column = ["" for _ in table.header], [], len(table.header) + 1
        for text, count in spans(table.columns, level):
            cells.append(rf"\multicolumn{{{count}}}{{c}}{{{tex(text)}}}")
            rules.append(rf"\cmidrule(lr){{{column}-{column + count - 1}}}")
            column += count
        found += [" & ".join(cells) + r" \\", "".join(rules)]
    lowest = [column.headings[-1] for column in table.columns]
    return [*found, " & ".join(map(tex, (*table.header, *lowest))) + r" \\"]


def _lines(rows: list[Row], table: Table) -> list[str]:
    lines = []
    for _, same in itertools.groupby(rows, key=lambda row: row.header[0]):
        lines += _block(list(same), table.columns)
    return lines


def _block(rows: list[Row], columns: tuple[Column, ...]) -> list[str]:
    """Write the rows of one checkpoint; its name spans them and is never painted over."""
    lines: list[tuple[str, str]] = []
    for row in rows:
        cells = [_entry(row, entry) for entry in row.entries]
        lines.append(("", _line(row, marked(row).header[1:], columns, cells)))
        if row.has_paper:
            start, *header = paper_header(row)
            papers = [_paper(entry) for entry in row.entries]
            lines.append((start, _line(row, tuple(header), columns, papers)))
    several = len(lines) > 1 and len(rows[0].header) > 1
    name, *_ = map(tex, (rows[0] if several else marked(rows[0])).header)
    first = rf"\multirow{{{len(lines)}}}{{*}}{{{name}}}" if several else name
    starts = [first, *(tex(start) for start, _ in lines[1:])]
    return [f"{start} & {line}" for start, (_, line) in zip(starts, lines, strict=True)]


def _line(row: Row, header: tuple[str, ...], columns: tuple[Column, ...], cells: list[str]) -> str:
    before = [_painted(tex(text), row.shaded) for text in header]
    painted = (
        _painted(cell, row.shaded or column.shaded)
        for column, cell in zip(columns, cells, strict=True)
    )
    return " & ".join([*before, *painted])


def _painted(cell: str, shaded: bool) -> str:
    return r"\cellcolor{adapted}" + cell if shaded else cell


def _entry(row: Row, entry: Entry) -> str:
    text = tex(number(entry))
    if entry.best:
        text = rf"\textbf{{{text}}}"
    elif entry.second:
        text = rf"\underline{{{text}}}"
    behind = tex(deviation(entry))
    small = rf" {{\scriptsize {behind}}}" if behind else ""
    mark = tex(marks(row, entry))
    return text + small + (r"\," if text and mark else "") + mark


def _paper(entry: Entry) -> str:
    text = f"{published(entry)} {difference(entry)}".strip()
    return rf"{{\scriptsize {tex(text)}}}" if text else ""
