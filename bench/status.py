"""What the store says about its cells right now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell
from bench.store import Store, read_json, read_lines, state
from protocols.schemes import steps

COLUMNS = (
    *("key", "cell", "state", "stage", "progress", "eta_s"),
    *("heartbeat_age_s", "attempts", "error"),
)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far a cell has come: optimiser steps taken of all there are, and the last report."""

    taken: int
    total: int
    last: dict[str, Any]
    eta_s: int


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


def lines(store: Store, wanted: Callable[[Cell], bool]) -> list[dict[str, Any]]:
    """Return, for each cell that is wanted, what `status --json` prints of it.

    `progress` is the share of the optimiser steps of all stages that are taken.
    """
    found = []
    for home in store.cells():
        try:
            cell = Cell.from_resolved(read_json(home / "cell.json")["resolved"])
        except (BenchError, KeyError, TypeError):  # damaged, or of another version
            found.append({**dict.fromkeys(COLUMNS), "cell": home.name, "state": "unreadable"})
            continue
        if wanted(cell):
            found.append(_line(home))
    return found


def _line(home: Path) -> dict[str, Any]:
    now, here = state(home), reached(home)
    running = now == "running"
    return {
        "key": read_json(home / "cell.json")["key"],
        "cell": home.name,
        "state": now,
        "stage": here.last["stage"] if here else None,
        "progress": round(here.taken / here.total, 4) if here else 0.0,
        "eta_s": here.eta_s if here and running else None,
        "heartbeat_age_s": round(time.time() - (home / "lock").stat().st_mtime)
        if running
        else None,
        "attempts": len(read_lines(home / "attempts.jsonl")),
        "error": (home / "error.txt").read_text().partition("\n")[0] if now == "failed" else None,
    }
