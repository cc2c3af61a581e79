"""`--config FILE.toml`: options kept in a file; those on the command line win.

[run]
zoo = ["all", "!byol"]
protocol = "pf,paf"
seeds = [0, 1, 2]
data = "/data/bdd100k"
set.optim.batch = 8

[slurm]
partition = "gpu"
time = "24:00:00"

Where cells of several kinds are wanted, each kind is a table [[grid]] with the selectors that it
has for itself; [run] holds what they share. Cells that several grids have are run once:

[[grid]]
protocol = "pf,paf"

[[grid]]
zoo = "clip"
protocol = "lv"
seeds = [0, 1, 2]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

COMMANDLINE = ParameterSource.COMMANDLINE
Command = TypeVar("Command", bound=Callable[..., Any])

TABLES = ("run", "slurm", "grid")
OF_A_GRID = (
    *("zoo", "protocol", "setting", "scheme", "heads", "tasks", "seeds", "preset", "table", "set"),
)
READERS = ("run", "plan", "status", "report")  # the verbs that share a file
NOT_KEPT = ("help", "config", "json", "explain", "probe")
GRIDS = "bench.config.grids"  # where click keeps the grids of a command's file


def config(command: Command) -> Command:
    """Give a command the option `--config`."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        expose_value=False,
        is_eager=True,
        callback=_read,
        metavar="FILE.toml",
        help="Options from a file: tables [run], [[grid]], [slurm]; those given here win.",
    )(command)


def _read(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Make what a file says the defaults of this command; what other verbs understand is passed by.

    Raises `click.UsageError` where it is no TOML, or holds what no verb understands.
    """
    if file is None:
        return
    try:
        content = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} is not TOML: {error}.") from None
    _check(file, "it", content, TABLES)
    for table in ("run", "slurm"):
        if not isinstance(content.get(table, {}), dict):
            raise click.UsageError(f"{file}: {table} is no table. Write [{table}].")
    tables = content.get("grid", [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise click.UsageError(f"{file}: grid is no list of tables. Write [[grid]] above each.")
    own, others = _options(context.command), _readers(context)
    known = {name for one in (context.command, *others) for name in _options(one)}
    given = content.get("run", {})
    _check(file, "[run]", given, known - {"slurm"})
    if content.get("slurm"):
        given = {**given, "slurm": content["slurm"]}
    context.default_map = {
        str(own[name].name): _value(own[name], value)
        for name, value in given.items()
        if name in own
    }
    for one in tables:
        _check(file, "[[grid]]", one, OF_A_GRID)
    context.meta[GRIDS] = [
        {
            str(own[name].name): own[name].process_value(context, _value(own[name], value))
            for name, value in one.items()
            if name in own
        }
        for one in tables
    ]


def grids(chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the options of a command for each grid of its file; as they are where it has none.

    What was given on the command line holds for all of them.
    """
    context = click.get_current_context(silent=True)
    tables = context.meta.get(GRIDS, []) if context else []
    if not context or not tables:
        return [chosen]
    given = {name for name in chosen if context.get_parameter_source(name) is COMMANDLINE}
    return [
        {**chosen, **{name: value for name, value in one.items() if name not in given}}
        for one in tables
    ]


def _check(file: Path, where: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(
                f"{file}: {where} has no {name!r}.{hint} Known: {', '.join(sorted(known))}."
            )


def _readers(context: click.Context) -> list[click.Command]:
    group = context.parent.command if context.parent else None
    commands = group.commands if isinstance(group, click.Group) else {}
    return [commands[name] for name in READERS if name in commands]


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return a command's options by their long names, without those that no file keeps."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    names = {max(one.opts, key=len).removeprefix("--"): one for one in options}
    return {name: one for name, one in names.items() if name not in NOT_KEPT}


def _value(option: click.Option, value: Any) -> Any:
    """Return a value of TOML as click would get it from the command line."""
    if isinstance(value, dict):
        return tuple(f"{key}={text}" for key, text in _pairs(value))
    if option.multiple:
        return tuple(map(_text, value)) if isinstance(value, list) else (_text(value),)
    return value if isinstance(value, bool) else _text(value)


def _pairs(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the keys and values of a table for KEY=VALUE; TOML takes dots for tables in tables."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{above}{name}.")
        else:
            yield above + name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
