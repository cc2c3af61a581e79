"""A plan carried out as the options say: what `bench run` and `bench retry` share."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench import BenchError
from bench.display import say, terminal
from bench.grids import by_name
from bench.invocations import Invocation, record
from bench.launch import choose_runner, launch
from bench.plan import Place, PlannedCell
from bench.reasons import OTHER_CODE
from bench.store import owner, state
from bench.tables import request_of, say_stale, tables, text_of
from bench.track import address
from runners.cluster import SlurmOptions

if TYPE_CHECKING:
    from rich.console import Console

    from bench.cell import Cell
    from bench.grids import Request


@dataclass(frozen=True, kw_only=True)
class How:
    """The options that say how cells are run, and not which."""

    runner: str = "local"
    jobs: int | None = None
    gpus_per_cell: int = 1
    track: str | None = None
    slurm: tuple[str, ...] = ()
    detach: bool = False

    def __post_init__(self) -> None:
        SlurmOptions.parse(",".join(self.slurm))  # a mistake shows before anything is written


def recorded(
    planned: list[PlannedCell], request: Request, place: Place, how: How, command: str
) -> Invocation:
    """Write into the store what is asked for; checkpoints by the names of their rows."""
    place.store.prepare()
    return record(
        place.store.root,
        [one.folder.name for one in planned],
        command=command,
        cwd=str(Path.cwd()),
        request=asdict(by_name(request)),
        data="demo" if place.demo else str(place.root),
        stand_ins=place.stand_ins,
        how=asdict(how),
    )


def carry_out(planned: list[PlannedCell], place: Place, how: How, invocation: Invocation) -> int:
    """Run what is to be run, print the table, the counts, and what continues; return the exit code.

    0 all done, 1 a cell failed, 3 not finished.
    """
    console, todo = terminal(), sum(one.to_run for one in planned)
    runner, words = choose_runner(
        how.runner, place.store.root, how.jobs, todo, how.slurm, how.gpus_per_cell
    )
    labels = any(one.labels and one.labels.to_run for one in planned if one.to_run)
    what = f"{todo} to run{', and pseudo labels to make' * labels}"
    say(console, f"{len(planned)} cells, {what}: {words}. Store: {place.store.root}")
    uri = address(how.track, place.store.root)
    code = launch(
        planned,
        place,
        runner=runner,
        uri=uri,
        console=console,
        invocation=invocation,
        detach=how.detach,
    )
    if how.detach:
        return code
    exactly = {one.cell.address: one.folder for one in planned}
    request = request_of(invocation)
    found = tables(request, place.store, root=place.root, exactly=exactly)
    for table in found.values():
        click.echo(text_of(table))
    say_stale(found)
    _closing(planned, invocation.command, console)
    return code


def without_failed(planned: list[PlannedCell]) -> list[PlannedCell]:
    """Return the plan with all failed cells given up, whatever the cause of their failure."""
    why = "Not tried again: --retry none."
    return [
        replace(one, given_up=True, reason=f"{one.reason} {why}") if one.state == "failed" else one
        for one in planned
    ]


def set_aside(planned: list[PlannedCell], cells: list[Cell], place: Place) -> list[Path]:
    """Move the folders of these cells out of the way, into `<store>/old/`; return where to.

    Cells that run now raise `BenchError`: nothing is moved then.
    """
    there = [one for one in planned if one.cell in cells and one.folder.is_dir()]
    if busy := [one.folder.name for one in there if owner(one.folder)]:
        raise BenchError(f"{', '.join(busy)} runs now. bench cancel stops it; then again.")
    old = place.store.root / "old"
    old.mkdir(exist_ok=True, parents=True)
    moved = []
    for one in there:
        to = old / f"{one.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        moved.append(one.folder.rename(to))
    return moved


def _closing(planned: list[PlannedCell], command: str, console: Console) -> None:
    """Say how many cells are how, and what continues."""
    states = Counter(state(one.folder) for one in planned)
    say(console, ", ".join(f"{count} {name}" for name, count in sorted(states.items())))
    if set(states) != {"done"}:
        leave = " --allow-code-change" * any(one.reason == OTHER_CODE for one in planned)
        say(console, f"Continue with: {command}{leave}")
