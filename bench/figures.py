"""The figures of a request, and the DataFrames that they are made of: functions of the store.

A figure compares cells that differ by checkpoint, protocol and seed alone. A request for several
settings, schemes or kinds of heads has a set of figures for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.again import changed
from bench.cell import Cell
from bench.data.classes import CLASSES, TASKS
from bench.eval.ap import Matches, average_precision
from bench.eval.confusion import iou_per_class
from bench.grids import Request, cells
from bench.intervals import DAMAGED
from bench.results import rows
from bench.store import Store, read_json, read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FORMATS = ("svg", "pdf", "png")
SAME = ("zoo", "label", "protocol", "seed", "stand_in")  # what every DataFrame of a figure has
MAIN = ("sem/mIoU", "driv/mIoU", "det/mAP")
NOT_COMMON = ("stages.", "adapter.")
POINTS = 120  # of a curve: more cannot be seen


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Cells that differ by checkpoint, protocol and seed; `name` says what they have in common.

    `frame` has the rows of `bench.results.rows`; a protocol whose epochs are not its preset's is
    named with them.
    """

    name: str
    frame: DataFrame

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Return its figures by their names, those that there is something for."""
        from reports import plots

        made = {
            "arrows": plots.arrows(self.frame),
            "curves": plots.curves(_points(self.frame)),
            "classes": plots.classes(_classes(self.frame)),
            "cost": plots.cost(_seconds(self.frame)),
        }
        return {name: figure for name, figure in made.items() if figure is not None}

    @cached_property
    def svgs(self) -> dict[str, str]:
        """Return its figures as SVGs."""
        from reports.plots import save

        return {name: save(figure, "svg").decode() for name, figure in self.figures.items()}


def comparisons(
    request: Request,
    store: Store,
    *,
    root: Path | None = None,
    exactly: Mapping[str, Path] | None = None,
) -> list[Comparison]:
    """Return the comparisons of a request; `root` and `exactly` are those of `rows`.

    Protocols of one name that differ by values of --set are named with these.
    """
    from pandas import Series

    listed = cells(request)
    frame, _ = rows(listed, store, root=root, exactly=exactly)
    frame["protocol"] = [cell.protocol_label for cell in listed]
    shared = frame.groupby("label")["zoo"].transform("nunique") > 1
    frame.loc[shared, "label"] = frame["zoo"]  # two files of one method
    common = Series([_common(cell) for cell in listed])
    twice = frame.assign(common=common).duplicated(
        ["zoo", "protocol", "seed", "common"], keep=False
    )
    frame.loc[twice, "protocol"] = [
        " ".join([cell.protocol_label, *_of_stages(cell)])
        for cell, again in zip(listed, twice, strict=True)
        if again
    ]
    return [
        Comparison(name=str(name), frame=one) for name, one in frame.groupby(common, sort=False)
    ]


def files(found: Sequence[Comparison], form: str) -> Iterator[tuple[str, bytes]]:
    """Yield the figures of comparisons in one of FORMATS: their files' names, what they hold."""
    from reports.plots import save

    for one in found:
        suffix = f"-{one.name.replace(', ', '-').replace(' ', '-')}" if len(found) > 1 else ""
        for name, figure in one.figures.items():
            content = one.svgs[name].encode() if form == "svg" else save(figure, form)
            yield f"{name}{suffix}.{form}", content


def _common(cell: Cell) -> str:
    """Return what a cell has in common with those that it is compared with.

    Not in it are values of stages and adapters, which not all protocols have.
    """
    heads = [f"{cell.protocol.heads} heads"] if cell.protocol.heads != "transformer" else []
    tasks = [f"{'+'.join(cell.tasks)} alone"] if cell.tasks != TASKS else []
    values = [f"{key}={value}" for key, value in changed(cell) if not key.startswith(NOT_COMMON)]
    return ", ".join([cell.setting, cell.protocol.scheme, *heads, *tasks, *values])


def _of_stages(cell: Cell) -> list[str]:
    """Return what tells protocols of one name apart."""
    return [f"{key}={value}" for key, value in changed(cell) if key.startswith(NOT_COMMON)]


