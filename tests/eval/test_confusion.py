"""Segmentation scores: hand-worked cases, a rule written with sets, the arithmetic's limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.eval.confusion import (
    best_constant,
    driv_metrics,
    iou_per_class,
    miou,
    pixel_accuracy,
    sem_metrics,
)

DIRECT, ALTERNATIVE, BACKGROUND = range(3)
CLASSES = 4

label_pixels = st.sampled_from([*range(CLASSES), 255])
predicted_pixels = st.integers(min_value=0, max_value=CLASSES)  # CLASSES itself is void
pixel_pairs = st.lists(st.tuples(label_pixels, predicted_pixels), max_size=40)


def counted(pairs: list[tuple[int, int]], classes: int = CLASSES) -> np.ndarray:
    confusion = np.zeros((classes, classes + 1), dtype=np.int64)
    for label, predicted in pairs:
        if label != 255:
            confusion[label, predicted] += 1
    return confusion


def iou_of_sets(pairs: list[tuple[int, int]], category: int) -> float | None:
    labelled = {place for place, (label, _) in enumerate(pairs) if label != 255}
    true = {place for place in labelled if pairs[place][0] == category}
    claimed = {place for place in labelled if pairs[place][1] == category}
    return 100 * len(true & claimed) / len(true | claimed) if true else None


@given(pixel_pairs)
def test_iou_is_intersection_over_union_of_pixel_sets(pairs):
    by_sets = [iou_of_sets(pairs, category) for category in range(CLASSES)]
    expected = [math.nan if iou is None else iou for iou in by_sets]
    np.testing.assert_allclose(iou_per_class(counted(pairs)), expected)
    present = [iou for iou in by_sets if iou is not None]
    mean = sum(present) / len(present) if present else math.nan
    assert miou(counted(pairs)) == pytest.approx(mean, nan_ok=True)


@given(pixel_pairs)
def test_pixel_accuracy_is_the_share_of_labelled_pixels_predicted_right(pairs):
    labelled = [(label, predicted) for label, predicted in pairs if label != 255]
    right = sum(label == predicted for label, predicted in labelled)
    expected = 100 * right / len(labelled) if labelled else math.nan
    assert pixel_accuracy(counted(pairs)) == pytest.approx(expected, nan_ok=True)


def street_predicted_drivable_everywhere() -> np.ndarray:
    """720x1280: left half direct but for 100x100 alternative pixels; the right half background."""
    half, corner = 720 * 640, 100 * 100
    confusion = np.zeros((3, 4), dtype=np.int64)
    confusion[ALTERNATIVE, ALTERNATIVE] = corner
    confusion[DIRECT, DIRECT] = half - corner
    confusion[BACKGROUND, DIRECT] = half
    return confusion


def test_drivable_scores_differ_by_the_rule_for_background():
    scores = driv_metrics(street_predicted_drivable_everywhere())
    assert list(scores) == ["driv/mIoU", "driv/pACC", "driv/mIoU_fg", "driv/mIoU_official"]
    assert scores["driv/mIoU"] == pytest.approx(49.8172, abs=5e-5)
    assert scores["driv/pACC"] == pytest.approx(50.0)
    assert scores["driv/mIoU_fg"] == pytest.approx(74.7258, abs=5e-5)
    assert scores["driv/mIoU_official"] == pytest.approx(100.0)


def test_official_rule_still_counts_a_drivable_pixel_called_background_as_a_miss():
    confusion = np.array([[5, 0, 5, 0], [0, 10, 0, 0], [0, 0, 10, 0]], dtype=np.int64)
    assert driv_metrics(confusion)["driv/mIoU_official"] == pytest.approx((50 + 100) / 2)


def test_driv_metrics_leave_the_matrix_as_it_was():
    confusion = street_predicted_drivable_everywhere()
    before = confusion.copy()
    driv_metrics(confusion)
    np.testing.assert_array_equal(confusion, before)


def test_missing_prediction_costs_every_pixel_of_its_image():
    seen = np.diag([94, 6]).astype(np.int64)
    missing = np.array([[94], [6]], dtype=np.int64)
    confusion = np.hstack([seen, missing])
    assert sem_metrics(confusion) == {"sem/mIoU": 50.0, "sem/pACC": 50.0}


def test_class_absent_from_the_ground_truth_is_left_out_of_the_mean_but_not_free():
    confusion = np.array([[6, 2, 0], [0, 0, 0]], dtype=np.int64)
    np.testing.assert_array_equal(iou_per_class(confusion), [75.0, np.nan])
    assert miou(confusion) == 75.0


@pytest.mark.parametrize("metrics", [sem_metrics, driv_metrics])
def test_nothing_labelled_scores_nan(metrics):
    scores = metrics(np.zeros((3, 4), dtype=np.int64))
    assert all(math.isnan(score) for score in scores.values())


def test_counts_beyond_32_bits_keep_their_scores():
    pixels = 10_000 * 720 * 1280
    assert pixels > 2**32
    confusion = np.array([[3 * pixels, pixels, 0], [0, 4 * pixels, 0]], dtype=np.int64)
    assert pixel_accuracy(confusion) == pytest.approx(100 * 7 / 8)
    np.testing.assert_allclose(iou_per_class(confusion), [75.0, 80.0])


@given(pixel_pairs.filter(lambda pairs: any(label != 255 for label, _ in pairs)))
def test_best_constant_beats_every_other_constant(pairs):
    constants = [counted([(label, category) for label, _ in pairs]) for category in range(CLASSES)]
    category, scores = best_constant(counted(pairs), sem_metrics)
    assert scores == sem_metrics(constants[category])
    assert scores["sem/mIoU"] == pytest.approx(max(miou(constant) for constant in constants))


def test_best_constant_of_the_street_scores_by_the_task_s_own_metrics():
    category, scores = best_constant(street_predicted_drivable_everywhere(), driv_metrics)
    assert category == BACKGROUND
    assert scores["driv/mIoU"] == pytest.approx(50 / 3)
    assert scores["driv/mIoU_fg"] == 0.0


def test_best_constant_of_nothing_labelled_is_nan():
    _, scores = best_constant(np.zeros((3, 4), dtype=np.int64), driv_metrics)
    assert all(math.isnan(score) for score in scores.values())
