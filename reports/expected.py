"""Values that a table should have: a TOML file of rows, and what misses them.

    [table2.MoCo-v2]
    pf = {"sem/mIoU" = 10.3, "det/mAP" = 26.0}
    [table3.Full.MaskFormer]
    "semantic segmentation" = {"sem/mIoU" = 57.1}

Tables go by the names of their files. A row goes by what stands before its numbers, its group
included: as many of these words, in their order, as tell it from the others.
"""

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.tables import METRICS, ReportError, Row, Table, listed

_EXAMPLE = '{"sem/mIoU" = 61.2}'


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The values of one row, by metric: `path` are the words that the row goes by."""

    path: tuple[str, ...]
    values: Mapping[str, float]

    def names(self, row: Row) -> bool:
        """Return whether this is that row: whether its words hold the path, in order."""
        words = iter((row.group, *row.header))
        return all(word in words for word in self.path)


def read(file: Path) -> dict[str, Any]:
    """Return what a TOML file of values says, by table."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"There is no file {file} of expected values.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ReportError(f"{file} is not TOML: {error}.") from None


def expected(said: Any, table: str = "", path: tuple[str, ...] = ()) -> Iterator[Expected]:
    """Yield the rows of one table of such a file; ReportError for what is no row."""
    where = ".".join(filter(None, (table, *path)))
    if not isinstance(said, dict):
        raise ReportError(f"{where} is {said!r}; it must be a table of metrics: {_EXAMPLE}.")
    if said and not any(isinstance(value, dict) for value in said.values()):
        _check_row(where, said)
        yield Expected(path=path, values=said)
        return
    for word, inner in said.items():
        yield from expected(inner, table, (*path, word))


def _check_row(where: str, said: Mapping[str, Any]) -> None:
    for name, value in said.items():
        if name not in METRICS and "/" not in name:  # a row, not a metric
            raise ReportError(
                f"{where}.{name} is {value!r}; it must be a table of metrics: {_EXAMPLE}."
            )
    unknown = [name for name in said if name not in METRICS]
    if unknown:
        raise ReportError(f"{where}: {listed(unknown)}. Metrics are: {', '.join(METRICS)}.")
    wrong = [value for value in said.values() if not _is_number(value)]
    if wrong:
        raise ReportError(f"{where}: {listed(wrong)} is no number.")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def check_rows(name: str, table: Table, rows: Iterable[Expected]) -> None:
    """Raise `ReportError` for what names no row of a table, or several."""
    for one in rows:
        named = [row for row in table.rows if one.names(row)]
        if len(named) != 1:
            said = f"there are {len(named)} rows" if named else "there is no row"
            raise ReportError(
                f"{'.'.join((name, *one.path))}: {said} of that name. "
                f"{'Name one of' if named else 'Rows are'}: {_names(named or table.rows)}."
            )


def _names(rows: Sequence[Row]) -> str:
    """List rows by their headers, and by their groups too where these do not tell them apart."""
    alike = len({row.header for row in rows}) < len(rows)
    words = ((*([row.group] if alike else []), *row.header) for row in rows)
    return ", ".join(" ".join(filter(None, of)) for of in words)


def misses(name: str, table: Table, rows: list[Expected], tol: float) -> list[str]:
    """Return a line for each value of a table that is not there, or not within `tol`.

    Each of `rows` has to name one row of it: `check_rows`.
    """
    found = []
    for one in rows:
        (named,) = [row for row in table.rows if one.names(row)]
        found += _of_row(" ".join((name, *one.path)), named, one.values, tol)
    return found


def _of_row(where: str, row: Row, values: Mapping[str, float], tol: float) -> Iterator[str]:
    entries = {entry.metric: entry for entry in row.entries}
    for metric, value in values.items():
        entry = entries.get(metric)
        wanted = f"expected {value:g} ± {tol:g}"
        if entry is None:
            yield f"{where}, {metric}: the table has no such column, {wanted}"
        elif entry.mean is None or entry.state:
            seeds = f" ({entry.n} of its seeds done)" if entry.n else ""
            yield f"{where}, {metric}: {_STATES[entry.state]}{seeds}, {wanted}"
        elif abs(entry.mean - value) > tol + 1e-9:
            yield f"{where}, {metric}: {entry.mean:.2f}, {wanted}"


_STATES = {
    "pending": "pending",
    "running": "running",
    "failed": "failed",
    "na": "does not apply",
}