def _frame(found: list[dict[str, Any]], *further: str) -> DataFrame:
    from pandas import DataFrame

    return DataFrame(found, columns=[*SAME, *further])


def _of(frame: DataFrame, *states: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield what says whose a row is, and the row, for cells in one of these states."""
    rows: Any = frame[frame["state"].isin(states)].to_dict("records")
    for row in rows:
        yield {name: row[name] for name in SAME}, row


def _points(frame: DataFrame) -> DataFrame:
    """Return the learning curves of cells, those that still run too."""
    found = [
        {**whose, **point}
        for whose, row in _of(frame, "done", "running")
        for point in curves(Path(row["folder"]))
    ]
    return _frame(found, "curve", "epoch", "value", "begins")


def curves(home: Path) -> Iterator[dict[str, Any]]:
    """Yield the points of a cell's losses and validation scores, over the epochs of all stages."""
    stages = read_json(home / "cell.json")["resolved"]["protocol"]["stages"]
    epochs = {stage["name"]: stage["epochs"] for stage in stages}
    before = dict(zip(epochs, np.cumsum([0, *epochs.values()]).tolist(), strict=False))
    values: dict[str, list[tuple[float, float]]] = {}
    steps: dict[str, int] = {}
    for line in read_lines(home / "progress.jsonl"):
        stage, step = line["stage"], line["step"]
        steps[stage] = line.get("steps", steps.get(stage, step))
        epoch = before[stage] + epochs[stage] * step / steps[stage]
        scores = {name: value for name, value in line.get("metrics", {}).items() if name in MAIN}
        for name, value in {**line.get("losses", {}), **scores}.items():
            if value is not None and value == value:
                values.setdefault(name, []).append((epoch, value))
    for name, points in values.items():
        for epoch, value in _thinned(points):
            yield {
                "curve": name,
                "epoch": epoch,
                "value": value,
                "begins": before[stages[-1]["name"]],
            }


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `POINTS` points: means of neighbours where there are more."""
    groups = np.array_split(np.array(points), min(POINTS, len(points)))
    return [tuple(group.mean(axis=0).tolist()) for group in groups]


def _classes(frame: DataFrame) -> DataFrame:
    found = []
    for whose, row in _of(frame, "done"):
        by_task, damaged = _per_class(Path(row["folder"]))
        for file in damaged:
            click.echo(f"Left out of the figures of classes: {file} is damaged.", err=True)
        for task, scores in by_task.items():
            found += [{**whose, "task": task, "name": n, "value": v} for n, v in scores.items()]
    return _frame(found, "task", "name", "value")


def per_class(home: Path) -> dict[str, dict[str, float]]:
    """Return the scores of a finished cell's classes by task and name; NaN without ground truth.

    A task whose statistics are missing or damaged is not among them.
    """
    return _per_class(home)[0]


def _per_class(home: Path) -> tuple[dict[str, dict[str, float]], list[Path]]:
    """Return the scores of the classes, and the files of statistics that are damaged."""
    scores, damaged = {}, []
    for task, score in (("sem", _iou), ("driv", _iou), ("det", _ap)):
        file = home / "preds" / f"{task}.npz"
        if file.exists():
            try:
                with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
                    scores[task] = dict(zip(CLASSES[task], score(kept), strict=False))
            except DAMAGED:
                damaged.append(file)
    return scores, damaged


def _iou(kept: Mapping[str, np.ndarray]) -> list[float]:
    return iou_per_class(kept["confusions"].sum(axis=0, dtype=np.int64)).tolist()


def _ap(kept: Mapping[str, np.ndarray]) -> list[float]:
    if "right" not in kept:  # scored before what became of every box was kept
        return []
    return average_precision(Matches.from_columns(kept)).mean(axis=1).tolist()


def _seconds(frame: DataFrame) -> DataFrame:
    found = [
        {**whose, "stage": stage, "seconds": 3600 * hours}
        for whose, row in _of(frame, "done")
        if isinstance(row["hours"], dict)  # else nobody knows
        for stage, hours in row["hours"].items()
    ]
    return _frame(found, "stage", "seconds")
