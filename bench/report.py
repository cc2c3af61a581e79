"""What `bench report` does: tables, page and figures written, and what is expected of tables."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.figures import FORMATS as FIGURES
from bench.grids import cells
from bench.results import rows
from bench.store import whole
from bench.tables import say_stale, tables, text_of
from reports.entries import cells_of, number_causes
from reports.expected import check_rows, expected, misses, read
from reports.latex import latex
from reports.paper import values_of
from reports.render import Look, render
from reports.table2 import HEADER

if TYPE_CHECKING:
    from bench.grids import Request
    from bench.store import Store
    from reports.expected import Expected
    from reports.tables import Table

PAPER = "paper"  # the published values, as --expect names them
MISSED = 4
TABLES = {"console": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}
FORMATS = (*TABLES, "html", *FIGURES)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a report was asked for: the options of `bench report` beside the selectors.

    `root` admits only what was run on the data in that folder.
    """

    formats: tuple[str, ...]
    out: Path | None
    look: Look
    paper: bool
    expect: str | None
    tol: float
    strict: bool
    root: Path | None


def report(request: Request, store: Store, asked: Asked) -> int:
    """Write the tables of a request, its page and its figures as asked; return the exit code."""
    if not isfinite(asked.tol):
        raise click.UsageError(f"--tol is {asked.tol}: give a number of points, such as 0.5.")
    if asked.out is None and (files := [form for form in asked.formats if form in FIGURES]):
        raise click.UsageError(f"Figures are files: --format {','.join(files)} needs --out DIR.")
    paper = asked.paper or asked.expect == PAPER
    found = tables(request, store, paper=paper, root=asked.root)
    if asked.look.layout == "wide" and all(table.header != HEADER for table in found.values()):
        raise click.UsageError("--layout wide is of Tables 2 and d2.")
    wanted = _wanted(asked.expect, found) if asked.expect else {}
    for form in asked.formats:
        for name, table in found.items() if form in TABLES else ():
            _show(name, asked.look.of(table, form), form, asked.out)
    if set(asked.formats) - set(TABLES):
        _draw(request, store, found, asked)
    say_stale(found)
    if asked.expect and _missed(found, wanted, asked.tol):
        return MISSED
    return int(asked.strict and not _complete(request, store, asked.root))


def _show(name: str, table: Table, form: str, out: Path | None) -> None:
    """Print a table, or write it; for LaTeX as a document of its own too."""
    if out is None:
        click.echo(text_of(table, form))
        return
    _write(out / f"{name}.{TABLES[form]}", render(table, form))
    if form == "latex":
        _write(out / f"{name}-standalone.tex", latex(table, standalone=True))


def _draw(request: Request, store: Store, found: Mapping[str, Table], asked: Asked) -> None:
    """Write the page and the figures of a request; the page alone may go to the terminal."""
    from bench.figures import comparisons, files
    from bench.page import page_of

    drawn = comparisons(request, store, root=asked.root)
    if "html" in asked.formats:
        text = page_of(drawn, {n: asked.look.of(t, "html") for n, t in found.items()}, store)
        if asked.out is None:
            click.echo(text)
        else:
            _write(asked.out / "page.html", text)
    if asked.out is None:
        return
    figures = [form for form in asked.formats if form in FIGURES]
    if figures and not any(one.figures for one in drawn):
        click.echo("No figures: none of these cells is done.", err=True)
    for form in figures:
        for name, content in files(drawn, form):
            _write(asked.out / name, content)


def _write(file: Path, content: str | bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as unfinished:
            unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise click.UsageError(f"{_why_not(file, error)} Give --out another folder.") from None
    click.echo(str(file))


def _why_not(file: Path, error: OSError) -> str:
    """Return why a file cannot be written: by its name, or that of what is in its way."""
    if file.is_dir():
        return f"{file} is a folder, and a file of that name is to be written."
    nearest = next(one for one in file.parents if one.exists())
    if not nearest.is_dir():
        return f"{nearest} is a file, not a folder to write into."
    return f"{file} cannot be written: {error.strerror}."


def _wanted(file: str, found: Mapping[str, Table]) -> dict[str, list[Expected]]:
    """Return what is expected of each table; a mistake where that is nothing, or of no row."""
    if file == PAPER:
        wanted = {name: values_of(table) for name, table in found.items()}
        said, what = tuple(wanted), "The paper"
    else:
        values = read(Path(file))
        wanted = {name: [*expected(values.get(name, {}), name)] for name in found}
        said, what = tuple(values), f"{file}, with {', '.join(values) or 'nothing'} in it,"
    if not any(wanted.values()):
        raise click.UsageError(f"{what} has no values for {', '.join(found)}.")
    for name, of in wanted.items():
        check_rows(name, found[name], of)
    for name in said:
        if not wanted.get(name):
            there = (
                "there are no values for its rows" if name in found else "it is not in this report"
            )
            click.echo(f"{name} is not checked: {there}.", err=True)
    return wanted


def _missed(found: Mapping[str, Table], wanted: dict[str, list[Expected]], tol: float) -> bool:
    """Print a line for each value that is missed, and how many were expected."""
    missed = [line for name, one in wanted.items() for line in misses(name, found[name], one, tol)]
    for line in missed:
        click.echo(line, err=True)
    count = sum(len(one.values) for rows in wanted.values() for one in rows)
    click.echo(f"{count} values expected within {tol:g}, {len(missed)} missed.", err=True)
    return bool(missed)


def _complete(request: Request, store: Store, root: Path | None) -> bool:
    """Return whether all cells are done with all their numbers, and none is stale."""
    frame, stale = rows(cells(request), store, root=root)
    causes: dict[str, int] = {}
    number_causes(cells_of(frame), causes)
    return bool((frame["state"] == "done").all()) and not causes and not stale
