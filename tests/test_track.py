"""The mirror of the store, read back from real MLflow databases and a real MLflow server."""

import itertools
import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace

import pytest
from rich.console import Console

from bench import BenchError, invocations, track
from bench.mirror import Mirror
from bench.tracked import of_cell
from protocols.presets import protocol
from tests import stored
from tests.conftest import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
PF = stored.cell(name="pf")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A store with nothing but its database, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("template")
    track.prepare(track.default_uri(folder), folder)
    return folder


@pytest.fixture
def store(template, tmp_path):
    """An empty store with its database."""
    return empty(tmp_path, template)


def empty(folder, template):
    folder.mkdir(exist_ok=True)
    shutil.copy(template / "mlflow.db", folder)
    place = (folder / "mlflow-artifacts").as_uri()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = ?", (place, track.EXPERIMENT)
        )
    return folder


def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def all_runs(uri):
    experiment = client(uri).get_experiment_by_name(track.EXPERIMENT)
    return client(uri).search_runs([experiment.experiment_id])


def runs(store, uri=None):
    """The runs of cells, by the cells' keys."""
    found = [
        run for run in all_runs(uri or track.default_uri(store)) if "bench.cell_id" in run.data.tags
    ]
    by_key = {run.data.tags["bench.cell_id"]: run for run in found}
    assert len(by_key) == len(found), "a cell has two runs"
    return by_key


def only(store, uri=None):
    (run,) = runs(store, uri).values()
    return run


