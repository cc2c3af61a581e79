"""The tables of a request, as text and as files: what `report` and `run` print."""

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
from bench.store import Store, write_text
from reports.render import render
from reports.rows import Part, by_rows
from reports.table2 import table2
from reports.tables import METRICS, Table

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.cell import Cell
    from bench.invocations import Invocation

FILES = {"markdown": "md", "latex": "tex", "csv": "csv"}


def tables(
    request: Request,
    store: Store,
    form: str,
    *,
    width: int = 100,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> tuple[dict[str, str], list[Path]]:
    """Return the tables of a request by the names of their files; and what is left out as stale.

    Those of the paper, where it asks for them; else Table 2 of its checkpoints, once for each
    setting and scheme. `root` and `exactly` are those of `bench.results.rows`.
    """
    found, left_out = [], []
    for number, one in _asked(request):
        frame, stale = rows(cells(one), store, root=root, exactly=exactly)
        text = render(_table(number, one, frame), form, width=width)
        found.append((number, text))
        left_out += stale
    times, named = Counter(number for number, _ in found), dict[str, str]()
    for number, text in found:
        count = sum(name.startswith(f"table{number}-") for name in named) + 1
        named[f"table{number}{f'-{count}' * (times[number] > 1)}"] = text
    return named, list(dict.fromkeys(left_out))


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
    constant = {k: v for k, v in constants(frame).items() if k in (told.metrics or METRICS)}
    references = {"Best constant prediction": constant} if constant else {}
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


def _epochs(cell: Cell) -> tuple[str, ...]:
    return tuple(str(stage.epochs) for stage in cell.protocol.stages)


def texts(
    request: Request,
    store: Store,
    form: str,
    *,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> dict[str, str]:
    """Return the tables of a request, by name, for the terminal; say what is left out as stale."""
    width = terminal().width
    found, stale = tables(request, store, form, width=width, root=root, exactly=exactly)
    for home in stale:
        click.echo(f"stale, left out: {home.name}", err=True)
    return found


def write(asked: Invocation) -> None:
    """Write the tables of an invocation beside it, as they are now."""
    place = place_of(asked)
    homes = [place.store.folder(name) for name in asked.cells]
    orders = place.store.orders()
    exactly = {orders[home]["address"]: home for home in homes if home in orders}
    for form, suffix in FILES.items():
        found, _ = tables(request_of(asked), place.store, form, root=place.root, exactly=exactly)
        for name, text in found.items():
            file = asked.folder / f"{name}.{suffix}"
            if not file.exists() or file.read_text() != text:
                write_text(file, text)


def request_of(asked: Invocation) -> Request:
    """Return what an invocation asked for."""
    return Request.from_dict(asked.request)


def place_of(asked: Invocation) -> Place:
    """Return where an invocation is carried out."""
    store = Store(asked.folder.parent.parent)
    ranks = asked.how.get("gpus_per_cell", 1)
    return Place(store=store, data=asked.data, stand_ins=asked.stand_ins, ranks=ranks)
