"""Samples, sizes and batches."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import DataError
from bench.data.bdd100k import Boxes, Frame, read
from bench.data.loader import test_batches as scoring_batches
from bench.data.loader import training_batches
from bench.data.sample import Sample, collate, decode, padded
from bench.data.transforms import fit, resize, resize_image, resize_in_float
from protocols.presets import protocol
from protocols.schemes import Zeroing

ALL = ("sem", "driv", "det")


@pytest.fixture
def frame(tmp_path):
    """A 40x80 frame with every label, some of it to be left out."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 80, 3), np.uint8)).save(tmp_path / "image.jpg")
    Image.fromarray(rng.integers(0, 19, (40, 80), np.uint8)).save(tmp_path / "sem.png")
    Image.fromarray(rng.integers(0, 3, (40, 80), np.uint8)).save(tmp_path / "driv.png")
    boxes = np.array([[0, 0, 10, 20], [5, 5, 5, 9], [8, 8, 16, 24]], np.float64)
    return Frame(
        name="frame",
        image=tmp_path / "image.jpg",
        size_hw=(40, 80),
        sem=tmp_path / "sem.png",
        driv=tmp_path / "driv.png",
        det=Boxes(boxes, np.array([2, 2, 0]), np.array([False, False, True])),
    )


def test_a_frame_is_decoded_as_pillow_decodes_it(frame):
    sample = decode(frame, ALL)
    with Image.open(frame.sem) as label:
        assert np.array_equal(sample.sem.numpy(), np.asarray(label))
    with Image.open(frame.image) as image:
        difference = sample.image.permute(1, 2, 0).numpy().astype(int) - np.asarray(image)
    assert np.abs(difference).max() <= 1


def test_crowds_and_boxes_without_area_are_no_targets(frame):
    sample = decode(frame, ALL)
    assert sample.boxes_xyxy.tolist() == [[0, 0, 10, 20]]
    assert sample.classes.tolist() == [2]


def test_labels_that_the_setting_withholds_are_not_there(frame):
    sample = decode(frame, ("driv",))
    assert sample.sem is None
    assert sample.boxes_xyxy is None
    assert sample.driv is not None


def test_a_class_id_that_does_not_exist_is_refused_with_the_file(frame):
    Image.fromarray(np.full((40, 80), 77, np.uint8)).save(frame.sem)
    with pytest.raises(DataError, match=r"sem\.png has pixels of class 77; sem has the classes 0"):
        decode(frame, ALL)


def test_a_grey_jpeg_becomes_rgb(frame):
    Image.new("L", (80, 40), 90).save(frame.image)
    image = decode(frame, ()).image
    assert image.shape == (3, 40, 80)
    assert image.unique().tolist() == [90]


@pytest.mark.parametrize(
    ("size_hw", "short", "fits"),
    [
        ((720, 1280), 720, (720, 1280)),
        ((720, 1280), 600, (600, 1067)),
        ((720, 1280), 90, (90, 160)),
        ((360, 1280), 720, (360, 1280)),
        ((1280, 720), 600, (1067, 600)),
    ],
)
def test_the_short_side_is_as_asked_and_the_long_side_has_a_limit(size_hw, short, fits):
    assert fit(size_hw, short, 1280 if short > 90 else 160) == fits


@pytest.mark.parametrize("size_hw", [(600, 1067), (90, 160), (1080, 1920)])
def test_a_gpu_resizes_to_the_same_pixels_but_for_rounding(size_hw):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 720, 1280), generator=generator, dtype=torch.uint8)
    exact, found = resize_image(image, size_hw), resize_in_float(image, size_hw)
    assert found.shape == (3, *size_hw)
    assert (found.int() - exact.int()).abs().max() <= 1


def test_resizing_keeps_labels_and_boxes_where_the_pixels_are():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    label = torch.full((40, 80), 255, dtype=torch.uint8)
    image[:, 8:24, 16:48], label[8:24, 16:48] = 200, 4
    box = torch.tensor([[16.0, 8.0, 48.0, 24.0]])
    small = resize(
        Sample(name="", image=image, sem=label, boxes_xyxy=box, classes=torch.tensor([2])), (10, 20)
    )
    assert small.boxes_xyxy.tolist() == [[4.0, 2.0, 12.0, 6.0]]
    assert (small.sem[2:6, 4:12] == 4).all()
    assert (small.sem == 4).sum() == 4 * 8
    assert (small.image[:, 3:5, 5:11] == 200).all()
    assert small.image[:, 7:].max() == 0


def test_padding_is_ignored_and_unlabelled_is_not_empty():
    first = Sample(
        name="a", image=torch.ones(3, 30, 50, dtype=torch.uint8), sem=torch.zeros(30, 50)
    )
    empty = Sample(
        name="b",
        image=torch.ones(3, 32, 40, dtype=torch.uint8),
        boxes_xyxy=torch.zeros(0, 4),
        classes=torch.zeros(0).long(),
    )
    batch = collate([first, empty], padded([first.size_hw, empty.size_hw], pad_to=32))
    assert batch.images.shape == (2, 3, 32, 64)
    assert batch.sizes_hw.tolist() == [[30, 50], [32, 40]]
    assert (batch.sem[0, :30, :50] == 0).all()
    assert (batch.sem[0, 30:] == 255).all()
    assert (batch.sem[1] == 255).all()
    assert {task: flags.tolist() for task, flags in batch.labelled.items()} == {
        "sem": [True, False],
        "driv": [False, False],
        "det": [False, True],
    }


def test_a_batch_is_the_same_whatever_came_before_it(streets):
    data = read(streets)
    sizes = dataclasses.replace(protocol("paf", "demo").input, train_short=(60, 75, 90))
    order = Zeroing(frames=tuple(data.train), epochs=2, batch=3, seed="0/finetune")

    def batches(start):
        return [one for (one,) in training_batches(order, data.train, sizes, start=start)]

    whole, tail = batches(0), batches(4)
    assert len(whole) == order.steps
    for mine, its in zip(tail, whole[4:], strict=True):
        assert mine.names == its.names
        assert torch.equal(mine.images, its.images)
        assert torch.equal(mine.driv, its.driv)
        assert torch.equal(mine.sizes_hw, its.sizes_hw)
    assert len({tuple(size) for batch in whole for size in batch.sizes_hw.tolist()}) == 3


def test_scoring_goes_through_every_frame_in_order_with_labels_as_stored(streets):
    data = read(streets)
    frames = list(data.val.values())
    sizes = protocol("paf", "demo").input
    pairs = list(scoring_batches(frames, ALL, sizes, batch=2))
    assert [name for batch, _ in pairs for name in batch.names] == [f.name for f in frames]
    assert all(s.image.shape[-2:] == (720, 1280) for _, stored in pairs for s in stored)
    assert all(batch.images.shape[-2:] == (96, 160) for batch, _ in pairs)


def test_an_unreadable_file_stops_the_batches_with_its_name(tree):
    data = read(tree)
    name, frame = next(iter(data.train.items()))
    frame.image.write_bytes(b"\xff\xd8nothing")
    order = Zeroing(frames=(name,), epochs=1, batch=1, seed="")
    batches = training_batches(order, data.train, protocol("paf", "demo").input, start=0)
    with pytest.raises(DataError, match=f"{name}.jpg cannot be decoded"):
        list(batches)
