"""What `cell.json` and `result.json` hold at least, by name and kind; this file reads none."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

Kind = tuple[str, Callable[[Any], bool]]  # how a person calls it, and whether a value is one
MISSING = object()
ROUNDING = 1e-6  # by so much a mean of 100s may be more


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _score(value: Any) -> bool:
    if value is None:
        return True
    return _number(value) and (value != value or -ROUNDING <= value <= 100 + ROUNDING)


def _time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


TEXT: Kind = ("a text", lambda value: isinstance(value, str))
WHOLE: Kind = ("a whole number", lambda value: _number(value) and isinstance(value, int))
RANKS: Kind = ("a number of processes", lambda value: WHOLE[1](value) and value > 0)
COUNT: Kind = ("a number from 0 up", lambda value: _number(value) and 0 <= value < float("inf"))
SCORE: Kind = ("a score from 0 to 100", _score)
TIME: Kind = ("a time with its zone", _time)
FLAG: Kind = ("true or false", lambda value: isinstance(value, bool))
NAMES: Kind = ("an object", lambda value: isinstance(value, dict))
LIST: Kind = ("a list", lambda value: isinstance(value, list))
FILLED: Kind = ("a list with something in it", lambda value: LIST[1](value) and len(value) > 0)

# `*` stands for every name, or every place of a list; `?` says that it may be missing.
ORDER: tuple[tuple[str, Kind], ...] = (
    *(("address", TEXT), ("key", TEXT), ("version", WHOLE), ("resolved", NAMES)),
    *(("weights", NAMES), ("weights.row", NAMES), ("weights.stand_in", FLAG)),
    *((f"weights.row.{name}", TEXT) for name in ("name", "label", "family")),
    *(("parts?", NAMES), ("parts?.*", NAMES), ("parts?.*.stand_in", FLAG)),
    *(("data", NAMES), ("data.root", TEXT), ("data.sha256", TEXT), ("data.drawn", FLAG)),
    *(("split?", NAMES), ("split?.counts", NAMES), ("split?.counts.*", WHOLE)),
    *(("split?.frames", WHOLE), ("needs?", LIST), ("needs?.*", TEXT)),
)
RESULT: tuple[tuple[str, Kind], ...] = (
    *(("key", TEXT), ("metrics", NAMES), ("metrics.*", SCORE)),
    *(("constant", NAMES), ("constant.*", SCORE)),
    *(("stages", LIST), ("stages.*", NAMES), ("stages.*.name", TEXT), ("stages.*.seconds", COUNT)),
    *((f"stages.*.{name}?", COUNT) for name in ("epochs", "steps", "images")),
    *(("provenance", NAMES), ("provenance.device", TEXT), ("provenance.finished", TIME)),
    *(
        ("provenance.ranks?", FILLED),
        ("provenance.ranks?.*", RANKS),
        ("provenance.threads?", WHOLE),
    ),
    *(("provenance.packages?", NAMES), ("provenance.sources?", LIST)),
    *(("provenance.sources?.*", TEXT), ("provenance.time?", TIME)),
)

TOOK = tuple(one for one in RESULT if one[0].startswith(("stages", "provenance")))  # what it cost


def mistake(record: Any, needs: tuple[tuple[str, Kind], ...]) -> str | None:
    """Return the first thing in a record that is not as it has to be; None where all is."""
    for path, (what, fits) in needs:
        for place, value in _places(record, path.split(".")):
            if value is MISSING:
                return f"{place} is missing"
            if not fits(value):
                return f"{place} is {value!r:.40}, not {what}"
    return None


def _places(value: Any, path: list[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every place of a path with what is there; what holds it has been looked at before."""
    if not path:
        yield place, value
        return
    name, rest = path[0].removesuffix("?"), path[1:]
    if name == "*":
        found = value.items() if isinstance(value, dict) else enumerate(value)
    else:
        found = [(name, value[name])] if name in value else []
        if not found and not path[0].endswith("?"):
            yield f"{place}.{name}".lstrip("."), MISSING
    for one, inside in found:
        yield from _places(inside, rest, f"{place}.{one}".lstrip("."))