def content(uri):
    """All that a person can see of the runs, by what they show: nothing that MLflow makes up."""
    there = client(uri)
    found = all_runs(uri)
    names = {run.info.run_id: run.data.tags.get("bench.invocation_id") for run in found}
    seen = {}
    for run in found:
        tags = dict(run.data.tags)
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        curves = {
            name: sorted(
                (p.step, p.value, p.timestamp)
                for p in there.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
        }
        files = sorted(file.path for file in there.list_artifacts(run.info.run_id))
        key = tags.get("bench.cell_id") or tags.get("bench.invocation_id")
        assert key not in seen
        seen[key] = (
            run.info.run_name,
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            tags,
            curves,
            files,
        )
    return seen


def undisturbed(store, template):
    """What a new database shows of a store, written in one go."""
    other = store / "other.db"
    shutil.copy(template / "mlflow.db", other)
    track.sync(f"sqlite:///{other}", store)
    return content(f"sqlite:///{other}")


def dump(store):
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        return list(database.iterdump())


def mirror(store, *homes):
    return track.mirror(homes, track.default_uri(store), store)


def sync(store):
    return track.sync(track.default_uri(store), store)


def key(home):
    return json.loads((home / "cell.json").read_text())["key"]


def ask(store, *homes, command="bench run --zoo moco_v2"):
    """Write down that a `bench run` asked for these cells."""
    return invocations.record(
        store,
        [home.name for home in homes],
        command=command,
        cwd="/",
        request={
            "zoo": ["moco_v2"],
            "protocols": ["pf", "paf"],
            "preset": "tiny",
            "schemes": ["zeroing"],
        },
        data="/data/demo",
        stand_ins=True,
        how={"runner": "here", "jobs": None, "track": None},
    )


# What a run looks like


@pytest.fixture(scope="module")
def mirrored(template, tmp_path_factory):
    """A store with a finished cell of each protocol and one that was never begun, mirrored once."""
    store = tmp_path_factory.mktemp("store")
    homes = [stored.done(store), stored.done(store, PF)]
    pending = stored.planned(store, stored.cell(seed=1))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        written = mirror(store, *homes, pending)
    assert written == 2
    assert list(elsewhere.iterdir()) == []
    return store


def of(store, protocol):
    (run,) = (run for run in runs(store).values() if run.data.params["protocol"] == protocol)
    return run


def test_each_finished_cell_is_one_finished_run_named_after_it(mirrored):
    found = runs(mirrored)
    assert set(found) == {key(home) for home in (mirrored / "cells").glob("*s0*")}
    assert of(mirrored, "paf").info.run_name == "moco_v2_200ep · paf · disjoint-normal · s0"
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_a_run_goes_from_the_first_attempt_to_the_end(mirrored):
    info = of(mirrored, "paf").info
    assert (info.start_time, info.end_time) == (1714979281000, 1714979289000)


def test_runs_have_the_same_parameters_and_differ_where_the_protocols_do(mirrored):
    paf, pf = (of(mirrored, name).data.params for name in ("paf", "pf"))
    assert set(paf) == set(pf)
    assert {name for name in paf if paf[name] != pf[name]} == {
        "protocol",
        "adapt_epochs",
        "adapt_lr",
        "finetune_epochs",
    }
    assert (paf["adapt_epochs"], pf["adapt_epochs"]) == ("1", "0")
    assert all(len(value) < 40 for value in paf.values())


def test_final_scores_are_there_without_those_that_do_not_exist(mirrored):
    metrics = of(mirrored, "paf").data.metrics
    final = {name: value for name, value in metrics.items() if name.startswith("final/")}
    assert final == {"final/sem/mIoU": 31.25, "final/driv/mIoU": 62.5}


def test_steps_of_a_curve_go_on_from_stage_to_stage(store):
    home = stored.done(store)
    line = {"kind": "val", "stage": "finetune", "epoch": 1, "step": 5, "metrics": {"det/mAP": 7.5}}
    with (home / "progress.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    mirror(store, home)
    run = only(store).info
    losses = client(track.default_uri(store)).get_metric_history(run.run_id, "train/loss_det")
    assert [point.step for point in losses] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [point.value for point in losses] == [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert losses[-1].timestamp == run.end_time
    (validated,) = client(track.default_uri(store)).get_metric_history(run.run_id, "val/det/mAP")
    assert (validated.step, validated.value) == (8, 7.5)


def test_tags_say_which_cell_weights_and_code_a_run_shows(mirrored):
    tags = of(mirrored, "paf").data.tags
    assert tags["bench.weights_sha256"] == "c" * 64
    assert tags["mlflow.source.git.commit"] == "0123456789ab"
    assert tags["mlflow.source.git.dirty"] == "true"
    assert tags["mlflow.source.git.branch"] == "main"
    assert (tags["bench.state"], tags["bench.attempts"]) == ("done", "1")
    note = tags["mlflow.note.content"].splitlines()
    assert len(note) == 2
    assert "sem/mIoU 31.2" in note[0]
    assert "stand-in" in note[1]


def test_the_note_has_the_papers_values_where_the_paper_has_that_cell(tmp_path):
    def note(zoo="moco_v2_200ep", name="paf", **values):
        one = replace(stored.cell(zoo), protocol=protocol(name), **values)
        return of_cell(stored.done(tmp_path, one)).tags["mlflow.note.content"].splitlines()[0]

    assert note() == "**sem/mIoU 31.2 · driv/mIoU 62.5** (paper: 61.2 · 83.8 · 26.1)  "
    assert "(paper: 10.3 · 73.4 · 26.0)" in note(name="pf", seed=3)
    for other in (note("moco_v2_800ep"), note(name="lv"), note(setting="full")):
        assert "paper" not in other
    tiny = of_cell(stored.done(tmp_path))
    assert "paper" not in tiny.tags["mlflow.note.content"]


def test_artifacts_lie_in_the_store(mirrored):
    run = of(mirrored, "paf").info
    there = client(track.default_uri(mirrored))
    assert {one.path for one in there.list_artifacts(run.run_id)} == {
        "result.json",
        "load_report.json",
    }
    assert str(run.artifact_uri).startswith(mirrored.as_uri())


def test_scores_that_are_no_numbers_are_never_logged(store):
    bad = {"sem/mIoU": None, "driv/mIoU": math.nan, "det/mAP": 1.0}
    mirror(store, stored.done(store, metrics=bad))
    logged = only(store).data.metrics.keys() & {f"final/{name}" for name in bad}
    assert logged == {"final/det/mAP"}


def test_long_curves_are_written_whole(store):
    home = stored.done(store, PF)
    (line, *_) = map(json.loads, (home / "progress.jsonl").read_text().splitlines())
    lines = [line | {"step": step, "losses": {"det": step}} for step in range(1, 701)]
    (home / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mirror(store, home)
    uri = track.default_uri(store)
    history = client(uri).get_metric_history(only(store).info.run_id, "train/loss_det")
    assert [point.value for point in history] == list(range(1, 701))


# One run a cell, whatever becomes of it


def test_mirroring_again_writes_nothing(store):
    homes = [stored.done(store), stored.failed(store, PF), stored.begun(store, stored.cell(seed=1))]
    assert mirror(store, *homes) == 3
    before = dump(store)
    assert mirror(store, *homes) == 0
    assert dump(store) == before


def test_a_cell_keeps_its_run_from_attempt_to_attempt(store):
    home = stored.planned(store)
    stored.lock(home)
    stored.attempt(home)
    mirror(store, home)
    run = only(store)
    assert (run.info.status, run.data.tags["bench.state"]) == ("RUNNING", "running")

    (home / "lock").unlink()
    stored.progress(home, 2)
    mirror(store, home)
    assert only(store).info.status == "KILLED"
    assert only(store).data.tags["bench.state"] == "preempted"

    (home / "error.txt").write_text("BenchError: Loss is not finite\n\n...")
    mirror(store, home)
    tags = only(store).data.tags
    assert only(store).info.status == "FAILED"
    assert (tags["bench.error"], tags["bench.cause"]) == (
        "BenchError: Loss is not finite",
        "not finite",
    )

    (home / "error.txt").unlink()
    stored.attempt(home)
    stored.lock(home)
    mirror(store, home)
    (home / "lock").unlink()
    stored.finish(home)
    mirror(store, home)
    last = only(store)
    assert last.info.run_id == run.info.run_id
    assert (last.info.status, last.info.end_time) == ("FINISHED", 1714979289000)
    assert not {"bench.error", "bench.cause"} & set(last.data.tags)
    assert last.data.tags["bench.attempts"] == "2"


def test_another_result_of_a_cell_replaces_its_run(store):
    home = stored.done(store)
    mirror(store, home)
    stored.finish(home, metrics={"sem/mIoU": 40.0})
    assert mirror(store, home) == 1
    assert only(store).data.metrics["final/sem/mIoU"] == 40.0


def test_a_run_that_was_cut_short_at_any_call_is_completed(template, tmp_path, monkeypatch):
    for calls in itertools.count():
        store = empty(tmp_path / str(calls), template)
        home = stored.done(store)
        with monkeypatch.context() as patch:
            cut_off_after(calls, patch)
            try:
                mirror(store, home)
            except ZeroDivisionError:
                pass
            else:
                break
        assert mirror(store, home) == 1, calls
        assert content(track.default_uri(store)) == undisturbed(store, template), calls
    assert calls >= 6  # begun, described, curves, scores, artifacts, ended


def cut_off_after(calls, patch):
    """Let so many calls that write to MLflow through, and no other."""
    from mlflow import MlflowClient

    left = iter(range(calls))

    def limited(write):
        def call(*arguments, **options):
            return 1 / 0 if next(left, None) is None else write(*arguments, **options)

        return call

    for name in ("create_run", "log_batch", "log_artifact", "set_tag", "set_terminated"):
        patch.setattr(MlflowClient, name, limited(getattr(MlflowClient, name)))


def test_a_cell_of_another_version_is_passed_by(store):
    home = stored.done(store)
    (home / "cell.json").write_text('{"resolved": 1}')
    assert mirror(store, home) == 0


# A `bench run` is above its cells


def test_a_run_of_bench_is_above_its_cells_with_its_tables_figures_and_page(store):
    homes = [stored.done(store), stored.done(store, PF)]
    asked = ask(store, *homes)
    shown = ("table2.md", "table2.tex", "table2.csv", "arrows.svg", "page.html")
    for name in shown:
        (asked.folder / name).write_text("| 31.2 |")
    mirror(store, *homes)
    (parent,) = (
        r for r in all_runs(track.default_uri(store)) if "bench.invocation_id" in r.data.tags
    )
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(store).values()} == {
        parent.info.run_id
    }
    assert parent.info.status == "FINISHED"
    assert "bench run --zoo moco_v2" in parent.data.tags["mlflow.note.content"]
    there = client(track.default_uri(store))
    assert {one.path for one in there.list_artifacts(parent.info.run_id)} == {*shown}
    assert parent.info.end_time >= max(run.info.end_time for run in runs(store).values())


def test_the_same_cells_asked_for_again_are_the_same_run_of_bench(store):
    home = stored.failed(store)
    ask(store, home)
    mirror(store, home)
    ask(store, home)
    (home / "error.txt").unlink()
    stored.finish(home)
    mirror(store, home)
    (parent,) = (
        r for r in all_runs(track.default_uri(store)) if "bench.invocation_id" in r.data.tags
    )
    assert parent.info.status == "FINISHED"


def test_a_cell_is_below_the_newest_run_of_bench_that_asked_for_it(store):
    home, other = stored.done(store), stored.done(store, PF)
    ask(store, home)
    mirror(store, home)
    newest = ask(store, home, other)
    mirror(store, home, other)
    found = {run.info.run_id: run for run in all_runs(track.default_uri(store))}
    above = {
        found[run.data.tags["mlflow.parentRunId"]].data.tags["bench.invocation_id"]
        for run in runs(store).values()
    }
    assert above == {newest.id}


# Everything again from the store alone


def everything(store):
    """A store with a cell of every kind and the `bench run` that asked for them."""
    homes = [
        stored.done(store),
        stored.failed(store, PF),
        stored.begun(store, stored.cell(seed=1)),
        stored.planned(store, stored.cell(seed=2)),
    ]
    ask(store, *homes)
    return homes


def test_sync_twice_changes_nothing_and_a_lost_database_comes_back(store):
    homes = everything(store)
    mirror(store, *homes)
    seen = content(track.default_uri(store))
    assert sync(store) == 0
    before = dump(store)
    assert sync(store) == 0
    assert dump(store) == before
    (store / "mlflow.db").rename(store / "lost.db")  # this process would go on with the lost one
    code = "import sys; from pathlib import Path; from bench import track; p = Path(sys.argv[1])\n"
    code += "print(*(track.sync(track.default_uri(p), p) for _ in range(2)))"
    done = subprocess.run(
        [sys.executable, "-c", code, store], env=ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"4 0\n"
    (store / "mlflow.db").rename(store / "found.db")
    assert content(f"sqlite:///{store}/found.db") == seen


def test_sync_closes_what_is_said_to_go_on_and_deletes_what_is_there_twice(store):
    home = stored.begun(store)
    stored.lock(home)
    mirror(store, home)
    shutil.rmtree(home)
    other = stored.done(store, PF)
    mirror(store, other)
    there = client(track.default_uri(store))
    experiment = there.get_experiment_by_name(track.EXPERIMENT).experiment_id
    there.create_run(experiment, tags={"bench.cell_id": key(other)})
    assert sync(store) >= 1
    found = runs(store)
    assert found.pop(key(other)).info.status == "FINISHED"
    (gone,) = found.values()
    assert (gone.info.status, gone.data.tags["bench.state"]) == ("KILLED", "gone")


def test_sync_writes_anew_what_holds_steps_of_another_attempt(store, template):
    home = stored.failed(store, steps=6)  # a failed cell's curves are logged
    mirror(store, home)
    first = only(store).info.run_id
    (home / "error.txt").unlink()
    stored.finish(home, speed=99.0)  # steps were taken again, at another speed
    mirror(store, home)
    run = only(store)
    assert run.info.run_id == first
    history = client(track.default_uri(store)).get_metric_history(first, "train/images_per_s")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sync(store) == 1
    assert only(store).info.run_id != first
    assert content(track.default_uri(store)) == undisturbed(store, template)


# Many at once

ALL_AT_ONCE = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient  # once, before all of them are made: it takes seconds
from bench import track
from tests import stored

def finish(store, number):
    stored.finish(sorted((store / "cells").glob("*-s*"))[number])

def sync(store, number):
    print(track.sync(track.default_uri(store), store), flush=True)

ready, go = os.pipe()
children = []
for number in range(12):
    if not (child := os.fork()):
        os.close(go)
        os.read(ready, 1)  # until the parent closes it: for all at the same time
        globals()[sys.argv[1]](Path(sys.argv[2]), number)
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def all_at_once(what, store):
    """Have 12 processes do something with a store at the same time; return what they print."""
    command = [sys.executable, "-c", ALL_AT_ONCE, what, store]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout.split()


def test_12_cells_that_finish_at_once_are_12_runs_in_a_fresh_database(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.mirror.POLL_S", 0.2)
    homes = [stored.begun(tmp_path, stored.cell(seed=seed)) for seed in range(12)]
    with Mirror(track.default_uri(tmp_path), tmp_path, homes, Console(stderr=True)):
        all_at_once("finish", tmp_path)
    found = runs(tmp_path)
    assert set(found) == {key(home) for home in homes}
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_12_times_sync_at_once_on_a_fresh_database_is_once(tmp_path):
    homes = [stored.done(tmp_path, stored.cell(seed=seed)) for seed in range(4)]
    assert sorted(all_at_once("sync", tmp_path)) == ["0"] * 11 + ["4"]
    assert set(runs(tmp_path)) == {key(home) for home in homes}


# A server


class Server:
    """A real MLflow server on a database of its own."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = track.server(f"sqlite:///{self.folder}/server.db", "127.0.0.1", self.port)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=ENVIRONMENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    assert answer.status == 200
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template / "mlflow.db", folder / "server.db")
    with closing(sqlite3.connect(folder / "server.db")) as database, database:
        place = ("mlflow-artifacts:/1", track.EXPERIMENT)  # where a server keeps them
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = ?", place)
    one = Server(folder)
    yield one
    one.kill()


def test_with_a_server_the_curves_of_running_cells_grow_and_no_point_is_there_twice(
    server, template, tmp_path
):
    home = stored.planned(tmp_path)
    stored.attempt(home)
    stored.lock(home)
    # At 3 it was cut off, and took the steps 4 and 5 again.
    for steps, logged in ((2, 2), (5, 5), (3, 5), (6, 6)):
        stored.progress(home, steps)
        track.mirror([home], server.uri, tmp_path)
        run = only(tmp_path, server.uri).info.run_id
        points = client(server.uri).get_metric_history(run, "train/loss_det")
        assert [point.step for point in points] == list(range(1, logged + 1))
    (home / "lock").unlink()
    stored.finish(home)
    track.mirror([home], server.uri, tmp_path)
    assert only(tmp_path, server.uri).info.status == "FINISHED"
    assert content(server.uri) == undisturbed(tmp_path, template)
    client(server.uri).delete_run(only(tmp_path, server.uri).info.run_id)


def status(store, uri, home):
    found = runs(store, uri).get(key(home))
    return found and found.info.status


def eventually(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_server_killed_on_the_way_costs_one_line_and_sync_makes_up_for_it(
    server, template, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("bench.mirror.POLL_S", 0.2)
    homes = [stored.begun(tmp_path, stored.cell(seed=seed)) for seed in range(3)]
    ask(tmp_path, *homes)
    with Mirror(server.uri, tmp_path, homes, Console(width=300)):
        stored.finish(homes[0])
        eventually(lambda: status(tmp_path, server.uri, homes[0]) == "FINISHED")
        server.kill()
        stored.finish(homes[1])
        stored.finish(homes[2])
        time.sleep(0.5)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) == 1
    assert said[0].startswith(f"Not tracked: MLflow cannot use {server.uri}")
    assert all((home / "result.json").exists() for home in homes)
    server.start()
    track.sync(server.uri, tmp_path)
    seen = content(server.uri)
    assert {one[1] for one in seen.values()} == {"FINISHED"}
    assert seen == undisturbed(tmp_path, template)


# Databases that cannot be used


def test_preparing_twice_leaves_one_experiment_and_says_nothing(tmp_path, capfd):
    uri = track.default_uri(tmp_path)
    track.prepare(uri, tmp_path)
    track.prepare(uri, tmp_path)
    assert capfd.readouterr() == ("", "")
    names = [experiment.name for experiment in client(uri).search_experiments()]
    assert sorted(names) == ["Default", track.EXPERIMENT]


def test_a_store_that_was_moved_is_told_to_make_its_database_anew(store):
    shutil.copytree(store, store / "moved")
    with pytest.raises(track.TrackError, match="Remove it"):
        track.prepare(track.default_uri(store / "moved"), store / "moved")


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(track.TrackError, match="file is not a database") as raised:
        track.mirror([], track.default_uri(tmp_path), tmp_path)
    assert len(str(raised.value).splitlines()) == 1
    assert isinstance(raised.value, BenchError)


def test_a_place_where_no_database_can_be_is_refused_at_once(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(track.TrackError, match="unable to open"):
        track.prepare(track.default_uri(tmp_path), tmp_path)


def test_a_database_of_another_version_of_mlflow_is_refused(store):
    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'unknown'")
    copy = store / "copy.db"  # MLflow remembers that it has looked at a database
    (store / "mlflow.db").rename(copy)
    with pytest.raises(track.TrackError):
        track.prepare(f"sqlite:///{copy}", store)


def test_an_address_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(track.TrackError, match="nonsense"):
        track.prepare("nonsense://x", tmp_path)


def test_a_server_that_is_not_there_is_refused_soon(tmp_path):
    began = time.monotonic()
    with pytest.raises(track.TrackError, match=r"cannot use http://127\.0\.0\.1:9"):
        track.prepare("http://127.0.0.1:9", tmp_path)
    assert time.monotonic() - began < 30


def test_an_address_of_a_database_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert track.address("sqlite:///my.db", tmp_path) == f"sqlite:///{tmp_path}/my.db"
    assert track.address(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert track.address("off", tmp_path) is None
    assert track.address("http://x", tmp_path) == "http://x"


def test_mlflow_reports_nothing_about_its_use(tmp_path):
    program = (
        "import sys; from pathlib import Path; from bench import track\n"
        "try: track.prepare('nonsense://x', Path(sys.argv[1]))\n"
        "except track.TrackError: pass\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "sys.exit(get_telemetry_client() is not None)"
    )
    clean = {"PYTHONPATH": str(ROOT)}  # MLflow is silent in CI anyway
    subprocess.run([sys.executable, "-c", program, tmp_path], env=clean, check=True)
