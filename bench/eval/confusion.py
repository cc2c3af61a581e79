"""Segmentation scores from confusion matrices: sums over whole data sets, numpy alone.

A confusion matrix is int64 `[K, K+1]`: rows are ground truth, columns predictions. The last column
is void: the prediction is missing or outside the classes, so the pixel is a miss of its class and
a false alarm of none. Pixels whose ground truth is 255 are in no row. Matrices of images add up.
Scores are percentages, NaN where nothing is labelled.

Legend: `B` matrices side by side, `K` classes, `K+1` the classes and void.
Sources: bdd100k/bdd100k `eval/seg.py` (toolkit 1.0.1), detectron2 `SemSegEvaluator`.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from bench.data.classes import DRIV

BACKGROUND = DRIV.index("background")


def iou_per_class(confusion: Int64[np.ndarray, "*B K K+1"]) -> Float64[np.ndarray, "*B K"]:
    """Intersection over union of every class; NaN for a class that the ground truth never shows."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    labelled = confusion.sum(axis=-1)
    union = labelled + confusion.sum(axis=-2)[..., :-1] - right
    return _over(100.0 * right, np.where(labelled > 0, union, 0))


def miou(confusion: Int64[np.ndarray, "*B K K+1"]) -> Float64[np.ndarray, "*B"]:
    """Mean IoU over the classes that the ground truth shows."""
    return mean_of_present(iou_per_class(confusion))


def pixel_accuracy(confusion: Int64[np.ndarray, "*B K K+1"]) -> Float64[np.ndarray, "*B"]:
    """Share of the labelled pixels that are predicted right (the paper's pACC)."""
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return _over(100.0 * right, confusion.sum(axis=(-2, -1)))


def sem_scores(confusion: Int64[np.ndarray, "*B K K+1"]) -> dict[str, Float64[np.ndarray, "*B"]]:
    """The scores of semantic segmentation."""
    return {"sem/mIoU": miou(confusion), "sem/pACC": pixel_accuracy(confusion)}


def driv_scores(confusion: Int64[np.ndarray, "*B 3 4"]) -> dict[str, Float64[np.ndarray, "*B"]]:
    """The scores of drivable area, by the three rules that are in use for its background.

    `driv/mIoU` and `driv/pACC` treat background as a class like the others: the paper's numbers.
    `driv/mIoU_fg` leaves background out of the mean, but drivable area claimed on it still costs,
    as the toolkit's documentation says. `driv/mIoU_official` is what toolkit 1.0.1 computes: ground
    truth background is dropped before counting, so drivable area claimed on it costs nothing.
    """
    drivable_only = confusion.copy()
    drivable_only[..., BACKGROUND, :] = 0
    drivable = np.delete(iou_per_class(confusion), BACKGROUND, axis=-1)
    return {
        "driv/mIoU": miou(confusion),
        "driv/pACC": pixel_accuracy(confusion),
        "driv/mIoU_fg": mean_of_present(drivable),
        "driv/mIoU_official": miou(drivable_only),
    }


def sem_metrics(confusion: Int64[np.ndarray, "K K+1"]) -> dict[str, float]:
    """The scores of semantic segmentation of one matrix, as `sem_scores` has them."""
    return {name: float(score) for name, score in sem_scores(confusion).items()}


def driv_metrics(confusion: Int64[np.ndarray, "3 4"]) -> dict[str, float]:
    """The scores of drivable area of one matrix, as `driv_scores` has them."""
    return {name: float(score) for name, score in driv_scores(confusion).items()}


def best_constant(
    confusion: Int64[np.ndarray, "K K+1"],
    metrics: Callable[[Int64[np.ndarray, "K K+1"]], dict[str, float]],
) -> tuple[int, dict[str, float]]:
    """The class that scores best when every pixel is called that class, and its `metrics`.

    Only the ground truth counts of `confusion` matter. Best is by mIoU, which for a constant is its
    class's share of the pixels divided by the number of classes present: the commonest class wins.
    """
    labelled = confusion.sum(axis=1)
    commonest = int(labelled.argmax())
    constant = np.zeros_like(confusion)
    constant[:, commonest] = labelled
    return commonest, metrics(constant)


def mean_of_present(scores: Float64[np.ndarray, "*B K"]) -> Float64[np.ndarray, "*B"]:
    """Mean over the last axis of the scores that are not NaN; NaN where none is left."""
    present = ~np.isnan(scores)
    return _over(np.where(present, scores, 0.0).sum(axis=-1), present.sum(axis=-1))


def _over(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    """Return the quotient; NaN where the whole is nothing."""
    some = np.asarray(whole) > 0
    return np.divide(part, whole, out=np.full(some.shape, np.nan), where=some)
