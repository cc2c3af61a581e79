"""What a SLURM array asks for, and the script that sbatch would get."""

import dataclasses
import difflib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from runners.base import RunnerError


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
