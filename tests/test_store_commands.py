"""The verbs that look after a store, on stores written by hand and on small real ones."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from bench import invocations
from protocols import VERSION
from tests import stored
from tests.conftest import ROOT

PF = stored.cell(name="pf")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SLEEPS = "import time; print('here', flush=True); time.sleep(60)"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store, which the verbs take when none is named."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def states(say, *words):
    code, out, _ = say("status", "--json", *words)
    assert code == 0
    return {cell["cell"]: cell["state"] for cell in json.loads(out)["cells"]}


@pytest.fixture
def sleeper():
    """A process that does nothing for a minute, to hold a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE, start_new_session=True
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


# status


def test_status_tells_all_six_states_apart(say, store):
    running = stored.begun(store)
    stored.lock(running)
    homes = {
        "running": running,
        "done": stored.done(store, PF),
        "preempted": stored.begun(store, stored.cell(seed=1)),
        "failed": stored.failed(store, stored.cell(seed=2)),
        "pending": stored.planned(store, stored.cell(seed=3)),
        "stale": stored.done(store, stored.cell(seed=4), version=VERSION - 1),
    }
    assert states(say) == {home.name: state for state, home in homes.items()}
    out = say("status")[1]
    assert "1 done, 1 failed, 1 pending, 1 preempted, 1 running, 1 stale" in out
    assert "38 %" in out  # 3 of 8 steps
    assert set(states(say, "--failed").values()) == {"failed"}
    out = say("status", "--failed")[1]
    assert "ZooError: the file is damaged" in out
    assert "code: bench show CELL has the whole story." in out


def test_status_json_keeps_its_keys(say, store):
    stored.failed(store)
    (cell,) = json.loads(say("status", "--json")[1])["cells"]
    assert list(cell) == [
        *("key", "cell", "state", "stage", "progress", "eta_s"),
        *("heartbeat_age_s", "attempts", "error"),
    ]
    assert (cell["stage"], cell["progress"], cell["attempts"]) == ("adapt", 0.375, 1)


def finished(home, time):
    result = json.loads((home / "result.json").read_text())
    result["provenance"]["finished"] = time
    (home / "result.json").write_text(json.dumps(result))


def shown(say):
    """The score of the one cell in the report of the store, and what is left out as stale."""
    words = ("--zoo", "moco_v2", "--protocol", "paf", "--scheme", "zeroing", "--preset", "tiny")
    code, out, _ = say("report", *words, "--format", "json")
    assert code == 0
    table = json.loads(out)
    (score,) = [
        cell["mean"]
        for row in table["rows"]
        for cell in row["cells"]
        if row["protocol"] == "paf" and cell["metric"] == "sem/mIoU" and cell["key"]
    ]
    return score, table["stale"]


def test_what_a_newer_result_replaced_is_stale_whatever_the_times_of_files(say, store):
    old = stored.done(store, weights="a" * 64, metrics={"sem/mIoU": 1.0})
    new = stored.done(store, weights="b" * 64, metrics={"sem/mIoU": 2.0})
    for first, second, score in ((old, new, 2.0), (new, old, 1.0)):
        finished(first, "2024-05-06T07:08:09+00:00")
        finished(second, "2024-05-06T05:08:10-02:00")  # a second later
        for touched in ((old, new), (new, old)):
            for number, home in enumerate(touched):
                for file in ("cell.json", "result.json"):
                    os.utime(home / file, (number, number))
            assert states(say) == {first.name: "stale", second.name: "done"}
            assert shown(say) == (score, [first.name])


def test_a_result_counts_until_another_one_is_finished(say, store):
    old = stored.done(store, weights="a" * 64, metrics={"sem/mIoU": 1.0})
    new = stored.planned(store, weights="b" * 64)
    assert states(say) == {old.name: "done", new.name: "pending"}
    assert shown(say) == (1.0, [])
    given_up = stored.failed(store, weights="c" * 64)
    finished(old, "2024-05-07T07:08:09+00:00")  # a day after that was begun
    assert states(say)[given_up.name] == "stale"


def test_results_of_this_protocol_version_count_before_later_ones_of_another(say, store):
    other = stored.done(store, version=VERSION - 1, metrics={"sem/mIoU": 2.0})
    assert states(say) == {other.name: "stale"}
    assert shown(say) == (2.0, [])
    assert f"is of protocol version {VERSION}" in say("report", "--preset", "tiny")[2]
    mine = stored.done(store, metrics={"sem/mIoU": 1.0})
    finished(other, "2034-05-06T07:08:09+00:00")
    assert states(say) == {mine.name: "done", other.name: "stale"}
    assert shown(say) == (1.0, [other.name])


