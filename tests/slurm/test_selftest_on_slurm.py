"""`bench selftest` as a person runs it on a cluster of theirs."""

import os
import subprocess
import sys

from tests.slurm.conftest import SLURM


def test_a_cell_whose_jobs_are_killed_ends_as_the_one_left_in_peace(runs):
    told = ("--preempt", "--kills", "3", "--runner", "slurm", "--slurm", SLURM)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "selftest", *told, "--store", runs.store],
        env=runs.environment,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The same to the bit" in done.stdout
    assert [name for name in os.listdir(runs.store) if name.startswith("selftest")] == []
