"""What each `bench run` asked for: its cells and its command, kept in the store.

    <store>/invocations/<id>/
        invocation.json    which cells, by which request and command, since when
        table….md          its tables as they were last (see bench/artifacts.py); .tex and .csv too
        page.html, ….svg   its page and its figures

A request that is repeated, to go on with the same cells, is the same invocation.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.store import read_json, write_json

FILE = "invocation.json"


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """A `bench run`: `cells` are the names of the cells' folders, teachers among them.

    `request` holds the fields of `bench.grids.Request`, `data` and `stand_ins` those of
    `bench.plan.Place`, `how` those of `bench.reconcile.How`; `cwd` is where the command was given,
    `begun` and `last` when it was first and last given.
    """

    folder: Path
    id: str
    command: str
    cwd: str
    begun: str
    last: str
    cells: list[str]
    request: dict[str, Any]
    data: str
    stand_ins: bool
    how: dict[str, Any]


def record(store: Path, cells: list[str], **facts: Any) -> Invocation:
    """Write down what is asked for now; `facts` are the other fields of `Invocation`.

    The cells' `cell.json` becomes new: of several cells at one address the one that was asked for
    last counts.
    """
    name = hashlib.sha256("\n".join(sorted(cells)).encode()).hexdigest()[:12]
    folder, now = store / "invocations" / name, datetime.now(UTC).isoformat(timespec="microseconds")
    begun = read_json(folder / FILE)["begun"] if (folder / FILE).exists() else now
    folder.mkdir(parents=True, exist_ok=True)
    told = {"id": name, "begun": begun, "last": now, "cells": sorted(cells), **facts}
    write_json(folder / FILE, told)
    for cell in cells:
        with suppress(FileNotFoundError):
            os.utime(store / "cells" / cell / "cell.json")
    return Invocation(folder=folder, **told)


def invocations(store: Path) -> list[Invocation]:
    """Return all that was ever asked for in a store, the newest last."""
    files = (store / "invocations").glob(f"*/{FILE}")
    found = [Invocation(folder=file.parent, **read_json(file)) for file in files]
    return sorted(found, key=lambda one: one.last)


def of_cell(store: Path, name: str) -> Invocation | None:
    """Return the newest invocation that asked for a cell, by the name of its folder."""
    return next((one for one in reversed(invocations(store)) if name in one.cells), None)
