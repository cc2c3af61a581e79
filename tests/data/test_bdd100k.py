"""The reader of BDD100K's packaging: what it finds, what it leaves out, what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bench.data import DataError
from bench.data.bdd100k import read
from tests.conftest import SHARED


def det_json(tree, split="train"):
    return tree / "labels" / "det_20" / f"det_{split}.json"


def relabel(tree, labels, split="train"):
    """Give the first listed frame these labels and return its name."""
    frames = json.loads(det_json(tree, split).read_text())
    frames[0]["labels"] = labels
    det_json(tree, split).write_text(json.dumps(frames))
    return frames[0]["name"].removesuffix(".jpg")


def box(category, x1=10, y1=20, x2=29, y2=59, **attributes):
    corners = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return {"id": "0", "category": category, "attributes": attributes, "box2d": corners}


def test_reading_a_folder_needs_no_torch():
    code = "import bench.data.bdd100k, bench.cell, bench.grids, bench.store, sys"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "False"


def test_the_drawn_streets_are_read_with_their_overlaps(streets):
    found = read(streets)
    labelled = found.labelled("train")
    assert {task: len(names) for task, names in labelled.items()} == {
        "sem": 4,
        "driv": 8,
        "det": 7,  # one frame is not annotated
    }
    assert len(labelled["sem"] & labelled["driv"]) == 2
    assert not labelled["sem"] & set(found.val)
    assert not found.excluded


def test_a_frame_that_is_not_listed_is_unlabelled_and_one_without_labels_is_empty(tree):
    name = relabel(tree, [])
    frames = json.loads(det_json(tree).read_text())
    det_json(tree).write_text(json.dumps(frames[:-1]))
    found = read(tree)
    assert found.train[name].det is not None
    assert len(found.train[name].det.classes) == 0
    assert found.train[frames[-1]["name"].removesuffix(".jpg")].det is None


def test_null_labels_are_an_empty_frame_too(tree):
    name = relabel(tree, None)
    assert len(read(tree).train[name].det.classes) == 0


def test_boxes_become_continuous_and_other_categories_become_crowds(tree):
    name = relabel(
        tree,
        [
            box("pedestrian"),
            box("bike"),
            box("other vehicle"),
            box("car", crowd=True),
            box("motor"),
        ],
    )
    boxes = read(tree).train[name].det
    assert boxes.boxes_xyxy[0].tolist() == [10, 20, 30, 60]
    assert boxes.classes.tolist() == [0, 7, 2, 2, 6]
    assert boxes.crowd.tolist() == [False, False, True, True, False]


def test_labels_without_a_box_are_passed_over(tree):
    name = relabel(tree, [{"id": "0", "category": "lane/crosswalk", "poly2d": []}, box("car")])
    assert read(tree).train[name].det.classes.tolist() == [2]


def test_an_unknown_category_is_refused_with_its_name(tree):
    relabel(tree, [box("spaceship")])
    with pytest.raises(DataError, match="spaceship"):
        read(tree)


def test_a_frame_on_its_side_is_left_out_and_counted(tree):
    image = next((tree / "images" / "10k" / "train").glob("*.jpg"))
    Image.new("RGB", (720, 1280)).save(image)
    (tree / "images" / "100k" / "train" / image.name).unlink(missing_ok=True)
    (tree / "labels" / "drivable" / "masks" / "train" / f"{image.stem}.png").unlink(missing_ok=True)
    found = read(tree)
    assert found.excluded == {"image on its side": [image.stem]}
    assert image.stem not in found.train


def test_a_few_labels_without_an_image_are_left_out_and_many_are_refused(tree):
    masks = tree / "labels" / "sem_seg" / "masks" / "train"
    mask = next(masks.glob("*.png"))
    for i in range(40):
        (tree / "images" / "10k" / "train" / f"extra-{i}.jpg").write_bytes(
            next((tree / "images" / "10k" / "train").glob("*.jpg")).read_bytes()
        )
        (masks / f"extra-{i}.png").write_bytes(mask.read_bytes())
    (masks / "nothing.png").write_bytes(mask.read_bytes())
    assert read(tree).excluded == {"sem label without an image": ["nothing"]}
    for i in range(3):
        (tree / "images" / "10k" / "train" / f"extra-{i}.jpg").unlink()
    with pytest.raises(DataError, match=r"4 of 45 train frames with a sem label have no image"):
        read(tree)


def shrink(file):
    with Image.open(file) as image:
        small = image.resize((640, 360), Image.Resampling.NEAREST)
    small.save(file)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: (t / "labels" / "drivable" / "masks" / "val").rename(t / "away"), "drivable"),
        (lambda t: det_json(t).unlink(), "det_train.json is missing"),
        (lambda t: det_json(t).write_text('{"frames": 3'), "not a Scalabel list"),
        (lambda t: det_json(t).write_text('{"frames": 3}'), "not a Scalabel list"),
        (lambda t: (t / "labels").rename(t / "away"), "is not a BDD100K folder"),
        (lambda t: truncate(next((t / "images/100k/val").glob("*.jpg"))), "is truncated"),
        (lambda t: truncate(next((t / "labels/drivable/masks/val").glob("*.png"))), "truncated"),
        (lambda t: shrink(next((t / "labels/drivable/masks/val").glob("*.png"))), "640x360"),
        (
            lambda t: Image.fromarray(np.zeros((720, 1280), np.uint16)).save(
                next((t / "labels/drivable/masks/val").glob("*.png"))
            ),
            "8-bit, one channel",
        ),
        (
            lambda t: next((t / "images/100k/val").glob("*.jpg")).write_text("<html>"),
            "cannot be read as an image",
        ),
    ],
)
def test_damage_is_refused_in_one_line_that_names_it(tree, damage, says):
    damage(tree)
    with pytest.raises(DataError) as refusal:
        read(tree)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_labels_that_are_missing_are_named_with_where_they_belong(tree):
    det_json(tree, "val").unlink()
    with pytest.raises(DataError) as refusal:
        read(tree)
    for part in ("det_val.json is missing", "det_20_labels_trainval.zip", "images_val.json"):
        assert part in str(refusal.value)


def test_real_frames_are_read_with_the_counts_of_their_readme():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    found = read(SHARED / "bdd_mini")
    counts = {s: {t: len(n) for t, n in found.labelled(s).items()} for s in ("train", "val")}
    assert counts == {
        "train": {"sem": 106, "driv": 429, "det": 358},
        "val": {"sem": 44, "driv": 150, "det": 150},
    }
    assert sum(len(frame.det.classes) for frame in found.train.values() if frame.det) == 6511
    assert sum(len(frame.det.classes) for frame in found.val.values() if frame.det) == 2886
