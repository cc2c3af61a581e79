"""The mirror of the store, read back from a real MLflow database."""

import json
import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bench import BenchError, track
from bench.cell import Cell
from bench.data.classes import TASKS
from protocols.presets import protocol

PAF = "a" * 64
PF = "b" * 64


def train_line(stage, step, loss):
    return {
        "kind": "train",
        "stage": stage,
        "step": step,
        "steps": 20,
        "epoch": 1,
        "losses": {"det": loss, "sem": 0.5, "driv": 0.25},
        "images_per_s": 12.5,
        "lr": 1e-3,
        "seconds": 2.0,
    }


def finished_cell(root, key, protocol_name="paf", **result):
    """The folder of a cell of two or one stages of 20 steps, as a run leaves it."""
    folder = root / "cells" / key[:8]
    folder.mkdir(parents=True, exist_ok=True)
    cell = Cell(
        zoo="moco_v2_200ep",
        protocol=protocol(protocol_name, "demo"),
        setting="disjoint-normal",
        tasks=TASKS,
        seed=0,
    )
    stages = [stage.name for stage in cell.protocol.stages]
    lines = [train_line(stage, step, step / 10) for stage in stages for step in (10, 20)]
    lines += [
        {"kind": "val", "stage": stages[-1], "epoch": 1, "step": 20, "metrics": {"det/mAP": 7.5}}
    ]
    whole = {
        "version": 1,
        "key": key,
        "resolved": cell.resolved(),
        "metrics": {"sem/mIoU": 31.25, "driv/mIoU": 62.5, "det/mAP": None},
        "weights": {"name": "moco_v2_200ep", "sha256": "c" * 64, "stand_in": True},
        "data": {},
        "stages": [
            {"name": name, "epochs": 1, "steps": 20, "seconds": 4.0, "images": 80}
            for name in stages
        ],
        "provenance": {
            "code": "0123456789ab+",
            "host": "here",
            "device": "cpu",
            "finished": "2024-05-06T07:08:09+00:00",
        },
        **result,
    }
    (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(whole))
    (folder / "load_report.json").write_text("{}")
    return folder


def client(store):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=track.default_uri(store))


