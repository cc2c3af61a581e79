"""How fast cells are, and how large: from those that are finished in a store, and from probes.

    <store>/probes/<cell>-<device>.json     what `bench plan --probe` timed (bench/probe.py)

A speed is images per second of one kind of work: a stage by what learns in it, or scoring. Work is
of one kind where all is alike that the speed depends on: sizes, inputs, batch, precision, tasks,
scheme, the kind of ResNet-50, ranks. Speeds of several devices are never mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell, hashed
from bench.provenance import device
from bench.records import TOOK, mistake
from bench.store import Store, read_json, read_order
from protocols.stages import Protocol

SCORING = "scoring"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one finished cell tells, or one probe (not `finished`).

    `speeds` are images per second by kind of work, `model_bytes` and `image_bytes` (of what is kept
    of each scored image) by the kind of its scoring.
    """

    finished: bool
    device: str
    time: str
    speeds: dict[str, list[float]]
    model_bytes: dict[str, int]
    image_bytes: dict[str, float]


@cache
def kind(
    protocol: Protocol, tasks: tuple[str, ...], variant: str, learns: tuple[str, ...], ranks: int
) -> str:
    """Return the kind of a stage's work; `learns` is (SCORING,) for scoring.

    `variant` is the kind of ResNet-50, as in the weights' row.
    """
    optim = protocol.optim
    scoring = learns == (SCORING,)
    return hashed(
        {
            "variant": variant,
            "tasks": tasks,
            "heads": protocol.heads,
            "input": asdict(protocol.input),
            "model": asdict(protocol.model),
            "adapter": asdict(protocol.adapter) if protocol.adapter else None,
            "optim": [optim.batch, optim.accumulate, optim.precision, optim.compile],
            "scheme": None if scoring or len(tasks) == 1 else protocol.scheme,
            "ranks": 1 if scoring else ranks,
            "learns": sorted(learns),
        }
    )


def kinds(cell: Cell, order: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind of each stage of a cell by its name, and of its scoring."""
    variant, ranks = order["weights"]["row"]["variant"], order.get("ranks", 1)
    told = {stage.name: stage.learns for stage in cell.protocol.stages} | {SCORING: (SCORING,)}
    return {
        name: kind(cell.protocol, cell.tasks, variant, learns, ranks)
        for name, learns in told.items()
    }


def scorings(protocol: Protocol) -> int:
    """Return how often a cell is scored: at its end, and every `val_every` epochs on the way."""
    every, epochs = protocol.val_every, [stage.epochs for stage in protocol.stages]
    if not every:
        return 1
    return sum(one // every for one in epochs) + bool(epochs[-1] % every)


def measured(store: Store) -> list[Measured]:
    """Return what the finished cells and the probes of a store tell, the newest last."""
    scored: dict[tuple[str, tuple[str, ...]], int] = {}
    homes = [home for home in store.cells() if (home / "result.json").exists()]
    found = [one for home in homes if (one := _finished(home, scored)) is not None]
    probes = sorted((store.root / "probes").glob("*.json"))
    return sorted([*found, *map(_probed, probes)], key=lambda one: one.time)


def _probed(file: Path) -> Measured:
    try:
        return Measured(**read_json(file))
    except TypeError:
        raise BenchError(f"{file} is of another version. Remove it.") from None


def _finished(home: Path, scored: dict[tuple[str, tuple[str, ...]], int]) -> Measured | None:
    """Return what a finished cell tells; None where it is damaged or of another version."""
    try:
        order, result = read_order(home), read_json(home / "result.json")
        cell = Cell.from_resolved(order["resolved"])
    except (BenchError, KeyError, TypeError):
        return None
    if mistake(result, TOOK):
        return None
    kind_of, speeds = kinds(cell, order), dict[str, list[float]]()
    for stage in result["stages"]:
        if stage["seconds"] > 0 and stage.get("images", 0) > 0:
            rates = speeds.setdefault(kind_of[stage["name"]], [])
            rates.append(stage["images"] / stage["seconds"])
    scoring, frames = kind_of[SCORING], _scored(home, order, cell.tasks, scored)
    told = result["provenance"]
    seconds = _beside_training(result)
    if frames and seconds:
        speeds[scoring] = [frames * scorings(cell.protocol) / seconds]
    model, preds = home / "model.safetensors", list(_sizes(home / "preds"))
    return Measured(
        finished=True,
        device=device(told),
        time=told["finished"],
        speeds=speeds,
        model_bytes={scoring: model.stat().st_size} if model.exists() else {},
        image_bytes={scoring: sum(preds) / frames} if frames and preds else {},
    )


def _beside_training(result: Mapping[str, Any]) -> float | None:
    """Return the seconds that a cell took beside its stages; None where it was cut off between."""
    told = result["provenance"]
    if told.get("attempts") != 1:
        return None
    begun, ended = (datetime.fromisoformat(told[name]) for name in ("time", "finished"))
    return max((ended - begun).total_seconds() - sum(s["seconds"] for s in result["stages"]), 0.1)


def _scored(
    home: Path,
    order: Mapping[str, Any],
    tasks: tuple[str, ...],
    known: dict[tuple[str, tuple[str, ...]], int],
) -> int:
    """Return how many validation frames a finished cell was scored on; 0 where nobody knows."""
    name = order["split"]["file"]
    file = home.parent.parent / "splits" / name
    if not file.exists():
        return 0
    if (name, tasks) not in known:
        val = read_json(file)["val"].values()
        known[name, tasks] = sum(bool({*tasks} & {*carried}) for carried in val)
    return known[name, tasks]


def _sizes(folder: Path) -> Iterator[int]:
    return (file.stat().st_size for file in folder.glob("*.npz"))
