"""A table for programs: CSV and JSON, with every digit, one record a number.

Both are of rows and metrics as they are, whatever layout people are shown. JSON has the cells of
every row too.
"""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from reports.cost import cost_json
from reports.tables import METRICS, Entry, Row, Table


def csv(table: Table) -> str:
    """Write one line per number, reference rows included."""
    lines = [
        {
            "table": table.number,
            "title": table.title,
            "group": row.group,
            **_header(table, row),
            "metric": entry.metric,
            "mean": entry.mean,
            "std": entry.std,
            "n": entry.n,
            "asked": entry.asked,
            "seeds": " ".join(map(str, entry.seeds)),
            "low": entry.interval and entry.interval[0],
            "high": entry.interval and entry.interval[1],
            "state": entry.state or "done",
            "cause": "; ".join(_causes(table, entry)),
            "mark": entry.mark,
            "stand_in": entry.stand_in,
            "paper": entry.paper,
            "difference": entry.difference,
            "within": entry.within,
            "keys": " ".join(entry.keys),
        }
        for row in (*table.rows, *table.references)
        for entry in row.entries
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def to_json(table: Table) -> dict[str, Any]:
    """Turn a table into the plain values of `report --format json`."""
    return {
        "table": table.number,
        "title": table.title,
        "preset": table.conditions.preset or None,
        "overrides": list(table.conditions.overrides),
        "heads": table.conditions.heads or None,
        "data": table.conditions.data or None,
        "drawn": table.conditions.drawn,
        "columns": [metric for metric in table.metrics if metric in METRICS],
        "rows": [_row_json(table, row) for row in (*table.rows, *table.references)],
        "notes": list(table.notes),
        "stale": list(table.stale),
    }


def json_text(table: Table) -> str:
    """Write a table as strict JSON."""
    return json.dumps(to_json(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    cells = [_entry_json(table, entry) for entry in row.entries if entry.metric in METRICS]
    return {
        "group": row.group,
        **_header(table, row),
        "zoo": row.model or None,
        "cost": cost_json(row, table.rows),
        "derived": row.derived,
        "cells": cells,
        "runs": [asdict(run) for run in row.runs],
    }


def _entry_json(table: Table, entry: Entry) -> dict[str, Any]:
    return {
        "metric": entry.metric,
        "mean": entry.mean,
        "std": entry.std,
        "n": entry.n,
        "asked": entry.asked,
        "seeds": list(entry.seeds),
        "values": list(entry.values),
        "interval": list(entry.interval) if entry.interval else None,
        "state": entry.state or "done",
        "failures": _causes(table, entry),
        "mark": entry.mark,
        "stand_in": entry.stand_in,
        "key": list(entry.keys),
        "paper": entry.paper,
        "difference": entry.difference,
        "within": entry.within,
    }


def _causes(table: Table, entry: Entry) -> list[str]:
    return [table.causes[number - 1] for number in entry.failures]


def _header(table: Table, row: Row) -> dict[str, str]:
    names = [name.lower() for name in table.header]
    return dict(zip(names, row.header, strict=True))
