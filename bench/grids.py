"""Grids: which cells a request means, and which cells are behind a table of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench import BenchError
from bench.cell import Cell
from bench.data.classes import TASKS
from protocols import ProtocolError, known
from protocols.override import override
from protocols.presets import SCHEMES, protocol, teacher
from protocols.settings import SETTINGS
from protocols.stages import ADAPTERS, Protocol
from zoo.catalog import Checkpoint, find, select
from zoo.clip_parts import check_has

TABLES = ("2",)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The selectors of a command, as in `--zoo all --protocol pf,paf --seeds 0,1,2`."""

    zoo: tuple[str, ...] = ("all",)
    protocols: tuple[str, ...] = ("pf", "paf")
    settings: tuple[str, ...] = ("disjoint-normal",)
    schemes: tuple[str, ...] = ("self-training",)
    heads: str = "transformer"
    tasks: tuple[str, ...] = TASKS
    seeds: tuple[int, ...] = (0,)
    preset: str = "paper"
    overrides: tuple[str, ...] = ()


def cells(request: Request) -> list[Cell]:
    """Return the cells of a request: the cross product of its lists, checkpoint by checkpoint."""
    for setting in request.settings:
        known("setting", setting, tuple(SETTINGS))
    for scheme in request.schemes:
        known("scheme", scheme, SCHEMES)
    for task in request.tasks:
        known("task", task, TASKS)
    protocols = [protocol(name, request.preset, request.heads) for name in request.protocols]
    values = _overridden(protocols, request.overrides)
    choices = product(select(request.zoo), values, request.settings, request.schemes, request.seeds)
    tasks = tuple(task for task in TASKS if task in request.tasks)
    listed = (
        Cell(
            zoo=checkpoint.name,
            # With one task no label is missing, so there is nothing that a scheme could do.
            protocol=_of(
                checkpoint, replace(value, scheme=scheme if len(tasks) > 1 else "zeroing")
            ),
            setting=setting,
            tasks=tasks,
            seed=seed,
        )
        for checkpoint, value, setting, scheme, seed in choices
    )
    return list(dict.fromkeys(listed))


def teachers(cell: Cell) -> tuple[Cell, ...]:
    """Return the cells whose predictions fill in a cell's missing labels: one for each task.

    They depend on neither the student's checkpoint, protocol nor seed, so all students of a
    comparison share them.
    """
    if cell.protocol.scheme != "self-training":
        return ()
    made_by = cell.protocol.pseudo
    return tuple(
        Cell(
            zoo=find(made_by.teacher).name,
            protocol=teacher(cell.protocol),
            setting=cell.setting,
            tasks=(task,),
            seed=made_by.teacher_seed,
        )
        for task in cell.tasks
    )


def table(number: str, request: Request) -> Request:
    """Return the request that asks for the cells behind a table of the paper.

    Seeds, preset and overrides are the request's own.
    """
    if number not in TABLES:
        raise BenchError(f"Table {number!r} is not known. Known: {', '.join(TABLES)}.")
    return replace(
        request,
        zoo=("all",),
        protocols=("pf", "paf"),
        settings=("disjoint-normal",),
        tasks=TASKS,
    )


def shown(request: Request) -> tuple[str, ...]:
    """Return the protocols in a request's table: what it asks for, and pf beside paf."""
    pair = ("pf", "paf") if {"pf", "paf"} & set(request.protocols) else ()
    return tuple(dict.fromkeys((*pair, *request.protocols)))


def _of(checkpoint: Checkpoint, value: Protocol) -> Protocol:
    """Return the protocol with the text encoder named as cells are told apart by it.

    ZooError if the checkpoint has none of its own and no other is named, or lacks what else the
    protocol takes from its file.
    """
    if value.adapter is None:
        return value
    named = checkpoint if value.adapter.text == "own" else find(value.adapter.text)
    check_has(named, "text")
    if value.adapter.name == "v2l":
        check_has(checkpoint, "pool")
    text = "own" if named == checkpoint else named.name
    return replace(value, adapter=replace(value.adapter, text=text))


def _overridden(values: Sequence[Protocol], overrides: Sequence[str]) -> list[Protocol]:
    """Apply every override to every protocol; one of a stage, to the protocols with that stage.

    One of the adapter goes to the protocols that have one.
    """
    every = dict.fromkeys(stage.name for value in values for stage in value.stages)
    for assignment in overrides:
        group, _, rest = assignment.partition("=")[0].strip().partition(".")
        stage = rest.partition(".")[0] if group == "stages" else None
        if stage is not None:
            known("stage", stage, tuple(every))
        if group == "adapter" and all(value.adapter is None for value in values):
            names = ", ".join(dict.fromkeys(value.name for value in values))
            raise ProtocolError(
                f"--set {assignment}: {names} have no adapter; {', '.join(ADAPTERS)} have."
            )
        values = [
            override(value, assignment)
            if (stage is None or stage in {own.name for own in value.stages})
            and (group != "adapter" or value.adapter is not None)
            else value
            for value in values
        ]
    return list(values)
