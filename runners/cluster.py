"""The items through submitit: as processes of this machine, or as a SLURM array.

Progress never lives in what is submitted: `Resumable` holds a function and the name of an item,
and the function finds its own state on disk. That holds when a node dies or an administrator
requeues a job, neither of which lets the job say goodbye.
"""

import contextlib
import dataclasses
import difflib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission
from submitit.slurm.slurm import _make_sbatch_string

from runners.base import Outcome, RunnerError, last_words

POLL_S = 0.1
STOP_S = 30  # for a worker that was asked to stop: one step of training and a save
LOCAL_TIMEOUT_MIN = 30 * 24 * 60  # submitit kills local jobs after 2 minutes if nothing is said
TAIL_LINES = 20


@dataclass
class Resumable:
    """What is submitted: a function and one item.

    submitit requeues after a time-out only an object that has `checkpoint`.
    """

    function: Callable[[str], object]
    item: str
    pid: int | None = field(default=None, init=False)

    def __call__(self) -> None:
        self.pid = os.getpid()
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            # submitit swallows SIGTERM; on SLURM that is right, as USR2 follows it.
            signal.signal(signal.SIGTERM, _like_ctrl_c)
        self.function(self.item)

    def checkpoint(self) -> DelayedSubmission | None:
        """Hand back the same work; None (do not requeue) in a fork that inherited the handler."""
        if self.pid not in (None, os.getpid()):
            return None
        return DelayedSubmission(Resumable(self.function, self.item))


