"""Failed cells run again, whatever their cause, with those that failed for need of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from bench.cell import Cell
from bench.failure import NEEDS, cause
from bench.invocations import Invocation, invocations
from bench.plan import plan
from bench.reasons import OTHER_CODE
from bench.reconcile import How, carry_out
from bench.status import Stored, stored
from bench.store import Store, error_of
from bench.tables import place_of


def retry(store: Store, wanted: Sequence[Stored], *, allow_code_change: bool = False) -> int:
    """Run again those of the wanted cells that failed; return the highest exit code of the runs.

    With them go the students that failed for need of them, and the teachers that they lacked. They
    are run as the newest `bench run` that asked for them says, whose other cells are left alone.
    """
    failed = [one for one in stored(store) if one.state == "failed"]
    again = _with_kin(failed, {one.home for one in wanted})
    if not again:
        click.echo("None of these cells has failed.")
        return 0
    for one in again:
        click.echo(f"{one.home.name}: {error_of(one.home)}")
    code = 0
    for asked, cells in _by_invocation(store, again):
        if asked is None:
            names = ", ".join(one.home.name for one in cells)
            click.echo(f"No bench run in this store asked for {names}: give its command again.")
            code = max(code, 3)
        else:
            code = max(code, _run(asked, cells, allow_code_change))
    return code


def _with_kin(failed: list[Stored], wanted: set[Path]) -> list[Stored]:
    """Return the wanted cells that failed, the teachers that they lacked, and their students."""
    again = [one for one in failed if one.home in wanted]
    lacking = [one for one in failed if cause(error_of(one.home)) is NEEDS]
    needed = {key for one in again if one in lacking for key in one.order["needs"]}
    keys = {one.order["key"] for one in again}
    kin = (
        one
        for one in failed
        if one.order["key"] in needed or (one in lacking and keys & set(one.order["needs"]))
    )
    return list({one.home: one for one in (*again, *kin)}.values())


def _by_invocation(
    store: Store, cells: list[Stored]
) -> list[tuple[Invocation | None, list[Stored]]]:
    newest = {name: asked for asked in invocations(store.root) for name in asked.cells}
    groups: dict[str, tuple[Invocation | None, list[Stored]]] = {}
    for one in cells:
        asked = newest.get(one.home.name)
        groups.setdefault(asked.id if asked else "", (asked, []))[1].append(one)
    return list(groups.values())


def _run(asked: Invocation, cells: list[Stored], allow_code_change: bool) -> int:
    """Plan some cells of an invocation anew and run them, with what they need, as it says."""
    place = replace(place_of(asked), allow_code_change=allow_code_change)
    wanted = [one.cell for one in cells if isinstance(one.cell, Cell)]
    planned = plan(wanted, place)
    if not {one.folder.name for one in planned} <= set(asked.cells):
        click.echo(f"Weights or data have changed since. This plans them anew: {asked.command}")
        return 3
    labels = {one.labels.folder for one in planned if one.labels}
    waiting = {one.folder for one in planned if one.reason == OTHER_CODE}
    for folder in ({one.home for one in cells} | labels) - waiting:
        (folder / "error.txt").unlink(missing_ok=True)
    how = How(**{**asked.how, "slurm": tuple(asked.how["slurm"])})
    return carry_out(plan(wanted, place), place, how, asked)
