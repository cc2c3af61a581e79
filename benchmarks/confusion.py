"""How long counting a confusion matrix takes, against a loop over the classes.

    python -m benchmarks.confusion    half a minute

Label maps and predictions of 1280x720, 19 classes, one thread. The loop counts for each class
the pixels that are right, labelled and predicted so: less than a matrix, and enough for IoU. Both
take turns in one process, and must agree; processor time counts. Exit code 1: the ratio is over
0.15.
"""

import sys

import torch
from torch import Tensor

from bench.data.classes import IGNORE
from bench.eval.segmentation import confusion
from benchmarks.figures import HEADER, Figure, figure, timed

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


def figures() -> list[Figure]:
    """Measure them all."""
    torch.set_num_threads(1)
    return [of_classes(19, MOST_TIME)]


def of_classes(classes: int, bar: float) -> Figure:
    """Measure one."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, classes, SIZE_HW, generator=generator).to(torch.uint8)
    label[torch.rand(SIZE_HW, generator=generator) < 0.05] = 255
    prediction = torch.randint(0, classes, SIZE_HW, generator=generator)
    spent = timed(
        {
            "matrix": lambda: confusion(prediction, label, classes),
            "loop": lambda: looped(prediction, label, classes),
        },
        ROUNDS,
    )
    matrix = confusion(prediction, label, classes)
    assert torch.equal(of_matrix(matrix), looped(prediction, label, classes))
    name = f"confusion matrix / loop over {classes} classes, 1280x720"
    return figure(name, spent["matrix"], spent["loop"], bar)


if __name__ == "__main__":
    measured = figures()
    print(HEADER, *(one.row() for one in measured), sep="\n")
    sys.exit(not all(one.met for one in measured))
