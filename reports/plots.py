"""The figures: the tables' message in pictures, for papers and for the page.

Each is a function of a DataFrame and returns a matplotlib `Figure`, or None where there is nothing
to draw. No global state of matplotlib is used, and the same values make the same bytes.

All DataFrames have the columns `zoo`, `label`, `protocol`, `seed` and `stand_in`, and their rows
are in the order in which checkpoints are shown.
"""

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports.drawing import (
    BETTER,
    FAINT,
    INK,
    MUTED,
    PAPER,
    STYLE,
    WIDTH,
    WORSE,
    belongs,
    finish,
    hues,
    legend,
    panels,
    protocols,
)
from reports.tables import FAMILIES, METRICS, ReportError

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("svg", "pdf", "png")
TASKS = {"sem": "Semantic segmentation", "driv": "Drivable area", "det": "Object detection"}
LOSSES = {"sem": "Semantic loss", "driv": "Drivable loss", "det": "Detection loss"}
MAIN = {"sem": "sem/mIoU", "driv": "driv/mIoU", "det": "det/mAP"}
SCORES = {"sem": "IoU", "driv": "IoU", "det": "AP"}


def save(figure: Figure, form: str) -> bytes:
    """Return the file of a figure in one of FORMATS, without dates."""
    if form not in FORMATS:
        raise ReportError(f"Unknown format '{form}'. Known: {', '.join(FORMATS)}.")
    dateless: dict[str, Any] = {
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=form, metadata=dateless[form], facecolor="none")
    return file.getvalue()


def arrows(results: "DataFrame") -> Figure | None:
    """Draw the way of every checkpoint from `pf` to `paf`, a panel for each task.

    `results` are the rows of a table's DataFrame. Means over seeds are joined; the seeds are ticks.
    """
    pairs = {task: _pairs(results, metric) for task, metric in MAIN.items()}
    pairs = {task: found for task, found in pairs.items() if found}
    if not pairs:
        return None
    drawn = results[results["zoo"].isin({zoo for found in pairs.values() for zoo in found})]
    places = _places(drawn)
    with mpl.rc_context(STYLE):
        lowest = max(places.values())
        figure, axes = panels(len(pairs), 1.3 + 0.26 * lowest, sharey=True)
        for ax, (task, found) in zip(axes, pairs.items(), strict=True):
            ax.set_title(TASKS[task], pad=8)
            ax.set_xlabel(METRICS[MAIN[task]][1])
            for zoo, (pf, paf) in found.items():
                _arrow(ax, places[zoo], pf, paf, (zoo, task))
            ax.margins(x=0.08)
            _no_finer_than_a_point(ax)
        labels = dict(zip(drawn["zoo"], drawn["label"], strict=True))
        axes[0].set_yticks(list(places.values()), [labels[zoo] for zoo in places])
        axes[0].set_ylim(lowest + 0.6, -0.6)
        return finish(figure, drawn, _arrow_legend(drawn))


def curves(points: "DataFrame") -> Figure | None:
    """Draw how every checkpoint learns: a row each, a column for each loss and each score.

    `points` has further columns: `curve` (a task, for its loss, or a metric, for its validation
    score), `epoch` (counted over all stages), `value`, and `begins` (the epoch at which the last
    stage begins, 0 for the only one). All rows of a column have one scale.
    """
    names = [name for name in (*TASKS, *MAIN.values()) if (points["curve"] == name).any()]
    if not names:
        return None
    labels = dict(zip(points["zoo"], points["label"], strict=True))
    colors = hues(points)
    with mpl.rc_context({**STYLE, "axes.spines.left": False}):
        figure, axes = panels(len(names), 1.1 + 0.46 * len(labels), sharex=True, sharey=True)
        for ax, name in zip(axes, names, strict=True):
            mine = points[points["curve"] == name]
            top = mine["value"].max() or 1.0
            ax.set_title(LOSSES.get(name) or " ".join(METRICS[name]), pad=14)
            _beside(ax, (0, 1), (0, 5), f"each row 0 to {top:.3g}", color=MUTED, fontsize=6.5)
            ax.set_xlabel("epoch")
            for row, zoo in enumerate(labels):
                ax.axhline(row + 0.45, color=FAINT, lw=0.8, zorder=0)
                lines = mine[mine["zoo"] == zoo]
                belongs(_curves(ax, lines, row + 0.45, 0.85 / top, colors), zoo, name)
        axes[0].set_yticks(range(len(labels)), list(labels.values()))
        axes[0].set_ylim(len(labels) - 0.5, -0.5)
        axes[0].set_xlim(left=0)
        begins = Line2D([], [], color=MUTED, ls=":", lw=0.9, label="finetune begins")
        several = (points["begins"] > 0).any()
        return finish(figure, points, [*legend(points, "line"), *([begins] if several else [])])


