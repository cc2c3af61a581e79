"""Tables whose rows are named one by one, as the paper's 1, 3, 4 and 5."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from reports.cost import cost_of
from reports.entries import cells_of, entry_of, number_causes, runs_of
from reports.tables import (
    Entry,
    Reference,
    Row,
    Table,
    check,
    columns_of,
    explained,
    ranked,
    reference,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class Part:
    """A row to lay out: its cells, one a seed, and the tasks that they have numbers for.

    `group` and `header` are those of the row, `shaded` the paper's own method.
    """

    group: str
    header: tuple[str, ...]
    results: "DataFrame"
    tasks: tuple[str, ...]
    shaded: bool = False


def by_rows(
    parts: Iterable[Part],
    references: Mapping[str, Reference],
    *,
    number: str,
    title: str,
    header: tuple[str, ...],
    metrics: tuple[str, ...],
    notes: tuple[str, ...],
) -> Table:
    """Lay out a table of these rows; the best of each group are marked.

    `references` are further rows, by name. `notes` stand behind those on marks.
    """
    causes: dict[str, int] = {}
    listed = [_row(part, metrics, causes) for part in parts]
    rows = tuple(
        row for _, group in groupby(listed, lambda row: row.group) for row in ranked(list(group))
    )
    below = tuple(
        reference(name, values, columns=len(header), metrics=metrics)
        for name, values in references.items()
    )
    return Table(
        number=number,
        title=title,
        header=header,
        columns=columns_of(metrics),
        rows=rows,
        references=below,
        notes=(*explained(rows + below, causes), *notes),
        causes=tuple(causes),
    )


def _row(part: Part, metrics: tuple[str, ...], causes: dict[str, int]) -> Row:
    check(part.results)
    cells = cells_of(part.results)
    number_causes(cells, causes, metrics)
    entries = (
        entry_of(cells, metric, causes)
        if metric.partition("/")[0] in part.tasks
        else Entry(metric=metric, state="na")
        for metric in metrics
    )
    return Row(
        group=part.group,
        header=part.header,
        entries=tuple(entries),
        model=cells[0]["zoo"],
        protocol=cells[0]["protocol"],
        shaded=part.shaded,
        runs=runs_of(cells),
        cost=cost_of(cells),
    )
