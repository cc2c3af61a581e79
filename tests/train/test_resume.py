"""A cell that was cut off anywhere ends as the one that was left in peace, file by file."""

import json
import os
import shutil

import numpy as np
import pytest

import bench.eval.evaluate
import bench.train.engine
from bench.eval.ap import Matches, average_precision, det_scores
from bench.eval.evaluate import Evaluation
from bench.run import run_cell
from bench.selftest import compare
from bench.store import read_json, read_lines, state
from bench.train import stop
from tests.train.tiny import Cut, at_call, prepared, pull_the_plug

CURVES = ("optim.batch=2", "val_every=1")  # five steps an epoch, and a validation after each


@pytest.fixture(scope="module")
def whole(streets, stand_ins, tmp_path_factory):
    """The folder of a cell with validations that nobody disturbed."""
    store = tmp_path_factory.mktemp("whole")
    shutil.copytree(stand_ins, store / "stand-ins")
    home = prepared(store, streets, overrides=CURVES)
    run_cell(str(home))
    return home


@pytest.fixture
def home(streets, new_store):
    """The same cell, not begun."""
    return prepared(new_store(), streets, overrides=CURVES)


@pytest.fixture
def every_step(monkeypatch):
    """Save after every step and every batch."""
    monkeypatch.setenv("BENCH_SAVE_S", "0")


STEPS = 15  # 10 frames, batch 2, 3 epochs


@pytest.mark.parametrize("step", [2, 5, 6, 13])
def test_cut_off_before_any_step_it_goes_on_from_the_last_one_saved(
    whole, home, monkeypatch, every_step, step
):
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "take_step", step, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    assert state(home) == "failed"
    taken = at_call(monkeypatch, bench.train.engine, "take_step", 0, pull_the_plug)
    run_cell(str(home))
    assert len(taken) == STEPS - (step - 1)
    assert compare(whole, home) == []


def test_without_a_save_in_between_an_epoch_is_taken_again(whole, home, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "take_step", 8, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    taken = at_call(monkeypatch, bench.train.engine, "take_step", 0, pull_the_plug)
    run_cell(str(home))
    assert len(taken) == STEPS - 5
    assert compare(whole, home) == []


@pytest.mark.parametrize("step", [1, 5, 7])
def test_asked_to_stop_it_takes_its_step_saves_and_is_no_failure(whole, home, monkeypatch, step):
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "take_step", step, stop.ask)
        with pytest.raises(stop.Stopped):
            run_cell(str(home))
    assert not (home / "error.txt").exists()
    assert state(home) == "preempted"
    taken = at_call(monkeypatch, bench.train.engine, "take_step", 0, pull_the_plug)
    run_cell(str(home))
    assert len(taken) == STEPS - step
    assert compare(whole, home) == []
    assert len(read_lines(home / "attempts.jsonl")) == 2


def test_stopped_after_every_single_step_the_log_is_that_of_one_go(whole, home, monkeypatch):
    for _ in range(STEPS):
        with monkeypatch.context() as patch:
            at_call(patch, bench.train.engine, "take_step", 1, stop.ask)
            with pytest.raises(stop.Stopped):
                run_cell(str(home))
    run_cell(str(home))
    assert compare(whole, home) == []


