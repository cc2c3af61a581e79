"""Counting pixels, by hand and against the scores that the official toolkit gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench import BenchError
from bench.data.classes import DRIV, SEM
from bench.eval.confusion import (
    driv_metrics,
    iou_per_class,
    miou,
    pixel_accuracy,
    sem_metrics,
)
from bench.eval.segmentation import confusion
from tests.eval.oracles import DATA, ORACLES, needs_data, read_json, read_mask

CLASSES = 3
EXACT = 5e-5  # four decimals

labels = arrays.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 255]))
predictions = arrays.arrays(np.int64, (2, 3, 4), elements=st.integers(-2, 4))


@given(predictions, labels)
def test_confusion_counts_each_labelled_pixel_once(prediction, label):
    expected = np.zeros((CLASSES, CLASSES + 1), dtype=np.int64)
    for predicted, true in zip(prediction.flat, label.flat, strict=True):
        if true != 255:
            expected[true, predicted if 0 <= predicted < CLASSES else CLASSES] += 1
    counts = confusion(torch.from_numpy(prediction), torch.from_numpy(label), CLASSES)
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts.numpy(), expected)


def test_batch_counts_the_sum_of_its_images():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 4, (2, 5, 7), generator=generator)
    label = torch.randint(0, 3, (2, 5, 7), generator=generator).to(torch.uint8)
    one_by_one = sum(confusion(prediction[image], label[image], CLASSES) for image in range(2))
    assert torch.equal(confusion(prediction, label, CLASSES), torch.as_tensor(one_by_one))


def test_small_integer_predictions_do_not_wrap_around():
    prediction = torch.full((4, 4), 18, dtype=torch.int8)
    label = torch.full((4, 4), 18, dtype=torch.uint8)
    assert confusion(prediction, label, len(SEM))[18, 18] == 16


def test_shapes_that_differ_are_refused_even_with_as_many_pixels():
    with pytest.raises(BenchError, match=r"\(4, 3\).*\(3, 4\)"):
        confusion(torch.zeros(4, 3).long(), torch.zeros(3, 4).to(torch.uint8), CLASSES)


def test_batch_of_another_size_is_not_broadcast():
    with pytest.raises(BenchError, match="size"):
        confusion(torch.zeros(1, 3, 4).long(), torch.zeros(2, 3, 4).to(torch.uint8), CLASSES)


@pytest.mark.parametrize("value", [3, 18, 254])
def test_label_outside_the_classes_is_refused(value):
    label = torch.tensor([[0, value]], dtype=torch.uint8)
    with pytest.raises(BenchError, match=f"value {value}"):
        confusion(torch.zeros(1, 2).long(), label, CLASSES)


def counted_folder(truth, predictions, classes):
    """The matrix of all masks of a folder; an image without a prediction is void throughout."""
    total = np.zeros((classes, classes + 1), dtype=np.int64)
    for path in sorted(truth.glob("*.png")):
        label = torch.from_numpy(read_mask(path))
        predicted = predictions / path.name
        if predicted.exists():
            prediction = torch.from_numpy(read_mask(predicted))
        else:
            prediction = torch.full_like(label, classes)
        total += confusion(prediction, label, classes).numpy()
    return total


@needs_data
@pytest.mark.parametrize(
    ("truth", "published"), [("gt", "published"), ("gt+", "published_one_prediction_missing")]
)
def test_tiny_masks_score_as_the_toolkit_s_own_tests_say(truth, published):
    folder = ORACLES / "bdd100k_seg"
    expected = read_json(folder / "expected.json")[published]
    counts = counted_folder(folder / truth, folder / "pred", len(SEM))
    assert miou(counts) == pytest.approx(expected["mIoU"], abs=EXACT)
    assert pixel_accuracy(counts) == pytest.approx(expected["pAcc"], abs=EXACT)


@needs_data
def test_real_sem_seg_masks_score_as_the_official_toolkit():
    folder = ORACLES / "bdd_mini_open_val"
    expected = read_json(folder / "expected.json")["sem_seg"]
    counts = counted_folder(
        DATA / "bdd_mini/labels/sem_seg/masks/val", folder / "sem_seg", len(SEM)
    )
    scores = sem_metrics(counts)
    assert scores["sem/mIoU"] == pytest.approx(expected["summary"]["mIoU"], abs=EXACT)
    assert scores["sem/pACC"] == pytest.approx(expected["summary"]["pAcc"], abs=EXACT)
    ious = np.nan_to_num(iou_per_class(counts))  # the toolkit prints 0 for an absent class
    np.testing.assert_allclose(ious, [expected["IoU"][name] for name in SEM], atol=EXACT)


@needs_data
def test_real_drivable_masks_score_as_the_official_toolkit():
    folder = ORACLES / "bdd_mini_open_val"
    expected = read_json(folder / "expected.json")["drivable"]["summary"]
    counts = counted_folder(
        DATA / "bdd_mini/labels/drivable/masks/val", folder / "drivable", len(DRIV)
    )
    scores = driv_metrics(counts)
    assert scores["driv/mIoU_official"] == pytest.approx(expected["mIoU"], abs=EXACT)
    drivable = counts[: DRIV.index("background")]
    assert pixel_accuracy(np.vstack([drivable, np.zeros_like(counts[:1])])) == pytest.approx(
        expected["pAcc"], abs=EXACT
    )
    assert scores["driv/mIoU"] > scores["driv/mIoU_fg"] < scores["driv/mIoU_official"]