def _like_ctrl_c(signum: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    stop = handler if callable(handler) else signal.default_int_handler
    stop(signal.SIGINT, frame)


class Local:
    """Worker processes of this machine, at most `slots` at once.

    Each worker may use `threads` CPU threads. `gpus` are shared out evenly over the slots, in
    order; without any, what a worker sees of the GPUs is left as it is here. submitit's files
    and the workers' logs go into a new folder inside `folder` for every call of `run`.

    A worker's Ctrl-C is SIGTERM: when `run` is left early, every worker gets one, has STOP_S
    seconds to save and is then killed with its children. A second Ctrl-C kills at once.
    """

    def __init__(self, folder: Path, slots: int, threads: int, gpus: tuple[str, ...] = ()) -> None:
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

    def run(
        self, function: Callable[[str], object], items: Iterable[str]
    ) -> Generator[Outcome, None, None]:
        """Yield outcomes as the workers end, not in the order of the items."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=self.folder))
        waiting = deque(enumerate(items))
        running: dict[int, Job] = {}
        try:
            while waiting or running:
                over = [slot for slot, job in running.items() if job.done()]
                outcomes = [running.pop(slot).outcome() for slot in over]
                for slot in range(self.slots):
                    if slot not in running and waiting:
                        number, item = waiting.popleft()
                        running[slot] = self._start(function, item, slot, folder / str(number))
                yield from outcomes
                if not outcomes:
                    time.sleep(POLL_S)
        finally:
            _stop(list(running.values()))

    def _start(
        self, function: Callable[[str], object], item: str, slot: int, folder: Path
    ) -> "Job":
        executor = _SlotExecutor(folder, self._environment(slot))
        executor.update_parameters(timeout_min=LOCAL_TIMEOUT_MIN)
        return Job(item, executor.submit(Resumable(function, item)))

    def _environment(self, slot: int) -> dict[str, str]:
        libraries = ("OMP", "MKL", "OPENBLAS")
        environment = {f"{library}_NUM_THREADS": str(self.threads) for library in libraries}
        if self.gpus:
            each = len(self.gpus) // self.slots
            mine = self.gpus[slot * each : (slot + 1) * each]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        return environment


@dataclass(frozen=True)
class Job:
    """One submitted item: the small part of `concurrent.futures.Future` that is needed here."""

    item: str
    submitted: submitit.Job[None]

    @property
    def pid(self) -> int:
        """The process that watches the worker; also the process group of both."""
        return int(self.submitted.job_id)

    def done(self) -> bool:
        return self.submitted.done()

    def outcome(self) -> Outcome:
        """Say how the item ended; only when `done`."""
        self.kill()  # what the worker may have left behind
        log = self.submitted.paths.stdout
        if not self.submitted.paths.result_pickle.exists():
            return Outcome(item=self.item, error=_death(log), traceback=_tail(log), log=log)
        failure = self.submitted.exception()
        if failure is None:
            return Outcome(item=self.item, log=log)
        story = _between_fences(str(failure))
        return Outcome(item=self.item, error=last_words(story), traceback=story, log=log)

    def cancel(self) -> None:
        """Ask the worker to stop; it may still save."""
        if not self.done():
            os.kill(self.pid, signal.SIGTERM)  # submitit's watcher passes it on

    def kill(self) -> None:
        """End the worker and everything that it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.submitted.wait()


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


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def _death(log: Path) -> str:
    lines = _tail(log).splitlines() or ["(nothing)"]
    return f"The worker died without a word (killed? out of memory?); its log ends: {lines[-1]}"


def _between_fences(failure: str) -> str:
    """Cut the worker's traceback out of submitit's error, which sets it between dashed lines."""
    fence = "-" * 22
    return failure.split(fence, 1)[-1].rpartition(fence)[0].strip()


class _SlotExecutor(submitit.LocalExecutor):
    """submitit's local executor, with the environment of a slot and a session of its own.

    Left to itself it hides every GPU unless asked for the first k, and its processes share our
    process group, where a Ctrl-C of the terminal would end them before they can save.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.environment = environment

    def _submit_command(self, command: str) -> submitit.LocalJob[None]:
        told = {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * self.parameters["timeout_min"]),
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "submitit.local._local", str(self.folder)],
            env={**os.environ, **self.environment, **told},
            start_new_session=True,
        )
        return submitit.LocalJob(folder=self.folder, job_id=str(process.pid), process=process)


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What a SLURM array asks for: each element runs one item.

    The last two are ours: at most `parallel` elements run at once, and USR2 arrives
    `signal_delay_s` before the end of the time.
    """

    job_name: str = "cells"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time_min: int = 24 * 60
    cpus_per_task: int = 8
    gpus_per_node: int = 1
    mem_gb: int | None = None
    parallel: int = 256
    signal_delay_s: int = 120

    @classmethod
    def parse(cls, text: str) -> "SlurmOptions":
        """Read `partition=gpu,time=12:00:00`: the fields, and SLURM's own `time`."""
        values: dict[str, str | int] = {}
        for pair in filter(None, text.split(",")):
            name, equals, value = (part.strip() for part in pair.partition("="))
            if not equals or not value:
                raise RunnerError(f"SLURM option '{pair}' has no value. Write name=value.")
            if name == "time":
                values["time_min"] = _minutes(value)
            else:
                values[name] = _typed(name, value)
        return cls(**values)  # pyright: ignore[reportArgumentType]: _typed checks by field


def sbatch_text(
    folder: Path, options: SlurmOptions, count: int, python: str = sys.executable
) -> str:
    """Write the script that submitit hands to sbatch for `count` items; nothing is submitted.

    `folder` is where the scripts, the pickles and the logs go: on a file system that every node
    sees. `python` is a shell command, so that it can also enter a container.
    """
    return _make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        folder=folder,
        map_count=count if count > 1 else None,  # submitit makes no array of one
        **_submitit_parameters(options),
    )


def _submitit_parameters(options: SlurmOptions) -> dict[str, Any]:
    return {
        "job_name": options.job_name,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "time": options.time_min,
        "cpus_per_task": options.cpus_per_task,
        "gpus_per_node": options.gpus_per_node or None,
        "mem": None if options.mem_gb is None else f"{options.mem_gb}GB",
        "array_parallelism": options.parallel,
        "signal_delay_s": options.signal_delay_s,
        # Clusters may have requeueing off by default, and a time-out needs it.
        "additional_parameters": {"requeue": True},
    }


def _typed(name: str, value: str) -> str | int:
    types = {field.name: field.type for field in dataclasses.fields(SlurmOptions)}
    if name not in types:
        known = [*types, "time"]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        raise RunnerError(f"Unknown SLURM option '{name}'. {hint}Known: {', '.join(known)}.")
    if types[name] not in (int, int | None):
        return value
    if not value.isdecimal():
        raise RunnerError(f"SLURM option {name} is '{value}'. It must be a whole number.")
    return int(value)


def _minutes(time: str) -> int:
    """Read `90`, `12:00:00` or `2-12:00:00`; seconds are rounded up to a minute."""
    if time.isdecimal():
        return int(time)
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", time)
    if parts is None:
        raise RunnerError(
            f"SLURM option time is '{time}'. "
            "Write minutes, hours:minutes:seconds or days-hours:minutes:seconds."
        )
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)
