"""The page: one self-contained HTML file with the grid, the figures and where each number is from.

It is a function of plain values. Nothing in it is fetched: style, script, figures and pictures are
in the file, and what the script shows on request is JSON in it. The figures are those of `plots`,
in colours that follow the theme.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from reports import wording
from reports.drawing import BETTER, FAINT, HUES, INK, MUTED, PAPER, WORSE
from reports.entries import cells_of, entry_of, number_causes
from reports.plots import MAIN, TASKS
from reports.tables import (
    FAMILIES,
    METRICS,
    PROTOCOLS,
    STAND_IN,
    Cell,
    Entry,
    Row,
    explained,
    ranked,
)

if TYPE_CHECKING:
    from pandas import DataFrame

TEMPLATES = Path(__file__).parent / "templates"
STAGES = ("C2", "C3", "C4", "C5")
TIES_NAMED = 3  # on a card; of more their number
WORST_FIRST = ("failed", "running", "pending", "done")
# A figure's colours by the names that the page's style gives them.
NAMES = {
    INK: "ink",
    MUTED: "muted",
    FAINT: "line",
    PAPER: "paper",
    BETTER: "better",
    WORSE: "worse",
    **{color: name for name, color in HUES.items()},
}
FIGURES = {
    "arrows": {
        "nav": "pf → paf",
        "title": "From pretrain-finetune to pretrain-adapt-finetune",
        "text": "One way a checkpoint and task: what an adapt stage before finetuning changes, at "
        "the same number of epochs. Whether it is more than chance: bench compare pf paf.",
    },
    "curves": {
        "nav": "Curves",
        "title": "Learning curves",
        "text": "Losses while training, and scores where validations were asked for, stage behind "
        "stage. A line is one cell.",
    },
    "classes": {
        "nav": "Classes",
        "title": "Scores of the classes",
        "text": "A dot is one checkpoint, mean over seeds. Point at a row of the results to see "
        "its own.",
    },
    "cost": {
        "nav": "Cost",
        "title": "What it costs",
        "text": "Training alone, of all GPUs or processes of a cell; teachers and pseudo labels "
        "are shared by all and not counted.",
    },
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One comparison: cells that differ by checkpoint, protocol and seed alone.

    `results` is the DataFrame of a table with further columns: `seconds` (training, all stages) and
    C2 to C5 (deviation of what the loaded trunk puts out); NaN where unknown. `figures` are SVGs.
    """

    name: str
    results: "DataFrame"
    figures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows.

    `cells` says by key what is known of each cell, as sections of (term, value); `panels` are the
    pictures of each section by its id (s0, s1, …), `legend` the classes of each task with their
    colours. `origin` says where all numbers are from, `conditions` what is not the paper's in them;
    `tables` are tables of the paper as HTML, by title.
    """

    title: str
    conditions: str
    sections: Sequence[Section]
    cells: Mapping[str, Any]
    panels: Mapping[str, Any]
    legend: Mapping[str, Sequence[tuple[str, str]]]
    origin: Sequence[tuple[str, str]]
    tables: Mapping[str, str]
    notes: Sequence[str] = ()


def page(one: Page) -> str:
    """Write the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = [_shown(number, section) for number, section in enumerate(one.sections)]
    told = {"cells": one.cells, "panels": one.panels, "legend": one.legend}
    return environment.get_template("page.html.j2").render(
        page=one,
        sections=shown,
        stand_in=any(section["stand_in"] for section in shown),
        metrics=METRICS,
        spans=[(task, len(list(of))) for task, of in groupby(METRICS.values(), itemgetter(0))],
        headings=FIGURES,
        protocols=PROTOCOLS,
        style=Markup((TEMPLATES / "page.css").read_text()),
        script=Markup((TEMPLATES / "page.js").read_text()),
        told=embedded(told),
        tables={title: Markup(text) for title, text in one.tables.items()},
    )


