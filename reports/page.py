"""The page: one self-contained HTML file with the grid, the figures and where each number is from.

It is a function of plain values. Nothing in it is fetched: style, script, figures and pictures are
in the file, and what the script shows on request is JSON in it. The figures are those of `plots`,
in colours that follow the theme.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from reports.drawing import BETTER, FAINT, HUES, INK, MUTED, PAPER, WORSE
from reports.tables import (
    FAMILIES,
    METRICS,
    PROTOCOLS,
    STAND_IN,
    Entry,
    Row,
    entry_of,
    explained,
    number_causes,
    ranked,
)

if TYPE_CHECKING:
    from pandas import DataFrame

TEMPLATES = Path(__file__).parent / "templates"
STAGES = ("C2", "C3", "C4", "C5")
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
    "arrows": "From pretrain-finetune to pretrain-adapt-finetune",
    "curves": "Learning curves",
    "classes": "Scores of the classes",
    "cost": "What it costs",
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
    pictures by the name of a comparison; `classes` and `colors` name what is drawn in them. `origin`
    says where the numbers are from, `tables` are tables of the paper as HTML, by title.
    """

    title: str
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
        stages=STAGES,
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
    means = list(_lines(section.results, causes))
    rows = ranked([line["row"] for line in means])
    for line, row in zip(means, rows, strict=True):
        line["row"] = row
    return {
        "id": f"s{number}",
        "name": section.name,
        "lines": [line for mean in means for line in (mean, *mean["seeds"])],
        "stand_in": bool(section.results["stand_in"].any()),
        "families": {FAMILIES[name]: name for name in dict.fromkeys(section.results["family"])},
        "protocols": list(dict.fromkeys(section.results["protocol"])),
        "checkpoints": dict(zip(section.results["zoo"], section.results["label"], strict=True)),
        "summary": list(_summary(section.results)),
        "figures": {
            name: themed(svg, f"s{number}-{name}") for name, svg in section.figures.items()
        },
        "counts": section.results["state"].value_counts().to_dict(),
        "notes": explained(tuple(rows), causes),
    }


def _lines(results: "DataFrame", causes: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield a line for each checkpoint and protocol, means over its seeds; and in it the seeds'."""
    for (_, _), cells in results.groupby(["zoo", "protocol"], sort=False):
        number_causes(cells, causes)
        alone = [cells.iloc[i : i + 1] for i in range(len(cells))]
        seeds = [_line(one, causes, kind="cell") for one in alone]
        yield {**_line(cells, causes, kind="mean"), "seeds": seeds}


def _line(cells: "DataFrame", causes: Mapping[str, int], *, kind: str) -> dict[str, Any]:
    first = cells.iloc[0]
    row = Row(
        group=FAMILIES[first["family"]],
        header=(first["label"], first["protocol"]),
        entries=tuple(entry_of(cells, metric, causes) for metric in METRICS),
        shaded=first["protocol"] == "paf",
    )
    seconds = cells["seconds"].mean()
    return {
        "kind": kind,
        "row": row,
        "zoo": first["zoo"],
        "family": first["family"],
        "mark": STAND_IN if cells["stand_in"].any() else "",
        "seeds_said": ", ".join(map(str, cells["seed"])) if kind == "cell" else len(cells),
        "keys": " ".join(key for key in cells["key"] if isinstance(key, str)),
        "state": _states(cells["state"]),
        "seconds": None if seconds != seconds else round(float(seconds), 1),
        "took": duration(seconds),
        "scales": [_known(cells[stage].mean()) for stage in STAGES],
    }


def _known(value: float) -> float | None:
    return None if value != value else round(float(value), 3)


def _states(states: Iterable[str]) -> str:
    """Return the state of some cells in a word, the worst first."""
    there = set(states)
    return next(name for name in ("failed", "running", "pending", "done") if name in there)


def _summary(results: "DataFrame") -> Iterator[dict[str, Any]]:
    """Yield for each task its best cell, and what `paf` changes on the mean over checkpoints."""
    done = results[results["state"] == "done"]
    for metric in ("sem/mIoU", "driv/mIoU", "det/mAP"):
        known = done[done[metric].notna()]
        if known.empty:
            continue
        means = known.groupby(["zoo", "label", "protocol"], sort=False)[metric].mean()
        wide = means.unstack("protocol")
        both = wide.dropna(subset=["pf", "paf"]) if {"pf", "paf"} <= set(wide) else wide.iloc[:0]
        _, label, protocol = means.idxmax()
        rises = both["paf"] - both["pf"] if len(both) else None
        yield {
            "task": {"SS": "Semantic segmentation", "DA": "Drivable area", "Det": "Detection"}[
                METRICS[metric][0]
            ],
            "metric": METRICS[metric][1],
            "best": float(means.max()),
            "label": label,
            "protocol": protocol,
            "pairs": len(both),
            "rise": None if rises is None else float(rises.mean()),
            "better": 0 if rises is None else int((rises.round(1) > 0).sum()),
            "mark": STAND_IN if known["stand_in"].any() else "",
        }


def sort_value(entry: Entry) -> str:
    """Return what a number is sorted by."""
    return "" if entry.mean is None else f"{entry.mean:.6f}"
