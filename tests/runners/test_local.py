import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

from runners.base import RunnerError
from runners.cluster import STOP_S, Local


@pytest.fixture(autouse=True)
def _jobs_travel_by_value():
    """A worker cannot import this file: it is not on its path."""
    this = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(this)
    yield
    cloudpickle.unregister_pickle_by_value(this)


def live_and_note(notes, item):
    """Write down when this item lived and what its environment was; then end as its name says."""
    started = time.time()
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    environment = ",".join(os.environ.get(name, "unset") for name in names)
    print("working on", item)
    if item == "raises":
        raise ValueError("this item is no good")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    (notes / item).write_text(f"{started} {time.time()} {environment}")


def sleep_with_a_child(notes, item):
    child = subprocess.Popen(["sleep", "60"])
    (notes / item).write_text(f"{os.getpid()} {child.pid}")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (notes / "saved").write_text(item)
        raise


def never_stop_saving(notes, item):
    (notes / item).write_text(f"{os.getpid()}")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (notes / "saving").write_text(item)
        time.sleep(60)


def preempted_once(notes, item):
    attempts = len(list(notes.glob("attempt-*")))
    (notes / f"attempt-{attempts}").write_text(item)
    if attempts == 0:
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)


def alive(pid):
    """Whether a process lives; one that only waits to be reaped does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")


def wait_until(true, seconds=15):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert true()


@contextlib.contextmanager
def ctrl_c_when_written(*notes):
    """Interrupt this process once for each note, as soon as it is there."""

    def interrupt():
        for note in notes:
            wait_until(lambda note=note: note.exists() and note.read_text())
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    yield
    thread.join()


def test_two_slots_run_every_item_and_report_a_raised_and_a_killed_one(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    items = ["first", "raises", "killed", "second", "third"]
    runner = Local(tmp_path / "jobs", slots=2, threads=3)

    outcomes = {o.item: o for o in runner.run(functools.partial(live_and_note, tmp_path), items)}

    assert sorted(outcomes) == sorted(items)
    assert {item for item, outcome in outcomes.items() if outcome.error is None} == {
        "first",
        "second",
        "third",
    }
    assert outcomes["raises"].error == "ValueError: this item is no good"
    assert outcomes["raises"].traceback.startswith("Traceback")
    assert "died" in outcomes["killed"].error
    assert "working on killed" in outcomes["killed"].error
    assert "working on first" in outcomes["first"].log.read_text()

    notes = [(tmp_path / item).read_text().split() for item in ("first", "second", "third")]
    assert [environment for _, _, environment in notes] == ["3,unset"] * 3
    lives = [(float(start), float(end)) for start, end, _ in notes]
    together = [sum(s <= start < e for s, e in lives) for start, _ in lives]
    assert max(together) <= 2


def test_a_preempted_item_is_run_again_and_succeeds(tmp_path):
    runner = Local(tmp_path / "jobs", slots=1, threads=1)
    (outcome,) = runner.run(functools.partial(preempted_once, tmp_path), ["item"])
    assert outcome.error is None
    assert sorted(path.name for path in tmp_path.glob("attempt-*")) == ["attempt-0", "attempt-1"]


def test_each_slot_gets_its_own_gpus(tmp_path):
    runner = Local(tmp_path / "jobs", slots=2, threads=1, gpus=("4", "5", "6", "7"))
    function = functools.partial(live_and_note, tmp_path)
    assert all(outcome.error is None for outcome in runner.run(function, ["a", "b"]))
    seen = [(tmp_path / item).read_text().split()[2] for item in ("a", "b")]
    assert seen == ["1,4,5", "1,6,7"]


def test_ctrl_c_lets_the_worker_save_and_leaves_no_process(tmp_path):
    runner = Local(tmp_path / "jobs", slots=1, threads=1)
    note = tmp_path / "item"
    with ctrl_c_when_written(note), pytest.raises(KeyboardInterrupt):
        list(runner.run(functools.partial(sleep_with_a_child, tmp_path), ["item", "never"]))

    assert (tmp_path / "saved").read_text() == "item"
    assert not (tmp_path / "never").exists()
    wait_until(lambda: not any(alive(int(pid)) for pid in note.read_text().split()))


def test_a_second_ctrl_c_does_not_wait_for_the_worker_to_save(tmp_path):
    runner = Local(tmp_path / "jobs", slots=1, threads=1)
    note = tmp_path / "item"
    began = time.monotonic()
    with ctrl_c_when_written(note, tmp_path / "saving"), pytest.raises(KeyboardInterrupt):
        list(runner.run(functools.partial(never_stop_saving, tmp_path), ["item"]))
    assert time.monotonic() - began < STOP_S
    wait_until(lambda: not alive(int(note.read_text())))


def test_closing_the_iterator_leaves_no_process(tmp_path):
    def function(item):
        (sleep_with_a_child if item == "slow" else live_and_note)(tmp_path, item)

    outcomes = Local(tmp_path / "jobs", slots=2, threads=1).run(function, ["quick", "slow"])
    assert next(outcomes).item == "quick"
    wait_until(lambda: (tmp_path / "slow").exists() and (tmp_path / "slow").read_text())
    outcomes.close()
    wait_until(lambda: not any(map(alive, map(int, (tmp_path / "slow").read_text().split()))))


def test_every_run_has_a_folder_of_its_own(tmp_path):
    runner = Local(tmp_path / "jobs", slots=1, threads=1)
    function = functools.partial(live_and_note, tmp_path)
    logs = [outcome.log for _ in range(2) for outcome in runner.run(function, ["a"])]
    for one, other in itertools.combinations(logs, 2):
        assert Path(one).parents[1] != Path(other).parents[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slots": 0, "threads": 1}, "0 slots"),
        ({"slots": 1, "threads": 0}, "0 threads"),
        ({"slots": 2, "threads": 1, "gpus": ("0", "1", "2")}, "3 GPUs cannot be shared"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(tmp_path, options, words):
    with pytest.raises(RunnerError, match=words):
        Local(tmp_path, **options)