def test_status_takes_the_selectors(say, store):
    wanted = stored.done(store, PF)
    stored.done(store, stored.cell(zoo="clip_rn50"))
    assert set(states(say, "--zoo", "moco*", "--protocol", "pf", "--seeds", "0")) == {wanted.name}
    assert states(say, "--seeds", "7") == {}
    assert "no such cell" in say("status", "--seeds", "7")[1]


def test_status_is_watched_until_ctrl_c(store):
    home = stored.planned(store)
    command = [sys.executable, "-m", "bench", "status", "--watch", "--store", store]
    watch = subprocess.Popen(
        command, env={**ENVIRONMENT, "COLUMNS": "200"}, stdout=subprocess.PIPE, text=True
    )
    time.sleep(4)
    stored.attempt(home)
    time.sleep(3)
    watch.send_signal(signal.SIGINT)
    out, _ = watch.communicate(timeout=20)
    assert watch.returncode == 0
    assert "preempted" in out


# show


def test_show_tells_all_of_a_cell_by_a_beginning_of_its_key_or_its_folder(say, store):
    home = stored.done(store)
    key = json.loads((home / "cell.json").read_text())["key"]
    for name in (key[:6], key, home.name):
        code, out, _ = say("show", name)
        assert code == 0
        for words in ("done", key, "stages.adapt.epochs", "sem/mIoU", "31.2", "0123456789ab+"):
            assert words in out
    facts = json.loads(say("show", key[:8], "--json")[1])
    assert facts["order"]["key"] == key
    assert facts["result"]["metrics"]["driv/mIoU"] == 62.5
    assert (facts["error"], facts["state"]) == (None, "done")


def test_show_of_a_failed_cell_has_cause_cure_and_story(say, store):
    home = stored.failed(store, error="OutOfMemoryError: CUDA out of memory")
    _, out, _ = say("show", home.name)
    for words in ("OutOfMemoryError: CUDA", "out of memory", "--set optim.batch=", "Traceback"):
        assert words in out
    error = json.loads(say("show", home.name, "--json")[1])["error"]
    assert (error["name"], error["again"]) == ("out of memory", False)


def test_show_works_at_every_point_of_a_cells_life(say, store):
    running = stored.begun(store, stored.cell(seed=1))
    stored.lock(running, job="77_3")
    for home in (stored.planned(store), running, stored.begun(store, stored.cell(seed=2))):
        assert say("show", home.name)[0] == 0
    assert f"process {os.getpid()}" in say("show", running.name)[1]


