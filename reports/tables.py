"""What a table is made of.

The DataFrame that tables are made from has one row per cell (one training run with one seed) and
the columns CELL_COLUMNS and METRICS. Metrics are percentages 0-100, NaN where a cell has none; one
that a finished cell lacks for one of its `tasks` has failed. It may have `<metric> low` and
`<metric> high` (a 95 % interval of one cell over validation frames), and `hours`, `device`, `gpus`
(what training took: see reports/cost.py).
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from reports.cost import Cost

CELL_COLUMNS = (
    *("zoo", "label", "family", "protocol", "setting", "scheme", "tasks", "seed"),
    *("state", "error", "stand_in", "key"),
)
METRICS = {  # metric: the heading above it, its own heading
    "sem/mIoU": ("SS", "mIoU"),
    "sem/pACC": ("SS", "pACC"),
    "driv/mIoU": ("DA", "mIoU"),
    "driv/pACC": ("DA", "pACC"),
    "det/mAP": ("Det", "mAP"),
    "det/AP50": ("Det", "AP50"),
    "det/AP75": ("Det", "AP75"),
}
FAMILIES = {
    "classification": "Classification-oriented",
    "detection": "Detection-oriented",
    "segmentation": "Segmentation-oriented",
    "vision-language": "Vision-language",
    "own": "Own",
}
PROTOCOLS = {
    "pf": "pretrain-finetune",
    "paf": "pretrain-adapt-finetune",
    "lv": "paf with the LV-Adapter",
    "prompt": "paf with score maps of prompts",
    "v2l": "prompt with vision-to-language",
}

Cell = dict[Hashable, Any]  # one row of the DataFrame, by column

MARKS = {"pending": "·", "running": "…", "failed": "✗", "na": "–"}
STALE_NAMED = 5  # in the note; JSON has all
LONG, LONG_PATH = 200, 48  # of causes in notes, and of paths in them, in characters
ONE_SEED = "†"
STAND_IN = "‡"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class ReportError(ValueError):
    """Raised when results cannot be shown in the table that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of a table, or the reason why there is none.

    `mean` and the sample deviation `std` are over the `n` seeds that are done of those `asked` for;
    their `values` are kept. `state` is a name of MARKS when seeds are missing or the metric does
    not apply, and empty otherwise. What was not trained has a value and no seeds. `failures` are
    the numbers of the footnotes with the causes, `keys` the cells behind `mean`. `interval` is that
    of a single cell. `paper` is the published value, and `within` says whether it lies within the
    spread, None where that is unknown (reports/paper.py). `form` is how the value is printed.
    """

    metric: str
    mean: float | None = None
    std: float | None = None
    n: int = 0
    asked: int = 0
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None
    state: str = ""
    failures: tuple[int, ...] = ()
    stand_in: bool = False
    best: bool = False
    second: bool = False
    keys: tuple[str, ...] = ()
    paper: float | None = None
    within: bool | None = None
    form: str = ".1f"

    @property
    def mark(self) -> str:
        """All marks of this entry, such as `†‡`, `·` or `✗¹`."""
        one_seed = ONE_SEED if len(self.seeds) == 1 else ""
        stand_in = STAND_IN if self.stand_in else ""
        return self.state_mark + one_seed + stand_in

    @property
    def state_mark(self) -> str:
        """The mark of `state`, with the numbers of its footnotes."""
        return MARKS.get(self.state, "") + "".join(map(superscript, self.failures))

    @property
    def few(self) -> str:
        """How many seeds a mean is over, where it is not over all that were asked for."""
        return f"n={self.n}" if 1 < self.n < self.asked else ""

    @property
    def difference(self) -> float | None:
        """Our mean less the published value; None where one of them is missing."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cell of a row, whatever became of it; `cause` is why it failed, as it was recorded."""

    seed: int
    state: str
    key: str | None
    stand_in: bool
    cause: str | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers: what it is of, and the headings above it from the widest down.

    `shaded` sets the paper's own protocol apart where protocols are side by side.
    """

    metric: str
    headings: tuple[str, ...]
    shaded: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: its `header` cells, the group of rows it stands in, and its entries.

    `model` and `protocol` are those of its cells; `shaded` sets the rows of the paper's own
    protocol apart; `cost` is what its cells took. `derived` says that the paper does not print its
    published values: they follow from others.
    """

    group: str
    header: tuple[str, ...]
    entries: tuple[Entry, ...]
    model: str = ""
    protocol: str = ""
    shaded: bool = False
    runs: tuple[Run, ...] = ()
    cost: "Cost | None" = None
    derived: bool = False

    @property
    def mark(self) -> str:
        """How many seeds, † and ‡, where they hold for every number of this row."""
        measured = [e for e in self.entries if e.mean is not None and e.metric in METRICS]
        few = {entry.few for entry in measured}
        marks = (mark for mark in (ONE_SEED, STAND_IN) if all(mark in e.mark for e in measured))
        told = (few.pop() if len(few) == 1 else "", "".join(marks))
        return " ".join(filter(None, told)) if measured else ""

    @property
    def has_paper(self) -> bool:
        """Whether the paper has a value for any of its numbers."""
        return any(entry.paper is not None for entry in self.entries)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What all rows of a table have in common: preset, values of `--set`, heads, and the data.

    Empty is what nobody knows, as of the data before anything was run.
    """

    preset: str = ""
    overrides: tuple[str, ...] = ()
    heads: str = ""
    data: str = ""
    drawn: bool = False

    @property
    def told(self) -> str:
        """What of these is not the paper's, and the data, in words."""
        said = {
            f"preset {self.preset}": self.preset not in ("", "paper"),
            f"--set {' '.join(self.overrides)}": self.overrides,
            f"{self.heads} heads": self.heads not in ("", "transformer"),
            f"data {self.data}{' (drawn)' * self.drawn}": self.data,
        }
        return ", ".join(words for words, holds in said.items() if holds)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as values: `rows` by group in order, `references` below a rule, `notes` below all.

    `causes` are the texts of the footnotes on failures, `stale` the names of the cells that were
    left out because they are of another protocol version or of other data.
    """

    number: str
    title: str
    header: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    references: tuple[Row, ...]
    notes: tuple[str, ...]
    causes: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    conditions: Conditions = Conditions()

    @property
    def metrics(self) -> tuple[str, ...]:
        """What its columns are of, in their order."""
        return tuple(dict.fromkeys(column.metric for column in self.columns))


def columns_of(metrics: Iterable[str]) -> tuple[Column, ...]:
    """Return a column for each of these METRICS."""
    return tuple(Column(metric=metric, headings=METRICS[metric]) for metric in metrics)


def check(results: "DataFrame") -> None:
    """Raise `ReportError` where results lack a column, have no cell, or hold what is not known."""
    missing = [name for name in (*CELL_COLUMNS, *METRICS) if name not in results.columns]
    if missing:
        raise ReportError(f"The results have no column {', '.join(missing)}.")
    if results.empty:
        raise ReportError("There are no cells to report. Select some, or run them first.")
    states = ("done", *(state for state in MARKS if state != "na"))
    for column, known in (("family", FAMILIES), ("state", states)):
        _check_known(results, column, known)


def _check_known(results: "DataFrame", column: str, known: Iterable[str]) -> None:
    unknown = results[~results[column].isin(list(known))][column]
    if not unknown.empty:
        raise ReportError(
            f"There is no {column} {listed(unknown)}. A table shows: {', '.join(known)}."
        )


def superscript(number: int) -> str:
    """Return the number of a footnote."""
    return str(number).translate(SUPERSCRIPTS)


def listed(values: Iterable[object]) -> str:
    """Quote values for a message, each once."""
    return ", ".join(f"'{value}'" for value in dict.fromkeys(values))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Values for comparison, by metric: `keys` of the cells that each is known from, by metric too.

    `stand_in` says that they are about demo data.
    """

    values: Mapping[str, float]
    keys: Mapping[str, str] = field(default_factory=dict)
    stand_in: bool = False

    def entry(self, metric: str) -> Entry:
        """Return its number of a metric."""
        if metric not in self.values:
            return Entry(metric=metric, state="na")
        value = self.values[metric]
        keys = (self.keys[metric],) if metric in self.keys else ()
        return Entry(
            metric=metric,
            mean=value,
            n=1,
            asked=1,
            values=(value,),
            keys=keys,
            stand_in=self.stand_in,
        )


