"""What a job does before and beside its work: it may come too early, late, or second."""

import json
import threading
import time

import pytest

from bench import BenchError, work
from bench.store import Busy, error_of, locked


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A teacher, labels made by it, and a student that needs them; none of them done."""
    monkeypatch.setattr(work, "LOOK_S", 0.02)
    for name, file, order in (
        ("cells/teacher", "cell.json", {"pseudo": None}),
        ("pseudo/labels", "order.json", {"teachers": {"sem": "teacher"}}),
        ("cells/student", "cell.json", {"pseudo": "labels"}),
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text(json.dumps(order))
    return tmp_path


@pytest.fixture
def worked(monkeypatch):
    called = []
    monkeypatch.setattr(work, "work", called.append)
    return called


def test_a_teacher_needs_nothing(store, worked):
    work.work_in_job(str(store / "cells" / "teacher"))
    assert worked == [str(store / "cells" / "teacher")]


@pytest.mark.parametrize(
    ("home", "needs"), [("pseudo/labels", "teacher"), ("cells/student", "labels")]
)
def test_what_is_missing_when_a_job_starts_ends_it_by_name(store, worked, home, needs):
    with pytest.raises(BenchError, match=f"Needs {needs}: not there."):
        work.work_in_job(str(store / home))
    assert error_of(store / home) == f"Needs {needs}: not there."
    assert worked == []


def test_what_somebody_still_makes_is_waited_for(store, worked):
    teacher, held = store / "cells" / "teacher", threading.Event()

    def somebody():
        with locked(teacher):
            held.set()
            time.sleep(0.3)
            (teacher / "result.json").write_text("{}")

    thread = threading.Thread(target=somebody)
    thread.start()
    held.wait()
    work.work_in_job(str(store / "pseudo" / "labels"))
    thread.join()
    assert worked == [str(store / "pseudo" / "labels")]


def test_work_that_somebody_holds_is_taken_over_when_he_is_gone(store, monkeypatch):
    teacher, held, calls = store / "cells" / "teacher", threading.Event(), []

    def once_busy(folder):
        calls.append(folder)
        with locked(teacher):
            pass

    def somebody():
        with locked(teacher):
            held.set()
            time.sleep(0.3)

    monkeypatch.setattr(work, "work", once_busy)
    thread = threading.Thread(target=somebody)
    thread.start()
    held.wait()
    with pytest.raises(Busy):
        once_busy("so it is held")
    work.work_in_job(str(teacher))
    thread.join()
    assert calls.count(str(teacher)) == 2
