"""Self-training: one set of teachers, one set of pseudo labels, all students."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import bench.pseudo
from bench.data.bdd100k import read, withhold
from bench.data.classes import TASKS
from bench.grids import Request, cells, teachers
from bench.model.multitask import MultiTask
from bench.plan import Place, plan, write_orders
from bench.pseudo import fill_in, make_labels
from bench.run import run_cell
from bench.selftest import compare
from bench.store import Store, read_json, read_lines, write_json
from bench.train import stop

TINY = {"preset": "tiny", "zoo": ("moco_v2", "clip"), "protocols": ("pf", "paf")}


def place_of(store, data):
    place = Place(store=Store(store), data=str(data), stand_ins=True)
    place.store.prepare()
    return place


@pytest.fixture(scope="module")
def taught(streets, stand_ins, tmp_path_factory):
    """A store whose teachers and pseudo labels are made; returns (plan, folder of the labels)."""
    store = tmp_path_factory.mktemp("taught")
    shutil.copytree(stand_ins, store / "stand-ins")
    place = place_of(store, streets)
    planned = plan(cells(Request(**TINY, overrides=("pseudo.seg_score=0.2",))), place)
    write_orders(planned, place)
    for one in planned:
        if one.labels is None:
            run_cell(str(one.folder))
    labels = planned[-1].labels
    make_labels(str(labels.folder))
    return planned, labels.folder


def test_teachers_are_three_single_task_cells_that_all_students_share():
    taught_by = {cell.address: teachers(cell) for cell in cells(Request(**TINY, seeds=(0, 1)))}
    assert len(taught_by) == 8
    assert len(set(taught_by.values())) == 1
    assert [cell.address for cell in next(iter(taught_by.values()))] == [
        f"supervised_tv_v1-pf-disjoint-normal-zeroing-{task}-s0-tiny" for task in TASKS
    ]


def test_teachers_need_no_teachers_and_neither_does_a_single_task():
    (alone,) = cells(Request(zoo=("clip",), protocols=("pf",), tasks=("sem",)))
    assert teachers(alone) == ()
    student = cells(Request(**TINY))[0]
    assert all(teachers(teacher) == () for teacher in teachers(student))


def test_the_plan_has_teachers_before_students_and_each_once(taught):
    planned, labels = taught
    assert [one.labels is None for one in planned] == [True] * 3 + [False] * 4
    assert {one.labels.folder for one in planned[3:]} == {labels}
    keys = [one.order["key"] for one in planned[:3]]
    assert all(one.order["needs"] == keys for one in planned[3:])


@pytest.mark.parametrize(
    "change", ["pseudo.teacher_seed=1", "pseudo.teacher=clip", "pseudo.seg_score=0.4"]
)
def test_another_teacher_or_threshold_changes_every_students_key(
    taught, streets, new_store, change
):
    before = {one.cell.address: one for one in taught[0] if one.labels}
    words = ("pseudo.seg_score=0.2", change)
    after = plan(cells(Request(**TINY, overrides=words)), place_of(new_store(), streets))
    students = [one for one in after if one.labels]
    assert len(students) == len(before) == 4
    assert not {s.order["key"] for s in students} & {b.order["key"] for b in before.values()}
    assert students[0].labels.folder.name != taught[1].name


def test_a_threshold_leaves_the_teachers_as_they_are(taught, streets, new_store):
    words = ("pseudo.seg_score=0.4",)
    after = plan(cells(Request(**TINY, overrides=words)), place_of(new_store(), streets))
    keys = [[one.order["key"] for one in planned[:3]] for planned in (after, taught[0])]
    assert keys[0] == keys[1]


def test_labels_are_made_for_what_is_missing_in_the_formats_of_the_data_set(taught, streets):
    planned, home = taught
    carried = planned[-1].split.frames
    for task in ("sem", "driv"):
        made = {file.stem for file in (home / task).glob("*.png")}
        assert made == {name for name, own in carried.items() if task not in own}
        values = set()
        for file in (home / task).glob("*.png"):
            with Image.open(file) as image:
                assert (image.mode, image.size) == ("L", (1280, 720))
                values |= set(np.unique(np.asarray(image)).tolist())
        assert values <= {*range(19 if task == "sem" else 3), 255}
    coco = read_json(home / "det.json")
    assert {image["file_name"].removesuffix(".jpg") for image in coco["images"]} == {
        name for name, own in carried.items() if "det" not in own
    }
    assert all(one["score"] >= 0.5 for one in coco["annotations"])
    assert not (home / "det").exists()


def test_the_statistics_are_those_of_the_files(taught):
    _, home = taught
    statistics = read_json(home / "statistics.json")
    maps = [np.asarray(Image.open(file)) for file in (home / "driv").glob("*.png")]
    ignored = 100 * np.mean([np.mean(one == 255) for one in maps])
    assert statistics["driv"]["ignored_percent"] == pytest.approx(ignored, abs=0.01)
    assert statistics["driv"]["frames"] == len(maps)
    coco = read_json(home / "det.json")
    assert statistics["det"]["boxes"] == len(coco["annotations"])


@pytest.fixture
def again(taught):
    """A folder for the same labels, not begun."""
    home = taught[1]
    folder = home.parent / "again"
    folder.mkdir()
    shutil.copy(home / "order.json", folder)
    yield folder
    shutil.rmtree(folder)


def at_save(monkeypatch, name, number, act):
    """Have the call of a saving function with this number (from 1) do something first."""
    calls, function = iter(range(1, 1000)), getattr(bench.pseudo, name)

    def counted(*args):
        if next(calls) == number:
            act()
        return function(*args)

    monkeypatch.setattr(bench.pseudo, name, counted)


def pull_the_plug():
    raise KeyboardInterrupt


def test_labels_made_in_two_goes_are_those_made_in_one(taught, again, monkeypatch):
    _, home = taught
    with monkeypatch.context() as patch:
        at_save(patch, "_save_png", 6, pull_the_plug)
        with pytest.raises(KeyboardInterrupt):
            make_labels(str(again))
    assert not (again / "statistics.json").exists()
    kept = {file: file.stat().st_mtime_ns for file in again.glob("sem/*.png")}
    make_labels(str(again))
    assert compare(home, again) == []
    assert sum(file.stat().st_mtime_ns == time for file, time in kept.items()) >= 4
    assert len(read_lines(again / "attempts.jsonl")) == 2


def test_asked_to_stop_labels_stop_after_their_batch(taught, again, monkeypatch):
    _, home = taught
    with monkeypatch.context() as patch:
        at_save(patch, "_save_png", 1, stop.ask)
        with pytest.raises(stop.Stopped):
            make_labels(str(again))
    assert len(list(again.glob("sem/*.png"))) == 4
    assert not (again / "error.txt").exists()
    make_labels(str(again))
    assert compare(home, again) == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_labels_cut_off_while_their_records_are_written_are_complete_in_the_end(
    taught, again, monkeypatch, number
):
    _, home = taught
    shutil.copytree(home, again, dirs_exist_ok=True)
    (again / "statistics.json").unlink()
    (again / "det").mkdir()
    coco = read_json(again / "det.json")
    for image in coco["images"]:
        write_json(again / "det" / f"{image['file_name'].removesuffix('.jpg')}.json", NO_BOXES)
    at = {1: ("_write_coco", 1), 2: ("write_json", 2), 3: ("shutil", 0)}[number]
    with monkeypatch.context() as patch:
        if at[1]:
            at_save(patch, *at, pull_the_plug)
        else:
            patch.setattr(bench.pseudo.shutil, "rmtree", lambda *args, **more: pull_the_plug())
        with pytest.raises(KeyboardInterrupt):
            make_labels(str(again))
    make_labels(str(again))
    assert compare(home, again) == []


NO_BOXES = {"size_hw": [720, 1280], "boxes_xyxy": [], "classes": [], "scores": []}


def test_ground_truth_always_wins_over_pseudo_labels(taught, streets):
    planned, home = taught
    carried = planned[-1].split.frames
    own = withhold(read(streets).train, carried)
    filled = fill_in(own, home)
    assert all(frame.tasks() == TASKS for frame in filled.values())
    for name, tasks in carried.items():
        for task in tasks:
            assert getattr(filled[name], task) is getattr(own[name], task)
        for task in {"sem", "driv"} - set(tasks):
            assert getattr(filled[name], task).is_relative_to(home)


def test_a_setting_withholds_the_labels_that_it_does_not_deal(streets):
    train = read(streets).train
    name = next(name for name, frame in train.items() if len(frame.tasks()) == 3)
    (frame,) = withhold(train, {name: ("driv",), "other": ()}).values()
    assert frame.tasks() == ("driv",)


def test_boxes_come_back_from_coco_as_they_were_found(tmp_path):
    (tmp_path / "det").mkdir()
    found = {
        "size_hw": [720, 1280],
        "boxes_xyxy": [[1.5, 2.25, 10.0, 20.0], [0.0, 0.0, 4.0, 4.0]],
        "classes": [2, 9],
        "scores": [0.9, 0.5],
    }
    nothing = {**found, "boxes_xyxy": [], "classes": [], "scores": []}
    (tmp_path / "det" / "a.json").write_text(json.dumps(found))
    (tmp_path / "det" / "b.json").write_text(json.dumps(nothing))
    assert bench.pseudo._write_coco(tmp_path)["frames_without_boxes"] == 1
    boxes = bench.pseudo._read_coco(tmp_path / "det.json")
    assert boxes["a"].boxes_xyxy.tolist() == found["boxes_xyxy"]
    assert boxes["a"].classes.tolist() == found["classes"]
    assert boxes["b"].boxes_xyxy.shape == (0, 4)


def test_a_student_learns_from_all_three_tasks_in_every_frame_and_asks_no_teacher(
    taught, monkeypatch
):
    planned, _ = taught
    student = next(one for one in planned if one.cell.zoo == "moco_v2_200ep")
    models, forward = set(), MultiTask.forward
    monkeypatch.setattr(
        MultiTask, "forward", lambda self, *args: models.add(id(self)) or forward(self, *args)
    )
    run_cell(str(student.folder))
    assert len(models) == 1
    progress = (student.folder / "progress.jsonl").read_text().splitlines()
    assert all(min(json.loads(line)["losses"].values()) > 0 for line in progress)
    assert read_json(student.folder / "result.json")["metrics"].keys() >= {"sem/mIoU", "det/mAP"}
