"""The page of a request: everything that it shows, gathered from the store, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import BenchError
from bench.data.classes import CLASSES, COLORS
from bench.figures import Comparison, per_class
from bench.provenance import device
from bench.show import facts, sections
from bench.status import Stored, stored
from bench.store import Store, read_json, read_result
from reports.html import html
from reports.page import STAGES, Page, Section, page

if TYPE_CHECKING:
    from pandas import DataFrame

    from reports.tables import Table

PANELS = "panels.json"
BOXES = (  # the colours of boxes, by class: bright, for night scenes too
    *("#ff5d5d", "#ff9f40", "#4fc3ff", "#5b8cff", "#b388ff"),
    *("#c0c0ff", "#ff6bd6", "#ffd23f", "#7dff7a", "#f5f56b"),
)
FIRST = ("failed", "scores", "weights", "data", "code", "again")  # of what is told of a cell
SAID = ("torch", "torchvision", "timm", "numpy", "pycocotools")


def page_of(found: Sequence[Comparison], tables: Mapping[str, Table], store: Store) -> str:
    """Return the page of these comparisons, with tables by the names of their files."""
    homes = {Path(home) for one in found for home in one.frame["folder"].dropna()}
    known = [one for one in stored(store) if one.home in homes and one.order]
    stale = dict.fromkeys(name for table in tables.values() for name in table.stale)
    conditions = dict.fromkeys(table.conditions.told for table in tables.values())
    return page(
        Page(
            title=" and ".join(dict.fromkeys(map(_data_name, known))) or store.root.name,
            conditions="; ".join(filter(None, conditions)),
            sections=[
                Section(
                    name=one.name,
                    results=_with_load(one.frame),
                    figures=one.svgs,
                )
                for one in found
            ],
            cells={one.order["key"]: _cell(one) for one in known},
            panels={f"s{i}": _panels(one) for i, one in enumerate(found)},
            legend=_legend(),
            origin=list(_origin(known)),
            tables={f"Table {name.removeprefix('table')}": html(t) for name, t in tables.items()},
            notes=[f"stale, left out: {name}" for name in stale],
        )
    )


def _data_name(one: Stored) -> str:
    return "drawn demo data" if one.order["data"]["drawn"] else one.order["data"]["name"]


def _with_load(frame: DataFrame) -> DataFrame:
    """Add what training took, in seconds, and the scale of what each loaded trunk puts out."""
    frame = frame.copy()
    nothing = dict.fromkeys(STAGES, float("nan"))
    loaded = [_scales(Path(home)) if isinstance(home, str) else nothing for home in frame["folder"]]
    for stage in STAGES:
        frame[stage] = [scales.get(stage, float("nan")) for scales in loaded]
    frame["seconds"] = [
        3600 * sum(one.values()) if isinstance(one, dict) else float("nan")
        for one in frame["hours"]
    ]
    return frame


def _scales(home: Path) -> dict[str, float]:
    try:
        return read_json(home / "load_report.json", ("activation",))["activation"]
    except (FileNotFoundError, BenchError):
        return {}


def _cell(one: Stored) -> dict[str, Any]:
    """Return what a page tells of a cell on request: sections of (name, value), classes' scores."""
    known = facts(one)
    told = dict(sections(known))
    told = {title: told.pop(title) for title in FIRST if title in told} | told
    scores = per_class(one.home) if one.state == "done" else {}
    return {
        "name": one.home.name,
        "state": one.state,
        "seed": one.order["resolved"]["seed"],
        "sections": [
            [title, [[name, str(value)] for name, value in lines]] for title, lines in told.items()
        ],
        "classes": {
            task: [
                [name, None if value != value else round(value, 1)] for name, value in of.items()
            ]
            for task, of in scores.items()
        },
    }


def _panels(one: Comparison) -> dict[str, Any]:
    """Return the pictures of a comparison: each frame once, and what every checkpoint found there.

    Of several seeds the first that is done is shown.
    """
    frames: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for row in one.frame[one.frame["state"] == "done"].sort_values("seed").to_dict("records"):
        mine = found.setdefault(row["zoo"], {})
        if row["protocol"] in mine or not (told := _kept(Path(row["folder"]))):
            continue
        for panel in told["panels"]:
            frames.setdefault(panel["name"], {k: v for k, v in panel.items() if k != "found"})
        mine[row["protocol"]] = {panel["name"]: panel["found"] for panel in told["panels"]}
    return {"frames": list(frames.values()), "found": {k: v for k, v in found.items() if v}}


def _kept(home: Path) -> dict[str, Any]:
    """Return a cell's pictures; nothing where it was scored before they were kept."""
    try:
        return read_json(home / PANELS, ("panels",))
    except (FileNotFoundError, BenchError):
        return {}


def _legend() -> dict[str, list[tuple[str, str]]]:
    """Return the classes of each task with their colours."""
    colors = {task: list(map(_css, of)) for task, of in COLORS.items()} | {"det": list(BOXES)}
    return {task: list(zip(CLASSES[task], of, strict=True)) for task, of in colors.items()}


def _css(color: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{level:02x}" for level in color)


def _origin(known: Sequence[Stored]) -> Iterator[tuple[str, str]]:
    """Yield where the numbers of all cells are from, and in what they differ."""
    orders = [one.order for one in known]
    started = [read_result(one.home)["provenance"] for one in known if one.state == "done"]
    yield "data", _listed(f"{o['data']['name']} (sha256 {o['data']['sha256']})" for o in orders)
    yield "split", _listed(f"{o['split']['file']} ({o['split']['sha256']})" for o in orders)
    yield "protocol version", _listed(str(o["version"]) for o in orders)
    yield (
        "code",
        _listed(f"{p.get('code')} (sources {', '.join(p.get('sources', ()))})" for p in started),
    )
    yield "device", _listed(map(device, started))
    packages = [p.get("packages", {}) for p in started]
    yield (
        "versions",
        _listed(", ".join(f"{name} {of[name]}" for name in SAID if name in of) for of in packages),
    )
    yield "commands", _listed(str(p.get("command")) for p in started)


def _listed(values: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(values))
