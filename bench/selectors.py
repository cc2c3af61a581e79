"""The options that say which cells are meant, the same for every verb."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.config import grids

if TYPE_CHECKING:
    from bench.cell import Cell
    from bench.grids import Request
    from bench.plan import Place
    from bench.store import Store
    from protocols.own import Own

Command = TypeVar("Command", bound=Callable[..., Any])


def commas(context: click.Context, parameter: click.Parameter, value: Any) -> tuple[str, ...]:
    """Split comma lists; a repeated option adds to its list."""
    given = value if isinstance(value, tuple) else (value,) if value else ()
    items = tuple(item.strip() for text in given for item in text.split(",") if item.strip())
    if given and not items:
        raise click.BadParameter("is empty. Name something, or leave the option out.")
    return items


def _cells(*, defaults: bool) -> tuple[Callable[[Command], Command], ...]:
    """Return the options that say which cells, with what they are when not given, if anything."""

    def said(help: str, default: str) -> str:
        return f"{help}  [{default}]" if defaults else help

    def many(name: str, help: str, default: str) -> Callable[[Command], Command]:
        shown = said(help, default)
        return click.option(name, multiple=True, callback=commas, metavar="A,B,…", help=shown)

    zoo = "all (the paper's nine), everything, names, 'moco*', a file, '!byol'."
    protocol = "pf (pretrain-finetune), paf (with adapt), lv, …, my.toml."
    scheme = "self-training, zeroing, uniform, weighted, round-robin."
    heads = "transformer (MaskFormer and Sparse R-CNN), conv."
    table = (
        "The cells behind a table of the paper, 1 to 5, d2 or all, in place of --zoo, --protocol, "
        "--setting, --scheme, --heads and --tasks."
    )
    preset = said("paper, demo or tiny.", "paper; with the demo data, demo")
    return (
        many("--zoo", zoo, "all"),
        many("--protocol", protocol, "pf,paf"),
        many("--setting", "disjoint-normal, disjoint-balance, full.", "disjoint-normal"),
        many("--scheme", scheme, "self-training"),
        click.option("--heads", help=said(heads, "transformer")),
        many("--tasks", "Any of sem,driv,det.", "all three"),
        many("--seeds", "0 or 0,1,2.", "0"),
        click.option("--preset", help=preset),
        click.option("--table", metavar="N", help=table),
        click.option("--store", help="The folder of results.  [$BENCH_STORE, else ./runs]"),
    )


VALUES = (
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
    """Give a command the options that say which cells of a store; one not given fits all."""
    for option in reversed(_cells(defaults=False)):
        command = option(command)
    return command


def values(command: Command) -> Command:
    """Give a command the options that `asked` reads: which cells, and of which values and data."""
    for option in reversed((*_cells(defaults=True), *VALUES)):
        command = option(command)
    return command


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

    def request(chosen: dict[str, Any]) -> Request:
        names = (field.name for field in fields(Request) if field.name != "also")
        given = {name: chosen[_OPTION.get(name, name)] for name in names}
        given["preset"] = given["preset"] or ("demo" if demo else "paper")
        given["seeds"] = tuple(map(_seed, given["seeds"]))
        given["protocols"] = _protocols(given["protocols"])
        asked = Request(**{name: value for name, value in given.items() if value})
        if not chosen["table"]:
            return asked
        if left_out := [f"--{name}" for name in _REPLACED if chosen[name]]:
            said = f"--table {chosen['table']} says which cells: {', '.join(left_out)} left out."
            click.echo(said, err=True)
        return table(chosen["table"], asked)

    first, *others = dict.fromkeys(map(request, grids(chosen)))
    return replace(first, also=tuple(others)), place


def _protocols(given: tuple[str, ...]) -> tuple[str | Own, ...]:
    """Return the protocols that are asked for, and those that are files as what these say."""
    from protocols import ProtocolError
    from protocols.own import SUFFIX, read

    found = tuple(read(Path(one)) if one.endswith(SUFFIX) else one for one in given)
    names = [one if isinstance(one, str) else one.name for one in dict.fromkeys(found)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ProtocolError(f"Two protocols are called {twice!r}. Give one of them another name.")
    return found


def store_of(chosen: dict[str, Any]) -> Store:
    """Return the store of `--store`."""
    from bench.store import Store

    return Store(Path(chosen["store"] or os.environ.get("BENCH_STORE") or "runs"))


def read_store(chosen: dict[str, Any]) -> Store:
    """Return the store of `--store` to read; one that is named and not there is a mistake."""
    store = store_of(chosen)
    if store.root.exists() and not store.root.is_dir():
        wrong = "is a file, no store"
    elif chosen["store"] and not store.root.exists():
        wrong = "is no store: it has no cells"
    else:
        return store
    raise click.UsageError(f"{store.root} {wrong}. Give --store the folder of a bench run.")


def wanted(chosen: dict[str, Any]) -> Callable[[Cell], bool]:
    """Return whether a cell fits the selectors that were given; one not given fits all.

    Of several grids in a file it has to fit one.
    """
    every = [_wanted(one) for one in grids(chosen)]
    return lambda cell: any(fits(cell) for fits in every)


def _wanted(chosen: dict[str, Any]) -> Callable[[Cell], bool]:
    from bench.data.classes import TASKS
    from protocols import known
    from protocols.presets import HEADS, PRESETS
    from protocols.schemes import SCHEMES
    from protocols.settings import SETTINGS
    from zoo.catalog import select

    protocols = [
        one if isinstance(one, str) else one.name for one in _protocols(chosen["protocol"])
    ]
    one = {name: (chosen[name],) if chosen[name] else () for name in ("heads", "preset")}
    for name, given, values in (
        ("protocol", protocols, _known_protocols(protocols, chosen)),
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
    behind = _behind(chosen["table"]) if chosen["table"] else lambda cell: True

    def fits(cell: Cell) -> bool:
        return behind(cell) and all(
            not allowed or value in allowed
            for value, allowed in (
                (cell.zoo, zoo),
                (cell.protocol.name, protocols),
                (cell.setting, chosen["setting"]),
                (cell.protocol.scheme, chosen["scheme"]),
                (cell.protocol.heads, one["heads"]),
                (cell.protocol.preset, one["preset"]),
                (set(cell.tasks), chosen["tasks"] and [set(chosen["tasks"])]),
                (cell.seed, seeds),
            )
        )

    return fits


def _known_protocols(names: list[str], chosen: dict[str, Any]) -> tuple[str, ...]:
    """Return ours; and where others are asked for, those in the store and in the files given."""
    from bench.status import stored
    from protocols.presets import PROTOCOLS

    if set(names) <= set(PROTOCOLS):
        return PROTOCOLS
    there = [one.cell.protocol.name for one in stored(store_of(chosen)) if one.cell]
    files = [one.name for one in _protocols(chosen["protocol"]) if not isinstance(one, str)]
    return tuple(dict.fromkeys((*PROTOCOLS, *there, *files)))


def latest(chosen: dict[str, Any], store: Store) -> dict[str, Any]:
    """Return the options with the data that are meant, and where none are told those of the newest.

    That is the newest result in the store, and its preset comes along; but where a preset is asked
    for, or nothing is there, all data are meant and `data` is None.
    """
    from bench.status import age, stored

    data = chosen["data"] or os.environ.get("BENCH_DATA")
    found = [one for one in stored(store) if one.cell]
    if data or chosen["preset"] or not found:
        return {**chosen, "data": data}
    newest = max(found, key=lambda one: age(one.home, one.order))
    assert newest.cell, "it was looked for"
    preset = newest.cell.protocol.preset
    return {**chosen, "data": newest.order["data"]["root"], "preset": preset}


def _behind(number: str) -> Callable[[Cell], bool]:
    """Return whether a cell stands in a table or teaches one that does, values of --set aside."""
    from bench.grids import Request, cells, table, teachers

    def told(cell: Cell) -> tuple[Any, ...]:
        protocol = cell.protocol
        kind = (cell.zoo, cell.protocol_label, protocol.scheme, protocol.heads)
        return (*kind, cell.setting, cell.tasks)

    @cache
    def there(preset: str, seed: int) -> set[tuple[Any, ...]]:
        asked = cells(table(number, Request(preset=preset, seeds=(seed,))))
        return {told(one) for cell in asked for one in (cell, *teachers(cell))}

    table(number, Request())  # a mistake shows even where the store is empty
    return lambda cell: told(cell) in there(cell.protocol.preset, cell.seed)


_OPTION = {"protocols": "protocol", "settings": "setting", "schemes": "scheme"}
_REPLACED = ("zoo", "protocol", "setting", "scheme", "heads", "tasks")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a whole number.", param_hint="--seeds")
    return int(text)