def reference(name: str, of: Reference, *, columns: int, metrics: Iterable[str] = METRICS) -> Row:
    """Return a row for comparison; `columns` stand before its numbers."""
    unknown = [metric for metric in of.values if metric not in METRICS]
    if unknown:
        raise ReportError(
            f"'{name}' has a value for {listed(unknown)}. Metrics are: {', '.join(METRICS)}."
        )
    header = (name, *[""] * (columns - 1))
    return Row(group="Reference", header=header, entries=tuple(map(of.entry, metrics)))


def ranked(rows: list[Row]) -> tuple[Row, ...]:
    """Mark the best and the second score of every column, by what is printed.

    Ties share; a column without two different values has neither.
    """
    columns = zip(*(row.entries for row in rows), strict=True)
    marked = [_rank_column(column) for column in columns]
    return tuple(
        replace(row, entries=entries)
        for row, entries in zip(rows, zip(*marked, strict=True), strict=True)
    )


def _rank_column(column: tuple[Entry, ...]) -> list[Entry]:
    printed = [_printed(entry) for entry in column]
    values = sorted({value for value in printed if not math.isnan(value)}, reverse=True)
    best, second = values[:2] if len(values) > 1 else (math.nan, math.nan)
    return [
        replace(entry, best=value == best, second=value == second)
        for entry, value in zip(column, printed, strict=True)
    ]


