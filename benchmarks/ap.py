"""How long average precision takes on arrays, against pycocotools, and whether it is the same.

    python -m benchmarks.ap           1,000 images, 100,000 detections; less than a minute
    python -m benchmarks.ap --full    10,000 images, a million detections; minutes, 2 GB of memory

Images like BDD100K's: on the average 18 boxes of ten classes, more than half of them cars, 2 % of
them crowds; 100 detections each, three in five near a box of their class. Both sides start from the
same lists of `Truth` and `Detections` and end with the AP of every class and threshold. They take
turns in one process; processor time counts. Exit code 1: the ratio is over 0.05. An AP that differs
by 1e-9 is an error.
"""

import argparse
import sys

import numpy as np

from bench.data.classes import DET
from bench.eval import detection
from bench.eval.ap import Detections, Truth, average_precision, match
from benchmarks.figures import HEADER, Figure, figure, timed

SHARE = np.array([0.13, 0.01, 0.55, 0.04, 0.02, 0.005, 0.005, 0.02, 0.1, 0.12])
DETECTIONS = 100
ROUNDS = 3
MOST_TIME, MOST_OFF = 0.05, 1e-9


def placed(random: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes anywhere in an image of 1280x720, most about 33 pixels wide and high."""
    corner = random.uniform(0, 1, (count, 2)) * [1200, 680]
    return np.concatenate([corner, corner + np.exp(random.normal(3.5, 0.8, (count, 2)))], axis=1)


def street(random: np.random.Generator, name: str) -> tuple[Truth, Detections]:
    """Return one image."""
    count = 1 + random.poisson(17)
    boxes, classes = placed(random, count), random.choice(len(DET), count, p=SHARE)
    truth = Truth(name=name, boxes_xyxy=boxes, classes=classes, crowd=random.random(count) < 0.02)
    near = random.integers(0, count, DETECTIONS)
    size = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
    spots = boxes[near] + random.normal(0, 0.12, size.shape) * size
    lost = random.random(DETECTIONS) < 0.4
    spots[lost] = placed(random, DETECTIONS)[lost]
    spots[:, 2:] = np.maximum(spots[:, 2:], spots[:, :2] + 1)
    called = np.where(lost, random.choice(len(DET), DETECTIONS, p=SHARE), classes[near])
    found = Detections(
        name=name, boxes_xyxy=spots, classes=called, scores=random.random(DETECTIONS)
    )
    return truth, found


def figures(images: int = 1_000) -> list[Figure]:
    """Measure it."""
    random = np.random.default_rng(0)
    pairs = [street(random, f"{number:06d}") for number in range(images)]
    truth, found = [one for one, _ in pairs], [one for _, one in pairs]
    scores: dict[str, np.ndarray] = {}

    def ours() -> None:
        scores["ours"] = average_precision(match(truth, found, len(DET)))

    def coco() -> None:
        scores["coco"] = detection.average_precision(truth, found, len(DET))

    matches = match(truth, found, len(DET))
    weights = random.multinomial(images, np.full(images, 1 / images), size=20)
    spent = timed(
        {"ours": ours, "coco": coco, "again": lambda: average_precision(matches, weights)}, ROUNDS
    )
    np.testing.assert_allclose(scores["ours"], scores["coco"], rtol=0, atol=MOST_OFF)
    off = np.nanmax(np.abs(scores["ours"] - scores["coco"]))
    what = f"AP / pycocotools: {images:,} images, {images * DETECTIONS:,} detections"
    again = f"{1000 * min(spent['again']) / len(weights):.1f} ms with other weights of the images"
    name = f"{what} (they differ by {off:.0e} of 100; {again})"
    return [figure(name, spent["ours"], spent["coco"], MOST_TIME)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="AP on arrays against pycocotools.")
    parser.add_argument("--full", action="store_true", help="10,000 images, not 1,000")
    measured = figures(10_000 if parser.parse_args().full else 1_000)
    print(HEADER, *(one.row() for one in measured), sep="\n")
    sys.exit(not all(one.met for one in measured))
