"""One start of a cell, or of pseudo labels, that can be watched and killed, wherever it runs."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from bench.failure import NODE, cause
from bench.store import owner
from bench.train import stop
from bench.work import work
from runners.base import Outcome, Runner

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
DONE, CUT = "done", "cut"  # how a worker ends, where nothing goes wrong


class Worker(Protocol):
    """One start of a cell, or of pseudo labels, in a process of its own somewhere."""

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False where there is nothing to send it to, yet or any more."""
        ...

    def over(self) -> bool:
        """Return whether it has ended."""
        ...

    def wait(self) -> str:
        """Return how it ended: DONE, CUT (killed, or asked to stop), or what went wrong."""
        ...


class Process:
    """A worker that is a process of this machine."""

    def __init__(self, folder: Path) -> None:
        self.log = folder.parent / f".{folder.name}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.worker", str(folder)],
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False where there is nothing to send it to, yet or any more."""
        if self.over():
            return False
        self.process.send_signal(number)
        return True

    def over(self) -> bool:
        """Return whether it has ended."""
        return self.process.poll() is not None

    def wait(self) -> str:
        """Return how it ended: DONE, CUT (killed, or asked to stop), or what went wrong."""
        code = self.process.wait()
        words = self.log.read_text(errors="replace")
        self.log.unlink()
        if code == 0:
            return DONE
        return CUT if code in (stop.EXIT_CODE, *(-number for number in SIGNALS)) else words


class Submitted:
    """A worker that a runner starts, which may start it again by itself."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.folder = folder
        self.outcomes: list[Outcome] = []
        self.thread = threading.Thread(target=self._run, args=(runner,), daemon=True)
        self.thread.start()

    def _run(self, runner: Runner) -> None:
        self.outcomes += runner.run(work, [str(self.folder)])

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to whoever holds the lock; False where nobody does."""
        holder = owner(self.folder)
        if holder is None:
            return False
        if holder["job"] is None:
            os.kill(holder["pid"], number)
            return True
        name = number.name.removeprefix("SIG")
        ask = ["scancel", f"--signal={name}", holder["job"]]
        return subprocess.run(ask, check=False).returncode == 0

    def over(self) -> bool:
        """Return whether it has ended."""
        return not self.thread.is_alive()

    def wait(self) -> str:
        """Return how it ended: DONE, CUT (killed, or asked to stop), or what went wrong."""
        self.thread.join()
        if not self.outcomes:
            return "The runner has ended without an outcome."
        outcome = self.outcomes[-1]
        if outcome.error is None:
            return DONE
        cut = outcome.error.startswith("Interrupted") or cause(outcome.error) == NODE
        return CUT if cut else f"{outcome.error}\n{outcome.traceback}"


def main(folders: Iterable[str]) -> int:
    """Be a worker; return the exit code."""
    try:
        for folder in folders:
            work(folder)
    except stop.Stopped:
        return stop.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
