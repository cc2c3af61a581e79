import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from runners.base import STOP_S, RunnerError
from runners.local import Local
from tests.conftest import ROOT


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


def quick_or_slow(notes, item):
    (sleep_with_a_child if item == "slow" else live_and_note)(notes, item)


def is_here(module, item):
    assert module in sys.modules


def stop_oneself(number, item):
    os.kill(os.getpid(), number)
    time.sleep(60)


def long_story(item):
    raise ValueError("x" * 1_000_000)


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
    assert "died without a word (killed by SIGKILL" in outcomes["killed"].error
    assert "working on killed" in outcomes["killed"].error
    assert "working on first" in outcomes["first"].log.read_text()

    notes = [(tmp_path / item).read_text().split() for item in ("first", "second", "third")]
    assert [environment for _, _, environment in notes] == ["3,unset"] * 3
    lives = [(float(start), float(end)) for start, end, _ in notes]
    together = [sum(s <= start < e for s, e in lives) for start, _ in lives]
    assert max(together) <= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_that_is_asked_to_stop_has_not_failed(tmp_path, number):
    runner = Local(tmp_path / "jobs", slots=1, threads=1)
    (outcome,) = runner.run(functools.partial(stop_oneself, number), ["item"])
    assert outcome.error == "Interrupted: asked to stop"
    assert outcome.log.read_text() == "Interrupted: asked to stop\n"


def test_a_worker_that_ends_with_more_to_say_than_anybody_reads_ends(tmp_path):
    (outcome,) = Local(tmp_path / "jobs", slots=1, threads=1).run(long_story, ["item"])
    assert outcome.error.endswith("xxx")


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
    function = functools.partial(quick_or_slow, tmp_path)
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
        assert one.parent != other.parent


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


# In processes of their own: what is to be killed, or is not to have a fork server yet.
LAUNCHER = """
import sys
from functools import partial
from pathlib import Path
from runners.local import Local
from test_local import is_here, sleep_with_a_child

home = Path(sys.argv[1])
local = Local(home / "jobs", slots=1, threads=1, imports=["wave"])
"""


def launcher(code, home):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER + code, str(home)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'runners'}"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_workers_need_is_imported_once_for_all_of_them(tmp_path):
    code = 'print([outcome.error for outcome in local.run(partial(is_here, "wave"), ["a", "b"])])'
    said, _ = launcher(code, tmp_path).communicate(timeout=60)
    assert said == "[None, None]\n"


def test_a_worker_whose_launcher_is_killed_saves_and_ends(tmp_path):
    begun = tmp_path / "begun"
    code = 'list(local.run(partial(sleep_with_a_child, home), ["begun"]))'
    with launcher(code, tmp_path) as launching:
        wait_until(lambda: begun.exists() and begun.read_text())
        launching.kill()
    worker, child = map(int, begun.read_text().split())
    wait_until(lambda: (tmp_path / "saved").exists() and not alive(worker))
    os.kill(child, signal.SIGKILL)
