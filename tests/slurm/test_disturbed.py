"""Jobs of the grid, disturbed in every way that a cluster knows, end as if they had not been.

Each test runs what it disturbs, and takes the rest of the grid as it was undisturbed.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import NODES
from tests.slurm.conftest import SLURM, Runs, until

ONE = ("--zoo", "moco_v2", "--protocol", "paf")
TWO = ("--zoo", "moco_v2", "--protocol", "pf,paf")
TO_SLURM = ("--runner", "slurm", "--slurm", SLURM, "--track", "off")
BY_TWO = (*ONE, "--scheme", "zeroing", "--gpus-per-cell", "2")
HIGH = ("--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 3")
USR2 = 1 << (signal.SIGUSR2 - 1)


@pytest.fixture
def submitted(runs):
    """Start cells through SLURM; return the run of `moco_v2 paf` when it trains."""
    started = []

    def start(*words, grid=ONE):
        started.append(runs.start(*TO_SLURM, *words, grid=grid))
        home = runs.handed_over(started[0], "moco_v2*-paf*")
        return started[0], home, runs.training(home)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def student(runs, undisturbed, submitted):
    """Start the one cell `moco_v2 paf`, whose labels are there."""
    runs.take(undisturbed, "cells/supervised*zeroing*", "pseudo/*")
    return submitted


def ends(process, runs, undisturbed, seconds=240):
    """Whether a run ends well, and with what the undisturbed one left."""
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out
    return runs.same_as(undisturbed)


def warned(pid: int) -> bool:
    """Whether a process that was stopped has been sent USR2, or something to go on with."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    fields = dict(line.split(":", 1) for line in lines)
    waiting = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return bool(waiting & USR2) or "T" not in fields["State"]


def go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgid(pid), signal.SIGCONT)


@pytest.fixture(scope="module")
def undisturbed_of_two(streets, environment, tmp_path_factory, stand_ins):
    """One cell, trained by two ranks without SLURM."""
    store = tmp_path_factory.mktemp("two") / "runs"
    shutil.copytree(stand_ins, store / "stand-ins", copy_function=os.link)
    runs = Runs(store, streets, environment)
    code, out = runs.run("--runner", "here", "--track", "off", grid=BY_TWO)
    assert code == 0, out
    return runs


def test_requeued_by_an_administrator(student, runs, slurm, undisturbed):
    process, home, pid = student()
    slurm.ask("scontrol", "requeue", runs.job(home))
    go_on(pid)
    assert ends(process, runs, undisturbed)
    assert runs.attempts(home) == 2


def test_the_time_is_over(student, runs, undisturbed):
    process, home, pid = student("--slurm", "time=1,signal_delay_s=50")
    until(lambda: warned(pid))  # within half a minute
    go_on(pid)
    assert ends(process, runs, undisturbed)
    assert runs.attempts(home) == 2


def test_preempted_by_a_higher_partition(student, runs, slurm, undisturbed):
    process, home, pid = student("--slurm", "partition=low")
    high = slurm.ask("sbatch", *HIGH).strip()
    until(lambda: warned(pid))
    go_on(pid)
    assert ends(process, runs, undisturbed)
    assert runs.attempts(home) == 2
    assert "COMPLETED" in slurm.ask("scontrol", "show", "job", high)


@pytest.mark.parametrize("how", ["requeued", "out of time"])
def test_two_ranks_of_one_cell(submitted, runs, slurm, undisturbed_of_two, how):
    time_min = 60 if how == "requeued" else 1
    limit = f"time={time_min},signal_delay_s=50"
    process, home, pid = submitted("--slurm", limit, grid=BY_TWO)
    asked = slurm.ask("scontrol", "show", "job", runs.job(home))
    assert re.search(r"NumCPUs=2\b", asked)
    if how == "requeued":
        slurm.ask("scontrol", "requeue", runs.job(home))
    else:
        until(lambda: warned(pid))
    go_on(pid)
    assert ends(process, runs, undisturbed_of_two)
    assert runs.attempts(home) >= 2  # the time may be over more than once
    assert json.loads((home / "result.json").read_text())["provenance"]["ranks"] == [2]


def test_its_node_dies(student, runs, slurm, undisturbed):
    process, home, _ = student()
    node = slurm.ask("squeue", "--noheader", "--format=%N", f"--jobs={runs.job(home)}").strip()
    slurm.node_kill(node)
    try:
        assert ends(process, runs, undisturbed)
    finally:
        slurm.node_start(node)
    assert node in NODES
    assert runs.attempts(home) == 2


def test_the_controller_is_restarted(student, runs, slurm, undisturbed):
    process, home, pid = student()
    slurm.ctld_stop()
    go_on(pid)
    time.sleep(2)
    slurm.ctld_start()
    assert ends(process, runs, undisturbed)
    assert runs.attempts(home) == 1


def test_cancelled_and_run_again(student, runs, slurm, undisturbed):
    process, home, pid = student("--detach", grid=TWO)
    other = runs.home("moco_v2*-pf*")
    assert process.wait(60) == 0
    slurm.ask("scancel", runs.job(home))
    go_on(pid)
    until((other / "result.json").exists)
    until(lambda: runs.job(home) not in slurm.ask("squeue", "--noheader", "--array", "--format=%i"))
    assert not (home / "result.json").exists()

    code, out = runs.run(*TO_SLURM, grid=TWO)
    assert code == 0, out
    assert f"{other.name}: skipped, done" in out
    assert runs.same_as(undisturbed)
    assert (runs.attempts(home), runs.attempts(other)) == (2, 1)


def test_a_failed_teacher_ends_its_students_and_is_run_again(runs, undisturbed):
    runs.take(undisturbed, "cells/supervised*zeroing-sem*", "cells/supervised*zeroing-driv*")
    weights = next((runs.store / "stand-ins" / "canonical").glob("supervised*"))
    whole = weights.read_bytes()
    weights.unlink()  # a hard link: the others keep theirs
    weights.write_bytes(whole[:1000])
    code, out = runs.run(*TO_SLURM, grid=ONE)
    assert code == 1
    assert "supervised_tv_v1 pf det s0: failed: ZooError" in out
    assert len(re.findall(r"^\[\d/3\] .*: failed: Needs ", out, re.MULTILINE)) == 2

    weights.write_bytes(whole)
    code, out = runs.run(*TO_SLURM, grid=ONE)
    assert code == 0, out
    assert runs.same_as(undisturbed)
