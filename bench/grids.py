"""Grids: which cells a request means, and which cells are behind a table of the paper."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

from bench import BenchError
from bench.cell import Cell
from bench.data.classes import TASKS
from bench.paper_tables import PAPER_TABLES, Line
from protocols import ProtocolError, known
from protocols.override import override
from protocols.own import Own
from protocols.presets import protocol, teacher
from protocols.schemes import SCHEMES
from protocols.settings import SETTINGS
from protocols.stages import ADAPTERS, Protocol
from zoo.catalog import Checkpoint, find, select
from zoo.clip_parts import check_has

TABLES = (*PAPER_TABLES, "all")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The selectors of a command, as in `--zoo all --protocol pf,paf --seeds 0,1,2`.

    A `table` of the paper, or "all", stands for the cells behind it: of the other fields it leaves
    seeds, preset and overrides. A user's own protocols stand among the names
    as what their files say. `also` are the further grids of a file with several.
    """

    zoo: tuple[str, ...] = ("all",)
    protocols: tuple[str | Own, ...] = ("pf", "paf")
    settings: tuple[str, ...] = ("disjoint-normal",)
    schemes: tuple[str, ...] = ("self-training",)
    heads: str = "transformer"
    tasks: tuple[str, ...] = TASKS
    seeds: tuple[int, ...] = (0,)
    preset: str = "paper"
    overrides: tuple[str, ...] = ()
    table: str = ""
    also: tuple["Request", ...] = ()

    def grids(self) -> list["Request"]:
        """Return the grids that are asked for, one by one."""
        return [replace(self, also=()), *self.also]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the request that `dataclasses.asdict` (and JSON) made these values of."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        protocols = given.get("protocols", cls.protocols)
        own = (Own.from_dict(one) if isinstance(one, dict) else one for one in protocols)
        also = tuple(map(cls.from_dict, given.get("also", ())))
        return cls(**{**given, "protocols": tuple(own), "also": also})


def cells(request: Request) -> list[Cell]:
    """Return the cells of a request, of each of its grids those that no earlier one has."""
    return list(dict.fromkeys(cell for grid in request.grids() for cell in _grid(grid)))


def by_name(request: Request) -> Request:
    """Return a request with its checkpoints by the names of their rows, whatever file they are."""
    zoo = tuple(checkpoint.name for checkpoint in select(request.zoo))
    return replace(request, zoo=zoo, also=tuple(map(by_name, request.also)))


def _grid(request: Request) -> list[Cell]:
    """Return the cross product of a grid's lists, checkpoint by checkpoint.

    Those of a table come row by row, and one that stands in several rows comes once.
    """
    if request.table:
        asked = [one for number in numbers(request) for _, one in lines(number, request)]
        return list(dict.fromkeys(cell for one in asked for cell in cells(one)))
    for setting in request.settings:
        known("setting", setting, tuple(SETTINGS))
    for scheme in request.schemes:
        known("scheme", scheme, SCHEMES)
    for task in request.tasks:
        known("task", task, TASKS)
    values = _overridden(_protocols(request), request.overrides)
    choices = product(select(request.zoo), values, request.settings, request.schemes, request.seeds)
    tasks = tuple(task for task in TASKS if task in request.tasks)
    return [
        Cell(
            zoo=checkpoint.name,
            protocol=_of(checkpoint, _by(scheme, tasks, value)),
            setting=setting,
            tasks=tasks,
            seed=seed,
        )
        for checkpoint, value, setting, scheme, seed in choices
    ]


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
    """Return the request for the cells behind a table of the paper, or behind "all" of them.

    Seeds, preset and overrides are the request's own; `ProtocolError` where an override is of a
    stage or an adapter that no row has.
    """
    if number not in TABLES:
        raise BenchError(f"Table {number!r} is not known. Known: {', '.join(TABLES)}.")
    asked = Request(
        seeds=request.seeds, preset=request.preset, overrides=request.overrides, table=number
    )
    every = [one for each in numbers(asked) for _, one in lines(each, asked)]
    _check_overrides([value for one in every for value in _protocols(one)], asked.overrides)
    return asked


def numbers(request: Request) -> tuple[str, ...]:
    """Return which tables of the paper a request asks for."""
    return tuple(PAPER_TABLES) if request.table == "all" else (request.table,)


def lines(number: str, request: Request) -> list[tuple[Line, Request]]:
    """Return the rows of a table of the paper, each with the request for its cells.

    An override of a stage or of the adapter is for the rows that have it.
    """
    plain, found = Request(seeds=request.seeds, preset=request.preset), []
    for line in PAPER_TABLES[number].lines(request.preset):
        one = replace(plain, **line.asks)
        own = [text for text in request.overrides if any(_fits(text, p) for p in _protocols(one))]
        found.append((line, replace(one, overrides=(*one.overrides, *own))))
    return found


def shared(request: Request) -> tuple[int, int]:
    """Return how many rows the tables of a request have, and how many cells stand in several."""
    rows = [cells(one) for number in numbers(request) for _, one in lines(number, request)]
    times = Counter(cell for row in rows for cell in row)
    return len(rows), sum(count > 1 for count in times.values())


def shown(request: Request) -> tuple[str | Own, ...]:
    """Return the protocols in a request's table: what it asks for, and of pf or paf alone both."""
    pair = ("pf", "paf") if set(request.protocols) <= {"pf", "paf"} else ()
    return tuple(dict.fromkeys((*pair, *request.protocols)))


def _protocols(request: Request) -> list[Protocol]:
    """Return a request's protocols as they are without its overrides."""
    return [
        protocol(one, request.preset, request.heads)
        if isinstance(one, str)
        else one.protocol(request.preset, request.heads)
        for one in request.protocols
    ]


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


def _by(scheme: str, tasks: Sequence[str], value: Protocol) -> Protocol:
    """Return the protocol with a scheme.

    With one task no label is missing, so there is nothing that a scheme could do; and labels that
    nobody makes have no values, so that a teacher is the same cell whoever asks for it.
    """
    if len(tasks) == 1:
        return replace(value, scheme="zeroing", pseudo=protocol("pf", value.preset).pseudo)
    return replace(value, scheme=scheme)


def _overridden(values: Sequence[Protocol], overrides: Sequence[str]) -> list[Protocol]:
    """Apply every override to every protocol that has what it is about."""
    _check_overrides(values, overrides)
    for assignment in overrides:
        values = [
            override(value, assignment) if _fits(assignment, value) else value for value in values
        ]
    return list(values)


def _check_overrides(values: Sequence[Protocol], overrides: Sequence[str]) -> None:
    """Raise `ProtocolError` for an override of a stage or an adapter that no protocol has."""
    every = dict.fromkeys(stage.name for value in values for stage in value.stages)
    for assignment in overrides:
        group, stage = _about(assignment)
        if group == "stages":
            known("stage", stage, tuple(every))
        if group == "adapter" and all(value.adapter is None for value in values):
            names = ", ".join(dict.fromkeys(value.name for value in values))
            raise ProtocolError(
                f"--set {assignment}: {names} have no adapter; {', '.join(ADAPTERS)} have."
            )


def _fits(assignment: str, value: Protocol) -> bool:
    """Return whether a protocol has the stage or the adapter that an override is about."""
    group, stage = _about(assignment)
    if group == "stages":
        return stage in {own.name for own in value.stages}
    return group != "adapter" or value.adapter is not None


def _about(assignment: str) -> tuple[str, str]:
    """Return the group that an override is about, and where it is stages, which."""
    group, _, rest = assignment.partition("=")[0].strip().partition(".")
    return group, rest.partition(".")[0]
