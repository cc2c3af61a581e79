"""`bench doctor`: each finding, on machines made to have what is looked for."""

import os
import shutil
import time
from importlib import metadata
from pathlib import Path

import pytest

from bench import doctor


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Return a function that makes a command of this name, with this script, the only one found."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return make


def look(store, zoo=None):
    return {one.name: one for one in doctor.findings(store, zoo or store)}


def test_a_sound_machine_is_all_ok_and_nothing_is_left_behind(say, tools, tmp_path):
    code, out, _ = say("doctor", "--store", tmp_path / "runs")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(lines)
    assert code == 0
    assert {line.removeprefix("     ok  ").partition(":")[0] for line in lines} >= {
        *("python", "packages", "torch", "devices", "bf16", "slurm", "mlflow"),
        *("room for the store", "room for the zoo", "file system", "locks", "clock"),
    }
    assert os.listdir(tmp_path) == ["tools"]


def test_a_warning_has_its_cure_and_exit_code_1(say, tools, monkeypatch):
    monkeypatch.setattr(doctor, "ROOM_GB", 1e9)
    code, out, _ = say("doctor")
    assert code == 1
    (line,) = (line for line in out.splitlines() if "room for the store" in line)
    assert line.startswith("warning")
    assert "To do: make room, or give --store another place." in line


def test_slurm_that_answers_names_its_partitions(tools, tmp_path):
    tools("sbatch", "")
    tools("sinfo", "echo 'gpu* up 1-00:00:00 4 nodes'; echo 'cpu up infinite 9 nodes'")
    tools("sacct", "exit 0")
    found = {one.name: one for one in doctor._slurm()}
    assert found["slurm"].ok
    assert found["slurm"].seen == "gpu* up 1-00:00:00 4 nodes; cpu up infinite 9 nodes"
    assert found["sacct"].seen == "answers"
    tools("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    found = {one.name: one for one in doctor._slurm()}
    assert found["sacct"].ok
    assert "Slurm accounting storage is disabled" in found["sacct"].seen


def test_slurm_that_does_not_answer_is_a_warning_with_its_words(tools):
    tools("sbatch", "")
    tools("sinfo", "echo 'sinfo: fatal: no configuration' >&2; exit 1")
    (found,) = doctor._slurm()
    assert not found.ok
    assert "sinfo: fatal: no configuration" in found.seen


def test_packages_outside_their_ranges_are_named(monkeypatch):
    versions = {"torch": "2.1.0"}
    known = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: versions.get(name) or known(name))
    found = doctor._packages()
    assert not found.ok
    assert found.seen == "torch 2.1.0 is not <2.15,>=2.11"


def test_another_python_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert not doctor._python().ok


def test_a_broken_database_is_a_warning(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database " * 1000)
    found = doctor._mlflow(tmp_path)
    assert not found.ok
    assert "file is not a database" in found.seen
    assert "bench track sync" in found.cure


def test_a_store_nobody_can_write_to_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_nearest", lambda folder: Path("/proc"))
    found = {one.name: one for one in doctor._file_system(tmp_path)}
    assert not found["locks"].ok
    assert "cannot be written to" in found["locks"].seen


def test_locks_that_keep_nobody_out_are_seen(tmp_path, monkeypatch):
    assert doctor._locks(tmp_path).ok
    monkeypatch.setattr(doctor.fcntl, "flock", lambda *_: None)  # as with NFS's nolock
    found = doctor._locks(tmp_path)
    assert not found.ok
    assert "does not keep another process out" in found.seen


def test_a_clock_that_is_off_is_seen(tmp_path, monkeypatch):
    assert doctor._clock(tmp_path).ok
    now = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() + 30)
    assert not doctor._clock(tmp_path).ok


@pytest.mark.skipif(shutil.which("findmnt") is None, reason="findmnt is not installed")
def test_the_type_of_the_file_system_is_the_kernels(tmp_path):
    import subprocess

    command = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert doctor._kind(tmp_path) == said[0]
