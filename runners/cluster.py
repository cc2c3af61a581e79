"""The items through submitit: as processes of this machine; and what SLURM would be handed."""

import contextlib
import dataclasses
import difflib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from runners.base import POLL_S, Outcome, RunnerError, Started, last_words, nothing
from runners.resumable import LAUNCHER, STOP_S, Resumable

LOCAL_TIMEOUT_MIN = 30 * 24 * 60  # submitit kills local jobs after 2 minutes if nothing is said
TAIL_LINES = 20
_END = object()


class Local:
    """Worker processes of this machine, at most `slots` at once.

    Each worker may use `threads` CPU threads. `gpus` are shared out evenly over the slots, in
    order; without any, what a worker sees of the GPUs is left as it is here. submitit's files
    and the workers' logs go into a new folder inside `folder` for every call of `run`.

    A worker's Ctrl-C is SIGTERM: when `run` is left early, or this process is killed, every worker
    gets one, has STOP_S seconds to save and is then killed with its children. A second Ctrl-C kills
    at once.
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
        self,
        function: Callable[[str], object],
        items: Iterable[str | None],
        started: Callable[[Started], None] = nothing,
    ) -> Generator[Outcome, None, None]:
        """Yield outcomes as the workers end, not in the order of the items."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=self.folder))
        waiting, running = iter(items), dict[int, Job]()
        numbers, more = itertools.count(), True
        try:
            while more or running:
                over = [slot for slot, job in running.items() if job.done()]
                outcomes = [running.pop(slot).outcome() for slot in over]
                for slot in [slot for slot in range(self.slots) if slot not in running]:
                    item = next(waiting, _END) if more else None
                    more = more and item is not _END
                    if not isinstance(item, str):
                        break
                    home = folder / str(next(numbers))
                    running[slot] = job = self._start(function, item, slot, home)
                    started(Started(item=item, id=str(job.pid), log=job.log))
                yield from outcomes
                if not outcomes:
                    time.sleep(POLL_S)
        finally:
            _stop(list(running.values()))

    def _start(self, function: Callable[[str], object], item: str, slot: int, home: Path) -> "Job":
        told = {**self._environment(slot), LAUNCHER: str(os.getpid())}
        executor = _SlotExecutor(home, told)
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

    @property
    def log(self) -> Path:
        """What the worker prints."""
        return self.submitted.paths.stdout

    def done(self) -> bool:
        return self.submitted.done()

    def outcome(self) -> Outcome:
        """Say how the item ended; only when `done`."""
        self.kill()  # what the worker may have left behind
        log = self.log
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


def last_line(log: Path) -> str:
    """Return the last thing that a worker's log says, or that it was killed for its memory."""
    told = (line for line in _tail(log).splitlines() if line.strip())
    lines = [line for line in told if not line.startswith("submitit INFO")] or ["(nothing)"]
    return next((line for line in lines if re.search("oom.kill", line, re.I)), lines[-1])


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def _death(log: Path) -> str:
    return (
        f"The worker died without a word (killed? out of memory?); its log ends: {last_line(log)}"
    )


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

    def times(self, ranks: int) -> "SlurmOptions":
        """Return what jobs ask for in which so many processes share one item."""
        memory = None if self.mem_gb is None else ranks * self.mem_gb
        cpus, gpus = ranks * self.cpus_per_task, ranks * self.gpus_per_node
        return dataclasses.replace(self, cpus_per_task=cpus, gpus_per_node=gpus, mem_gb=memory)

    def words(self) -> str:
        """Return in a few words what each job gets."""
        hours, minutes = divmod(self.time_min, 60)
        where = f" in {self.partition}" if self.partition else ""
        return (
            f"{self.parallel} at once{where}, {self.gpus_per_node} GPU, {hours}:{minutes:02} h each"
        )


def sbatch_text(
    folder: Path, options: SlurmOptions, count: int, python: str = sys.executable
) -> str:
    """Write the script that submitit hands to sbatch for `count` items; nothing is submitted.

    `folder` is where the scripts, the pickles and the logs go: on a file system that every node
    sees. `python` is a shell command, so that it can also enter a container.
    """
    return _make_sbatch_string(
        command=f"{command(python)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        folder=folder,
        map_count=count if count > 1 else None,  # submitit makes no array of one
        **submitit_parameters(options),
    )


def command(python: str = shlex.quote(sys.executable)) -> str:
    """Return the shell command that starts Python in a job.

    Python starts deaf to USR2: until submitit listens, a preemption would end the job for good.
    """
    return f'bash -c \'trap "" USR2; exec "$@"\' bash {python}'


def submitit_parameters(options: SlurmOptions) -> dict[str, Any]:
    """Return what these options are called in submitit."""
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
        "stderr_to_stdout": True,
        "setup": [
            'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',  # since 22.05 srun takes one else
            'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"',
        ],
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
