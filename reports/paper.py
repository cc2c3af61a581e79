"""The published numbers beside ours: the difference, and whether it lies within the spread.

The paper's numbers are of one seed. Where ours are of several, a difference is within the spread if
one more of our runs would be as far off with a probability of at least 5 %: |difference| is at most
t(0.975, n-1) s sqrt(1 + 1/n), the prediction interval of Student's t. Of a single run the spread
over seeds is unknown; its 95 % interval over validation frames stands in where there is one. Half
a unit of the last printed digit is granted to both. Nothing is said of what cannot agree with the
paper but by chance: stand-in weights, drawn data, another preset.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from reports.expected import Expected, expected, read
from reports.tables import Entry, Row, Table
from reports.wording import DERIVED, INSIDE, OUTSIDE

FILE = Path(__file__).with_name("published.toml")
ROUNDING = 0.05


@cache
def _file() -> dict[str, Any]:
    return read(FILE)


def papers_tables() -> tuple[str, ...]:
    """Return the numbers of the tables that the paper prints."""
    return tuple(name.removeprefix("table") for name in _file() if name.startswith("table"))


def published_row(number: str, *words: str) -> Mapping[str, float]:
    """Return the printed values of the row that these words lead to, if there is one."""
    found = _file().get(f"table{number}", {})
    for word in words:
        found = found.get(word, {})
    return found


def beside(table: Table, remarks: tuple[str, ...] = (), *, comparable: bool = True) -> Table:
    """Put the published values of a table beside ours; `remarks` are more notes on them.

    Rows that are not `comparable`, as those of another preset, are not said to agree or to differ.
    """
    shown = tuple(_with_paper(row, table.number, comparable) for row in table.rows)
    notes = (f"Paper: {said}" for said in (*remarks, *_contradictions(table.number)))
    return replace(table, rows=shown, notes=(*table.notes, *_legend(shown, comparable), *notes))


def values_of(table: Table) -> list[Expected]:
    """Return the published values that stand in a table, as what is expected of it."""
    values = [
        (row, {entry.metric: entry.paper for entry in row.entries if entry.paper is not None})
        for row in table.rows
    ]
    return [
        Expected(path=tuple(filter(None, (row.group, *row.header))), values=of)
        for row, of in values
        if of
    ]


def _with_paper(row: Row, number: str, comparable: bool) -> Row:
    for said, follows in ((_file(), False), (_file()["derived"], True)):
        for one in expected(said.get(f"table{number}", {})):
            if one.names(row):
                entries = tuple(_entry(entry, one.values, comparable) for entry in row.entries)
                return replace(row, entries=entries, derived=follows)
    return row


def _entry(entry: Entry, values: Mapping[str, float], comparable: bool) -> Entry:
    known = replace(entry, paper=values.get(entry.metric))
    return replace(known, within=within(known) if comparable else None)


def within(entry: Entry) -> bool | None:
    """Return whether the published value lies within the spread of ours.

    None where that is unknown, and of stand-ins, which are about nothing that the paper measured.
    """
    if entry.difference is None or entry.paper is None or entry.stand_in:
        return None
    if entry.std is not None:
        return abs(entry.difference) <= _half_width(entry.std, entry.n) + ROUNDING
    if entry.interval is None:
        return None
    low, high = entry.interval
    return low - ROUNDING <= entry.paper <= high + ROUNDING


def _half_width(std: float, n: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975)) * std * math.sqrt(1 + 1 / n)


def _contradictions(number: str) -> tuple[str, ...]:
    notes = _file()["notes"]
    own = notes.get(f"table{number}", [])
    return (*own, *notes["all"])


def _legend(rows: tuple[Row, ...], comparable: bool) -> tuple[str, ...]:
    entries = [entry for row in rows for entry in row.entries if not entry.stand_in]
    if not any(row.has_paper for row in rows):
        return ("The paper has no values for these rows",)
    follows = any(row.derived for row in rows)
    alone = comparable and any(e.within is None and e.difference is not None for e in entries)
    frames = any(e.within is not None and e.std is None for e in entries)
    seeds = any(e.within is not None and e.std is not None for e in entries)
    of = [
        *(["of one more run like ours (95 % prediction interval, t)"] if seeds else []),
        *(["of one run over validation frames (95 %)"] if frames else []),
    ]
    said = {
        "paper: the published value, and ours less that": True,
        f"{INSIDE} within, {OUTSIDE} outside the spread {' or '.join(of)}": of,
        "without either mark: one seed, the spread is unknown": alone,
        f"{DERIVED} not printed in the paper: follows from its Table 1": follows,
    }
    return tuple(note for note, holds in said.items() if holds)
