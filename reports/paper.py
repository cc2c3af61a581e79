"""The published numbers beside ours: the difference, and whether it lies within the spread.

The paper's numbers are of one seed. Where ours are of several, a difference is within the spread if
one more of our runs would be as far off with a probability of at least 5 %: |difference| is at most
t(0.975, n-1) s sqrt(1 + 1/n), the prediction interval of Student's t. Of a single run the spread
over seeds is unknown; its 95 % interval over validation frames stands in where there is one. Half
a unit of the last printed digit is granted to both.
"""

import math
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


def printed(number: str) -> list[Expected]:
    """Return the rows that a table of the paper has."""
    return [*expected(_file()[f"table{number}"])] if f"table{number}" in _file() else []


def derived(number: str) -> list[Expected]:
    """Return the rows that follow from what the paper prints elsewhere."""
    said = _file()["derived"].get(f"table{number}")
    return [] if said is None else [*expected(said)]


def beside(table: Table, remarks: tuple[str, ...] = ()) -> Table:
    """Put the published values of a table beside ours; `remarks` are more notes on them."""
    shown = tuple(_with_paper(row, table.number) for row in table.rows)
    notes = [f"Paper: {said}" for said in (*remarks, *_contradictions(table.number))]
    return replace(table, rows=shown, notes=(*table.notes, *_legend(shown), *notes))


def _with_paper(row: Row, number: str) -> Row:
    for rows, follows in ((printed(number), False), (derived(number), True)):
        for one in rows:
            if one.names(row):
                entries = tuple(_beside(entry, one.values) for entry in row.entries)
                return replace(row, entries=entries, derived=follows)
    return row


def _beside(entry: Entry, values: Any) -> Entry:
    paper = values.get(entry.metric)
    return replace(entry, paper=paper, within=within(replace(entry, paper=paper)))


def within(entry: Entry) -> bool | None:
    """Return whether the published value lies within the spread of ours; None where unknown."""
    if entry.difference is None or entry.paper is None:
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
    return (*own, *notes["all"]) if own else ()


def _legend(rows: tuple[Row, ...]) -> tuple[str, ...]:
    entries = [entry for row in rows for entry in row.entries]
    if not any(row.has_paper for row in rows):
        return ("The paper has no values for these rows",)
    alone = any(e.within is None and e.difference is not None for e in entries)
    frames = any(e.within is not None and e.std is None for e in entries)
    seeds = any(e.within is not None and e.std is not None for e in entries)
    of = [
        *(["of one more run like ours (95 % prediction interval, t)"] if seeds else []),
        *(["of one run over validation frames (95 %)"] if frames else []),
    ]
    spread = f"{INSIDE} within, {OUTSIDE} outside the spread {' or '.join(of)}"
    return (
        "paper: the published value, and ours less that",
        *([spread] if of else []),
        *(["without either mark: one seed, the spread is unknown"] if alone else []),
        *(
            [f"{DERIVED} follows from Table 1, is not printed in the paper"]
            if _any_derived(rows)
            else []
        ),
    )


def _any_derived(rows: tuple[Row, ...]) -> bool:
    return any(row.derived for row in rows)
