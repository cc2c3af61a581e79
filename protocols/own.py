"""A user's own protocol: a TOML file with stages of its own.

    name = "thaw"            # what its cells and its rows are called
    base = "paf"             # whose other values it has; lv, prompt and v2l bring their adapter

    [[stages]]
    name = "heads"
    epochs = 2
    lr = 2.5e-4
    learns = ["neck", "heads"]

Stages are taken as they are written, whatever the preset; sizes, inputs, optimiser and pseudo
labels are the preset's.
"""

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from protocols import ProtocolError, check, known
from protocols.presets import PROTOCOLS, protocol
from protocols.stages import Protocol, Stage

SUFFIX = ".toml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
KEYS = ("name", "base", "stages")


@dataclass(frozen=True, kw_only=True)
class Own:
    """What such a file says."""

    name: str
    base: str
    stages: tuple[Stage, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return what a file says, from the values in it or from those of `asdict`.

        ProtocolError where a key is unknown or missing, or a value of another kind or not possible.
        """
        _only(values, KEYS, "")
        name, base = values.get("name"), values.get("base", "paf")
        right = isinstance(name, str) and NAME.fullmatch(name) is not None
        check(right, "name", name, "1 to 40 letters, digits, _ and -")
        right = name not in PROTOCOLS
        check(right, "name", name, f"one that is not taken ({', '.join(PROTOCOLS)} are)")
        known("base", str(base), PROTOCOLS)
        tables = values.get("stages")
        if not isinstance(tables, list | tuple) or not tables:
            raise ProtocolError("There are no stages. Write a table [[stages]] for each.")
        stages = tuple(_stage(table, number) for number, table in enumerate(tables, start=1))
        names = [stage.name for stage in stages]
        check(len({*names}) == len(names), "stages", ", ".join(names), "names that differ")
        check(any(stage.epochs for stage in stages), "stages", "0 epochs", "1 epoch or more")
        own = cls(name=str(name), base=str(base), stages=stages)
        own.protocol()  # only bases with an adapter can have it learn
        return own

    def protocol(self, preset: str = "paper", heads: str = "transformer") -> Protocol:
        """Return the protocol with the values of a preset, and one kind of heads."""
        return replace(protocol(self.base, preset, heads), name=self.name, stages=self.stages)


def read(file: Path) -> Own:
    """Return the protocol in a TOML file; ProtocolError, with the file's name, for any mistake."""
    try:
        return Own.from_dict(tomllib.loads(file.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{file} is not TOML: {error}.") from None
    except ProtocolError as error:
        raise ProtocolError(f"{file}: {error}") from None
    except OSError as error:
        raise ProtocolError(f"--protocol {file}: {error.strerror}.") from None


def base_of(value: Protocol) -> str:
    """Return the name of the protocol that a protocol's other values come from.

    It is its own name for one of ours. pf and paf differ in nothing but their stages.
    """
    if value.name in PROTOCOLS:
        return value.name
    return value.adapter.name if value.adapter else "paf"


def _stage(table: Any, number: int) -> Stage:
    check(isinstance(table, dict), f"stages, number {number},", table, "a table [[stages]]")
    where = f"stages.{table.get('name', number)}"
    name = table.get("name")
    right = isinstance(name, str) and NAME.fullmatch(name) is not None
    check(right, f"the name of stage {number}", name, "letters, digits, _ and -")
    _only(table, tuple(field.name for field in fields(Stage)), where)
    values = {}
    for field in fields(Stage):
        if field.name in table:
            values[field.name] = _value(f"{where}.{field.name}", table[field.name], field.type)
        elif field.default is MISSING:
            raise ProtocolError(f"{where} has no {field.name}.")
    return Stage(**values)


def _only(given: Iterable[str], names: tuple[str, ...], where: str) -> None:
    for name in given:
        known(f"key of {where}" if where else "key", name, names)


def _value(key: str, value: Any, kind: Any) -> Any:
    """Return a value of TOML as a field of this kind holds it."""
    fits, right, made = _KINDS[kind]
    check(fits(value), key, value, right)
    return made(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


def _whole(value: Any) -> bool:
    return _number(value) and isinstance(value, int)


def _text(value: Any) -> bool:
    return isinstance(value, str)


# The kinds of a stage's fields: what fits, how that is said, what it becomes.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str, Callable[[Any], Any]]] = {
    int: (_whole, "a whole number", int),
    float: (_number, "a number, as in 2.5e-4", float),
    str: (_text, "a text", str),
    tuple[str, ...]: (_listed(_text), "a list of texts", tuple),
    tuple[float, ...]: (
        _listed(_number),
        "a list of numbers",
        lambda values: tuple(map(float, values)),
    ),
}
