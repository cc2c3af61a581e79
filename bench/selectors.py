"""The options that say which cells are meant, the same for every verb."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bench.cell import Cell
    from bench.grids import Request
    from bench.plan import Place
    from bench.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])


def commas(context: click.Context, parameter: click.Parameter, value: Any) -> tuple[str, ...]:
    """Split comma lists; a repeated option adds to its list."""
    given = value if isinstance(value, tuple) else (value,) if value else ()
    items = tuple(item.strip() for text in given for item in text.split(",") if item.strip())
    if given and not items:
        raise click.BadParameter("is empty. Name something, or leave the option out.")
    return items


def _many(name: str, help: str) -> Callable[[Command], Command]:
    return click.option(name, multiple=True, callback=commas, metavar="A,B,…", help=help)


CELLS = (
    _many("--zoo", "all (the paper's nine), everything, names, 'moco*', a file, '!byol'.  [all]"),
    _many("--protocol", "pf (pretrain-finetune), paf (with adapt), lv, prompt, v2l.  [pf,paf]"),
    _many("--setting", "disjoint-normal, disjoint-balance, full.  [disjoint-normal]"),
    _many("--scheme", "self-training, zeroing.  [self-training]"),
    click.option("--heads", help="transformer (MaskFormer and Sparse R-CNN), conv.  [transformer]"),
    _many("--tasks", "Any of sem,driv,det.  [all three]"),
    _many("--seeds", "0 or 0,1,2.  [0]"),
    click.option("--preset", help="paper, demo or tiny.  [paper; with the demo data, demo]"),
    click.option("--store", help="The folder of results.  [$BENCH_STORE, else ./runs]"),
)
VALUES = (
    click.option("--table", help="The cells of a table of the paper, in place of --zoo and so on."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Another value than the preset's, as in stages.adapt.epochs=1.",
    ),
    click.option("--data", help="A BDD100K folder, or demo.  [$BENCH_DATA, else demo]"),
    click.option("--stand-ins", is_flag=True, help="Random weights where published ones miss."),
)


def selectors(command: Command) -> Command:
    """Give a command the options that say which cells; they arrive as keywords."""
    for option in reversed(CELLS):
        command = option(command)
    return command


def values(command: Command) -> Command:
    """Give a command, beside the selectors, the options that `asked` reads."""
    for option in reversed(VALUES):
        command = option(command)
    return selectors(command)


def on_command_line(name: str) -> bool:
    """Return whether an option was given here, and not kept in a file."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def code_change(command: Command) -> Command:
    """Give a command the option that lets other code go on with what was begun."""
    return click.option(
        "--allow-code-change", is_flag=True, help="Go on with what was begun with other code."
    )(command)


def gpus(command: Command) -> Command:
    """Give a command the option that says how many processes train a cell together."""
    return click.option(
        "--gpus-per-cell",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Train each cell on so many GPUs of one machine, its batch shared out. What --slurm "
        "asks for is for each of them.",
    )(command)


def asked(chosen: dict[str, Any]) -> tuple[Request, Place]:
    """Return which cells are meant and where, with the defaults filled in."""
    from bench.grids import Request, table
    from bench.plan import Place

    data = chosen["data"] or os.environ.get("BENCH_DATA")
    if data is None:
        data = "demo"
        click.echo("No --data and no $BENCH_DATA: using the demo data.", err=True)
    demo = data == "demo"
    place = Place(
        store=store_of(chosen),
        data=data,
        stand_ins=chosen["stand_ins"] or demo,
        allow_code_change=chosen.get("allow_code_change", False),
        ranks=chosen.get("gpus_per_cell", 1),
    )
    given = {field.name: chosen[_OPTION.get(field.name, field.name)] for field in fields(Request)}
    given["preset"] = given["preset"] or ("demo" if demo else "paper")
    given["seeds"] = tuple(map(_seed, given["seeds"]))
    request = Request(**{name: value for name, value in given.items() if value})
    return (table(chosen["table"], request) if chosen["table"] else request), place


def store_of(chosen: dict[str, Any]) -> Store:
    """Return the store of `--store`."""
    from bench.store import Store

    return Store(Path(chosen["store"] or os.environ.get("BENCH_STORE") or "runs"))


def wanted(chosen: dict[str, Any]) -> Callable[[Cell], bool]:
    """Return whether a cell fits the selectors that were given; one not given fits all."""
    from bench.data.classes import TASKS
    from protocols import known
    from protocols.presets import HEADS, PRESETS, PROTOCOLS, SCHEMES
    from protocols.settings import SETTINGS
    from zoo.catalog import select

    one = {name: (chosen[name],) if chosen[name] else () for name in ("heads", "preset")}
    for name, given, values in (
        ("protocol", chosen["protocol"], PROTOCOLS),
        ("setting", chosen["setting"], tuple(SETTINGS)),
        ("scheme", chosen["scheme"], SCHEMES),
        ("task", chosen["tasks"], TASKS),
        ("heads", one["heads"], HEADS),
        ("preset", one["preset"], PRESETS),
    ):
        for value in given:
            known(name, value, values)
    zoo = {checkpoint.name for checkpoint in select(chosen["zoo"])} if chosen["zoo"] else None
    seeds = tuple(map(_seed, chosen["seeds"]))

    def fits(cell: Cell) -> bool:
        return all(
            not allowed or value in allowed
            for value, allowed in (
                (cell.zoo, zoo),
                (cell.protocol.name, chosen["protocol"]),
                (cell.setting, chosen["setting"]),
                (cell.protocol.scheme, chosen["scheme"]),
                (cell.protocol.heads, one["heads"]),
                (cell.protocol.preset, one["preset"]),
                (set(cell.tasks), chosen["tasks"] and [set(chosen["tasks"])]),
                (cell.seed, seeds),
            )
        )

    return fits


def latest(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the data and the preset of the newest result where none is given."""
    from bench.cell import Cell

    if chosen["data"] or chosen["preset"] or os.environ.get("BENCH_DATA"):
        return chosen
    if not (orders := store_of(chosen).orders()):
        return chosen
    order = orders[max(orders, key=lambda home: (home / "cell.json").stat().st_mtime)]
    preset = Cell.from_resolved(order["resolved"]).protocol.preset
    return {**chosen, "data": order["data"]["root"], "preset": preset}


_OPTION = {"protocols": "protocol", "settings": "setting", "schemes": "scheme"}


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a whole number.", param_hint="--seeds")
    return int(text)