def _printed(entry: Entry) -> float:
    """The score as printed, with one decimal; NaN where seeds are missing, and of what is none."""
    if entry.metric not in METRICS or entry.form != ".1f" or entry.mean is None or entry.state:
        return math.nan
    return float(f"{entry.mean:.1f}")


def explained(rows: tuple[Row, ...], causes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the notes on what the rows use, and on nothing else."""
    entries = [entry for row in rows for entry in row.entries]
    shown = {name for row in rows for name in row.header}
    several = any(entry.n > 1 for entry in entries)
    seeds = sorted({entry.n for entry in entries if entry.n > 1 and not entry.few})
    span = "-".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else "the"
    few = sorted({(entry.n, entry.asked) for entry in entries if entry.few})
    marks = {mark for entry in entries for mark in entry.mark}
    legend = {
        ONE_SEED: "one seed",
        STAND_IN: "stand-in weights or demo data: says nothing about the published checkpoint",
        MARKS["pending"]: "pending",
        MARKS["running"]: "running",
        MARKS["na"]: "does not apply",
    }
    failed = MARKS["failed"]
    protocols = "; ".join(f"{name} {PROTOCOLS[name]}" for name in PROTOCOLS if name in shown)
    return (
        *([protocols] if protocols else []),
        *([f"± sample standard deviation over {span} seeds"] if several else []),
        *(f"n={n} over {n} of the {asked} seeds that were asked for" for n, asked in few),
        *(f"{mark} {meaning}" for mark, meaning in legend.items() if mark in marks),
        *(
            f"{failed}{superscript(number)} failed: {shortened(cause)}"
            for cause, number in causes.items()
        ),
    )


def shortened(cause: str) -> str:
    """Return a cause as a note has it: long paths, and what is longer yet, lose their middle.

    Its end is never cut off, for there it says what to do.
    """
    if len(cause) <= LONG:
        return cause
    text = " ".join(map(_short_path, cause.split()))
    if len(text) <= 2 * LONG:
        return text
    return f"{text[:LONG].rpartition(' ')[0]} … {text[-LONG:].partition(' ')[2]}"


def _short_path(word: str) -> str:
    long = word.count("/") > 1 and len(word) > LONG_PATH
    return f"{word[: LONG_PATH // 3]}…{word[-LONG_PATH // 2 :]}" if long else word


def under(table: Table, conditions: Conditions) -> Table:
    """Say of a table what its rows have in common, in its title too."""
    title = "; ".join(filter(None, (table.title, conditions.told)))
    return replace(table, title=title, conditions=conditions)


def leaving_out(table: Table, stale: Sequence[str]) -> Table:
    """Name beside a table the cells that it leaves out as stale, instead of mixing them in."""
    if not stale:
        return table
    named, more = ", ".join(stale[:STALE_NAMED]), len(stale) - STALE_NAMED
    rest = f" and {more} more" if more > 0 else ""
    note = f"Left out, of another protocol version, data or weights: {named}{rest}"
    return replace(table, stale=tuple(stale), notes=(*table.notes, note))