@pytest.mark.parametrize("name", ["", "zz", "nothing-of-the-kind"])
def test_a_name_that_means_no_cell_is_one_line(say, store, name):
    stored.done(store)
    code, out, err = say("show", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "bench status lists the cells" in err


def test_a_beginning_of_several_keys_is_refused_with_their_names(say, store, monkeypatch):
    homes = [stored.done(store), stored.done(store, PF)]
    for home, key in zip(homes, ("abc1", "abc2"), strict=True):
        order = json.loads((home / "cell.json").read_text())
        (home / "cell.json").write_text(json.dumps({**order, "key": key}))
    code, _, err = say("show", "abc")
    assert code == 2
    assert all(home.name in err for home in homes)
    assert say("show", "abc2")[0] == 0


# logs


def test_logs_are_the_cells_own_or_those_that_its_job_names(say, store, tmp_path):
    home = stored.done(store)
    log = tmp_path / "worker.out"
    log.write_text("from the worker\n")
    (home / "job.json").write_text(json.dumps({"cluster": "local", "id": "1", "log": str(log)}))
    assert say("logs", home.name)[1] == "from the worker\n"
    (home / "log.txt").write_text("its own\n")
    assert say("logs", "--zoo", "moco*")[1] == "its own\n"
    other = stored.done(store, PF)
    (other / "log.txt").write_text("the other's\n")
    out = say("logs", "--zoo", "moco*")[1]
    assert f"==> {other.name} <==\nthe other's\n" in out
    assert f"==> {home.name} <==\nits own\n" in out


def test_where_there_is_no_log_one_line_says_so(say, store):
    home = stored.done(store)
    code, out, err = say("logs", home.name)
    assert (code, out) == (2, "")
    assert "No log of" in err


def test_logs_are_followed_until_the_cell_is_over(store):
    home = stored.begun(store)
    (home / "log.txt").write_text("one\n")
    follow = subprocess.Popen(
        [sys.executable, "-m", "bench", "logs", home.name, "-f", "--store", store],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout.readline() == "one\n"
    with (home / "log.txt").open("a") as log:
        log.write("two\n")
    assert follow.stdout.readline() == "two\n"
    assert follow.poll() is None
    with (home / "log.txt").open("a") as log:
        log.write("the last\n")
    stored.finish(home)
    assert follow.communicate(timeout=20)[0] == "the last\n"
    assert follow.returncode == 0


# cancel


def test_cancel_asks_for_a_choice(say, store):
    code, _, err = say("cancel")
    assert code == 2
    assert "--all" in err


def give(home, cluster, number):
    told = {"cluster": cluster, "id": str(number), "log": "/log", "host": "here"}
    (home / "job.json").write_text(json.dumps(told))


def test_cancel_asks_the_worker_on_this_host_to_stop(say, store, sleeper):
    home, idle = stored.begun(store), stored.begun(store, PF)
    stored.lock(home, pid=sleeper.pid)
    give(home, "local", sleeper.pid)
    code, out, _ = say("cancel", "--zoo", "moco_v2")
    assert code == 0
    assert out.splitlines() == [
        f"{home.name}: process {sleeper.pid} asked to stop",
        "1 not running: a bench run that goes on now does not begin them.",
    ]
    assert sleeper.wait(10) == -signal.SIGTERM
    assert idle.name not in out


def test_cancel_all_takes_finished_cells_and_labels_as_they_are(say, store):
    stored.done(store)
    labels = store / "pseudo" / "3f9a3f9a"
    labels.mkdir(parents=True)
    (labels / "order.json").write_text("{}")
    (labels / "statistics.json").write_text("{}")
    (store / "pseudo" / ".taking").touch()
    assert say("cancel", "--all")[:2] == (0, "None of these cells runs or is queued.\n")


def test_cancel_leaves_alone_what_it_cannot_stop_and_says_where_that_is(say, store, sleeper):
    there, here = stored.begun(store), stored.begun(store, PF)
    stored.lock(there, pid=sleeper.pid, host="node7")
    stored.lock(here, pid=sleeper.pid)  # no worker of its own: a `bench run --runner here`
    out = say("cancel", "--all")[1]
    assert f"{there.name}: runs on node7 (process {sleeper.pid})" in out
    assert f"{here.name}: runs in process {sleeper.pid}, which does more than this" in out
    assert sleeper.poll() is None


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A SLURM that knows the jobs 77_1 (running) and 77_2 (queued), and notes what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {
        "squeue": "echo '77_1 RUNNING None'; echo '77_2 PENDING Priority'",
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tmp_path / "cancelled"


def test_cancel_ends_jobs_of_slurm_that_run_or_wait_and_no_other(say, store, scheduler):
    running, queued = stored.begun(store), stored.planned(store, PF)
    gone = stored.begun(store, stored.cell(seed=1))
    stored.lock(running, pid=1, host="node7", job="77_1")
    for home, number in ((running, "77_1"), (queued, "77_2"), (gone, "12_1")):
        give(home, "slurm", number)
    out = say("cancel", "--all")[1].splitlines()
    assert sorted(out) == sorted(
        [
            f"{running.name}: job 77_1 cancelled",
            f"{queued.name}: job 77_2 cancelled",
            "1 not running: a bench run that goes on now does not begin them.",
        ]
    )
    assert sorted(scheduler.read_text().split()) == ["77_1", "77_2"]


def test_status_shows_what_slurm_says_of_a_job(say, store, scheduler, monkeypatch):
    home = stored.planned(store)
    give(home, "slurm", "77_2")
    assert "77_2 PENDING (Priority)" in say("status")[1]
    monkeypatch.setenv("PATH", str(store))  # no squeue: a hint less
    code, out, _ = say("status")
    assert code == 0
    assert "77_2" not in out


# retry, and what bench run does about cells that are there


def small(say, streets, store, *more):
    words = ("--zoo", "clip", "--protocol", "pf", "--tasks", "driv", "--preset", "tiny")
    where = ("--data", streets, "--stand-ins", "--store", store)
    return say("run", *words, *where, "--runner", "here", "--track", "off", *more)


def the_cell(store) -> Path:
    (home,) = (store / "cells").glob("clip*")
    return home


def test_a_failure_that_would_come_again_waits_for_retry(say, streets, new_store):
    store = new_store()
    assert small(say, streets, store)[0] == 0
    home = the_cell(store)
    (home / "result.json").unlink()
    (home / "error.txt").write_text("OutOfMemoryError: CUDA out of memory\n\n...")

    code, out, _ = small(say, streets, store)
    assert code == 1
    assert "0 to run" in out
    assert "--set optim.batch=" in out

    code, out, err = say("retry", "--zoo", "clip", "--store", store)
    assert code == 0, out + err
    assert f"{home.name}: OutOfMemoryError" in out
    assert "1 cells, 1 to run: in this process" in out
    assert states(say, "--store", store) == {home.name: "done"}
    assert len(invocations.invocations(store)) == 1
    assert say("retry", "--store", store)[1] == "None of these cells has failed.\n"


def test_retry_goes_on_with_other_code_only_with_leave(say, streets, new_store):
    store = new_store()
    assert small(say, streets, store)[0] == 0
    home = the_cell(store)
    (home / "result.json").unlink()
    (home / "state.pt").write_bytes(b"torn")  # begun, and no more
    (home / "error.txt").write_text("ValueError: once\n\n...")
    order = home / "cell.json"
    order.write_text(json.dumps({**json.loads(order.read_text()), "code": "e" * 64}))

    code, out, _ = say("retry", "--store", store)
    assert code == 1
    assert "begun with other code: --allow-code-change goes on" in out
    assert out.rstrip().endswith("--allow-code-change")  # what continues
    code, out, _ = say("retry", "--allow-code-change", "--store", store)
    assert code == 1
    assert "can be read. Without state.pt it starts again." in out  # so it was begun
    assert "--reuse never" in small(say, streets, store)[1]


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "3", '{"key": 1'])
def test_one_damaged_cell_is_named_and_hides_no_other(say, streets, new_store, content):
    store = new_store()
    assert small(say, streets, store)[0] == 0
    home, other = the_cell(store), stored.done(store, stored.cell(zoo="moco_v2_200ep"))
    result = (home / "result.json").read_text()
    (home / "result.json").write_text(content)
    assert states(say, "--store", store) == {home.name: "unreadable", other.name: "done"}
    where = ("--zoo", "clip", "--protocol", "pf", "--tasks", "driv", "--preset", "tiny")
    code, out, _ = say("report", *where, "--data", streets, "--stand-ins", "--store", store)
    assert code == 0
    assert "result.json is damaged" in " ".join(out.split())
    code, out, _ = small(say, streets, store)
    assert code == 1
    assert f"result.json is damaged. Remove {home} to have it made again." in out
    (home / "result.json").write_text(result)
    (other / "cell.json").write_text(content)
    code, out, err = small(say, streets, store)
    assert code == 0
    assert f"Left out: {other / 'cell.json'} is damaged." in err
    assert "clip" in out


@pytest.mark.parametrize("name", ["cell.json", "result.json"])
def test_show_names_the_damaged_file_of_a_cell_that_goes_by_the_end_of_its_folder(say, store, name):
    home = stored.done(store)
    (home / name).write_text("{")
    code, out, err = say("show", home.name[-8:])
    assert (code, err) == (0, "")
    assert f"{home / name} is damaged. Remove {home} to have it made again." in out
    assert json.loads(say("show", home.name[-8:], "--json")[1])["state"] == "unreadable"


@pytest.mark.parametrize("width", [70, 80, 100, 120, 160])
def test_status_keeps_names_whole_however_long_an_error_is(say, store, width, monkeypatch):
    home, other = (
        stored.failed(store, error="ValueError: " + 40 * "so long "),
        stored.done(store, PF),
    )
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    lines = re.sub(r"\x1b\[[\d;]*m", "", say("status")[1]).splitlines()
    names = [line.split()[0] for line in lines if line.startswith("moco")]
    assert names == [home.name, other.name]
    assert all(len(line.rstrip()) <= width for line in lines)
    assert any("ValueError" in line for line in lines) == (width > 90)


HARMS = {
    "metrics is [], not an object": {"metrics": []},
    "metrics.sem/mIoU is 'high', not a score from 0 to 100": {"metrics": {"sem/mIoU": "high"}},
    "metrics.sem/mIoU is 100.5, not a score from 0 to 100": {"metrics": {"sem/mIoU": 100.5}},
    "metrics.det/mAP is -1, not a score from 0 to 100": {"metrics": {"det/mAP": -1}},
    "metrics.det/mAP is True, not a score from 0 to 100": {"metrics": {"det/mAP": True}},
    "constant.sem/mIoU is inf, not a score from 0 to 100": {"constant": {"sem/mIoU": 1e999}},
    "stages is missing": {"stages": None},
    "stages.0.seconds is missing": {"stages": [{"name": "adapt"}]},
    "provenance.device is missing": {"provenance": {}},
    "provenance.finished is 'soon', not a time with its zone": {
        "provenance": {"device": "cpu", "finished": "soon"}
    },
    "provenance.ranks.0 is 'two', not a number of processes": {
        "provenance": {"device": "cpu", "finished": stored.ENDED, "ranks": ["two"]}
    },
}


@pytest.mark.parametrize("cause", HARMS)
def test_a_result_of_another_shape_fails_that_cell_with_its_cause_and_no_other(say, store, cause):
    home = stored.done(store)
    other = stored.done(store, stored.cell(zoo="clip_rn50"))
    result = json.loads((home / "result.json").read_text()) | HARMS[cause]
    result = {name: value for name, value in result.items() if value is not None}
    (home / "result.json").write_text(json.dumps(result))
    line = f"{home / 'result.json'} is damaged ({cause}). Remove {home} to have it made again."
    assert states(say) == {home.name: "unreadable", other.name: "done"}
    for words in (("show", home.name), ("show", home.name[-8:])):
        code, out, err = say(*words)
        assert (code, err) == (0, "")
        assert f"{home.name}: unreadable" in out
        assert line in out
    zoo = ("--zoo", "moco_v2,clip", "--protocol", "paf", "--scheme", "zeroing")
    code, out, _ = say("report", *zoo, "--format", "json")
    cells = [cell for row in json.loads(out)["rows"] for cell in row["cells"]]
    assert code == 0
    assert {cell["state"] for cell in cells} >= {"failed", "done"}
    assert line[:150] in out  # a footnote is short
    assert say("compare", home.name, other.name)[2] == f"bench: {line}\n"


def test_a_score_that_is_no_number_does_not_exist(say, store):
    home = stored.done(store, metrics={"sem/mIoU": float("nan"), "driv/mIoU": 62.5})
    assert states(say) == {home.name: "done"}
    code, out, _ = say("show", home.name)
    assert code == 0
    assert "does not exist" in out


def test_the_result_of_another_cell_is_not_taken_for_a_cells_own(say, store):
    home, other = stored.done(store), stored.done(store, PF, metrics={"sem/mIoU": 99.0})
    (home / "result.json").write_bytes((other / "result.json").read_bytes())
    assert states(say) == {home.name: "unreadable", other.name: "done"}
    line = (
        f"{home / 'result.json'} is the result of another cell: its key is {other.name[-8:]}, and "
        f"this cell's {home.name[-8:]}. Remove {home} to have it made again."
    )
    assert line in say("show", home.name)[1]
    words = ("--zoo", "moco_v2", "--protocol", "paf", "--scheme", "zeroing", "--format", "json")
    code, out, _ = say("report", *words)
    assert code == 0
    assert line[:150] in out
    (key,) = (c["key"] for row in json.loads(out)["rows"] for c in row["cells"] if c["mean"] == 99)
    assert key[0].startswith(other.name[-8:])


def test_what_is_only_told_may_be_damaged(say, store):
    home = stored.failed(store, error="ValueError: once")
    for name in ("job.json", "load_report.json", "attempts.jsonl"):
        (home / name).write_bytes(b"3\n\xff\n")
    (home / "error.txt").write_bytes(b"ValueError: \xff\n\nstory \xff")
    assert say("status")[0] == 0
    code, out, err = say("show", home.name)
    assert code == 0, err
    assert "ValueError: \ufffd" in out
    assert say("logs", home.name)[0] == 2  # there is no log


def test_slurms_options_on_the_command_line_are_for_slurm(say, streets, new_store):
    code, _, err = small(say, streets, new_store(), "--slurm", "partition=gpu")
    assert code == 2
    assert "needs --runner slurm" in err


def test_a_port_in_use_is_refused_before_anything_starts(say, store):
    stored.done(store)
    assert say("track", "sync", "--store", store)[0] == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = say("track", "ui", "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "Give another --port" in err


def test_retry_none_leaves_what_failed(say, streets, new_store):
    store = new_store()
    assert small(say, streets, store)[0] == 0
    home = the_cell(store)
    (home / "result.json").unlink()
    (home / "error.txt").write_text("ValueError: once\n\n...")
    code, out, _ = small(say, streets, store, "--retry", "none")
    assert code == 1
    assert "Not tried again: --retry none." in out
    assert small(say, streets, store)[0] == 0


def test_reuse_never_starts_again_and_keeps_the_old_folder(say, streets, new_store):
    store = new_store()
    assert small(say, streets, store)[0] == 0
    home = the_cell(store)
    first = (home / "result.json").read_bytes()
    code, out, _ = small(say, streets, store, "--reuse", "never")
    assert code == 0
    (old,) = (store / "old").iterdir()
    assert f"Set aside: {old}" in out
    assert (old / "result.json").read_bytes() == first
    again = json.loads((home / "result.json").read_text())
    assert again["metrics"] == json.loads(first)["metrics"]
    stored.lock(home)
    code, _, err = small(say, streets, store, "--reuse", "never")
    assert code == 2
    assert "runs now. bench cancel stops it" in err


def test_retry_takes_the_students_of_a_failed_teacher_with_it(store):
    from bench.retry import _with_kin
    from bench.status import stored as cells
    from bench.store import Store

    teacher = stored.failed(store, stored.cell(zoo="supervised_tv_v1", tasks=("sem",)))
    key = json.loads((teacher / "cell.json").read_text())["key"]
    student = stored.cell(scheme="self-training")
    held = stored.failed(store, student, error="Needs labels: not there.", needs=(key,))
    other = stored.failed(store, PF, error="Needs others: not there.", needs=("0" * 64,))
    failed = cells(Store(store))
    assert [one.home for one in _with_kin(failed, {teacher})] == [teacher, held]
    assert [one.home for one in _with_kin(failed, {held})] == [held, teacher]
    assert [one.home for one in _with_kin(failed, {other})] == [other]


def test_retry_of_what_nobody_asked_for_says_so(say, store):
    home = stored.failed(store)
    code, out, _ = say("retry", home.name)
    assert code == 3
    assert "give its command again" in out
    assert (home / "error.txt").exists()


# track


def test_track_sync_makes_the_mirror_and_says_what_it_did(say, store):
    stored.done(store)
    code, out, _ = say("track", "sync")
    assert (code, out) == (0, f"sqlite:///{store}/mlflow.db: 1 runs changed.\n")
    assert say("track", "sync")[1] == f"sqlite:///{store}/mlflow.db is up to date.\n"


def test_track_ui_shows_the_stores_runs_until_ctrl_c(say, store):
    stored.done(store)
    assert say("track", "sync")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = subprocess.Popen(
        [sys.executable, "-m", "bench", "track", "ui", "--port", str(port), "--store", store],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    from mlflow import MlflowClient

    address, said = f"http://127.0.0.1:{port}", page.stdout.readline()
    eventually(lambda: answers(f"{address}/health"))
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("lv-adapter-bench")
    runs = f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    assert said == f"{address}{runs}  (Ctrl-C ends it)\n"
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name.startswith("moco_v2_200ep · paf")
    page.send_signal(signal.SIGINT)
    page.communicate(timeout=60)
    assert page.returncode == 0
    assert not answers(f"{address}/health")


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def eventually(holds, seconds=90):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_tables_of_a_checkpoint_that_is_gone_stay_and_the_rest_is_mirrored(say, store):
    home = stored.done(store)
    asked = invocations.record(
        store,
        [home.name],
        command="bench run",
        cwd="/",
        request={"zoo": ["gone"], "preset": "tiny"},
        data="/data/demo",
        stand_ins=True,
        how={},
    )
    code, out, err = say("track", "sync")
    assert (code, out) == (0, f"sqlite:///{store}/mlflow.db: 2 runs changed.\n")
    stay = "its tables and page stay as they were"
    assert f"{asked.folder}: {stay}: Unknown checkpoint 'gone'." in err


def test_track_refuses_what_is_no_store(say, store):
    assert "is no store" in say("track", "sync")[2]
    assert "bench track sync makes it" in say("track", "ui")[2]


def test_every_verb_refuses_selectors_that_mean_nothing(say, store):
    for verb in ("status", "logs", "cancel", "retry"):
        code, out, err = say(verb, "--zoo", "moco_v9")
        assert (code, out, err.count("\n")) == (2, "", 1), verb