def test_a_validation_that_was_cut_off_is_made_up_for(whole, home, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "evaluate", 2, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    kinds = [line["kind"] for line in read_lines(home / "progress.jsonl")]
    assert kinds.count("val") == 1
    run_cell(str(home))
    assert compare(whole, home) == []


def test_a_validation_is_made_up_for_after_the_last_epoch_too(whole, home, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "evaluate", 3, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    run_cell(str(home))
    assert compare(whole, home) == []


def test_a_validation_that_is_in_the_log_is_not_made_twice(whole, home, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(
            patch, bench.train.engine, "take_step", 6, pull_the_plug
        )  # right after a validation
        with pytest.raises(Cut):
            run_cell(str(home))
    made = at_call(monkeypatch, bench.train.engine, "evaluate", 0, pull_the_plug)
    run_cell(str(home))
    assert len(made) == 2
    assert compare(whole, home) == []


def test_a_damaged_newest_state_costs_steps_and_no_bit(
    whole, home, monkeypatch, every_step, capsys
):
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "take_step", 8, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    content = (home / "state.pt").read_bytes()
    (home / "state.pt").write_bytes(content[: len(content) // 2])
    run_cell(str(home))
    assert "state.pt is damaged" in capsys.readouterr().out
    assert compare(whole, home) == []


FRAMES = 5  # to validate


@pytest.fixture
def scored(home, monkeypatch, every_step):
    """The cell stopped in its final evaluation, after one batch of two frames."""

    def forget_the_last_validation_and_stop_soon():
        (home / "scored.npz").unlink()
        at_call(patch, bench.eval.evaluate, "_map_as_stored", 1, stop.ask)

    with monkeypatch.context() as patch:
        at_call(patch, bench.run, "evaluate", 1, forget_the_last_validation_and_stop_soon)
        with pytest.raises(stop.Stopped):
            run_cell(str(home))
    return home


@pytest.fixture
def predicted(monkeypatch):
    """How many frames were given to the model at each evaluation."""
    seen, predict = [], bench.eval.evaluate.predict

    def watched(model, frames, *args, **more):
        seen.append(len(frames))
        return predict(model, frames, *args, **more)

    monkeypatch.setattr(bench.eval.evaluate, "predict", watched)
    return seen


def test_the_validation_after_the_last_step_is_not_made_again(home, predicted):
    run_cell(str(home))
    assert predicted == [FRAMES, FRAMES, FRAMES, 0]


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(whole, scored, predicted):
    run_cell(str(scored))
    assert predicted == [FRAMES - 2]
    assert compare(whole, scored) == []


def test_scores_of_other_weights_are_not_taken_up(whole, scored):
    with np.load(scored / "scored.npz") as file:
        columns = dict(file.items())
    columns["weights"] = np.array("0" * 64)
    for name in ("sem.confusions", "driv.confusions"):
        columns[name] = columns[name] * 0
    np.savez(scored / "scored.npz", **columns)
    run_cell(str(scored))
    assert compare(whole, scored) == []


def test_damaged_scores_are_made_again_with_one_line(whole, scored, capsys):
    content = (scored / "scored.npz").read_bytes()
    (scored / "scored.npz").write_bytes(content[:200])
    run_cell(str(scored))
    assert "scored.npz is damaged" in capsys.readouterr().out
    assert compare(whole, scored) == []


def test_what_was_found_comes_back_from_arrays_as_it_was(whole):
    columns = {
        file.stem: dict(np.load(file).items()) for file in sorted((whole / "preds").iterdir())
    }
    again = Evaluation.from_arrays(columns).arrays()
    assert again.keys() == columns.keys()
    for task, named in again.items():
        for name, column in named.items():
            assert np.array_equal(column, columns[task][name])
            assert column.dtype == columns[task][name].dtype


def test_what_is_kept_of_boxes_gives_the_result_s_ap_again(whole):
    with np.load(whole / "preds" / "det.npz") as file:
        precision = average_precision(Matches.from_columns(file))
    metrics = read_json(whole / "result.json")["metrics"]
    for name, score in det_scores(precision).items():
        assert score == pytest.approx(metrics[name], abs=1e-9)


def test_nothing_found_yet_is_something_to_come_back_to():
    nothing = Evaluation({"sem": {}})
    assert Evaluation.from_arrays(nothing.arrays()).confusions == {"sem": {}}


@pytest.mark.parametrize("name", ["save_file", "write_json"])
def test_cut_off_while_it_leaves_its_results_it_leaves_them_again(whole, home, monkeypatch, name):
    with monkeypatch.context() as patch:
        at_call(patch, bench.run, name, 1 if name == "save_file" else 2, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    assert not (home / "result.json").exists()
    taken = at_call(monkeypatch, bench.train.engine, "take_step", 0, pull_the_plug)
    run_cell(str(home))
    assert taken == []
    assert compare(whole, home) == []


def test_what_is_left_of_an_attempt_that_ended_right_after_its_result_goes(whole, tmp_path):
    home = shutil.copytree(whole, tmp_path / "cell")
    (home / "state.pt").write_bytes(b"")
    (home / "lock").write_text(json.dumps({"host": "gone", "pid": 1}))
    os.utime(home / "lock", (0, 0))  # no heart has beaten for long
    (home / ".result.json.1.tmp").write_text("")
    run_cell(str(home))
    assert compare(whole, home) == []


def test_a_full_disk_fails_a_cell_by_its_name_and_it_goes_on_when_there_is_room(
    whole, home, monkeypatch, every_step
):
    def full(*args):
        raise OSError(28, "No space left on device, while saving", str(home))

    with monkeypatch.context() as patch:
        at_call(patch, bench.train.state, "save", 4, full)
        with pytest.raises(OSError, match="No space left"):
            run_cell(str(home))
    assert (home / "error.txt").read_text().startswith("OSError: [Errno 28] No space left")
    run_cell(str(home))
    assert compare(whole, home) == []
