"""What is run in which order, and what becomes of the rest, without a single cell."""

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import sweep
from bench.failure import OUT_OF_MEMORY, cause
from bench.plan import Node
from bench.store import error_of, locked, write_failure
from runners.here import Here


@dataclass(frozen=True, kw_only=True)
class Step(Node):
    after: tuple[Node, ...] = ()

    @property
    def needs(self):
        return self.after


@pytest.fixture
def step(tmp_path):
    """Return a function that makes a node with this name, which needs others."""

    def make(name, *after, **facts):
        folder = tmp_path / "store" / "cells" / name
        folder.mkdir(parents=True)
        return Step(folder=folder, order={}, state="pending", reason="", after=after, **facts)

    return make


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs nodes with this work, and returns what ended, and how."""
    monkeypatch.setattr(sweep, "LOOK_S", 0.05)

    def all_of(nodes, work):
        ended = {}
        monkeypatch.setattr(sweep, "work", work)
        sweep.run(nodes, Here(), lambda node, error: ended.update({node.folder.name: error}))
        return ended

    return all_of


def do(folder):
    (Path(folder) / "result.json").write_text("{}")


def test_each_is_run_once_and_after_what_it_needs(step, run):
    teacher, other = step("teacher"), step("other")
    labels = step("labels", teacher)
    student = step("student", labels)
    order = []

    def work(folder):
        order.append(Path(folder).name)
        do(folder)

    ended = run([student, labels, other, teacher], work)
    assert sorted(order) == ["labels", "other", "student", "teacher"]
    assert order.index("teacher") < order.index("labels") < order.index("student")
    assert set(ended.values()) == {None}


def test_what_needs_a_failed_one_fails_by_name_and_nothing_else_does(step, run):
    teacher, other = step("teacher"), step("other")
    labels = step("labels", teacher)
    student = step("student", labels)

    def work(folder):
        if folder.endswith("/teacher"):
            raise ValueError("no good")
        do(folder)

    ended = run([teacher, other, labels, student], work)
    assert ended == {
        "teacher": "ValueError: no good",
        "other": None,
        "labels": "Needs teacher: not there.",
        "student": "Needs labels: not there.",
    }
    assert (student.folder / "error.txt").read_text().startswith("Needs labels")
    assert (teacher.folder / "error.txt").read_text().startswith("ValueError: no good\n\nTraceback")


def test_what_was_given_up_is_not_run_again_and_says_the_cure(step, run):
    node = step("node", given_up=True)
    write_failure(node.folder, "OutOfMemoryError: CUDA out of memory", "")
    ended = run([node], pytest.fail)
    assert "out of memory. Not tried again: Lower it for the whole grid" in ended["node"]


def test_an_old_failure_is_forgotten_when_it_is_tried_again(step, run):
    node = step("node")
    write_failure(node.folder, "ValueError: of yesterday", "")
    assert run([node], do) == {"node": None}
    assert not (node.folder / "error.txt").exists()


@pytest.mark.parametrize("ends", ["done", "failed", "killed"])
def test_what_somebody_else_runs_is_waited_for_and_taken_over_if_he_dies(step, run, ends):
    node = step("node")
    student = step("student", node)
    held, done = threading.Event(), []

    def somebody():
        with locked(node.folder):
            held.set()
            time.sleep(0.5)
            if ends == "done":
                do(node.folder)
            elif ends == "failed":
                write_failure(node.folder, "ValueError: his", "")

    def work(folder):
        done.append(Path(folder).name)
        do(folder)

    thread = threading.Thread(target=somebody)
    thread.start()
    held.wait()
    ended = run([node, student], work)
    thread.join()
    assert done == {"done": ["student"], "failed": [], "killed": ["node", "student"]}[ends]
    assert ended["node"] == ("ValueError: his" if ends == "failed" else None)


def test_who_comes_second_waits_instead_of_failing(step, run):
    node, calls = step("node"), []

    def work(folder):
        calls.append(folder)
        if len(calls) == 1:  # between our look and our start
            with locked(node.folder), locked(node.folder):
                pass
        do(folder)

    assert run([node], work) == {"node": None}
    assert len(calls) == 2


def test_one_that_was_stopped_has_not_failed(step, run):
    class Interrupted(Exception):
        pass

    def work(folder):
        raise Interrupted("asked to stop")

    node = step("node")
    assert run([node], work)["node"].startswith(sweep.STOPPED)
    assert not (node.folder / "error.txt").exists()


def test_a_job_that_is_gone_fails_its_cell_with_the_end_of_its_log(step, tmp_path):
    node = step("node")
    log = tmp_path / "log"
    job = {"cluster": "slurm", "id": "7_1", "log": str(log)}
    (node.folder / "job.json").write_text(json.dumps(job))
    log.write_text("step 3\nslurmstepd: Detected 1 oom-kill event(s)\nbye\n")
    said = "NodeFailure: job 7_1 is gone; its log ends: slurmstepd: Detected 1 oom-kill event(s)"
    assert sweep.settle(node.folder) == said == error_of(node.folder)
    assert cause(said) is OUT_OF_MEMORY


def test_a_cancelled_job_and_one_that_has_ended_well_are_no_failures(step):
    node = step("node")
    (node.folder / "job.json").write_text('{"cluster": "slurm", "id": "7", "cancelled": true}')
    assert sweep.settle(node.folder) == "Interrupted: cancelled"
    do(node.folder)
    assert sweep.settle(node.folder) is None
    assert not (node.folder / "error.txt").exists()


def test_cancelling_what_this_very_process_does_is_refused_in_words(step):
    node = step("node")
    with locked(node.folder):
        (said,) = sweep.cancel([node.folder])[0].values()
    assert said == f"runs in process {os.getpid()}, which does more than this: Ctrl-C there"


def test_what_is_cancelled_before_its_turn_is_left_and_the_next_run_does_it(step, run):
    first, second = step("first"), step("second")

    def work(folder):
        if Path(folder) == first.folder:
            assert sweep.cancel([second.folder]) == ({}, [second.folder])
        do(folder)

    assert run([first, second], work) == {"first": None, "second": "Interrupted: cancelled"}
    assert not (second.folder / "error.txt").exists()
    assert run([second], work) == {"second": None}
