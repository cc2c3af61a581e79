"""What lies beside an invocation for people: its tables, its figures and its page."""

from __future__ import annotations

from pathlib import Path

from bench.invocations import Invocation
from bench.store import state, whole
from bench.tables import place_of, request_of, tables
from reports.render import render

TABLES = {"markdown": "md", "latex": "tex", "csv": "csv"}
PAGE = "page.html"


def write(asked: Invocation) -> None:
    """Write the tables of an invocation beside it as they are now; and figures and the page.

    These are drawn once a cell is done, and again where a number or a state has changed.
    """
    request, place = request_of(asked), place_of(asked)
    homes = [place.store.folder(name) for name in asked.cells]
    orders = place.store.orders()
    exactly = {orders[home]["address"]: home for home in homes if home in orders}
    found = tables(request, place.store, root=place.root, exactly=exactly)
    changed = [
        _written(asked.folder / f"{name}.{suffix}", render(table, form).encode())
        for form, suffix in TABLES.items()
        for name, table in found.items()
    ]
    done = any(state(home) == "done" for home in homes)
    if done and (any(changed) or not (asked.folder / PAGE).exists()):
        from bench.figures import comparisons, files  # not at the top: they take their time
        from bench.page import page_of

        drawn = comparisons(request, place.store, root=place.root, exactly=exactly)
        for name, content in files(drawn, "svg"):
            _written(asked.folder / name, content)
        _written(asked.folder / PAGE, page_of(drawn, found, place.store).encode())


def _written(file: Path, content: bytes) -> bool:
    """Write a file unless it holds this already; return whether it did not."""
    if file.exists() and file.read_bytes() == content:
        return False
    with whole(file) as unfinished:
        unfinished.write_bytes(content)
    return True
