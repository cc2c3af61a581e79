"""Frames that are odd but valid: they train and score, and every number stays finite."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from bench.data.bdd100k import read
from bench.data.sample import decode
from bench.grids import Request, cells
from bench.plan import Place, plan, write_orders
from bench.run import run_cell
from bench.store import Store, read_json, read_lines

EMPTY = {"x1": 10, "y1": 10, "x2": 9, "y2": 40}  # zero pixels wide, as x2 is inclusive


@pytest.fixture
def odd(tree):
    """Some frames of both splits with nothing to learn in one of their labels, or odd colours."""
    for split in ("train", "val"):
        masks = sorted((tree / "labels" / "sem_seg" / "masks" / split).glob("*.png"))
        Image.fromarray(np.full((720, 1280), 255, np.uint8)).save(masks[0])
        masks = sorted((tree / "labels" / "drivable" / "masks" / split).glob("*.png"))
        Image.fromarray(np.full((720, 1280), 2, np.uint8)).save(masks[0])
        file = tree / "labels" / "det_20" / f"det_{split}.json"
        frames = json.loads(file.read_text())
        frames[0]["labels"] = []
        frames[1]["labels"] = [{"id": "0", "category": "car", "box2d": EMPTY}]
        file.write_text(json.dumps(frames))
        images = sorted((tree / "images" / "100k" / split).glob("*.jpg"))
        for image, mode in zip(images, ("L", "CMYK"), strict=False):
            with Image.open(image) as picture:
                picture.convert(mode).save(image, quality=95)
    return tree


def test_grey_and_cmyk_images_become_the_rgb_that_they_were(odd, streets):
    train = read(odd).train
    for image in sorted((odd / "images" / "100k" / "train").glob("*.jpg"))[:2]:
        decoded = decode(train[image.stem], ()).image.float().mean(0).numpy()
        with Image.open(streets / "images" / "100k" / "train" / image.name) as before:
            difference = decoded - np.asarray(before.convert("RGB"), dtype=float).mean(2)
        assert np.abs(difference).mean() < 8


def test_a_palette_mask_is_refused(tree):
    mask = next((tree / "labels" / "sem_seg" / "masks" / "val").glob("*.png"))
    with Image.open(mask) as label:
        label.convert("P").save(mask)
    with pytest.raises(ValueError, match="is a PNG of mode P; masks are 8-bit, one channel"):
        read(tree)


@pytest.mark.parametrize("heads", ["transformer", "conv"])
def test_odd_frames_train_and_score_with_finite_numbers(odd, new_store, heads):
    place = Place(store=Store(new_store()), data=str(odd), stand_ins=True)
    request = Request(
        zoo=("moco_v2",),
        protocols=("paf",),
        settings=("full",),
        schemes=("zeroing",),
        heads=heads,
        preset="tiny",
    )
    place.store.prepare()
    (one,) = plan(cells(request), place)
    write_orders([one], place)
    run_cell(str(one.folder))
    losses = [line["losses"] for line in read_lines(one.folder / "progress.jsonl")]
    assert all(math.isfinite(value) for row in losses for value in row.values())
    metrics = read_json(one.folder / "result.json")["metrics"]
    assert all(value is not None for value in metrics.values())
