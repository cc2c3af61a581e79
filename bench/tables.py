"""The tables of a request, from the store; and what an invocation asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.display import terminal
from bench.grids import Request, cells, lines, numbers, shown
from bench.paper_tables import PAPER_TABLES
from bench.plan import Place
from bench.results import constants, rows
from bench.store import Store
from reports.paper import beside, papers_tables
from reports.render import render
from reports.rows import Part, by_rows
from reports.table2 import table2
from reports.tables import METRICS, Conditions, Table, leaving_out, under

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.cell import Cell
    from bench.invocations import Invocation


def tables(
    request: Request,
    store: Store,
    *,
    paper: bool = False,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> dict[str, Table]:
    """Return the tables of a request by the names of their files.

    Those of the paper, where it asks for them; else Table 2 of its checkpoints, once for each
    setting and scheme. With `paper` the published values are beside ours. `root` and `exactly` are
    those of `bench.results.rows`.
    """
    found = []
    for number, one in _asked(request):
        frame, stale = rows(cells(one), store, root=root, exactly=exactly)
        table = under(_table(number, one, frame), _conditions(one, frame))
        table = leaving_out(table, [home.name for home in stale])
        found.append(_beside(table, one, frame) if paper else table)
    times, named = Counter(table.number for table in found), dict[str, Table]()
    for table in found:
        number = table.number
        count = sum(name.startswith(f"table{number}-") for name in named) + 1
        named[f"table{number}{f'-{count}' * (times[number] > 1)}"] = table
    return named


def _asked(request: Request) -> list[tuple[str, Request]]:
    """Return the number of every table of a request, and the request for its cells alone."""
    return [one for grid in request.grids() for one in _of_grid(grid)]


def _of_grid(request: Request) -> list[tuple[str, Request]]:
    if request.table:
        return [(number, replace(request, table=number)) for number in numbers(request)]
    return [
        ("2", replace(request, settings=(setting,), schemes=(scheme,), protocols=shown(request)))
        for setting, scheme in product(request.settings, request.schemes)
    ]


def _table(number: str, request: Request, frame: DataFrame) -> Table:
    """Lay out one table of a request from the rows of its cells."""
    told = PAPER_TABLES[number]
    constant = constants(frame, told.metrics or METRICS)
    references = {"Best constant prediction": constant} if constant.values else {}
    if not told.metrics:  # Table 2's layout: by family, whatever the checkpoints
        return table2(frame, references, number=number, title=told.title, notes=told.notes)
    parts = [
        Part(
            group=line.group,
            header=line.header or _epochs(listed[0]),
            results=frame[frame["address"].isin([cell.address for cell in listed])],
            tasks=line.tasks,
            shaded=line.ours,
        )
        for line, one in lines(number, request)
        for listed in [cells(one)]
    ]
    return by_rows(
        parts,
        references,
        number=number,
        title=told.title,
        header=told.header,
        metrics=told.metrics,
        notes=told.notes,
    )


def _conditions(request: Request, frame: DataFrame) -> Conditions:
    """Return what all cells of a table have in common, as far as the store knows it."""
    first, known = cells(request)[0].protocol, frame["data"].dropna()
    return Conditions(
        preset=request.preset,
        overrides=request.overrides,
        heads=first.heads,
        data="" if known.empty else known.iloc[0],
        drawn=bool(frame["drawn"].any()),
    )


def _epochs(cell: Cell) -> tuple[str, ...]:
    return tuple(str(stage.epochs) for stage in cell.protocol.stages)


def _beside(table: Table, request: Request, frame: DataFrame) -> Table:
    """Put the paper's values beside ours where the paper has this table, and say what differs."""
    if table.number not in papers_tables():
        return table
    plain = Request(preset=request.preset, seeds=request.seeds)
    own = replace(request, zoo=plain.zoo, protocols=plain.protocols, overrides=(), table="")
    if not request.table and own != plain:
        said = "Paper: it has no values for this setting, scheme, heads and tasks"
        return replace(table, notes=(*table.notes, said))
    remarks = []
    if request.preset != "paper":
        remarks.append(f"preset {request.preset} is not the paper's: its values do not compare")
    if request.overrides:
        remarks.append(f"--set {', '.join(request.overrides)} is not the paper's value")
    if frame["stand_in"].any():
        remarks.append("its values do not compare with rows that have ‡")
    return beside(table, tuple(remarks), comparable=request.preset == "paper")


def text_of(table: Table, form: str = "console") -> str:
    """Return a table for where people read, with styles where that is a terminal."""
    console = terminal()
    color = console.is_terminal and not console.no_color
    return render(table, form, width=console.width, color=color)


def say_stale(found: Mapping[str, Table]) -> None:
    """Name what is left out of tables as stale."""
    for name in dict.fromkeys(name for table in found.values() for name in table.stale):
        click.echo(f"stale, left out: {name}", err=True)


def request_of(asked: Invocation) -> Request:
    """Return what an invocation asked for."""
    return Request.from_dict(asked.request)


def place_of(asked: Invocation) -> Place:
    """Return where an invocation is carried out."""
    store = Store(asked.folder.parent.parent)
    ranks = asked.how.get("gpus_per_cell", 1)
    return Place(store=store, data=asked.data, stand_ins=asked.stand_ins, ranks=ranks)