def embedded(value: Any) -> Markup:
    """Return a value as JSON that can stand in a script element: no tag can end it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def themed(svg: str, name: str) -> Markup:
    """Return an SVG for use inside a page.

    Its colours become the page's, its ids begin with `name`, and what is about a checkpoint says so
    in `data-zoo`.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="zoo\.(.+?)\.[^."]+(?:/[^."]+)?\.\d+"', r'<g data-zoo="\1"', svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"(font: [\d.]+px) '[^']*'(?:, [^;\"]*)?", r"\1 inherit", svg)
    for color, variable in NAMES.items():
        svg = svg.replace(color, f"var(--{variable}, {color})")
    return Markup(svg)


def duration(seconds: float | None) -> str:
    """Return a time as a person reads it; nothing for None and NaN."""
    if seconds is None or seconds != seconds:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _shown(number: int, section: Section) -> dict[str, Any]:
    """Return what the template shows of a comparison."""
    causes: dict[str, int] = {}
    widest = max(section.results[stage].max() for stage in STAGES)
    groups = [
        cells_of(mine) for _, mine in section.results.groupby(["zoo", "protocol"], sort=False)
    ]
    for cells in groups:
        number_causes(cells, causes)
    rows = ranked([_row(cells, causes) for cells in groups])
    lines = []
    for row, cells in zip(rows, groups, strict=True):
        lines.append(_line(row, cells, "mean", widest))
        lines += [_line(_row([one], causes), [one], "cell", widest) for one in cells]
    return {
        "id": f"s{number}",
        "name": section.name,
        "lines": lines,
        "stand_in": bool(section.results["stand_in"].any()),
        "families": {FAMILIES[name]: name for name in dict.fromkeys(section.results["family"])},
        "protocols": list(dict.fromkeys(section.results["protocol"])),
        "checkpoints": dict(zip(section.results["zoo"], section.results["label"], strict=True)),
        "summary": list(_summary(section.results, rows)),
        "figures": {
            name: themed(svg, f"s{number}-{name}") for name, svg in section.figures.items()
        },
        "counts": section.results["state"].value_counts().to_dict(),
        "notes": (*wording.on_ranks(rows), *explained(rows, causes)),
    }


def _row(cells: list[Cell], causes: Mapping[str, int]) -> Row:
    first = cells[0]
    return Row(
        group=FAMILIES[first["family"]],
        header=(first["label"], first["protocol"]),
        entries=tuple(entry_of(cells, metric, causes) for metric in METRICS),
        shaded=first["protocol"] == "paf",
    )


def _line(row: Row, cells: list[Cell], kind: str, widest: float) -> dict[str, Any]:
    """Return a line of the grid: of one cell, or of all seeds (`kind` is cell or mean)."""
    first, seconds = cells[0], _mean(cells, "seconds")
    scales, states = [_mean(cells, stage) for stage in STAGES], [cell["state"] for cell in cells]
    named = zip(STAGES, scales, strict=True)
    return {
        "kind": kind,
        "row": row,
        "zoo": first["zoo"],
        "family": first["family"],
        "seeds": int(first["seed"]) if kind == "cell" else states.count("done"),
        "of_seeds": "" if kind == "cell" or {*states} == {"done"} else f" of {len(cells)}",
        "entries": [_entry(row, entry) for entry in row.entries],
        "all_keys": " ".join(cell["key"] for cell in cells if isinstance(cell["key"], str)),
        "state": min(states, key=WORST_FIRST.index),
        "said": states[0] if len({*states}) == 1 else f"{states.count('done')} of {len(cells)}",
        "seconds": seconds,
        "took": duration(seconds),
        "scales": [
            {"value": value, "share": 0 if value is None else round(value / widest, 3)}
            for value in scales
        ],
        "scales_said": ", ".join(f"{name} {value}" for name, value in named),
    }


def _entry(row: Row, entry: Entry) -> dict[str, Any]:
    told = {"best": entry.best, "second": entry.second}
    values = ", ".join(f"{value:.2f}" for value in entry.values)
    between = "" if entry.interval is None else "; 95 % interval {:.1f} to {:.1f}"
    return {
        "classes": " ".join(name for name, holds in told.items() if holds),
        "metric": entry.metric,
        "value": "" if entry.mean is None else f"{entry.mean:.6f}",
        "number": wording.number(entry),
        "std": wording.deviation(entry),
        "mark": wording.marks(row, entry),
        "behind": " ".join(entry.keys),
        "title": values + between.format(*(entry.interval or ())),
    }


def _mean(cells: list[Cell], column: str) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [value for cell in cells if (value := cell[column]) == value]
    return round(fmean(known), 3) if known else None


def _summary(results: "DataFrame", rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield for each task its best rows, and what `paf` changes on the mean over checkpoints.

    As in the table the best are those that print the same number, of rows that miss no seed; of the
    others only where there is none.
    """
    done = results[results["state"] == "done"]
    for task, metric in MAIN.items():
        place = list(METRICS).index(metric)
        known = done[done[metric].notna()]
        if known.empty:
            continue
        best, tied = _best([(row.header, row.entries[place]) for row in rows])
        means = known.groupby(["zoo", "protocol"], sort=False)[metric].mean().unstack("protocol")
        both = means.reindex(columns=["pf", "paf"]).dropna()
        rises = (both["paf"] - both["pf"]).round(1)
        yield {
            "task": TASKS[task],
            "metric": METRICS[metric][1],
            "best": best,
            "tied": tied,
            "named": len(tied) <= TIES_NAMED,
            "done": len(known),
            "cells": sum(task in tasks for tasks in results["tasks"]),
            "pairs": len(both),
            "said": wording.signed(float(rises.mean())) if len(both) else "",
            "better": int((rises > 0).sum()),
            "mark": STAND_IN if known["stand_in"].any() else "",
        }


def _best(found: list[tuple[tuple[str, ...], Entry]]) -> tuple[str, list[tuple[str, ...]]]:
    """Return the best number as it is printed, and the headers of the rows that have it."""
    whole = [one for one in found if one[1].mean is not None and not one[1].state]
    judged = whole or [one for one in found if one[1].mean is not None]
    best = max(float(wording.number(entry)) for _, entry in judged)
    tied = [header for header, entry in judged if float(wording.number(entry)) == best]
    return f"{best:.1f}", tied
