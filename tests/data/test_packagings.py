"""BDD100K in all the packagings that people own: the same frames, or a refusal."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bench.data import DataError
from bench.data.bdd100k import read
from bench.data.classes import TASKS
from bench.data.sample import decode

# The six 10k images stored on their side (bdd100k/bdd100k issues 103 and 127).
SIDEWAYS = {
    "train": ("3d581db5-2564fb7e", "52e3fd10-c205dec2", "781756b0-61e0a182", "78ac84ba-07bd30c2"),
    "val": ("80a9e37d-e4548ac1", "9342e334-33d167eb"),
}
OLDER_NAMES = {"bicycle": "bike", "motorcycle": "motor", "pedestrian": "person"}
OLDER_IDS = {0: 1, 1: 2, 2: 0}  # ucbdrive/bdd-data: 0 background, 1 direct, 2 alternative


def det_20(tree):
    """Yield each split, its file, and the frames listed there."""
    for split in ("train", "val"):
        file = tree / "labels" / "det_20" / f"det_{split}.json"
        yield split, file, json.loads(file.read_text())


def older(labels):
    """Return labels as 2018 wrote them: older names, numbers for ids, lanes and areas besides."""
    area = {"category": "drivable area", "attributes": {"areaType": "direct"}, "id": 90}
    polygon = [{"vertices": [[0, 0], [9, 0], [9, 9]], "types": "LLL", "closed": True}]
    named = [
        {**label, "id": i, "category": OLDER_NAMES.get(label["category"], label["category"])}
        for i, label in enumerate(labels or [])
    ]
    return [{**area, "poly2d": polygon}, *named, {"category": "lane", "id": 91, "poly2d": polygon}]


def one_list(tree):
    for split, file, frames in det_20(tree):
        listed = [{**frame, "labels": older(frame["labels"])} for frame in frames]
        (tree / "labels" / f"bdd100k_labels_images_{split}.json").write_text(
            json.dumps(listed, indent=4)
        )
        file.unlink()


def file_a_frame(place):
    def repack(tree):
        for split, file, frames in det_20(tree):
            folder = tree / place / split
            folder.mkdir(parents=True, exist_ok=True)
            for frame in frames:
                name = frame["name"].removesuffix(".jpg")
                objects = [
                    {
                        **label,
                        "category": label["category"].replace("drivable area", "area/drivable"),
                    }
                    for label in older(frame["labels"])
                ]
                whole = {"name": name, "frames": [{"timestamp": 10000, "objects": objects}]}
                (folder / f"{name}.json").write_text(json.dumps(whole))
            file.unlink()

    return repack


def flip(mask):
    with Image.open(mask) as label:
        flipped = label.point([OLDER_IDS[0], OLDER_IDS[1], OLDER_IDS[2], *range(3, 256)])
    flipped.save(mask)


def drivable_maps(tree):
    for mask in list((tree / "labels" / "drivable" / "masks").rglob("*.png")):
        flip(mask)
        folder = tree / "drivable_maps" / "labels" / mask.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        mask.rename(folder / f"{mask.stem}_drivable_id.png")
    shutil.rmtree(tree / "labels" / "drivable")


def seg(tree):
    for mask in list((tree / "labels" / "sem_seg" / "masks").rglob("*.png")):
        folder = tree / "seg" / "labels" / mask.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        mask.rename(folder / f"{mask.stem}_train_id.png")
    (tree / "images" / "10k").rename(tree / "seg" / "images")
    shutil.rmtree(tree / "labels" / "sem_seg")


def flat_images(tree):
    (tree / "images" / "100k").rename(tree / "100k")


def nothing(tree):
    pass


def as_2018(tree):
    one_list(tree)
    drivable_maps(tree)
    seg(tree)


def records(tree):
    """Return all that training and scoring see of a folder."""
    found = read(tree)
    seen = {}
    for split in ("train", "val"):
        for name, frame in getattr(found, split).items():
            sample = decode(frame, TASKS)
            boxes = frame.det and (frame.det.boxes_xyxy, frame.det.classes, frame.det.crowd)
            seen[split, name] = (
                frame.tasks(),
                frame.size_hw,
                boxes and [values.tolist() for values in boxes],
                *(None if t is None else t.numpy().tobytes() for t in (sample.sem, sample.driv)),
                sample.image.numpy().tobytes(),
            )
    return seen, found.packaging


@pytest.fixture(scope="module")
def today(streets):
    return records(streets)[0]


LIST, EACH = "2018, one list", "2018, a file a frame"
MASKS, OLD_MASKS = "masks of 2021", "masks of 2018"
IDS, OLD_IDS = "masks of 2021, ids of 2021", "maps of 2018, ids of 2018"


@pytest.mark.parametrize(
    ("repack", "packaging"),
    [
        ((nothing,), (MASKS, IDS, "det_20")),
        ((one_list,), (MASKS, IDS, LIST)),
        ((file_a_frame("labels/100k"),), (MASKS, IDS, EACH)),
        ((file_a_frame("images/100k"),), (MASKS, IDS, EACH)),
        ((flat_images, file_a_frame("100k")), (MASKS, IDS, EACH)),
        ((drivable_maps,), (MASKS, OLD_IDS, "det_20")),
        ((seg,), (OLD_MASKS, IDS, "det_20")),
        ((as_2018,), (OLD_MASKS, OLD_IDS, LIST)),
        ((file_a_frame("100k"), seg, drivable_maps), (OLD_MASKS, OLD_IDS, EACH)),
    ],
)
def test_every_packaging_gives_the_same_records(tree, today, repack, packaging):
    for step in repack:
        step(tree)
    seen, said = records(tree)
    assert seen == today
    assert tuple(said[task] for task in TASKS) == packaging


def test_ids_of_2018_are_told_by_their_pixels_alone(tree, today):
    for mask in (tree / "labels" / "drivable" / "masks").rglob("*.png"):
        flip(mask)
    seen, said = records(tree)
    assert seen == today
    assert said["driv"] == "masks of 2021, ids of 2018"


def test_each_split_may_have_ids_of_its_own(tree, today):
    for mask in (tree / "labels" / "drivable" / "masks" / "val").rglob("*.png"):
        flip(mask)
    seen, said = records(tree)
    assert seen == today
    assert said["driv"] == "masks of 2021, ids of 2021 and 2018"


def half_flipped(tree):
    for mask in sorted((tree / "labels" / "drivable" / "masks" / "train").glob("*.png"))[::2]:
        flip(mask)


def mostly_direct(tree):
    for mask in (tree / "labels" / "drivable" / "masks" / "train").glob("*.png"):
        Image.fromarray(np.ones((720, 1280), np.uint8)).save(mask)


def falsely_named(tree):
    drivable_maps(tree)
    for mask in (tree / "drivable_maps").rglob("*.png"):
        with Image.open(mask) as label:
            ids = label.point([2, 0, 1, *range(3, 256)])
        ids.save(mask)


def two_releases_in_a_folder(tree):
    masks = tree / "labels" / "drivable" / "masks" / "train"
    mask = next(masks.glob("*.png"))
    shutil.copy(mask, masks / f"{mask.stem}_drivable_id.png")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (half_flipped, "these are neither, or both mixed"),
        (mostly_direct, "ids 0: 0 %, 1: 100 %, 2: 0 %"),
        (falsely_named, "the names of 2018 and the ids of today"),
        (two_releases_in_a_folder, "1 of 9 names end in _drivable_id.png"),
    ],
)
def test_masks_that_contradict_each_other_are_refused(tree, damage, says):
    damage(tree)
    with pytest.raises(DataError) as refusal:
        read(tree)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_newest_packaging_is_used_and_the_other_is_named(tree, today):
    boxes = {file: file.read_bytes() for _, file, _ in det_20(tree)}
    one_list(tree)
    for split in ("train", "val"):
        file = tree / "labels" / f"bdd100k_labels_images_{split}.json"
        file.write_text(file.read_text().replace('"car"', '"bus"'))
    for file, held in boxes.items():
        file.write_bytes(held)
    found = read(tree)
    assert found.packaging["det"] == "det_20"
    assert found.unused == {"det": ("2018, one list",)}
    assert records(tree)[0] == today


def test_a_packaging_with_both_splits_goes_before_a_newer_one_with_one(tree):
    kept = tree / "labels" / "det_20" / "det_train.json"
    held = kept.read_bytes()
    one_list(tree)
    kept.write_bytes(held)
    assert read(tree).packaging["det"] == "2018, one list"
    (tree / "labels" / "bdd100k_labels_images_train.json").unlink()
    assert read(tree).packaging["det"] == "train: det_20 and val: 2018, one list"


def test_the_labels_of_a_frame_that_are_damaged_are_named(tree):
    file_a_frame("100k")(tree)
    file = next((tree / "100k" / "train").glob("*.json"))
    file.write_text(file.read_text()[:-30])
    with pytest.raises(DataError, match=f"{file.name} is not the label file of one frame"):
        read(tree)


def test_the_six_frames_on_their_side_are_left_out_and_counted(tree):
    for split, names in SIDEWAYS.items():
        images = tree / "images" / "10k" / split
        masks = tree / "labels" / "sem_seg" / "masks" / split
        image, mask = next(images.glob("*.jpg")), next(masks.glob("*.png"))
        for i in range(9):
            shutil.copy(image, images / f"more-{i}.jpg")
            shutil.copy(mask, masks / f"more-{i}.png")
        for name in names:
            Image.new("RGB", (720, 1280)).save(images / f"{name}.jpg")
            shutil.copy(mask, masks / f"{name}.png")
    found = read(tree)
    assert found.excluded == {"image on its side": [*SIDEWAYS["train"], *SIDEWAYS["val"]]}
    assert not {*SIDEWAYS["train"], *SIDEWAYS["val"]} & {*found.train, *found.val}


def test_a_mask_has_to_fit_the_10k_image_even_where_the_100k_image_is_used(tree):
    shared = next(
        image
        for image in (tree / "images" / "10k" / "train").glob("*.jpg")
        if (tree / "images" / "100k" / "train" / image.name).exists()
    )
    Image.new("RGB", (720, 1280)).save(shared)
    assert read(tree).excluded == {"image on its side": [shared.stem]}


def test_a_few_masks_of_another_size_are_left_out_and_many_are_refused(tree):
    images = tree / "images" / "100k" / "train"
    folder = tree / "labels" / "drivable" / "masks" / "train"
    image, mask = next(images.glob("*.jpg")), next(folder.glob("*.png"))
    names = [f"more-{i:02}" for i in range(40)]
    for name in names:
        shutil.copy(image, images / f"{name}.jpg")
        shutil.copy(mask, folder / f"{name}.png")
    for name in names[:2]:
        Image.fromarray(np.full((360, 640), 2, np.uint8)).save(folder / f"{name}.png")
    assert read(tree).excluded == {"image and mask of different sizes": names[:2]}
    assert not set(names[:2]) & set(read(tree).train)
    Image.fromarray(np.full((360, 640), 2, np.uint8)).save(folder / f"{names[2]}.png")
    with pytest.raises(DataError, match=r"is 640x360, its image 1280x720, and so 3 of 48 in train"):
        read(tree)


@pytest.mark.parametrize(
    "corners",
    [
        {"x1": 10, "y1": 20, "x2": 10, "y2": 59},
        {"x1": 10, "y1": 20, "x2": 29, "y2": 20},
        {"x1": 30, "y1": 20, "x2": 29.5, "y2": 59},
    ],
)
def test_boxes_without_area_are_dropped_and_counted(tree, corners):
    _, file, frames = next(det_20(tree))
    flat = {"id": "0", "category": "car", "box2d": corners}
    whole = {"id": "1", "category": "bus", "box2d": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}
    frames[0]["labels"] = [flat, whole, flat]
    file.write_text(json.dumps(frames))
    found = read(tree)
    name = frames[0]["name"].removesuffix(".jpg")
    assert found.excluded == {"box without area": [name, name]}
    assert found.train[name].det.boxes_xyxy.tolist() == [[1, 2, 4, 5]]


def test_a_list_longer_than_what_is_read_at_once_is_read_whole(tree, today, monkeypatch):
    monkeypatch.setattr("bench.data.boxes.CHUNK", 1 << 15)
    monkeypatch.setattr("bench.data.boxes.LONGEST", 1 << 14)
    one_list(tree)
    assert (tree / "labels" / "bdd100k_labels_images_train.json").stat().st_size > 1 << 15
    assert records(tree)[0] == today


@pytest.mark.parametrize("text", ["[]", " [ ] \n"])
def test_an_empty_list_annotates_nothing(tree, text):
    _, file, _ = next(det_20(tree))
    file.write_text(text)
    with pytest.raises(DataError, match="no train frame with a det label"):
        read(tree)


@pytest.mark.parametrize("cut", ["comma", "end"])
def test_a_list_that_is_cut_or_torn_is_refused(tree, cut):
    _, file, frames = next(det_20(tree))
    whole = json.dumps(frames)
    file.write_text(whole.replace('}, {"name"', '} {"name"', 1) if cut == "comma" else whole[:-1])
    with pytest.raises(DataError, match=r"det_train.json is not a Scalabel list of frames"):
        read(tree)
