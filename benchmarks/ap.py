"""How long average precision takes on arrays, against pycocotools, and whether it is the same.

    python benchmarks/ap.py           1,000 images, 100,000 detections; less than a minute
    python benchmarks/ap.py --full    10,000 images, a million detections; minutes, 2 GB of memory

Images like BDD100K's: on the average 18 boxes of ten classes, more than half of them cars, 2 % of
them crowds; 100 detections each, three in five near a box of their class. Both sides start from the
same lists of `Truth` and `Detections` and end with the AP of every class and threshold. They take
turns in one process; processor time counts. Exit code 1: the ratio is over 0.05, or an AP differs
by 1e-9.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from statistics import median
from time import process_time

import numpy as np

from bench.data.classes import DET
from bench.eval import detection
from bench.eval.ap import Detections, Truth, average_precision, match

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


def timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the processor time of a call, in seconds, and what it returned."""
    start = process_time()
    found = call()
    return process_time() - start, found


def main() -> int:
    """Take turns, print the times and the ratio."""
    parser = argparse.ArgumentParser(description="AP on arrays against pycocotools.")
    parser.add_argument("--full", action="store_true", help="10,000 images, not 1,000")
    images = 10_000 if parser.parse_args().full else 1_000
    random = np.random.default_rng(0)
    pairs = [street(random, f"{number:06d}") for number in range(images)]
    truth, found = [one for one, _ in pairs], [one for _, one in pairs]

    def ours() -> np.ndarray:
        return average_precision(match(truth, found, len(DET)))

    def theirs() -> np.ndarray:
        return detection.average_precision(truth, found, len(DET))

    times, off = [], 0.0
    for _ in range(ROUNDS):
        (quick, arrays), (slow, coco) = timed(ours), timed(theirs)
        times.append((quick, slow))
        same = (np.isnan(arrays) == np.isnan(coco)).all()
        off = max(off, float(np.nanmax(np.abs(arrays - coco))) if same else np.inf)
    ratios = [quick / slow for quick, slow in times]
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, numpy {np.__version__}, "
        f"pycocotools {version('pycocotools')}"
    )
    print(f"{images:,} images, {images * DETECTIONS:,} detections, {ROUNDS} rounds")
    mine, reference = (median(column) for column in zip(*times, strict=True))
    print(f"on arrays {mine:.2f} s, pycocotools {reference:.1f} s")
    print(f"ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), bar {MOST_TIME}")
    print(f"largest difference of an AP in percent: {off:.1e}, bar {MOST_OFF}")
    weights = random.multinomial(images, np.full(images, 1 / images), size=20)
    matches = match(truth, found, len(DET))
    spent, _ = timed(lambda: average_precision(matches, weights))
    print(f"once more with other weights of the images: {1000 * spent / len(weights):.1f} ms each")
    return int(median(ratios) > MOST_TIME or off > MOST_OFF)


if __name__ == "__main__":
    sys.exit(main())
