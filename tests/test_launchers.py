"""Two who launch the same cells at once, and one who is killed, with real cells and workers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bench.store import owner, read_lines, state
from tests.conftest import ROOT

CELL = ("--zoo", "moco_v2", "--protocol", "paf", "--preset", "tiny")


@pytest.fixture
def start(new_store, streets, tmp_path):
    """Return a function that starts `bench run` on one store, in a process of its own."""
    store, started = new_store(), []
    told = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "BENCH_SAVE_S": "0.2"}

    def run(*words):
        where = ("--data", str(streets), "--stand-ins", "--store", str(store), "--track", "off")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "bench", "run", *CELL, *where, *words],
                env={**os.environ, **told, "BENCH_ZOO": str(tmp_path / "no-weights")},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return started[-1]

    run.store = store
    yield run
    for process in started:
        process.kill()
        process.communicate()


def attempts(store):
    return [len(read_lines(home)) for home in store.glob("*/*/attempts.jsonl")]


def test_two_runs_at_once_compute_every_cell_once_and_both_see_all_of_it_done(start):
    both = [start("--jobs", "1"), start("--jobs", "1")]
    for process in both:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        assert "4 done" in out
    assert attempts(start.store) == [1] * 5  # three teachers, their labels, a student


def test_the_workers_of_a_killed_launcher_save_and_the_next_run_goes_on(start):
    words = ("--scheme", "zeroing", "--set", "stages.finetune.epochs=12")
    launcher = start(*words)
    deadline = time.monotonic() + 120

    def wait_until(true):
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_until(lambda: list(start.store.glob("cells/*/state.pt")))
    (home,) = start.store.glob("cells/moco*")
    launcher.send_signal(signal.SIGKILL)
    wait_until(lambda: owner(home) is None)
    assert state(home) == "preempted"
    assert json.loads((home / "job.json").read_text())["cluster"] == "local"

    again = start(*words)
    out, _ = again.communicate(timeout=200)
    assert again.returncode == 0, out
    assert attempts(start.store) == [2]
