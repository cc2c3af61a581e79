"""The items as processes of this machine, forked from one that has imported what they need.

That one is the standard library's fork server: it is started with the first item, runs nothing
itself, and ends with this process. Importing torch takes seconds, a fork of one that has it
milliseconds; and a worker is still a process of its own, which can be killed and leaves nothing
behind in the next.
"""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from runners.base import (
    POLL_S,
    SIGNALS,
    STOP_S,
    WORKER,
    Interrupted,
    Outcome,
    RunnerError,
    Started,
    held_back,
    last_line,
    last_words,
    like_ctrl_c,
    nothing,
    tail,
)

LIBRARIES = ("OMP", "MKL", "OPENBLAS")
STORY = 10_000  # characters of a traceback that come back: they fit into a pipe that nobody reads
_END = object()


class Local:
    """Worker processes of this machine, at most `slots` at once.

    Each worker may use `threads` CPU threads. `gpus` are shared out evenly over the slots, in
    order; without any, what a worker sees of the GPUs is left as it is here. The workers' logs go
    into a new folder inside `folder` for every call of `run`. `imports` are the modules that are
    imported once for all workers.

    A worker's Ctrl-C is SIGTERM (or USR2): when `run` is left early, or this process is killed,
    every worker gets one, has STOP_S seconds to save and is then killed with its children. A second
    Ctrl-C kills at once.
    """

    def __init__(
        self,
        folder: Path,
        slots: int,
        threads: int,
        gpus: tuple[str, ...] = (),
        imports: Sequence[str] = (),
    ) -> None:
        if slots < 1 or threads < 1:
            raise RunnerError(
                f"Local runner with {slots} slots of {threads} threads. Both must be at least 1."
            )
        if len(gpus) % slots:
            raise RunnerError(
                f"{len(gpus)} GPUs cannot be shared evenly by {slots} slots. "
                f"Use {len(gpus)} slots or another set of GPUs."
            )
        self.folder = folder
        self.slots = slots
        self.threads = threads
        self.gpus = gpus
        self.imports = imports

    def run(
        self,
        function: Callable[[str], object],
        items: Iterable[str | None],
        started: Callable[[Started], None] = nothing,
    ) -> Generator[Outcome, None, None]:
        """Yield outcomes as the workers end, not in the order of the items.

        The function goes to the workers by its name: it is one of a module's, or a
        `functools.partial` of one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=self.folder))
        waiting, running = iter(items), dict[int, Job]()
        number, more = 0, True
        try:
            while more or running:
                over = [slot for slot, job in running.items() if job.done()]
                outcomes = [running.pop(slot).outcome() for slot in over]
                for slot in [slot for slot in range(self.slots) if slot not in running]:
                    item = next(waiting, _END) if more else None
                    more = more and item is not _END
                    if not isinstance(item, str):
                        break
                    log, number = folder / f"{number}.txt", number + 1
                    running[slot] = job = self._start(function, item, slot, log)
                    started(Started(item=item, id=str(job.pid), log=log))
                yield from outcomes
                if not outcomes:
                    wait([job.process.sentinel for job in running.values()], POLL_S)
        finally:
            _stop(list(running.values()))

    def _start(self, function: Callable[[str], object], item: str, slot: int, log: Path) -> "Job":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self.imports))
        told, (story, sender) = self._told(slot), context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(function, item, told, log, sender))
        with held_back(), _environment(told):
            process.start()
        sender.close()
        return Job(item, process, log, story)

    def _told(self, slot: int) -> dict[str, str]:
        told = {WORKER: "local"}
        told |= {f"{library}_NUM_THREADS": str(self.threads) for library in LIBRARIES}
        if self.gpus:
            each = len(self.gpus) // self.slots
            mine = self.gpus[slot * each : (slot + 1) * each]
            told["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        return told


@dataclass(frozen=True)
class Job:
    """One item and its worker, which leads a process group of its own; `story` is what it tells."""

    item: str
    process: ForkServerProcess
    log: Path
    story: Connection

    @property
    def pid(self) -> int:
        assert self.process.pid is not None, "it was started"
        return self.process.pid

    def done(self) -> bool:
        return not self.process.is_alive()

    def outcome(self) -> Outcome:
        """Say how the item ended; only when `done`."""
        self.kill()  # what the worker may have left behind
        story = self._told()
        if story is None and self.process.exitcode != 0:
            death = f"{self._death()}; its log ends: {last_line(self.log)}"
            return Outcome(item=self.item, error=death, traceback=tail(self.log), log=self.log)
        error = last_words(story) if story else None
        return Outcome(item=self.item, error=error, traceback=story or "", log=self.log)

    def cancel(self) -> None:
        """Ask the worker to stop; it may still save."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the worker and everything that it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()  # it leads no group yet where it has only just been started
        self.process.join()

    def _told(self) -> str | None:
        with contextlib.suppress(EOFError):
            return self.story.recv() if self.story.poll() else None
        return None

    def _death(self) -> str:
        code = self.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"The worker died without a word ({how}; out of memory?)"


def _stop(jobs: list[Job]) -> None:
    deadline = time.monotonic() + STOP_S
    try:
        for job in jobs:
            job.cancel()
        while time.monotonic() < deadline and not all(job.done() for job in jobs):
            time.sleep(POLL_S)
    finally:
        for job in jobs:
            job.kill()


def _work(
    function: Callable[[str], object],
    item: str,
    told: Mapping[str, str],
    log: Path,
    sender: Connection,
) -> None:
    """Be a worker, from the fork to the end; what goes wrong is told to who asked for the work."""
    os.setsid()  # a Ctrl-C of the terminal is for the launcher alone
    os.environ.update(told)
    _print_into(log)
    threading.Thread(target=_outlive, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, like_ctrl_c)
    story = _story(function, item)
    if story is not None:
        sender.send(story[-STORY:])
        print(story, flush=True)


def _story(function: Callable[[str], object], item: str) -> str | None:
    """Call the function; return what went wrong, as Python prints it."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        function(item)
    except KeyboardInterrupt:
        return f"{Interrupted.__name__}: asked to stop"
    except Exception:
        return traceback.format_exc().rstrip()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is left to do takes no time
    return None


def _print_into(log: Path) -> None:
    """Have this process and its children print into a file, line by line."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper), "nobody has replaced it in the fork server"
        stream.flush()
        stream.reconfigure(line_buffering=True)
    for number in (1, 2):
        os.dup2(target, number)
    os.close(target)


def _outlive() -> None:
    """Wait for the death of the launcher; then stop, as it would ask.

    A launcher that is killed cannot stop its workers, and nobody would take their place.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "it was started by one"
    launcher.join()
    print("The launcher is gone: stopping.", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def _environment(told: Mapping[str, str]) -> Iterator[None]:
    """Have what is started here find this in its environment: libraries read it when loaded."""
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
