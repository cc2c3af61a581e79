"""What SLURM is asked, and what it answers, without a single cell."""

import os
import time

import pytest

from bench.store import error_of
from runners.base import RunnerError
from runners.cluster import SlurmOptions
from runners.slurm import Slurm, SlurmAway, alive, cancel
from tests.slurm.conftest import SLURM, until

SMALL = SlurmOptions(gpus_per_node=0, cpus_per_task=1, time_min=5)


@pytest.fixture
def here(slurm, monkeypatch):
    """Let this process itself speak to the cluster."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", os.getcwd()))
    return slurm


def test_many_items_become_arrays_of_the_size_that_the_cluster_allows(here, tmp_path):
    first = here.ask("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 60").strip()
    items = [str(tmp_path / str(number)) for number in range(6)]
    jobs = Slurm(tmp_path / "jobs", SMALL).submit(os.mkdir, items, after=[first])

    assert [job.item for job in jobs] == items
    arrays = [job.id.partition("_")[0] for job in jobs]
    assert [arrays.count(array) for array in dict.fromkeys(arrays)] == [4, 2]
    waiting = {job.id: "PENDING (Dependency)" for job in jobs}
    until(lambda: alive(waiting) == waiting)

    cancel([first, jobs[0].id])
    until(lambda: not alive(job.id for job in jobs))
    made = [job.item for job in jobs if os.path.isdir(job.item)]
    assert made == items[1:]
    assert all("Job completed successfully" in job.log.read_text() for job in jobs[1:])


def test_a_job_knows_its_processors_and_is_not_taken_for_its_submitter(here, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # as if this were a job, with a reservation of its own
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    options = SlurmOptions(gpus_per_node=0, cpus_per_task=2, time_min=5)
    note = tmp_path / "note"
    (job,) = Slurm(tmp_path / "jobs", options).submit(
        os.system, [f"echo $OMP_NUM_THREADS $SLURM_CPUS_PER_TASK $SLURM_MEM_PER_NODE > {note}"]
    )
    until(lambda: not alive([job.id]))
    assert note.read_text().split() == ["2", "2"]
    assert os.environ["SLURM_JOB_ID"] == "1"


def test_what_sbatch_refuses_is_one_line_in_its_words_and_nothing_is_queued(here, tmp_path):
    options = SlurmOptions(partition="nope", gpus_per_node=0)
    with pytest.raises(RunnerError) as refused:
        Slurm(tmp_path / "jobs", options).submit(print, ["a", "b"])
    assert str(refused.value) == (
        "sbatch refuses 2 jobs: invalid partition specified: nope; "
        "Batch job submission failed: Invalid partition name specified"
    )
    assert here.ask("squeue", "--noheader") == ""


def test_a_run_that_is_refused_is_one_line_and_exit_code_2(runs, undisturbed):
    runs.take(undisturbed, "cells/supervised*", "pseudo/*")
    code, out = runs.run(
        *("--runner", "slurm", "--slurm", SLURM, "--slurm", "partition=nope", "--track", "off")
    )
    assert code == 2
    assert out.splitlines()[-1].startswith("bench: sbatch refuses 4 jobs: invalid partition")
    assert "Traceback" not in out
    assert "sbatch: error" not in out


def test_while_slurm_is_away_nothing_is_concluded(here):
    here.ctld_stop()
    try:
        began = time.monotonic()
        with pytest.raises(SlurmAway, match="Unable to contact slurm controller"):
            alive(["1"])
        assert time.monotonic() - began < 60
    finally:
        here.ctld_start()
    assert alive(["1"]) == {}


def test_bench_cancel_ends_a_job_which_saves_and_is_no_failure(runs, undisturbed):
    runs.take(undisturbed, "cells/supervised*", "pseudo/*")
    grid = ("--zoo", "moco_v2", "--protocol", "paf")
    process = runs.start("--runner", "slurm", "--slurm", SLURM, "--track", "off", grid=grid)
    home = runs.handed_over(process, "moco_v2*-paf*")
    until(lambda: (home / "state.pt").exists())
    assert (
        runs.bench("cancel", "--zoo", "moco_v2") == f"{home.name}: job {runs.job(home)} cancelled\n"
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 3, out
    assert "stopped: cancelled; the next bench run goes on with it" in out
    assert error_of(home) == ""
    assert (home / "state.pt").exists()
