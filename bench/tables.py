"""The tables of a request, as text and as files: what `report` and `run` print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.display import terminal
from bench.grids import Request, cells, shown
from bench.plan import Place
from bench.results import constants, rows
from bench.store import Store, write_text
from reports.render import render
from reports.tables import METRICS, table2

if TYPE_CHECKING:
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
) -> tuple[list[str], list[Path]]:
    """Return Table 2 of a request's checkpoints, once for each setting and scheme; and what is
    left out as stale. `root` and `exactly` are those of `bench.results.rows`.
    """
    texts, left_out = [], []
    for setting, scheme in product(request.settings, request.schemes):
        one = replace(request, settings=(setting,), schemes=(scheme,), protocols=shown(request))
        frame, stale = rows(cells(one), store, root=root, exactly=exactly)
        constant = {k: v for k, v in constants(frame).items() if k in METRICS}
        references = {"Best constant prediction": constant} if constant else {}
        texts.append(render(table2(frame, references), form, width=width))
        left_out += stale
    return texts, left_out


def texts(
    request: Request,
    store: Store,
    form: str,
    *,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> list[str]:
    """Return the tables of a request for the terminal; say what is left out as stale."""
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
        for number, text in enumerate(found, start=1):
            name = f"table2{f'-{number}' * (len(found) > 1)}.{suffix}"
            if not (file := asked.folder / name).exists() or file.read_text() != text:
                write_text(file, text)


def request_of(asked: Invocation) -> Request:
    """Return what an invocation asked for."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in asked.request.items()
    }
    return Request(**given)


def place_of(asked: Invocation) -> Place:
    """Return where an invocation is carried out."""
    store = Store(asked.folder.parent.parent)
    ranks = asked.how.get("gpus_per_cell", 1)
    return Place(store=store, data=asked.data, stand_ins=asked.stand_ins, ranks=ranks)