def classes(scores: "DataFrame") -> Figure | None:
    """Draw the score of every class, a dot for each checkpoint and protocol.

    `scores` has further columns: `task`, `name` (of the class) and `value` (IoU or AP).
    """
    scores = scores.dropna(subset="value")
    if scores.empty:
        return None
    names = {
        task: list(dict.fromkeys(scores[scores["task"] == task]["name"]))
        for task in TASKS
        if (scores["task"] == task).any()
    }
    with mpl.rc_context(STYLE):
        figure, axes = _columns({task: len(listed) for task, listed in names.items()})
        for task, ax in axes.items():
            ax.set_title(TASKS[task])
            ax.set_xlabel(f"{SCORES[task]} of the class")
            _dots(ax, scores[scores["task"] == task], protocols(scores), hues(scores))
            ax.set_ylim(len(names[task]) - 0.4, -0.6)
        return finish(figure, scores, legend(scores, "dot"))


def cost(seconds: "DataFrame") -> Figure | None:
    """Draw what every checkpoint costs, its protocols one below the other, stage behind stage.

    `seconds` has further columns: `stage` and `seconds` (of GPUs, or of processes without one).
    """
    if seconds.empty:
        return None
    unit, scale = _unit(seconds)
    labels, lanes = dict(zip(seconds["zoo"], seconds["label"], strict=True)), protocols(seconds)
    with mpl.rc_context(STYLE):
        figure, (ax,) = panels(1, 0.9 + 0.15 * len(labels) * (len(lanes) + 0.6))
        for row, zoo in enumerate(labels):
            for number, protocol in enumerate(lanes):
                mine = seconds[(seconds["zoo"] == zoo) & (seconds["protocol"] == protocol)]
                y = row + (number - (len(lanes) - 1) / 2) * 0.8 / len(lanes)
                bars = _bars(ax, y, 0.7 / len(lanes), mine, scale, hues(seconds)[protocol])
                belongs(bars, zoo, protocol)
        ax.set_yticks(range(len(labels)), list(labels.values()))
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.set_xlabel(f"{unit} of training a cell, mean over seeds")
        ax.margins(x=0.1)
        shades = [
            Patch(color=MUTED, alpha=alpha, lw=0, label=stage)
            for stage, alpha in (("adapt", 0.45), ("finetune", 1.0))
            if (seconds["stage"] == "adapt").any()
        ]
        return finish(figure, seconds, [*legend(seconds, "bar"), *shades])


