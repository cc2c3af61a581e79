"""What all figures share: their style, the colours of protocols, their legend.

Colours are Okabe and Ito's, told apart by the colour-blind and in grey print; whatever a colour
says, a mark, a direction or a label says too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports.tables import PROTOCOLS

if TYPE_CHECKING:
    from pandas import DataFrame

INK, MUTED, FAINT, PAPER = "#1f2328", "#6e7781", "#d1d9e0", "#ffffff"
BETTER, WORSE = "#009e73", "#d55e00"
HUES = {"pf": "#0072b2", "paf": "#e69f00", "lv": "#cc79a7", "prompt": "#56b4e9", "v2l": "#8c6d31"}
ANY_OTHER = "#7f7f7f"
STAND_IN = "‡ stand-in weights or demo data: says nothing about the published checkpoints"
WIDTH = 7.2  # inches: the text of a page
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
}


def panels(columns: int, height: float, **shared: Any) -> tuple[Figure, Any]:
    """Return a figure of this height (inches) and its panels, side by side."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, **shared)[0]


def protocols(frame: "DataFrame") -> list[str]:
    """Return the protocols of a DataFrame: the paper's in its order, then others as they come."""
    there = list(dict.fromkeys(frame["protocol"]))
    ours = [name for name in PROTOCOLS if name in there]
    return [*ours, *(name for name in there if name not in ours)]


def hues(frame: "DataFrame") -> dict[str, str]:
    """Return the colour of every protocol; those that are not the paper's take what is left."""
    there = protocols(frame)
    free = [color for name, color in HUES.items() if name not in there]
    others = iter([name for name in there if name not in HUES])
    taken = dict(zip(others, free, strict=False))
    return {name: HUES.get(name) or taken.get(name, ANY_OTHER) for name in there}


def finish(figure: Figure, frame: "DataFrame", handles: Sequence[Line2D | Patch]) -> Figure:
    """Put the legend above a figure and, where anything in it is a stand-in's, a note below."""
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(4, len(handles)),
        columnspacing=1.4,
        handletextpad=0.5,
        fontsize=7,
    )
    if frame["stand_in"].any():
        figure.supxlabel(STAND_IN, x=0.01, ha="left", fontsize=6.5, color=MUTED)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all has its place, the same in every format
    return figure


def legend(frame: "DataFrame", kind: str) -> list[Line2D | Patch]:
    """Return what says which colour is which protocol; `kind` is line, dot or bar."""
    handles: list[Line2D | Patch] = []
    for name, color in hues(frame).items():
        said = f"{PROTOCOLS[name]} ({name})" if name in PROTOCOLS else name
        if kind == "bar":
            handles.append(Patch(color=color, lw=0, label=said))
        else:
            style: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4} if kind == "dot" else {}
            handles.append(Line2D([], [], color=color, label=said, **style))
    return handles


def belongs(artists: Sequence[Artist], zoo: str, place: str) -> None:
    """Write into an SVG which checkpoint artists are about: the page finds them by it."""
    for number, artist in enumerate(artists):
        artist.set_gid(f"zoo.{zoo}.{place}.{number}")