def runs(store):
    experiment = client(store).get_experiment_by_name(track.EXPERIMENT)
    assert experiment is not None
    found = client(store).search_runs([experiment.experiment_id])
    return {run.data.tags["bench.cell_id"]: run for run in found}


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A store with a finished cell of each protocol and an unfinished one, mirrored once."""
    store = tmp_path_factory.mktemp("store")
    folders = [finished_cell(store, PAF), finished_cell(store, PF, "pf")]
    unfinished = store / "cells" / "unfinished"
    unfinished.mkdir()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        written = track.mirror([*folders, unfinished], track.default_uri(store), store)
    assert written == 2
    assert list(elsewhere.iterdir()) == []
    return store


def test_each_finished_cell_is_one_finished_run_named_after_it(mirrored):
    found = runs(mirrored)
    assert set(found) == {PAF, PF}
    assert found[PAF].info.run_name == "moco_v2_200ep · paf · disjoint-normal · s0"
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_run_took_as_long_as_the_stages(mirrored):
    info = runs(mirrored)[PAF].info
    assert (info.start_time, info.end_time) == (1714979281000, 1714979289000)


def test_mirroring_again_writes_nothing(mirrored):
    folders = list((mirrored / "cells").iterdir())
    assert track.mirror(folders, track.default_uri(mirrored), mirrored) == 0
    assert len(runs(mirrored)) == 2


def test_runs_have_the_same_parameters_and_differ_where_the_protocols_do(mirrored):
    paf, pf = (runs(mirrored)[key].data.params for key in (PAF, PF))
    assert set(paf) == set(pf)
    assert {name for name in paf if paf[name] != pf[name]} == {
        "protocol",
        "adapt_epochs",
        "adapt_lr",
        "finetune_epochs",
    }
    assert paf["adapt_epochs"] == str(protocol("paf", "demo").stages[0].epochs)
    assert pf["adapt_epochs"] == "0"
    assert all(len(value) < 40 for value in paf.values())


def test_final_scores_are_there_without_those_that_do_not_exist(mirrored):
    metrics = runs(mirrored)[PAF].data.metrics
    final = {name: value for name, value in metrics.items() if name.startswith("final/")}
    assert final == {"final/sem/mIoU": 31.25, "final/driv/mIoU": 62.5}


def test_steps_of_a_curve_go_on_from_stage_to_stage(mirrored):
    run = runs(mirrored)[PAF].info.run_id
    losses = client(mirrored).get_metric_history(run, "train/loss_det")
    assert [(point.step, point.value) for point in losses] == [(10, 1), (20, 2), (30, 1), (40, 2)]
    assert losses[-1].timestamp == runs(mirrored)[PAF].info.end_time
    (validated,) = client(mirrored).get_metric_history(run, "val/det/mAP")
    assert (validated.step, validated.value) == (40, 7.5)


def test_tags_say_which_cell_weights_and_code_a_run_shows(mirrored):
    tags = runs(mirrored)[PAF].data.tags
    assert tags["bench.weights_sha256"] == "c" * 64
    assert tags["mlflow.source.git.commit"] == "0123456789ab+"
    note = tags["mlflow.note.content"].splitlines()
    assert len(note) == 2
    assert "sem/mIoU 31.2" in note[0]
    assert "stand-in" in note[1]


def test_artifacts_lie_in_the_store(mirrored):
    run = runs(mirrored)[PAF].info
    names = {artifact.path for artifact in client(mirrored).list_artifacts(run.run_id)}
    assert names == {"result.json", "load_report.json"}
    assert str(run.artifact_uri).startswith(mirrored.as_uri())


def test_another_result_of_a_cell_replaces_its_run(tmp_path):
    uri = track.default_uri(tmp_path)
    track.mirror([finished_cell(tmp_path, PAF)], uri, tmp_path)
    again = finished_cell(tmp_path, PAF, metrics={"sem/mIoU": 40.0})
    assert track.mirror([again], uri, tmp_path) == 1
    (run,) = runs(tmp_path).values()
    assert run.data.metrics["final/sem/mIoU"] == 40.0


def test_run_that_was_cut_short_is_written_anew(tmp_path, monkeypatch):
    uri = track.default_uri(tmp_path)
    folder = finished_cell(tmp_path, PAF)
    with monkeypatch.context() as patch:
        patch.setattr(track, "_curves", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            track.mirror([folder], uri, tmp_path)
    assert runs(tmp_path)[PAF].info.status == "RUNNING"
    assert track.mirror([folder], uri, tmp_path) == 1
    (run,) = runs(tmp_path).values()
    assert run.info.status == "FINISHED"


def test_scores_that_are_no_numbers_are_never_logged(tmp_path):
    bad = {"sem/mIoU": math.inf, "driv/mIoU": math.nan, "det/mAP": 1.0}
    folder = finished_cell(tmp_path, PAF, metrics=bad)
    track.mirror([folder], track.default_uri(tmp_path), tmp_path)
    assert runs(tmp_path)[PAF].data.metrics.keys() & {f"final/{name}" for name in bad} == {
        "final/det/mAP"
    }


def test_long_curves_are_written_whole(tmp_path):
    folder = finished_cell(tmp_path, PF, "pf")
    lines = [train_line("finetune", step, step) for step in range(1, 701)]
    (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    track.mirror([folder], track.default_uri(tmp_path), tmp_path)
    run = runs(tmp_path)[PF].info.run_id
    history = client(tmp_path).get_metric_history(run, "train/loss_det")
    assert [point.value for point in history] == list(range(1, 701))


def test_preparing_twice_leaves_one_experiment(tmp_path):
    uri = track.default_uri(tmp_path)
    track.prepare(uri, tmp_path)
    track.prepare(uri, tmp_path)
    names = [experiment.name for experiment in client(tmp_path).search_experiments()]
    assert sorted(names) == ["Default", track.EXPERIMENT]


def test_preparing_says_nothing(tmp_path, capfd):
    track.prepare(track.default_uri(tmp_path), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(track.TrackError, match="file is not a database") as raised:
        track.mirror([], track.default_uri(tmp_path), tmp_path)
    assert len(str(raised.value).splitlines()) == 1
    assert isinstance(raised.value, BenchError)


def test_place_where_no_database_can_be_is_refused_at_once(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(track.TrackError, match="unable to open"):
        track.prepare(track.default_uri(tmp_path), tmp_path)


def test_database_of_another_program_version_is_refused(tmp_path):
    uri = track.default_uri(tmp_path)
    track.prepare(uri, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'unknown'")
    database.close()
    copy = tmp_path / "copy.db"
    (tmp_path / "mlflow.db").rename(copy)
    with pytest.raises(track.TrackError):
        track.prepare(f"sqlite:///{copy}", tmp_path)


def test_address_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(track.TrackError, match="nonsense"):
        track.prepare("nonsense://x", tmp_path)


def test_mlflow_reports_nothing_about_its_use(tmp_path):
    program = (
        "import sys; from pathlib import Path; from bench import track\n"
        "track.prepare(track.default_uri(Path(sys.argv[1])), Path(sys.argv[1]))\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "sys.exit(get_telemetry_client() is not None)"
    )
    clean = {"PYTHONPATH": str(Path(track.__file__).parents[1])}  # MLflow is silent in CI anyway
    subprocess.run([sys.executable, "-c", program, tmp_path], env=clean, check=True)
