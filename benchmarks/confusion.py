"""How long counting a confusion matrix takes, against a loop over the classes.

    python benchmarks/confusion.py    half a minute

Label maps and predictions of 1280x720, 19 and 3 classes, one thread. The loop counts for each class
the pixels that are right, labelled and predicted so: less than a matrix, and enough for IoU. Both
take turns in one process, and must agree; processor time counts. Exit code 1: the ratio for 19
classes is over 0.15, or they differ.
"""

import platform
import sys
from collections.abc import Callable
from datetime import date
from statistics import median
from time import process_time

import torch
from torch import Tensor

from bench.data.classes import IGNORE
from bench.eval.segmentation import confusion

SIZE_HW = (720, 1280)
ROUNDS = 15
MOST_TIME = 0.15


def looped(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return for each class how many pixels are right, labelled and predicted so: [K, 3]."""
    known = label != IGNORE
    counts = []
    for category in range(classes):
        true, claimed = label == category, (prediction == category) & known
        counts.append(torch.stack([(true & claimed).sum(), true.sum(), claimed.sum()]))
    return torch.stack(counts)


def of_matrix(matrix: Tensor) -> Tensor:
    """Return the same of a confusion matrix."""
    return torch.stack([matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)[:-1]], dim=1)


def timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the processor time of a call, in seconds, and what it returned."""
    start = process_time()
    found = call()
    return process_time() - start, found


def ratio(classes: int) -> tuple[float, bool]:
    """Print the times for so many classes; return the median ratio, and whether both agree."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, classes, SIZE_HW, generator=generator).to(torch.uint8)
    label[torch.rand(SIZE_HW, generator=generator) < 0.05] = 255
    prediction = torch.randint(0, classes, SIZE_HW, generator=generator)
    times, agree = [], True
    for _ in range(ROUNDS):
        quick, ours = timed(lambda: confusion(prediction, label, classes))
        slow, theirs = timed(lambda: looped(prediction, label, classes))
        times.append((quick, slow))
        agree &= torch.equal(of_matrix(ours), theirs)
    ratios = [quick / slow for quick, slow in times]
    print(
        f"{classes} classes: {1000 * median(q for q, _ in times):.1f} ms, loop "
        f"{1000 * median(s for _, s in times):.1f} ms, ratio {median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    return median(ratios), agree


def main() -> int:
    """Take turns for both tasks; print the times and the ratios."""
    torch.set_num_threads(1)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    (sem, sem_agrees), (_, driv_agrees) = ratio(19), ratio(3)
    print(f"bar {MOST_TIME}, for 19 classes")
    return int(sem > MOST_TIME or not (sem_agrees and driv_agrees))


if __name__ == "__main__":
    sys.exit(main())
