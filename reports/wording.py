"""How the values of a table are put into words, the same in every format that people read."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reports.tables import METRICS, ONE_SEED, STAND_IN, Column, Entry, Row, Table

MINUS = "−"
INSIDE, OUTSIDE = "≈", "≠"
DERIVED = "§"
PAPER = "paper"


def number(entry: Entry) -> str:
    """Return the mean as it is printed, empty where there is none."""
    if entry.mean is None:
        return ""
    return signed(entry.mean) if entry.form.startswith("+") else f"{entry.mean:{entry.form}}"


def deviation(entry: Entry) -> str:
    """Return the deviation over the seeds, empty where there is none."""
    return "" if entry.std is None else f"±{entry.std:.1f}"


def signed(value: float) -> str:
    """Return a difference with its sign, and a zero without."""
    text = f"{value:+.1f}"
    return text.replace("-", MINUS) if float(text) else "0.0"


def published(entry: Entry) -> str:
    """Return the published value, empty where there is none."""
    if entry.paper is None:
        return ""
    return signed(entry.paper) if entry.form.startswith("+") else f"{entry.paper:.1f}"


def difference(entry: Entry) -> str:
    """Return what ours is more than the published value, and whether that is within the spread."""
    if entry.difference is None:
        return ""
    inside = {True: INSIDE, False: OUTSIDE, None: ""}[entry.within]
    return signed(entry.difference) + inside


def marks(row: Row, entry: Entry) -> str:
    """Return the marks of an entry but those that stand on its row."""
    if entry.mean is None:
        return entry.state_mark
    if entry.metric not in METRICS:
        return entry.state_mark
    own = "".join(m for m in (ONE_SEED, STAND_IN) if m in entry.mark and m not in row.mark)
    few = f" {entry.few}" if entry.few and entry.few not in row.mark else ""
    return entry.state_mark + own + few


def groups(table: Table) -> Iterator[tuple[str, list[Row]]]:
    """Yield the groups of a table in order, those of its references last."""
    for rows in (table.rows, table.references):
        for group, same in itertools.groupby(rows, key=lambda row: row.group):
            yield group, list(same)


def without_repeats(rows: list[Row]) -> Iterator[Row]:
    """Name a checkpoint on the first of its rows only, and put the marks of a row behind it.

    A number, as of epochs, is a value and stands on each.
    """
    before = ""
    for row in map(marked, rows):
        name, *rest = row.header
        again = bool(rest) and name == before and not name.isdecimal()
        yield replace(row, header=("" if again else name, *rest))
        before = name


def marked(row: Row) -> Row:
    """Put the marks of a row behind its header."""
    *front, last = row.header
    return replace(row, header=(*front, f"{last} {row.mark}".strip()))


def paper_header(row: Row) -> tuple[str, ...]:
    """Return what stands before the published values of a row."""
    last = f"{PAPER} {DERIVED}" if row.derived else PAPER
    return (*("" for _ in row.header[1:]), last)


def spans(columns: tuple[Column, ...], level: int) -> Iterator[tuple[str, int]]:
    """Yield the headings of a level and how many columns each is above."""
    for prefix, same in itertools.groupby(columns, lambda column: column.headings[: level + 1]):
        yield prefix[-1], len(list(same))


def levels(table: Table) -> int:
    """Return how many headings stand above each other."""
    return max(len(column.headings) for column in table.columns)


def notes(table: Table) -> tuple[str, ...]:
    """Prepend what bold and underlined mean, for the formats that show it."""
    return (*on_ranks(table.rows), *table.notes)


def on_ranks(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the note on what bold and underlined mean, where rows have them."""
    ranked = any(entry.best for row in rows for entry in row.entries)
    return ("Best in bold, second underlined.",) if ranked else ()
