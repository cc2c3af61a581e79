"""What the store says about its cells right now."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell
from bench.store import (
    Store,
    error_of,
    handed_to,
    key8,
    read_json,
    read_lines,
    read_order,
    read_result,
    state,
)
from protocols import VERSION
from protocols.schemes import steps

COLUMNS = (
    *("key", "cell", "state", "stage", "progress", "eta_s"),
    *("heartbeat_age_s", "attempts", "error"),
)


Age = tuple[bool, bool, float, str]  # finished? of this version? when (seconds since 1970), name


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far a cell has come: optimiser steps taken of all there are, and the last report."""

    taken: int
    total: int
    last: dict[str, Any]
    eta_s: int


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A cell of the store: its folder, what was to be run there, and its state.

    `state` is that of `bench.store.state`, or `stale` where another protocol version planned the
    cell, or where another cell of its address, with other weights, data or teachers, was finished
    later. What cannot be read is `unreadable`, `error` says why, and there is no `cell`; the order
    is there where it is only the result that cannot be read, and else empty.
    """

    home: Path
    state: str
    order: dict[str, Any]
    cell: Cell | None = None
    error: str | None = None


def stored(store: Store, wanted: Callable[[Cell], bool] = lambda cell: True) -> list[Stored]:
    """Return the cells that are wanted, by name; what cannot be read is always among them."""
    found = [_read(home) for home in store.cells()]
    ages = {one.home: age(one.home, one.order) for one in found if one.cell}
    newest: dict[str, Age] = {}
    for one in (one for one in found if one.cell):
        address = one.order["address"]
        newest[address] = max(newest.get(address, ages[one.home]), ages[one.home])
    return [
        replace(one, state="stale")
        if one.cell and _is_stale(one, ages[one.home], newest[one.order["address"]])
        else one
        for one in found
        if one.cell is None or wanted(one.cell)
    ]


def age(home: Path, order: dict[str, Any]) -> Age:
    """Return what sorts the cells of an address: whose numbers count comes last.

    That is what is finished; of this protocol version; and the newest by what is recorded, which
    copying a store does not change. Only what was never begun goes by the time of its file.
    """
    current, attempts = order["version"] == VERSION, read_lines(home / "attempts.jsonl")
    with suppress(FileNotFoundError, BenchError):
        told = read_result(home)["provenance"]["finished"]
        return True, current, datetime.fromisoformat(told).timestamp(), home.name
    with suppress(IndexError, KeyError, TypeError, ValueError):
        begun = datetime.fromisoformat(attempts[-1]["time"]).timestamp()
        return False, current, begun, home.name
    return False, current, (home / "cell.json").stat().st_mtime, home.name


def find(store: Store, text: str) -> Stored:
    """Return the cell that a text means: its folder's name, or a beginning of its key alone."""
    found = stored(store)
    fits = [one for one in found if one.home.name == text] or [
        one for one in found if text and one.order.get("key", key8(one.home)).startswith(text)
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(one.home.name for one in fits)
        raise BenchError(
            f"{text!r} begins the keys of {len(fits)} cells: {names}. Give more of it."
        )
    raise BenchError(
        f"{text!r} is neither a cell's folder nor the beginning of a key in {store.root}. "
        "bench status lists the cells; the end of a folder's name begins its key."
    )


def reached(home: Path) -> Reached | None:
    """Return how far the cell in a folder has come; None before its first report."""
    reports = [line for line in read_lines(home / "progress.jsonl") if line.get("kind") == "train"]
    if not reports:
        return None
    order = read_json(home / "cell.json")
    protocol = Cell.from_resolved(order["resolved"]).protocol
    frames, batch = order["split"]["frames"], protocol.optim.batch
    total = sum(steps(frames, stage.epochs, batch) for stage in protocol.stages)
    taken = sum({line["stage"]: line["step"] for line in reports}.values())
    eta_s = round((total - taken) * batch / reports[-1]["images_per_s"])
    return Reached(taken=taken, total=total, last=reports[-1], eta_s=eta_s)


def line(one: Stored) -> dict[str, Any]:
    """Return what `status --json` prints of a cell.

    `progress` is the share of the optimiser steps of all stages that are taken.
    """
    facts = {**dict.fromkeys(COLUMNS), "cell": one.home.name, "state": one.state}
    if one.cell is None:
        return facts | {"key": one.order.get("key"), "error": one.error}
    facts |= {"key": one.order["key"], "attempts": len(read_lines(one.home / "attempts.jsonl"))}
    if (one.home / "result.json").exists():  # so nothing long is to be read
        return facts | {"stage": one.cell.protocol.stages[-1].name, "progress": 1.0}
    here = reached(one.home)
    facts |= {
        "stage": here.last["stage"] if here else None,
        "progress": round(here.taken / here.total, 4) if here else 0.0,
    }
    if one.state == "running":
        facts |= {"eta_s": here.eta_s if here else None, "heartbeat_age_s": _beat_s(one.home)}
    if one.state == "failed":
        facts["error"] = error_of(one.home)
    return facts


def jobs(homes: Iterable[Path]) -> dict[Path, str]:
    """Return what SLURM says of the jobs that these cells were given to, as far as it answers."""
    given = {home: handed_to(home) for home in homes}
    numbers = {home: job["id"] for home, job in given.items() if job.get("cluster") == "slurm"}
    if not numbers:
        return {}
    from runners.base import RunnerError
    from runners.slurm import alive

    try:
        found = alive(numbers.values())
    except RunnerError:  # a hint, and no more
        return {}
    return {home: f"{job} {found[job]}" for home, job in numbers.items() if job in found}


def _read(home: Path) -> Stored:
    order, cell = dict[str, Any](), None
    try:
        order = read_order(home)
        cell = Cell.from_resolved(order["resolved"])
        if (now := state(home)) == "done":
            read_result(home)
    except BenchError as error:
        return Stored(home=home, state="unreadable", order=order if cell else {}, error=str(error))
    except (KeyError, TypeError):
        why = f"{home / 'cell.json'} has not the values of this version's cells"
        cure = f"Remove {home} to have it made again."
        return Stored(home=home, state="unreadable", order={}, error=f"{why}. {cure}")
    return Stored(home=home, state=now, order=order, cell=cell)


def _is_stale(one: Stored, age: Age, newest: Age) -> bool:
    """Return whether a cell's numbers, had or to come, are not those of its address any more.

    What is not finished may have been asked for after the newest was finished: then it may go on.
    """
    if one.state == "running":
        return False
    replaced = age != newest if one.state == "done" else age[1:3] < newest[1:3]
    return replaced or one.order["version"] != VERSION


def _beat_s(home: Path) -> int | None:
    try:
        return round(time.time() - (home / "lock").stat().st_mtime)
    except FileNotFoundError:  # it ended just now
        return None
