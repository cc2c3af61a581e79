"""A SLURM for all tests of this folder, and the grid that they disturb."""

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.selftest import compare
from bench.store import owner, read_lines
from tests.conftest import ROOT
from tests.slurm.cluster import Cluster, missing

# 20 steps or so a cell, so that there is something to disturb.
GRID = ("--zoo", "moco_v2,clip,supervised", "--protocol", "pf,paf")
VALUES = ("--preset", "tiny", "--set", "stages.finetune.epochs=6", "--set", "optim.batch=4")
SLURM = "gpus_per_node=0,cpus_per_task=1,time=60"
TEACHERS = ("sem", "driv", "det")


@pytest.fixture(scope="session")
def cluster():
    if absent := missing():
        pytest.skip(f"SLURM is not installed: {', '.join(absent)}")
    cluster = Cluster()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def slurm(cluster):
    """The cluster, with nothing queued; requeued jobs are made to start."""
    with cluster.kicking():
        yield cluster
    cluster.ask("scancel", f"--user={getpass.getuser()}")
    until(lambda: not cluster.ask("squeue", "--noheader"))


class Runs:
    """A store, and `bench run` of (a part of) the grid into it."""

    def __init__(self, store: Path, data: Path, environment: dict[str, str]) -> None:
        self.store, self.data, self.environment = store, data, environment

    def start(self, *words: str, grid: tuple[str, ...] = GRID) -> subprocess.Popen[str]:
        """Start `bench run`; what it prints goes to one pipe."""
        where = ("--data", str(self.data), "--stand-ins", "--store", str(self.store))
        return subprocess.Popen(
            [sys.executable, "-m", "bench", "run", *grid, *VALUES, *where, *words],
            cwd=self.store,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(
        self, *words: str, grid: tuple[str, ...] = GRID, seconds: float = 300
    ) -> tuple[int, str]:
        """Run `bench run` to its end; return its exit code and what it printed."""
        process = self.start(*words, grid=grid)
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{words} runs on:\n{process.communicate()[0]}") from None
        return process.returncode, out

    def bench(self, *words: str) -> str:
        """Run another verb on the store; return what it printed."""
        command = [sys.executable, "-m", "bench", *words, "--store", str(self.store)]
        return subprocess.check_output(command, env=self.environment, text=True, timeout=60)

    def home(self, pattern: str) -> Path:
        """Return the one folder of a cell that fits."""
        (found,) = self.store.glob(f"cells/{pattern}")
        return found

    def job(self, home: Path) -> str:
        return json.loads((home / "job.json").read_text())["id"]

    def attempts(self, home: Path) -> int:
        return len(read_lines(home / "attempts.jsonl"))

    def handed_over(self, process: subprocess.Popen[str], pattern: str) -> Path:
        """Wait until a cell has its job; return its folder."""
        until(lambda: list(self.store.glob(f"cells/{pattern}/job.json")) or process.poll())
        assert process.poll() in (None, 0), process.communicate()[0]
        return self.home(pattern)

    def training(self, home: Path) -> int:
        """Wait until a cell has taken some steps, and hold it there, all of its job's processes.

        Returns the one that holds the lock.
        """
        until(lambda: read_lines(home / "progress.jsonl"))
        holder = owner(home)
        assert holder is not None, "it has come to its end already"
        os.killpg(os.getpgid(holder["pid"]), signal.SIGSTOP)
        until(lambda: held(holder["pid"]))
        assert not (home / "result.json").exists()
        return holder["pid"]

    def metrics(self) -> dict[str, dict[str, float]]:
        files = self.store.glob("cells/*/result.json")
        return {file.parent.name: json.loads(file.read_text())["metrics"] for file in files}

    def same_as(self, other: "Runs") -> bool:
        """Whether the cells that are done here are those of the other store, to the bit.

        So small a model predicts nearly the same whatever it has learned: so its scores are
        compared, and its weights, its statistics of every image, and its log line by line.
        """
        homes = [file.parent for file in self.store.glob("cells/*/result.json")]
        assert homes
        for home in homes:
            until(
                lambda home=home: not any(home.glob("lock*"))
            )  # its job tidies up after the result
            its = other.store / "cells" / home.name
            found = [line for line in compare(its, home) if not line.startswith("job.json")]
            assert found == [], home.name
            assert self.metrics()[home.name] == other.metrics()[home.name]
        return True

    def take(self, other: "Runs", *patterns: str) -> None:
        """Take finished cells and labels from another store, so that the rest alone is to run."""
        for pattern in patterns:
            for home in filter(Path.is_dir, other.store.glob(pattern)):
                shutil.copytree(home, self.store / home.relative_to(other.store))


def held(pid: int) -> bool:
    """Whether a process stands still by now."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def until(true, seconds: float = 300) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """What every `bench` and every job of these tests sees."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "BENCH_SAVE_S": "0.2",
        "BENCH_ZOO": str(tmp_path_factory.mktemp("no-weights")),
    }


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, stand_ins, streets, environment) -> Runs:
    """The whole grid, run in one process without SLURM."""
    store = tmp_path_factory.mktemp("undisturbed") / "runs"
    shutil.copytree(stand_ins, store / "stand-ins", copy_function=os.link)
    runs = Runs(store, streets, environment)
    code, out = runs.run("--runner", "here", "--track", "off", seconds=400)
    assert code == 0, out
    assert len(runs.metrics()) == 9
    return runs


@pytest.fixture
def runs(slurm, new_store, streets, environment) -> Runs:
    """A store with nothing but stand-ins, whose cells go to the SLURM of the tests."""
    return Runs(new_store(), streets, {**environment, **clean(slurm)})


def clean(cluster: Cluster) -> dict[str, str]:
    return {k: v for k, v in cluster.environment.items() if k in ("SLURM_CONF", "PATH")}
