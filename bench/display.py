"""What a person sees while cells run, read from their folders: bars on a terminal, else lines."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from bench.failure import STOPPED
from bench.plan import Node
from bench.status import Reached, Stored, jobs, line, reached
from bench.store import state

POLL_S = 0.5
SHOWN = ("cell", "state", "stage", "progress", "eta", "heart-beat", "attempts", "job", "error")
KEPT = SHOWN[:4]  # columns that are there even where they are empty
LEAST = ("attempts", "stage", "heart-beat", "job", "eta", "progress", "error", "state")
ERROR = 24  # places that a column of errors takes at least, if they are so long


class Display:
    """Follows cells from a thread, whatever runs them and wherever."""

    def __init__(self, nodes: Sequence[Node], console: Console) -> None:
        self.nodes, self.console, self.ended = nodes, console, 0
        self._epochs: dict[Path, tuple[str, int]] = {}
        self._bars: dict[Path, TaskID] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._total = self._progress.add_task("cells", total=len(nodes), now="")

    def __enter__(self) -> Self:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._progress.stop()

    def finished(self, one: Node, error: str | None) -> None:
        """Say how a cell ended."""
        self.ended += 1
        how = "done" if error is None else f"failed: {error}"
        if error and error.startswith("Busy"):
            how = error
        elif error and error.startswith(STOPPED):
            how = (
                f"stopped: {error.removeprefix(f'{STOPPED}: ')}; the next bench run goes on with it"
            )
        say(self.console, f"[{self.ended}/{len(self.nodes)}] {one.title}: {how}")
        self._progress.update(self._total, completed=self.ended)
        if one.folder in self._bars:
            self._progress.remove_task(self._bars.pop(one.folder))

    def _follow(self) -> None:
        while not self._over.wait(POLL_S):
            for one in self.nodes:
                here = reached(one.folder) if state(one.folder) == "running" else None
                if here is not None:
                    self._show(one, here)

    def _show(self, one: Node, here: Reached) -> None:
        losses = " ".join(f"{task} {value:.2f}" for task, value in here.last["losses"].items())
        speed, left = here.last["images_per_s"], timedelta(seconds=here.eta_s)
        epoch = (here.last["stage"], here.last["epoch"])
        now = f"{epoch[0]}, epoch {epoch[1]}: loss {losses}, {speed:.1f} images/s, {left} left"
        if not self.console.is_terminal:
            if self._epochs.get(one.folder) != epoch:
                self._epochs[one.folder] = epoch
                say(self.console, f"{one.title}: {here.taken}/{here.total} {now}")
            return
        if one.folder not in self._bars:
            self._bars[one.folder] = self._progress.add_task(one.title, total=here.total, now="")
        self._progress.update(self._bars[one.folder], completed=here.taken, now=now)


def table(cells: list[Stored], width: int) -> Table:
    """Return what `status` shows: how many cells are how, and each of them.

    Names are whole, for their ends are given to other verbs: where that leaves no room for all
    columns, those that say least are left out.
    """
    hints = jobs([one.home for one in cells if one.state != "done"])
    counts = Counter(one.state for one in cells)
    words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    rows = [_row(one, hints.get(one.home)) for one in cells]
    shown = _fitting(rows, width)
    found = Table(box=None, pad_edge=False, title=words, title_justify="left")
    for name in shown:
        long = name == "error" or (name == "cell" and shown == SHOWN[:1])
        found.add_column(name, no_wrap=not long, overflow="fold")
    for row in rows:
        found.add_row(*(row[name] for name in shown))
    return found


def _row(one: Stored, hint: str | None) -> dict[str, str]:
    """Return what `status` shows of a cell, by column."""
    facts = line(one)
    left, beat = facts["eta_s"], facts["heartbeat_age_s"]
    row = (
        *(facts["cell"], facts["state"], facts["stage"]),
        f"{100 * (facts['progress'] or 0):.0f} %",
        None if left is None else timedelta(seconds=left),
        None if beat is None else f"{beat} s ago",
        *(facts["attempts"], hint, facts["error"]),
    )
    shown = ("" if value is None else str(value) for value in row)
    return dict(zip(SHOWN, shown, strict=True))


def _fitting(rows: list[dict[str, str]], width: int) -> tuple[str, ...]:
    """Return the columns that say something and that there is room for, two places apart."""
    room = {name: max((len(row[name]) for row in rows), default=0) for name in SHOWN}
    shown = [name for name in SHOWN if name in KEPT or room[name]]
    room["error"] = min(room["error"], ERROR)
    for name in LEAST:
        if name in shown and sum(max(len(one), room[one]) + 2 for one in shown) - 2 > width:
            shown.remove(name)
    return tuple(shown)


def say(console: Console, line: str) -> None:
    """Print a line as it is: no markup, no colours, no wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def terminal(*, err: bool = False) -> Console:
    """Return where people read: the terminal, or wide lines where there is none."""
    console = Console(stderr=err)
    return console if console.is_terminal else Console(stderr=err, width=160)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_rows(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print rows under their columns; what is None stays empty."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    terminal().print(table, markup=False, highlight=False)
