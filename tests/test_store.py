"""The store: whole files, one writer a cell, states from files alone."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from bench import BenchError
from bench.store import (
    DEAD_S,
    Store,
    append_line,
    locked,
    owner,
    read_json,
    read_lines,
    state,
    whole,
    write_json,
    write_text,
)


def test_the_state_of_a_cell_follows_from_its_files(tmp_path):
    assert state(tmp_path) == "pending"
    write_text(tmp_path / "error.txt", "ValueError: no")
    assert state(tmp_path) == "failed"
    with locked(tmp_path):
        assert state(tmp_path) == "running"
    write_json(tmp_path / "result.json", {})
    assert state(tmp_path) == "done"


def test_a_second_writer_is_kept_out_and_told_who_is_in(tmp_path):
    refused = pytest.raises(BenchError, match=f"process {os.getpid()} on")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    assert owner(tmp_path) is None


def _hold_and_die(folder):
    with locked(folder):
        os._exit(1)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert (tmp_path / "lock").exists()
    assert state(tmp_path) == "pending"
    with locked(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()


def test_a_lock_of_another_host_counts_while_its_heart_beats(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert state(tmp_path) == "running"
    past = time.time() - DEAD_S - 1
    os.utime(tmp_path / "lock", (past, past))
    assert state(tmp_path) == "pending"


def test_a_lock_that_stopped_beating_is_nobodys_even_where_its_number_is_in_use_again(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    assert state(tmp_path) == "running"
    past = time.time() - DEAD_S - 1
    os.utime(tmp_path / "lock", (past, past))
    with locked(tmp_path):
        assert owner(tmp_path) is not None
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("after", [lambda lock: lock.write_text("{}"), lambda lock: lock.unlink()])
def test_a_holder_that_stood_still_and_was_relieved_ends_and_leaves_the_lock_alone(tmp_path, after):
    code = (
        "import sys, time; from pathlib import Path; from bench import store\n"
        "store.BEAT_S = 0.05\n"
        "with store.locked(Path(sys.argv[1])): time.sleep(60)"
    )
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        while not lock.exists():
            time.sleep(0.01)
        after(lock)
        left = lock.exists()
        assert b"another process took over" in holder.communicate()[0]
    assert holder.returncode == 1
    assert lock.exists() == left


@pytest.mark.parametrize("content", ["", "[]", "{}", "{'host"])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    assert state(tmp_path) == "pending"
    with locked(tmp_path):
        assert state(tmp_path) == "running"


def test_of_several_takers_of_a_dead_lock_one_gets_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from bench.store import locked, Busy\n"
        "try:\n    with locked(Path(sys.argv[1])): print('mine'); time.sleep(2)\n"
        "except Busy: print('busy')"
    )
    (tmp_path / "lock").write_text("")
    takers = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert sorted(taker.communicate()[0].strip() for taker in takers) == ["busy"] * 5 + ["mine"]


def test_damaged_json_is_named_with_what_to_do(tmp_path):
    (tmp_path / "cell.json").write_text('{"half')
    with pytest.raises(BenchError, match=r"cell\.json is damaged\. Remove"):
        read_json(tmp_path / "cell.json")


def test_a_file_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"new": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_holder_was_writing_goes_with_the_next_lock_and_what_others_write_stays(
    tmp_path,
):
    home = tmp_path / "cell"
    (home / "preds").mkdir(parents=True)
    for name in (".state.pt.1.tmp", ".lock.1.tmp", "preds/.sem.npz.1.tmp", ".cell.json.1.tmp"):
        (home / name).write_text("half")
    with locked(home):
        left = {str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()}
    assert left == {"lock", ".cell.json.1.tmp"}


def test_a_file_that_cannot_be_finished_leaves_the_one_before(tmp_path):
    file = tmp_path / "weights"
    file.write_text("old")

    def write_half():
        with whole(file) as unfinished:
            unfinished.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["weights"])


def test_a_line_cut_short_by_a_kill_costs_that_line_alone(tmp_path):
    file = tmp_path / "progress.jsonl"
    append_line(file, {"step": 1})
    with file.open("a") as stream:
        stream.write('{"step": ')
    append_line(file, {"step": 3})
    assert read_lines(file) == [{"step": 1}, {"step": 3}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(BenchError, match="cannot be written to"):
        Store(tmp_path / "runs").check()
