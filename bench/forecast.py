"""What `bench plan` says beside the cells: the graph, what it costs, why a cell is to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from bench.display import print_json, print_rows, say, terminal
from bench.estimate import Estimate, check_hours, estimate
from bench.explain import explain, named
from bench.grids import Request, shared
from bench.launch import places
from bench.measured import measured
from bench.plan import Node, Place, PlannedCell
from bench.sweep import nodes, waves
from runners.cluster import SlurmOptions, sbatch_text


def forecast(
    planned: Sequence[PlannedCell], place: Place, jobs: int | None, *, probe: bool = False
) -> Estimate:
    """Return what the rest of a plan will cost, `jobs` cells at once (None: as many as `run` has).

    With `probe` what nobody knows of this device is timed first; torch is imported only then.
    """
    todo = [node for node in nodes(planned) if node.to_run]
    slots, threads = places(jobs, max(1, len(todo)), place.ranks)
    if probe:
        from bench.probe import probe as timed

        place.store.check()
        for line in timed([one for one in todo if isinstance(one, PlannedCell)], place, threads):
            click.echo(line, err=True)
    return estimate(todo, measured(place.store), jobs=jobs or slots, ranks=place.ranks)


def within(
    limit: float, planned: list[PlannedCell], place: Place, jobs: int | None, *, anew: bool
) -> None:
    """Raise `BenchError` where a plan may take more device-hours than `limit`.

    `anew` counts what is done as to be run, too.
    """
    if anew:
        planned = [replace(one, state="pending", given_up=False) for one in planned]
    check_hours(forecast(planned, place, jobs), limit)


def explained(planned: Sequence[PlannedCell], cell: str, place: Place, *, as_json: bool) -> None:
    """Print in what a planned cell differs from the nearest stored one."""
    found = explain(named(planned, cell), planned, place.store)
    if as_json:
        print_json(found.to_json())
        return
    for line in found.lines():
        say(terminal(), line)


def print_plan(planned: Sequence[PlannedCell], cost: Estimate, request: Request) -> None:
    """Print the cells, each after what it needs, the frames, and what it all costs."""
    rows = [(one.folder.name, one.state, one.reason) for one in planned]
    print_rows(("cell", "state", "reason"), rows)
    for split in {one.split.sha256: one.split for one in planned}.values():
        click.echo(split.summary())
    held = planned[0].order["data"]
    packaging = "; ".join(f"{task} {name}" for task, name in held["packaging"].items())
    click.echo(f"Labels: {packaging}.")
    for why, count in held["excluded"].items():
        click.echo(f"Left out: {count:,} x {why}.")
    labels = {one.labels.folder: one.labels for one in planned if one.labels}
    for made in labels.values():
        students = sum(
            one.labels is not None and one.labels.folder == made.folder for one in planned
        )
        teachers = ", ".join(f"{one.title} ({one.state})" for one in made.teachers)
        how = "done" if made.state == "done" else made.reason
        click.echo(f"{made.title}: {how}; from {teachers}; for {students} cells.")
    todo = sum(one.to_run for one in planned)
    click.echo(f"{len(planned)} cells, {todo} to run.")
    for line in cost.lines() if todo else ():
        click.echo(line)
    if request.table and not request.also:
        count, several = shared(request)
        click.echo(f"{count} rows, {len(planned)} cells, {several} shared.")


def print_scripts(planned: Sequence[PlannedCell], place: Place, slurm: tuple[str, ...]) -> None:
    """Print the scripts that SLURM would get for what is to be run, array by array."""
    todo: list[Node] = [node for node in nodes(planned) if node.to_run]
    if not any(one.to_run for one in planned):
        click.echo("Nothing is to be run.")
        return
    options = SlurmOptions.parse(",".join(slurm)).times(place.ranks)
    for needed, group in waves(todo):
        after = f", after {', '.join(node.title for node in needed)}" if needed else ""
        click.echo(f"# {len(group)} to run{after}: {', '.join(node.title for node in group)}")
        click.echo(sbatch_text(place.store.root / "logs" / "slurm", options, len(group)))
