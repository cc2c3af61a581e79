import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import DataError
from bench.data.classes import DET, IGNORE, SEM
from bench.data.demo.canvas import HEIGHT, WIDTH
from bench.data.demo.draw import MARKER, Counts, draw, plan_frames
from bench.data.demo.ground import ALTERNATIVE, BACKGROUND, DIRECT
from bench.data.demo.layout import sample_scene
from bench.data.demo.paint import SMALLEST_PX, Street, paint
from bench.data.demo.scene import SEM_OF, Scene, Thing
from bench.data.demo.things import painters_order

FEW = Counts(train_100k=5, train_10k=3, shared=2, val_100k=2, val_10k=2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    assert draw(folder, counts=FEW)
    return folder


@pytest.fixture(scope="module")
def streets() -> list[tuple[Scene, Street]]:
    drawn = []
    for seed in range(8):
        rng = np.random.default_rng([7, seed])
        scene = sample_scene(rng)
        drawn.append((scene, paint(scene, rng)))
    return drawn


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def entries(folder: Path, split: str) -> list[dict]:
    return json.loads((folder / "labels" / "det_20" / f"det_{split}.json").read_text())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_streets(demo, tmp_path):
    draw(tmp_path / "again", counts=FEW)
    draw(tmp_path / "other", seed=1, counts=FEW)
    assert digests(tmp_path / "again") == digests(demo)
    assert not set(digests(tmp_path / "other").values()) & set(digests(demo).values())


def test_the_tree_is_that_of_the_released_data(demo):
    found = {path.relative_to(demo).as_posix() for path in demo.rglob("*") if path.is_dir()}
    leaves = {"labels/det_20"}
    for kind in ("images/100k", "images/10k", "labels/drivable/masks", "labels/sem_seg/masks"):
        leaves |= {f"{kind}/train", f"{kind}/val"}
    parents = {parent.as_posix() for leaf in leaves for parent in Path(leaf).parents} - {"."}
    assert found == leaves | parents
    for split, many, few in (("train", 5, 3), ("val", 2, 2)):
        assert len(stems(demo / "images" / "100k" / split)) == many
        assert len(stems(demo / "images" / "10k" / split)) == few
        for images, masks in (("100k", "drivable"), ("10k", "sem_seg")):
            assert stems(demo / "images" / images / split) == stems(
                demo / "labels" / masks / "masks" / split
            )


def test_pictures_and_masks_have_the_released_sizes_modes_and_values(demo):
    for path in demo.rglob("*.jpg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (1280, 720))
    for kind, allowed in (("drivable", {0, 1, 2}), ("sem_seg", {*range(19), IGNORE})):
        for path in (demo / "labels" / kind).rglob("*.png"):
            with Image.open(path) as mask:
                assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (1280, 720))
                assert set(np.unique(np.asarray(mask)).tolist()) <= allowed


def test_shared_frames_are_the_same_bytes_in_both_folders_and_carry_all_three_labels(demo):
    images = demo / "images"
    shared = stems(images / "100k" / "train") & stems(images / "10k" / "train")
    assert len(shared) == FEW.shared
    listed = {entry["name"].removesuffix(".jpg") for entry in entries(demo, "train")}
    for name in shared:
        both = [(images / size / "train" / f"{name}.jpg").read_bytes() for size in ("100k", "10k")]
        assert both[0] == both[1]
    assert shared <= listed
    assert not stems(images / "100k" / "val") & stems(images / "10k" / "val")


def test_names_look_like_bdd_names_and_no_split_shares_one():
    frames = plan_frames(0, Counts())
    names = {frame.name for frame in frames}
    assert len(names) == len(frames) == 64 + 22 - 8 + 32 + 16
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{8}", name) for name in names)
    latest = max(frame.name for frame in frames if frame.split == "train")
    assert latest < min(frame.name for frame in frames if frame.split == "val")


def test_one_training_frame_is_not_annotated_and_another_is_annotated_as_empty(demo):
    listed = {entry["name"]: entry["labels"] for entry in entries(demo, "train")}
    images = {path.name for path in (demo / "images" / "100k" / "train").iterdir()}
    assert len(images - set(listed)) == 1
    assert sum(labels == [] for labels in listed.values()) == 1
    assert len(entries(demo, "val")) == FEW.val_100k


def test_the_detection_list_has_the_fields_and_values_of_det_20(demo):
    ids = []
    for split in ("train", "val"):
        for entry in entries(demo, split):
            assert set(entry) == {"name", "attributes", "timestamp", "labels"}
            assert entry["attributes"]["weather"] in {"clear", "partly cloudy", "overcast", "foggy"}
            assert entry["attributes"]["timeofday"] in {"daytime", "dawn/dusk", "night"}
            assert entry["attributes"]["scene"] in {"city street", "residential", "highway"}
            for label in entry["labels"]:
                assert set(label) == {"id", "category", "attributes", "box2d"}
                assert label["category"] in DET
                attributes = label["attributes"]
                assert set(attributes) == {"occluded", "truncated", "trafficLightColor"}
                assert isinstance(attributes["occluded"], bool)
                assert isinstance(attributes["truncated"], bool)
                assert (attributes["trafficLightColor"] != "NA") == (
                    label["category"] == "traffic light"
                )
                ids.append(label["id"])
    assert len(ids) == len(set(ids)) > 20


def test_boxes_are_the_tight_extents_of_pixels_of_their_class(streets):
    boxes = [(scene, street, box) for scene, street in streets for box in street.boxes]
    assert len(boxes) > 50
    for _, street, box in boxes:
        x1, y1, x2, y2 = box.xyxy
        assert 0 <= x1 <= x2 <= WIDTH - 1
        assert 0 <= y1 <= y2 <= HEIGHT - 1
        assert y2 - y1 + 1 >= SMALLEST_PX[0]
        assert x2 - x1 + 1 >= SMALLEST_PX[1]
        own = street.sem[y1 : y2 + 1, x1 : x2 + 1] == SEM.index(SEM_OF[box.category])
        for edge in (own[0], own[-1], own[:, 0], own[:, -1]):
            assert edge.any()


def test_every_large_thing_of_the_masks_is_in_a_box(streets):
    for _, street in streets:
        boxed = np.zeros(street.sem.shape, bool)
        for box in street.boxes:
            x1, y1, x2, y2 = box.xyxy
            boxed[y1 : y2 + 1, x1 : x2 + 1] = True
        counted = np.isin(street.sem, [SEM.index(SEM_OF[kind]) for kind in SEM_OF if kind in DET])
        assert (counted & ~boxed).sum() < 0.02 * counted.sum()


def test_drivable_ground_is_road_that_nothing_covers_and_ours_lies_before_us(streets):
    for scene, street in streets:
        assert (street.sem[street.driv != BACKGROUND] == SEM.index("road")).all()
        bottom = street.driv[HEIGHT - 90]
        assert bottom[WIDTH // 2] == DIRECT
        neighbours = scene.road.left_lanes + scene.road.right_lanes
        assert (street.driv == ALTERNATIVE).any() == (neighbours > 0)


def test_oncoming_lanes_are_not_drivable():
    rng = np.random.default_rng(3)
    scene = sample_scene(rng)
    road = replace(scene.road, left_lanes=0, right_lanes=0, oncoming_lanes=2, offset_m=0.0)
    street = paint(replace(scene, road=road, things=()), rng)
    assert not (street.driv == ALTERNATIVE).any()
    assert (street.driv[HEIGHT - 200, :200] == BACKGROUND).all()
    assert (street.sem[HEIGHT - 200, 200:400] == SEM.index("road")).all()


def test_classes_have_the_shares_that_make_the_tasks_learnable(streets):
    driv = np.bincount(np.concatenate([street.driv.ravel() for _, street in streets]), minlength=3)
    direct, alternative, _ = 100 * driv / driv.sum()
    assert 12 < direct < 20
    assert 5 < alternative < 20
    sem = np.bincount(np.concatenate([street.sem.ravel() for _, street in streets]), minlength=256)
    assert 10 <= np.count_nonzero(sem[: len(SEM)]) <= 16
    assert sem[IGNORE] > 0
    assert max(sem) < 0.5 * sum(sem)


def test_an_empty_street_has_nothing_that_is_counted():
    rng = np.random.default_rng(11)
    street = paint(sample_scene(rng, empty=True), rng)
    assert street.boxes == ()
    counted = [SEM.index(SEM_OF[kind]) for kind in SEM_OF if kind in DET]
    assert not np.isin(street.sem, counted).any()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("hidden", "hiding"),
    [
        pytest.param(
            {"x": 0.0, "z": 30.0}, {"x": 0.5, "z": 8.0}, id="the farther of two in a lane"
        ),
        pytest.param(
            {"x": 3.9, "z": 9.0, "width": 0.6},
            {"x": 2.5, "z": 6.0, "length": 5.0},
            id="a walker behind a parked car",
        ),
        pytest.param(
            {"x": 4.0, "z": 5.0, "length": 12.0},
            {"x": 0.0, "z": 7.0, "length": 4.0},
            id="a bus outside",
        ),
    ],
)
def test_what_hides_is_painted_after_what_it_hides(order, hidden, hiding):
    pair = [
        Thing(**{"kind": "car", "width": 1.8, "height": 1.5, **place}) for place in (hidden, hiding)
    ]
    assert painters_order([pair[index] for index in order]) == pair


def test_drawing_again_leaves_the_complete_demo_alone(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert draw(demo, counts=FEW) is False
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and is not demo data"):
        draw(tmp_path, counts=FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_of_another_seed_is_refused(demo):
    with pytest.raises(DataError, match="another seed"):
        draw(demo, seed=5, counts=FEW)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="Cannot write the demo data"):
        draw(tmp_path / "file" / "demo", counts=FEW)


def test_a_drawing_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.data.demo.draw._write_frame", fail)
    with pytest.raises(DataError, match="No space left on device"):
        draw(tmp_path / "demo", counts=FEW)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_marked_last(tmp_path):
    tiny = Counts(train_100k=2, train_10k=0, shared=0, val_100k=0, val_10k=0)
    assert draw(tmp_path, counts=tiny)
    marker = json.loads((tmp_path / MARKER).read_text())
    assert marker["seed"] == 0
    assert marker["counts"]["train_100k"] == 2
