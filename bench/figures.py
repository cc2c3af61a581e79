"""The figures of a request, and the DataFrames that they are made of: functions of the store.

A figure compares cells that differ by checkpoint, protocol and seed alone. A request for several
settings, schemes or kinds of heads has a set of figures for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cell import Cell
from bench.data.classes import CLASSES
from bench.eval.ap import Matches, average_precision
from bench.eval.confusion import iou_per_class
from bench.grids import Request, cells
from bench.results import rows
from bench.store import Store, read_json, read_lines, read_result
from reports.tables import ReportError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FORMATS = ("svg", "pdf", "png")
SAME = ("zoo", "label", "protocol", "seed", "stand_in")  # what every DataFrame of a figure has
MAIN = ("sem/mIoU", "driv/mIoU", "det/mAP")
POINTS = 120  # of a curve: more cannot be seen


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Cells that differ by checkpoint, protocol and seed, and what they have in common in words.

    `frame` has the rows of `bench.results.rows`; a protocol whose epochs are not its preset's is
    named with them.
    """

    name: str
    frame: DataFrame


def comparisons(
    request: Request,
    store: Store,
    *,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> list[Comparison]:
    """Return the comparisons of a request; `root` and `exactly` are those of `rows`."""
    listed = cells(request)
    frame, _ = rows(listed, store, root=root, exactly=exactly)
    frame["protocol"] = [cell.protocol_label for cell in listed]
    frame["common"] = [_common(cell) for cell in listed]
    found = [
        Comparison(name=str(name), frame=group)
        for name, group in frame.groupby("common", sort=False)
    ]
    for one in found:
        twice = one.frame[one.frame.duplicated(["zoo", "protocol", "seed"])]
        if not twice.empty:
            zoo, protocol, seed = twice.iloc[0][["zoo", "protocol", "seed"]]
            raise ReportError(
                f"Two cells are {zoo}, {protocol}, seed {seed}, and differ by values of --set; a "
                "figure shows one of them. Select one."
            )
    return found


def drawn(one: Comparison) -> dict[str, Figure]:
    """Return the figures of a comparison by their names, those that there is something for."""
    from reports import plots

    made = {
        "arrows": plots.arrows(one.frame),
        "curves": plots.curves(_points(one.frame)),
        "classes": plots.classes(_classes(one.frame)),
        "cost": plots.cost(_seconds(one.frame)),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def files(
    request: Request, store: Store, forms: tuple[str, ...], *, root: Path | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the figures of a request as files of these formats: their names, what they hold."""
    from reports.plots import save

    found = comparisons(request, store, root=root)
    for one in found:
        for name, figure in drawn(one).items():
            suffix = f"-{one.name.replace(', ', '-')}" if len(found) > 1 else ""
            for form in forms:
                yield f"{name}{suffix}.{form}", save(figure, form)


def _common(cell: Cell) -> str:
    """Return what a cell has in common with those that it is compared with."""
    heads = [f"{cell.protocol.heads} heads"] if cell.protocol.heads != "transformer" else []
    tasks = [f"{'+'.join(cell.tasks)} alone"] if cell.tasks != ("sem", "driv", "det") else []
    return ", ".join([cell.setting, cell.protocol.scheme, *heads, *tasks])


def _frame(frame: DataFrame, further: tuple[str, ...], found: list[dict[str, Any]]) -> DataFrame:
    from pandas import DataFrame

    return DataFrame(found, columns=[*SAME, *further])


def _homes(frame: DataFrame, states: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield what says whose a row is, and the cell's folder, for cells in one of these states."""
    for row in frame[frame["state"].isin(states)].to_dict("records"):
        yield {name: row[name] for name in SAME}, Path(row["folder"])


def _points(frame: DataFrame) -> DataFrame:
    """Return the learning curves of cells, those that still run too."""
    found = [
        {**whose, **point}
        for whose, home in _homes(frame, ("done", "running"))
        for point in curves(home)
    ]
    return _frame(frame, ("curve", "epoch", "value", "begins"), found)


def curves(home: Path) -> Iterator[dict[str, Any]]:
    """Yield the points of a cell's losses and validation scores, over the epochs of all stages."""
    stages = read_json(home / "cell.json")["resolved"]["protocol"]["stages"]
    epochs = {stage["name"]: stage["epochs"] for stage in stages}
    before = dict(zip(epochs, np.cumsum([0, *epochs.values()]).tolist(), strict=False))
    begins = before[stages[-1]["name"]]
    values: dict[str, list[tuple[float, float]]] = {}
    steps: dict[str, int] = {}
    for line in read_lines(home / "progress.jsonl"):
        if line["kind"] == "train":
            steps[line["stage"]] = line["steps"]
        stage, named = line["stage"], line.get("losses") or line.get("metrics", {})
        epoch = before[stage] + epochs[stage] * line["step"] / steps.get(stage, line["step"])
        for name, value in named.items():
            if (line["kind"] == "train" or name in MAIN) and value is not None and value == value:
                values.setdefault(name, []).append((epoch, value))
    for name, points in values.items():
        for epoch, value in thinned(points):
            yield {"curve": name, "epoch": epoch, "value": value, "begins": begins}


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `POINTS` points: means of neighbours where there are more."""
    groups = np.array_split(np.array(points), min(POINTS, len(points)))
    return [tuple(group.mean(axis=0).tolist()) for group in groups]


def _classes(frame: DataFrame) -> DataFrame:
    found = [
        {**whose, "task": task, "name": name, "value": value}
        for whose, home in _homes(frame, ("done",))
        for task, scores in per_class(home).items()
        for name, value in scores.items()
    ]
    return _frame(frame, ("task", "name", "value"), found)


def per_class(home: Path) -> dict[str, dict[str, float]]:
    """Return the scores of a finished cell's classes by task and name; NaN without ground truth."""
    scores: dict[str, dict[str, float]] = {}
    for task in ("sem", "driv"):
        file = home / "preds" / f"{task}.npz"
        if file.exists():
            with np.load(file, allow_pickle=False) as kept:
                whole = kept["confusions"].sum(axis=0, dtype=np.int64)
            scores[task] = dict(zip(CLASSES[task], iou_per_class(whole).tolist(), strict=True))
    boxes = home / "preds" / "det.npz"
    if boxes.exists():
        with np.load(boxes, allow_pickle=False) as kept:
            matches = Matches.from_columns(kept) if "right" in kept else None
        if matches:  # what was scored before they were kept has none
            precision = average_precision(matches).mean(axis=1).tolist()
            scores["det"] = dict(zip(CLASSES["det"], precision, strict=True))
    return scores


def _seconds(frame: DataFrame) -> DataFrame:
    found = [
        {**whose, "stage": name, "seconds": value}
        for whose, home in _homes(frame, ("done",))
        for name, value in seconds(read_result(home)).items()
    ]
    return _frame(frame, ("stage", "seconds"), found)


def seconds(result: dict[str, Any]) -> dict[str, float]:
    """Return what each stage of a finished cell took: seconds of all its GPUs, or processes."""
    ranks = max(result["provenance"].get("ranks") or [1])
    return {stage["name"]: stage["seconds"] * ranks for stage in result["stages"]}
