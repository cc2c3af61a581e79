"""The MLflow side of a launch: follows the cells' folders, and costs no result where it fails."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from bench import track
from bench.display import say
from bench.store import state

POLL_S = 5.0


class Mirror:
    """Has MLflow show cells from a thread, whatever runs them and wherever.

    With a server the curves of running cells grow there; a database of the store's own gets to
    know of beginnings and ends. Where MLflow is away or broken one line says so, and no more is
    tried: `bench track sync` makes up for it. `uri` is None for nowhere. `before_last` is called
    before the last look at the cells.
    """

    def __init__(
        self,
        uri: str | None,
        store: Path,
        folders: Sequence[Path],
        console: Console,
        before_last: Callable[[], object] = lambda: None,
    ) -> None:
        self.uri, self.store, self.folders, self.console = uri, store, folders, console
        self.before_last = before_last
        self._shown: dict[Path, tuple[str, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        if self.uri is not None:
            self._attempt(track.prepare, self.uri, self.store)
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
        self.before_last()
        self._look()

    def _follow(self) -> None:
        while self.uri is not None:
            self._look()
            if self._over.wait(POLL_S):
                return

    def _look(self) -> None:
        """Mirror the cells that are not as they were at the last look."""
        if self.uri is None:
            return
        now = {folder: self._seen(folder) for folder in self.folders}
        changed = [folder for folder, seen in now.items() if self._shown.get(folder) != seen]
        if changed:
            self._attempt(track.mirror, changed, self.uri, self.store)
            self._shown = now

    def _seen(self, folder: Path) -> tuple[str, int]:
        """Return what a run shows of a cell: its state, and with a server how far it has come."""
        lines = folder / "progress.jsonl"
        live = self.uri is not None and track.is_server(self.uri)
        return state(folder), lines.stat().st_size if live and lines.exists() else 0

    def _attempt(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except track.TrackError as error:
            self.uri = None
            say(self.console, f"Not tracked: {error}")
