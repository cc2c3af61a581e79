"""The command as a person uses it, from the refusals to a whole grid on one machine."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests import killed
from tests.conftest import ROOT

GRID = ("--zoo", "moco_v2,clip", "--protocol", "pf,paf", "--preset", "tiny")
ZEROING = (*GRID, "--scheme", "zeroing")


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def damage_nothing(tree):
    pass


def damage_empty(tree):
    shutil.rmtree(tree)
    tree.mkdir()


def damage_label_folder(tree):
    shutil.rmtree(tree / "labels" / "sem_seg")


def damage_mask_size(tree):
    mask = next((tree / "labels/drivable/masks/train").glob("*.png"))
    Image.new("L", (640, 360)).save(mask)


def damage_jpeg(tree):
    image = next((tree / "images/100k/train").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-3000])


@pytest.mark.parametrize(
    ("damage", "words", "says"),
    [
        (damage_empty, (), "is not a BDD100K folder"),
        (damage_label_folder, (), "sem_seg/masks/train is missing"),
        (damage_mask_size, (), "is 640x360, its image 1280x720"),
        (damage_jpeg, (), "is truncated"),
        (
            damage_nothing,
            ("--zoo", "moco_v3"),
            "Unknown checkpoint 'moco_v3'. Did you mean 'moco_v",
        ),
        (damage_nothing, ("--protocol", "pfa"), "Unknown protocol 'pfa'. Did you mean 'pf'?"),
        (damage_nothing, ("--setting", "disjoint"), "Unknown setting 'disjoint'"),
        (damage_nothing, ("--set", "optim.bach=2"), "Did you mean 'batch'?"),
        (damage_nothing, ("--seeds", "one"), "'one' is not a whole number"),
        (damage_nothing, ("--preset", "papper"), "Unknown preset 'papper'"),
        (damage_nothing, ("--store", "/dev/null/runs"), "cannot be written to"),
        (damage_nothing, ("--runner", "slurmm"), "slurmm"),
        (damage_nothing, ("--no-such-option",), "No such option"),
        (damage_nothing, ("--preset", "paper"), "disjoint-normal needs 10,000 images with boxes"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing(say, tree, damage, words, says):
    damage(tree)
    code, out, err = say("run", *GRID, "--data", tree, "--stand-ins", *words)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("runs").exists()


def test_missing_weights_are_refused_before_anything_starts_with_where_to_get_them(say, streets):
    code, _, err = say("run", *GRID, "--data", streets)
    assert code == 2
    assert "moco_v2_200ep_pretrain.pth.tar from https://dl.fbaipublicfiles.com/moco" in err
    assert "RN50.pt from https://openaipublic" in err
    assert f"Put them into {Path.cwd() / 'zoo'} ($BENCH_ZOO)" in err
    assert not Path("runs").exists()


def test_a_whole_grid_runs_is_shown_and_is_not_run_again(say, streets, new_store):
    store = new_store()
    where = ("--data", streets, "--stand-ins", "--store", store)

    code, out, err = say("plan", *GRID, *where, "--json")
    planned = json.loads(out)["cells"]
    assert code == 0
    assert [cell["state"] for cell in planned] == ["pending"] * 7
    assert {cell["reason"] for cell in planned} == {"missing"}
    teachers, students = planned[:3], planned[3:]
    assert [cell["tasks"] for cell in teachers] == [["sem"], ["driv"], ["det"]]
    assert all(cell["needs"] == [t["key"] for t in teachers] for cell in students)
    assert not (store / "cells").exists()

    code, out, err = say("run", *GRID, *where)
    assert code == 0, out + err
    assert "7 done" in out
    assert "Best constant prediction" in out
    assert "‡" in out
    assert {home.name for home in (store / "cells").glob("*-*")} == {c["cell"] for c in planned}
    for cell in planned:
        left = set(os.listdir(store / "cells" / cell["cell"]))
        assert left == {
            "attempts.jsonl",
            "cell.json",
            "job.json",
            "load_report.json",
            "model.safetensors",
            "preds",
            "panels.json",
            "progress.jsonl",
            "resampled.npz",
            "result.json",
        }

    code, out, err = say("run", *GRID, *where)
    assert code == 0
    assert out.count("skipped, done 20") == 7
    assert "7 cells, 0 to run" in out
    assert len(list((store / "pseudo").glob("*/statistics.json"))) == 1

    code, out, err = say("status", "--zoo", "clip", "--store", store, "--json")
    cells = json.loads(out)["cells"]
    assert [(c["state"], c["progress"], c["attempts"], c["error"]) for c in cells] == [
        ("done", 1.0, 1, None)
    ] * 2

    code, out, err = say("report", "--zoo", "clip", *where, "--preset", "tiny", "--format", "json")
    rows = json.loads(out)["rows"]
    measured = {c["metric"]: c for row in rows if row["model"] == "CLIP" for c in row["cells"]}
    result = json.loads(next((store / "cells").glob("clip_rn50-paf-*/result.json")).read_text())
    assert measured["driv/mIoU"]["mean"] == pytest.approx(result["metrics"]["driv/mIoU"])
    assert measured["driv/mIoU"]["mark"] == "†‡"

    code, out, err = say(
        "report", *where, "--preset", "tiny", "--format", "markdown,latex", "--out", "tables"
    )
    assert code == 0
    assert files("tables") == ["table2-standalone.tex", "table2.md", "table2.tex"]
    assert say("report", *where, "--preset", "tiny", "--strict")[0] == 1  # seven are missing

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("lv-adapter-bench")
    runs = client.search_runs([experiment.experiment_id])
    tags = [run.data.tags for run in runs]
    assert sorted(one["bench.cell_id"] for one in tags if "bench.cell_id" in one) == sorted(
        cell["key"] for cell in planned
    )
    assert len([one for one in tags if "bench.invocation_id" in one]) == 1  # asked for twice


def test_a_failed_cell_stops_no_other_and_is_tried_again(say, streets, new_store):
    store = new_store()
    weights = next((store / "stand-ins" / "canonical").glob("clip*"))
    whole = weights.read_bytes()
    weights.unlink()  # a hard link: the others keep theirs
    weights.write_bytes(whole[:1000])
    words = ("run", *ZEROING, "--data", streets, "--stand-ins", "--store", store, "--track", "off")
    words = (*words, "--protocol", "paf", "--runner", "here", "--seeds", "0")
    code, out, _ = say(*words)
    assert code == 1
    assert "failed: ZooError" in out
    assert "✗" in out
    cells = json.loads(say("status", "--store", store, "--json")[1])["cells"]
    assert {c["cell"].partition("-")[0]: c["state"] for c in cells}["clip_rn50"] == "failed"
    assert sum(c["state"] == "done" for c in cells) == 2

    weights.write_bytes(whole)
    code, out, _err = say(*words)
    assert code == 0, out
    assert "✗" not in out


def test_the_sbatch_script_is_for_what_is_still_to_run(say, streets, new_store):
    where = ("--data", streets, "--stand-ins", "--store", new_store())
    code, out, err = say(
        "plan", *ZEROING, *where, "--show-sbatch", "--slurm", "partition=gpu,time=60"
    )
    assert code == 0
    assert "#SBATCH --array=0-3" in out
    assert "#SBATCH --partition=gpu" in out
    assert out.count("#!/bin/bash") == 1
    code, out, err = say("plan", *GRID, *where, "--show-sbatch")
    first, labels, students = out.split("#!/bin/bash")[1:]
    assert "#SBATCH --array=0-2" in first
    assert "# 1 to run, after supervised_tv_v1 pf sem s0, " in first
    assert "#SBATCH --array" not in labels
    assert "#SBATCH --array=0-3" in students
    code, out, err = say("plan", *ZEROING, *where, "--show-sbatch", "--slurm", "partitoin=gpu")
    assert code == 2
    assert "Did you mean 'partition'" in err


def test_changed_weights_make_a_result_stale_and_the_plan_says_so(say, streets, new_store):
    store = new_store()
    where = ("--data", streets, "--stand-ins", "--store", store)
    words = ("--zoo", "moco_v2", "--protocol", "pf", "--tasks", "driv", "--preset", "tiny", *where)
    assert say("run", *words, "--runner", "here", "--track", "off")[0] == 0
    home = next((store / "cells").glob("*/cell.json"))
    order = json.loads(home.read_text())
    order["weights"]["sha256"], order["key"] = "0" * 64, "1" * 64
    home.write_text(json.dumps(order))
    home.parent.rename(home.parent.with_name(home.parent.name[:-8] + "1" * 8))
    cells = json.loads(say("plan", *words, "--json")[1])["cells"]
    assert cells[0]["reason"] == "stale: weights changed since 11111111"


def test_the_catalogue_is_listed_and_shown(say):
    code, out, _ = say("zoo", "ls", "--json")
    assert [row["short"] for row in json.loads(out) if row["short"]] == [
        *("supervised", "moco_v1", "moco_v2", "simclr", "swav", "byol", "detco", "densecl", "clip")
    ]
    code, out, _err = say("zoo", "show", "byol")
    assert code == 0
    for fact in ("byol_deepmind", "CC-BY-NC-4.0", "same", "pretrain_res50x1.pkl", "names no files"):
        assert fact in out


def test_data_check_counts_and_names_what_is_left_out(say, tree):
    image = next((tree / "images" / "10k" / "val").glob("*.jpg"))
    Image.new("RGB", (720, 1280)).save(image)
    code, out, _err = say("data", "check", tree)
    assert code == 0
    assert "train: 10 labelled frames: 4 sem, 8 driv, 7 det" in out
    assert f"left out: 1 x image on its side: {image.stem}" in out
    for line in ("sem labels: masks of 2021", "driv labels: masks of 2021, ids of 2021"):
        assert line in out
    where = ("--data", tree, "--stand-ins", "--zoo", "moco_v2", "--preset", "tiny")
    assert "Left out: 1 x image on its side." in say("plan", *where)[1]


def test_without_data_the_demo_is_used_and_said(say, monkeypatch):
    code, _out, err = say("plan", "--zoo", "clip")
    assert code == 2
    assert "using the demo data" in err
    assert "not drawn yet" in err


def test_a_failed_teacher_ends_its_students_and_no_other_cell(say, streets, new_store):
    store = new_store()
    weights = next((store / "stand-ins" / "canonical").glob("supervised*"))
    whole = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(whole[:1000])
    words = ("run", *GRID, "--data", streets, "--stand-ins", "--store", store, "--track", "off")
    words = (*words, "--zoo", "!clip", "--protocol", "pf", "--runner", "here")
    code, out, _ = say(*words)
    assert code == 1
    assert out.count("failed: ZooError") == 3
    # The labels, and both students.
    assert len(re.findall(r"^\[\d/6\] .*: failed: Needs ", out, re.MULTILINE)) == 3
    cells = json.loads(say("status", "--store", store, "--json")[1])["cells"]
    assert {cell["state"] for cell in cells} == {"failed"}


def test_report_follows_its_selectors_and_the_newest_result(say, streets, new_store):
    store = new_store()
    words = ("--zoo", "moco_v2", "--preset", "tiny", "--scheme", "zeroing", "--store", store)
    ran = ("run", *words, "--data", streets, "--stand-ins", "--protocol", "pf", "--tasks", "driv")
    assert say(*ran, "--runner", "here", "--track", "off")[0] == 0
    report = ("report", "--scheme", "zeroing", "--tasks", "driv", "--store", store)
    code, out, err = say(*report, "--zoo", "moco_v2", "--format", "json")
    rows = [row for row in json.loads(out)["rows"] if row["model"] != "Best constant prediction"]
    assert (code, err) == (0, "")  # data and preset are those of the newest result
    assert [row["model"] for row in rows] == ["MoCo-v2", "MoCo-v2"]
    assert rows[0]["cells"][2]["mean"] is not None
    assert say(*report, "--protocol", "pf", "--zoo", "moco_v2", "--strict")[0] == 0
    elsewhere = ("--data", streets.parent, "--preset", "tiny")
    code, out, err = say(*report, "--zoo", "moco_v2", *elsewhere, "--format", "json")
    assert all(c["mean"] is None for row in json.loads(out)["rows"] for c in row["cells"])


def test_changed_labels_make_a_finished_result_stale(say, tree, new_store):
    where = ("--data", tree, "--stand-ins", "--store", new_store())
    words = ("--zoo", "moco_v2", "--protocol", "pf", "--tasks", "det", "--preset", "tiny", *where)
    assert say("run", *words, "--runner", "here", "--track", "off")[0] == 0
    file = tree / "labels" / "det_20" / "det_train.json"
    file.write_text(file.read_text().replace('"category": "car"', '"category": "bus"'))
    cells = json.loads(say("plan", *words, "--json")[1])["cells"]
    assert cells[0]["reason"].startswith("stale: data changed since")


def test_drivable_masks_of_2018_are_recognised_and_said(say, tree):
    masks = sorted((tree / "labels" / "drivable" / "masks").rglob("*.png"))
    for mask in masks:
        with Image.open(mask) as label:
            label.point([1, 2, 0, *range(3, 256)]).save(mask)
    code, out, _err = say("data", "check", tree)
    assert code == 0
    assert "driv labels: masks of 2021, ids of 2018" in out
    for mask in masks[::2]:
        with Image.open(mask) as label:
            label.point([2, 0, 1, *range(3, 256)]).save(mask)
    code, out, err = say("data", "check", tree)
    assert (code, out) == (2, "")
    assert "In BDD100K's current release background is 2" in err


def test_data_splits_shows_what_each_setting_has_and_what_none_can_be(say, tree):
    code, out, _err = say("data", "splits", tree)
    assert code == 0
    assert "disjoint-normal cannot be had. disjoint-normal needs 10,000 images with boxes" in out
    assert "full: 10 training frames, sem 4, driv 8, det 7. sha256 " in out
    code, out, _err = say("data", "splits", tree, "--preset", "demo", "--out", "manifests")
    assert code == 0
    assert out.count("in the setting's proportions, not its numbers") == 2
    for setting in ("disjoint-normal", "disjoint-balance", "full"):
        text = Path(f"manifests/{setting}.json").read_text()
        assert f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]}" in out
        assert json.loads(text)["setting"] == setting


def test_data_splits_follows_the_policy_on_leaks(say, tree):
    image = sorted((tree / "images" / "10k" / "train").glob("*.jpg"))[-1]  # in 10k alone
    masks = tree / "labels" / "drivable" / "masks" / "val"
    shutil.copy(image, tree / "images" / "100k" / "val" / image.name)
    shutil.copy(next(masks.glob("*.png")), masks / f"{image.stem}.png")
    splits = ("data", "splits", tree, "--preset", "demo", "--set")
    code, out, _err = say(*splits, "split_seed=0")
    assert code == 0
    assert f"in train and in val: 1 frames: {image.stem}" in out
    assert out.count("sem 3") == out.count("1 that are validation frames too dropped") == 3
    out = say(*splits, "cross_split_policy=keep")[1]
    assert out.count("sem 4") == out.count("1 that are validation frames too kept") == 3
    code, _out, err = say(*splits, "cross_split_policy=error")
    assert code == 2
    assert f"1 training frames are validation frames too (the first: {image.stem})" in err


def test_a_worker_that_is_killed_fails_its_cell_and_says_so(say, streets, new_store, monkeypatch):
    store = new_store()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("bench.sweep.work", killed.kill_me)
    words = ("run", *ZEROING, "--data", streets, "--stand-ins", "--store", store, "--track", "off")
    code, out, _ = say(*words, "--jobs", "2")
    assert code == 1
    assert len(re.findall(r"^\[\d/4\] .* failed: The worker died", out, re.MULTILINE)) == 4
    cells = json.loads(say("status", "--store", store, "--json")[1])["cells"]
    assert {cell["state"] for cell in cells} == {"failed"}
    assert all("The worker died" in cell["error"] for cell in cells)


@pytest.mark.parametrize(
    "words",
    [
        ("--zoo", ""),
        ("--seeds", ","),
        ("--protocol", "foo"),
        ("--tasks", "depth"),
        ("--heads", "nope"),
        ("--setting", "nope"),
    ],
)
def test_status_refuses_what_does_not_exist(say, words):
    code, out, err = say("status", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_cell_of_another_version_is_shown_as_unreadable(say):
    home = Path("runs/cells/old")
    home.mkdir(parents=True)
    (home / "cell.json").write_text('{"resolved": {"protocol": {"colour": 1}}}')
    code, out, _ = say("status", "--json")
    assert code == 0
    assert [cell["state"] for cell in json.loads(out)["cells"]] == ["unreadable"]
    (home / "cell.json").write_text("")
    assert say("status")[0] == 0


def test_a_place_that_cannot_be_written_is_one_line(say, streets):
    words = ("report", "--format", "csv", "--out", "/dev/null/tables", "--data", streets)
    code, _, err = say(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "/dev/null is a file, not a folder" in err
