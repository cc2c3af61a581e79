"""Detection scores by BDD100K's official rule, counted by pycocotools.

The rule: images in the order of their names; an image without predictions found nothing; of two
predictions for one image the later counts; predictions for other images are dropped; a detection
that lies on a crowd region is neither right nor wrong; at most 100 detections per image and class;
classes without ground truth stay out of the mean. Scores are percentages.

Boxes have continuous edges, so that a width is x2 - x1. BDD100K's `box2d` names the last pixel that
is still inside, in ground truth and predictions alike: its x2 and y2 become x2 + 1 and y2 + 1.

Legend: `K` classes, `T` IoU thresholds.
Source: scalabel/scalabel `eval/detect.py`, `label/to_coco.py`.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bench import BenchError
from bench.data.classes import DET
from bench.eval.ap import ANY_AREA, IOU_THRESHOLDS, MAX_DETECTIONS, Detections, Truth, det_scores
from bench.eval.confusion import mean_of_present


def det_metrics(
    truth: Sequence[Truth], detections: Sequence[Detections]
) -> tuple[dict[str, float], dict[str, float]]:
    """The three scores of the ten BDD100K classes, and the AP of each class by its name.

    NaN stands for a class without ground truth, and for a mean over no class at all. Raises
    `BenchError` where two entries of `truth` have one name.
    """
    precision = average_precision(truth, detections, len(DET))
    metrics = {name: float(score) for name, score in det_scores(precision).items()}
    return metrics, dict(zip(DET, mean_of_present(precision).tolist(), strict=True))


def average_precision(
    truth: Sequence[Truth], detections: Sequence[Detections], classes: int
) -> Float64[np.ndarray, "K T"]:
    """Average precision of every class at IoU .50, .55 .. .95; NaN rows lack ground truth."""
    ordered = sorted(truth, key=lambda image: image.name)
    image_ids = {image.name: number for number, image in enumerate(ordered, start=1)}
    if len(image_ids) < len(ordered):
        raise BenchError(f"{len(ordered) - len(image_ids)} images are in the ground truth twice.")
    latest = {image.name: image for image in detections}
    found = [latest[image.name] for image in ordered if image.name in latest]
    # pycocotools reports to the terminal with print and has no switch for it.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco(_truth_annotations(ordered, image_ids), image_ids, classes),
            _coco(_detection_annotations(found, image_ids), image_ids, classes),
            "bbox",
        )
        evaluation.params.iouThrs = IOU_THRESHOLDS
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(ANY_AREA)], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # [T, recall, K, 1 area range, 1 limit], -1: no truth
    precision = precision[:, :, :, 0, 0].mean(axis=1).T
    return 100.0 * np.where(precision < 0, np.nan, precision)


def _coco(annotations: Iterator[dict], image_ids: dict[str, int], classes: int) -> COCO:
    """A COCO data set; ids count from 1, for pycocotools takes the id 0 for "not matched"."""
    coco = COCO()
    dataset: Any = {  # COCO's own type asks for fields that no score reads
        "images": [{"id": number} for number in image_ids.values()],
        "categories": [{"id": number} for number in range(1, classes + 1)],
        "annotations": [
            {"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)
        ],
    }
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _truth_annotations(images: Sequence[Truth], image_ids: dict[str, int]) -> Iterator[dict]:
    for image in images:
        for place, crowd in zip(_placed_boxes(image, image_ids), image.crowd.tolist(), strict=True):
            yield {**place, "iscrowd": int(crowd)}


def _detection_annotations(
    images: Sequence[Detections], image_ids: dict[str, int]
) -> Iterator[dict]:
    for image in images:
        for place, score in zip(
            _placed_boxes(image, image_ids), image.scores.tolist(), strict=True
        ):
            yield {**place, "score": score}


def _placed_boxes(image: Truth | Detections, image_ids: dict[str, int]) -> Iterator[dict]:
    """What the annotations of truth and detections have in common."""
    boxes = image.boxes_xyxy.astype(np.float64)
    corners, sizes = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    for corner, (width, height), category in zip(
        corners.tolist(), sizes.tolist(), image.classes.tolist(), strict=True
    ):
        yield {
            "image_id": image_ids[image.name],
            "category_id": category + 1,
            "bbox": [*corner, width, height],
            "area": width * height,
        }