def _pairs(results: "DataFrame", metric: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return for each checkpoint that has both the scores under `pf` and under `paf`, by seeds."""
    done = results[(results["state"] == "done") & results[metric].notna()]
    both = {
        str(zoo): [list(cells[cells["protocol"] == name][metric]) for name in ("pf", "paf")]
        for zoo, cells in done.groupby("zoo", sort=False)
    }
    return {zoo: (pf, paf) for zoo, (pf, paf) in both.items() if pf and paf}


def _places(results: "DataFrame") -> dict[str, float]:
    """Return the height of each checkpoint's row, a gap between two families."""
    places: dict[str, float] = {}
    for number, family in enumerate(f for f in FAMILIES if (results["family"] == f).any()):
        for zoo in dict.fromkeys(results[results["family"] == family]["zoo"]):
            places[zoo] = len(places) + 0.5 * number
    return places


def _arrow(ax: Axes, y: float, pf: list[float], paf: list[float], whose: tuple[str, str]) -> None:
    """Draw one way: a ring where it begins, a head where it ends, a tick for every seed."""
    start, end = sum(pf) / len(pf), sum(paf) / len(paf)
    rise = round(end - start, 1)
    color = BETTER if rise > 0 else WORSE if rise < 0 else MUTED
    head = ">" if rise > 0 else "<" if rise < 0 else "D"
    ticks = [
        ax.plot(values, [y + side] * len(values), "|", color=MUTED, ms=3.5, mew=0.7)[0]
        for values, side in ((pf, -0.24), (paf, 0.24))
        if len(values) > 1
    ]
    said = f"{rise:+.1f}".replace("-", "−") if rise else "0.0"
    parts = [
        *ticks,
        *ax.plot([start, end], [y, y], color=color, lw=2, solid_capstyle="butt"),
        *ax.plot([start], [y], "o", color=PAPER, mec=color, mew=1.4, ms=5),
        *ax.plot([end], [y], head, color=color, ms=6, mew=0),
        _beside(ax, (1, y), (3, 0), said, x="axes", color=color, fontsize=7, va="center"),
    ]
    belongs(parts, *whose)


def _no_finer_than_a_point(ax: Axes) -> None:
    """Show at least one point of a score: what is smaller is not to look large."""
    low, high = ax.get_xlim()
    if high - low < 1:
        middle = max((low + high) / 2, 0.45)  # no score is below 0
        ax.set_xlim(middle - 0.5, middle + 0.5)


def _arrow_legend(results: "DataFrame") -> list[Line2D]:
    said = [
        ("pretrain-finetune (pf)", {"marker": "o", "color": PAPER, "mec": INK, "mew": 1.4}),
        ("pretrain-adapt-finetune (paf): better", {"marker": ">", "color": BETTER}),
        ("paf: worse", {"marker": "<", "color": WORSE}),
    ]
    if results.duplicated(["zoo", "protocol"]).any():
        said.append(("one seed", {"marker": "|", "color": MUTED}))
    return [Line2D([], [], ls="", ms=5, label=label, **style) for label, style in said]


def _curves(
    ax: Axes, points: "DataFrame", zero: float, scale: float, colors: dict[str, str]
) -> list[Line2D]:
    """Draw one line a protocol and seed, upwards from `zero`, and where its last stage begins."""
    drawn: list[Line2D] = []
    for (protocol, _), line in points.groupby(["protocol", "seed"], sort=False):
        color, begins = colors[str(protocol)], line["begins"].iloc[0]
        heights = zero - scale * line["value"]
        drawn += ax.plot(line["epoch"], heights, color=color, lw=1.1, alpha=0.9)
        if begins > 0:
            drawn += ax.plot([begins, begins], [zero - 0.85, zero], color=color, lw=0.8, ls=":")
    return drawn


def _columns(rows: dict[str, int]) -> tuple[Figure, dict[str, Axes]]:
    """Return a panel for each task with so many rows: the first at the left, the others beside."""
    first, *others = rows
    beside = sum(rows[task] for task in others)
    height = 1.3 + 0.19 * max(rows[first], beside + 2 * len(others))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    if not others:
        return figure, {first: figure.subplots()}
    places: list[Any] = [[first, task] for task in others]
    return figure, figure.subplot_mosaic(places, height_ratios=[rows[task] for task in others])


def _dots(ax: Axes, scores: "DataFrame", lanes: list[str], colors: dict[str, str]) -> None:
    """Draw the checkpoints' means over seeds, the protocols of a class one below the other."""
    names = list(dict.fromkeys(scores["name"]))
    for zoo, mine in scores.groupby("zoo", sort=False):
        means = mine.groupby(["protocol", "name"], sort=False)["value"].mean()
        dots = []
        for number, protocol in enumerate(lanes):
            values = means[means.index.get_level_values("protocol") == protocol]
            lane = (number - (len(lanes) - 1) / 2) * 0.5 / len(lanes)
            heights = [names.index(name) + lane for _, name in values.index]
            dots += ax.plot(
                values,
                heights,
                "o",
                color=colors[protocol],
                ms=3.4,
                alpha=0.8,
                mew=0,
                clip_on=False,
            )
        belongs(dots, str(zoo), str(scores["task"].iloc[0]))
    ax.set_yticks(range(len(names)), names)
    ax.margins(x=0.06)
    ax.set_xlim(left=0)


def _bars(
    ax: Axes, y: float, height: float, mine: "DataFrame", scale: float, color: str
) -> list[Any]:
    """Draw the stages of one checkpoint and protocol end to end, and write their sum."""
    if mine.empty:
        return []
    parts, left = [], 0.0
    for stage, length in (mine.groupby("stage", sort=False)["seconds"].mean() * scale).items():
        alpha = 0.45 if stage == "adapt" else 1.0
        parts += ax.barh(y, length, height, left=left, color=color, alpha=alpha, lw=0)
        left += float(length)
    said = f"{left:.3g}"
    return [*parts, _beside(ax, (left, y), (4, 0), said, x="data", fontsize=6.5, va="center")]


def _beside(
    ax: Axes,
    at: tuple[float, float],
    points: tuple[float, float],
    said: str,
    *,
    x: str = "",
    **style: Any,
) -> Any:
    """Write beside a place: of the data, of the panel, or at a height of the data (`x` axes)."""
    places = {"": "axes fraction", "data": "data", "axes": ("axes fraction", "data")}
    return ax.annotate(said, at, points, xycoords=places[x], textcoords="offset points", **style)


def _unit(seconds: "DataFrame") -> tuple[str, float]:
    """Return in which unit of time the longest cell is read well, and what a second is in it."""
    longest = seconds.groupby(["zoo", "protocol", "seed"])["seconds"].sum().max()
    if longest < 120:
        return "seconds", 1.0
    return ("minutes", 1 / 60) if longest < 7200 else ("hours", 1 / 3600)
