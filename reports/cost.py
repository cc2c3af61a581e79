"""What training took: GPU-hours of each stage and of a cell, and paf beside pf.

Read from three columns of the DataFrame, where it has them: `hours` (stage: hours of one process
times their number; None where nobody knows), `device` and `gpus` (how many trained a cell).
"""

import statistics
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from reports.tables import Cell, Column, Entry, Row, Table

ALL, RATIO = "hours/all", "ratio/to pf"
STAGES_OF_PF = ("finetune",)
CPU = "cpu"
OF_PF = (
    "Ratio to pf: all hours over those of pf of the same checkpoint; the paper says that adapt "
    "costs no extra training"
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Hours of each stage, in their order, as means over the `n` seeds that are done.

    They are GPU-hours, or of a process where `devices` are processors.
    """

    stages: dict[str, float]
    devices: tuple[str, ...]
    gpus: tuple[int, ...]
    n: int

    @property
    def all(self) -> float:
        """Hours of all stages."""
        return sum(self.stages.values())

    @property
    def unit(self) -> str:
        """What the hours are of."""
        on_cpu = {device.startswith(CPU) for device in self.devices}
        return "process-hours" if on_cpu == {True} else "GPU-hours"


def cost_of(cells: list[Cell]) -> Cost | None:
    """Return what the done cells of a row took; None where that is not known of all of them."""
    done = [cell for cell in cells if cell["state"] == "done"]
    hours = [one for cell in done if isinstance(one := cell.get("hours"), dict)]
    if not hours or len(hours) < len(done) or len({tuple(one) for one in hours}) > 1:
        return None
    return Cost(
        stages={stage: statistics.fmean(one[stage] for one in hours) for stage in hours[0]},
        devices=tuple(sorted({cell["device"] for cell in done})),
        gpus=tuple(sorted({int(cell["gpus"]) for cell in done})),
        n=len(hours),
    )


def ratio(row: Row, rows: tuple[Row, ...]) -> float | None:
    """Return the hours of a row in those of pf of its checkpoint; None where none compares."""
    base = _base(row, rows)
    if base is None or base.cost is None or row.cost is None or base.cost.all == 0:
        return None
    same = base.cost.devices == row.cost.devices
    return row.cost.all / base.cost.all if same else None


def with_cost(table: Table) -> Table:
    """Add the columns of what training took."""
    costs = [row.cost for row in table.rows if row.cost]
    by_length = sorted(costs, key=lambda cost: -len(cost.stages))  # those of paf: adapt, finetune
    stages = tuple(dict.fromkeys(stage for cost in by_length for stage in cost.stages))
    paired = any(_base(row, table.rows) for row in table.rows)
    names = (*(f"hours/{stage}" for stage in stages), ALL, *([RATIO] if paired else []))
    columns = (Column(metric=name, headings=_headings(name)) for name in names)
    never = _never(table.rows, names)
    return replace(
        table,
        columns=(*table.columns, *columns),
        rows=tuple(
            _with(row, names, _values(row, table.rows), never.get(row.protocol, ()))
            for row in table.rows
        ),
        references=tuple(_with(row, names, {}, names) for row in table.references),
        notes=(*table.notes, *_notes(costs, paired)),
    )


def cost_json(row: Row, rows: tuple[Row, ...]) -> dict[str, Any] | None:
    """Return the cost of a row as plain values."""
    cost = row.cost
    if cost is None:
        return None
    return {
        "unit": cost.unit,
        "devices": list(cost.devices),
        "per_cell": list(cost.gpus),
        "stages": cost.stages,
        "all": cost.all,
        "of_pf": ratio(row, rows),
        "n": cost.n,
    }


def _base(row: Row, rows: tuple[Row, ...]) -> Row | None:
    """Return the one row of pf that a row of another protocol is compared with."""
    pf = [
        other
        for other in rows
        if (other.group, other.model, other.protocol) == (row.group, row.model, "pf")
    ]
    return pf[0] if len(pf) == 1 and row.protocol != "pf" and row.model else None


def _values(row: Row, rows: tuple[Row, ...]) -> dict[str, float]:
    if row.cost is None:
        return {}
    share = ratio(row, rows)
    return {
        **{f"hours/{stage}": hours for stage, hours in row.cost.stages.items()},
        ALL: row.cost.all,
        **({} if share is None else {RATIO: share}),
    }


def _headings(name: str) -> tuple[str, str]:
    above, _, own = name.partition("/")
    return above.capitalize(), own


def _never(rows: tuple[Row, ...], names: tuple[str, ...]) -> dict[str, list[str]]:
    """Return which columns never apply to a protocol: those of stages that it does not have.

    Of a protocol that is not the paper's this is known once a row of it is done.
    """
    stages = {"pf": STAGES_OF_PF} | {
        row.protocol: tuple(row.cost.stages) for row in rows if row.cost
    }
    return {
        protocol: [
            *(name for name in names if _is_stage(name) and name.partition("/")[2] not in mine),
            *([RATIO] if protocol == "pf" else []),
        ]
        for protocol, mine in stages.items()
    }


def _is_stage(name: str) -> bool:
    return name not in (ALL, RATIO)


def _with(
    row: Row, names: tuple[str, ...], values: dict[str, float], never: Collection[str]
) -> Row:
    missing = next((entry.state for entry in row.entries if entry.state not in ("", "na")), "na")

    def entry(name: str) -> Entry:
        if name in values:
            n, form = row.cost.n if row.cost else 0, _form(name, values[name])
            return Entry(metric=name, mean=values[name], n=n, asked=n, form=form)
        gone = row.cost is not None or name in never
        return Entry(metric=name, state="na" if gone else missing)

    return replace(row, entries=(*row.entries, *map(entry, names)))


def _form(name: str, value: float) -> str:
    return ".2f" if name == RATIO else ".1f" if value >= 10 else ".3f"


def _notes(costs: list[Cost], paired: bool) -> tuple[str, ...]:
    if not costs:
        return ("Hours: no cell is done",)
    devices = "; ".join(sorted({device for cost in costs for device in cost.devices}))
    units = " and ".join(sorted({cost.unit for cost in costs}))
    return (
        f"Hours: {units} of training on {devices}, means over seeds; scoring, starting, teachers "
        "and steps that were lost and repeated are not in them",
        *([OF_PF] if paired else []),
    )
