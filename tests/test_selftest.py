"""The self-test: it kills, it compares, and it would see a difference."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import BenchError
from bench.selftest import Killer, Moments, Pace, compare, in_peace
from bench.store import append_line, locked
from bench.worker import CUT, DONE, Process, Submitted
from runners.base import Outcome
from tests.conftest import ROOT


def test_a_cell_that_is_killed_five_times_ends_as_the_one_that_was_not(tmp_path):
    script = str(ROOT / "benchmarks" / "chaos.py")
    done = subprocess.run(
        [sys.executable, script, "--small", "--kills", "5", "--fills", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "5 kills, " in done.stdout
    assert done.stdout.strip().endswith("The same to the bit; nothing left over.")
    libraries = ("pymp", "torchinductor")  # what multiprocessing and torch leave, for a while
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(libraries)] == []


@pytest.fixture
def finished(tmp_path):
    """A folder as a finished cell leaves it, in the few files that matter here."""
    home = tmp_path / "cells" / "cell"
    home.mkdir(parents=True)
    line = {"kind": "train", "step": 1, "losses": {"sem": 1.5}, "seconds": 1, "images_per_s": 2}
    append_line(home / "progress.jsonl", line)
    result = {"metrics": {"sem/mIoU": 10.0}, "stages": [{"steps": 3, "seconds": 4}]}
    (home / "result.json").write_text(json.dumps({**result, "provenance": {"host": "here"}}))
    (home / "model.safetensors").write_bytes(b"weights")
    (home / "cell.json").write_text("{}")
    return home


def test_times_places_and_attempts_are_no_difference(finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    for name in ("result.json", "progress.jsonl"):
        text = (other / name).read_text()
        text = text.replace('"seconds": 1', '"seconds": 9').replace('"seconds": 4', '"seconds": 9')
        (other / name).write_text(text.replace("here", "there"))
    append_line(other / "attempts.jsonl", {"host": "there"})
    append_line(finished / "attempts.jsonl", {"host": "here"})
    assert compare(finished, other) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("result.json", "10.0", "10.000000000000002"),
        ("result.json", '"steps": 3', '"steps": 4'),
        ("progress.jsonl", "1.5", "1.5000000000000002"),
        ("progress.jsonl", "\n", '\n{"kind": "train", "step": 1}\n'),
        ("model.safetensors", "weights", "wejghts"),
    ],
)
def test_the_smallest_difference_is_found(finished, tmp_path, name, old, new):
    other = shutil.copytree(finished, tmp_path / "other")
    text = (other / name).read_text()
    assert old in text
    (other / name).write_text(text.replace(old, new))
    assert compare(finished, other) == [f"{name} is not the same"]


@pytest.mark.parametrize("name", ["lock", "state.pt", ".result.json.7.tmp", "preds/x"])
def test_a_file_that_is_left_over_is_found(finished, tmp_path, name):
    other = shutil.copytree(finished, tmp_path / "other")
    (other / name).parent.mkdir(exist_ok=True)
    (other / name).write_text("")
    assert compare(finished, other) == [f"{name} is in one folder only"]


@pytest.mark.parametrize("blows", [1, 10, 100])
def test_so_many_random_moments_go_once_through_the_work(blows):
    pace, dice = Pace(start_s=0.6, work_s=20.0), random.Random(0)
    moments = [dice.random() * pace.span_s(blows) for _ in range(100_000)]
    mean_s = sum(max(0.0, moment - pace.start_s) for moment in moments) / len(moments)
    assert mean_s * blows == pytest.approx(pace.work_s, rel=0.02)


class Waiting:
    """A worker that runs until it gets a signal."""

    def __init__(self, words=CUT):
        self.words = words
        self.got = None

    def send(self, number):
        self.got = number
        return True

    def over(self):
        return self.got is not None

    def wait(self):
        return self.words if self.got else DONE


def node(tmp_path, title):
    (tmp_path / title).mkdir(exist_ok=True)
    return SimpleNamespace(folder=tmp_path / title, title=title)


def test_kills_are_shared_out_by_the_time_that_the_work_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.selftest.EARLY", 1.0)  # there is no attempt to wait for
    paces = {"long": Pace(start_s=0.0, work_s=0.03), "short": Pace(start_s=0.0, work_s=0.01)}
    said = []
    killer = Killer(Moments(20, random.Random(0), paces), said.append)
    for title in paces:
        while not killer(Waiting(), node(tmp_path, title)):
            pass
    assert [blow.title for blow in killer.blows] == ["long"] * 15 + ["short"] * 5
    assert {blow.what for blow in killer.blows} == {"SIGKILL", "SIGTERM", "SIGUSR2"}
    assert len(said) == 20


def test_a_worker_that_fails_by_itself_is_no_kill(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.selftest.EARLY", 1.0)
    paces = {"cell": Pace(start_s=0.0, work_s=0.01)}
    killer = Killer(Moments(1, random.Random(0), paces), print)
    with pytest.raises(BenchError, match=r"failed by itself after SIG.*: ValueError: no"):
        killer(Waiting("ValueError: no"), node(tmp_path, "cell"))
    with pytest.raises(BenchError, match="ended all the same: killed"):
        in_peace(SimpleNamespace(wait=lambda: "killed"), node(tmp_path, "cell"))


@pytest.fixture
def from_here(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_process_ends_well_is_killed_or_says_what_went_wrong(finished, tmp_path, from_here):
    started = [Process(finished), Process(tmp_path / "cells" / "nothing")]
    killed = Process(tmp_path / "cells" / "killed")
    assert killed.send(signal.SIGKILL)
    assert killed.wait() == CUT
    assert not killed.send(signal.SIGTERM)
    assert started[0].wait() == DONE
    assert "FileNotFoundError" in started[1].wait()
    assert sorted(path.name for path in finished.parent.iterdir()) == [".taking", "cell"]


def runner(*errors):
    def run(function, items):
        for item, error in zip(items * len(errors), errors, strict=True):
            yield Outcome(item=item, error=error)

    return SimpleNamespace(run=run)


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (None, DONE),
        ("Interrupted: asked to stop", CUT),
        ("The worker died without a word (killed? out of memory?); its log ends: x", CUT),
        ("ValueError: no", "ValueError: no\n"),
    ],
)
def test_a_runners_worker_ends_as_its_outcome_says(tmp_path, error, ended):
    assert Submitted(runner(error), tmp_path).wait() == ended


def test_a_runners_worker_is_whoever_holds_the_lock(tmp_path, monkeypatch):
    worker = Submitted(runner(None), tmp_path / "cell")
    (tmp_path / "cell").mkdir()
    assert not worker.send(signal.SIGTERM)
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with locked(tmp_path / "cell"):
            assert worker.send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]
    asked = []
    monkeypatch.setattr(
        subprocess, "run", lambda ask, **_: asked.append(ask) or SimpleNamespace(returncode=0)
    )
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with locked(tmp_path / "cell"):
        assert worker.send(signal.SIGUSR2)
    assert asked == [["scancel", "--signal=USR2", "17"]]
