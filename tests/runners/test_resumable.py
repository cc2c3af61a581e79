"""A worker that is asked to stop, each in a process of its own: signals are for whole processes."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from tests.conftest import ROOT

# What submitit does before it calls what was submitted.
START = """
import os, signal, sys, time
from runners.resumable import Resumable

def requeue(signum, frame):
    print("requeued", flush=True)
    sys.exit(255)

signal.signal(signal.SIGUSR2, requeue)
signal.signal(signal.SIGTERM, lambda signum, frame: print("swallowed", flush=True))

def strike(number):
    os.kill(os.getpid(), number)
    time.sleep(60)

def saves(number):
    stop = []
    signal.signal(signal.SIGINT, lambda signum, frame: stop.append(signum))
    os.kill(os.getpid(), number)
    while not stop:
        time.sleep(0.01)
    print("saved", flush=True)
    raise KeyboardInterrupt

def deaf(number):
    signal.signal(signal.SIGINT, lambda signum, frame: None)
    strike(number)
    while True:
        time.sleep(1)
"""


@pytest.fixture
def worker(tmp_path):
    """Return a function that runs code in what takes itself for a job; returns (code, output)."""

    def run(code, *, squeue="exit 1"):
        client = tmp_path / "squeue"
        client.write_text(f"#!/bin/sh\n{squeue}\n")
        client.chmod(0o755)
        told = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SUBMITIT_EXECUTOR": "slurm",
            "SUBMITIT_FOLDER": str(tmp_path),
            "SLURM_JOB_ID": "7",
        }
        done = subprocess.run(
            [sys.executable, "-c", START + textwrap.dedent(code)],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stdout.split(), done.stderr

    return run


def test_usr2_lets_the_function_save_and_then_has_the_job_started_again(worker):
    code, said, _ = worker("Resumable(saves, signal.SIGUSR2)()")
    assert (code, said) == (255, ["saved", "requeued"])


def test_usr2_stops_a_function_that_listens_to_nothing_as_ctrl_c_would(worker):
    code, said, _ = worker("Resumable(strike, signal.SIGUSR2)()")
    assert (code, said) == (255, ["requeued"])


def test_a_function_that_does_not_stop_in_time_is_left_and_the_job_started_again(worker):
    began = time.monotonic()
    code, said, _ = worker("Resumable(deaf, signal.SIGUSR2, grace_s=1)()")
    assert (code, said[-1]) == (1, "requeued")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("squeue", "again"),
    [
        ("echo RUNNING", True),  # it is to make way: nobody else would start it again
        ("echo COMPLETING", False),  # cancelled, or requeued by an administrator
        ("exit 0", False),
        ("echo no controller >&2; exit 1", False),
    ],
)
def test_after_sigterm_a_job_asks_slurm_whether_it_was_meant_to_go_on(worker, squeue, again):
    code, said, err = worker("Resumable(saves, signal.SIGTERM)()", squeue=squeue)
    assert said == ["saved", *["requeued"] * again]
    assert code == (255 if again else 1)
    assert ("Interrupted: asked to stop" in err) == (not again)


def test_while_slurm_refuses_to_requeue_the_job_goes_on_asking(worker):
    code, said, _ = worker(
        """
        import subprocess
        import runners.resumable
        runners.resumable.REQUEUE_S = 0.01
        tries = []
        def refuses(signum, frame):
            tries.append(1)
            if len(tries) < 3:
                raise subprocess.CalledProcessError(1, "scontrol")
            requeue(signum, frame)
        signal.signal(signal.SIGUSR2, refuses)
        Resumable(saves, signal.SIGUSR2)()
        """
    )
    assert (code, said.count("Not"), said[-1]) == (255, 2, "requeued")


def test_what_an_earlier_start_left_half_written_is_removed(worker, tmp_path):
    torn = [tmp_path / f"7_{name}.pkl.save_tmp" for name in ("submitted", "0_result")]
    for file in torn:
        file.write_text("half")
    assert worker("Resumable(print, 'worked')()")[1] == ["worked"]
    assert not any(file.exists() for file in torn)


def test_a_requeued_job_runs_the_same_item_again(worker):
    assert worker("""
        job = Resumable(print, "worked")
        job()
        job.checkpoint().result()
    """)[1] == ["worked", "worked"]


def test_a_fork_that_inherited_the_handler_requeues_nothing(worker):
    assert worker("""
        job = Resumable(len, "item")
        job()
        job.pid += 1  # as a fork sees it: the process that was called is another one
        print(job.checkpoint())
    """)[1] == ["None"]
