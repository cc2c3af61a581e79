"""Counts predicted against true classes of pixels, on the device where they lie.

Legend: `B` images, `H W` pixels, `K` classes, `K+1` the classes and void.
"""

import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor

from bench import BenchError
from bench.data.classes import IGNORE

LABEL_VALUES = 256  # a label map is uint8


def confusion(
    prediction: Integer[Tensor, "*B H W"], label: UInt8[Tensor, "..."], classes: int
) -> Int64[Tensor, "K K+1"]:
    """The confusion matrix of one image or a batch, laid out as `bench.eval.confusion` reads it.

    A predicted id outside `0 .. classes-1` counts as void; a pixel labelled 255 is not counted.
    Raises `BenchError` where the shapes differ, even when the number of pixels agrees (a portrait
    image against a landscape label), and where a label is neither a class nor 255.
    """
    if prediction.shape != label.shape:
        raise BenchError(
            f"Prediction of shape {tuple(prediction.shape)} against labels of shape "
            f"{tuple(label.shape)}: both must be of the label's size. Resize the prediction first."
        )
    columns = classes + 1
    known = (prediction >= 0) & (prediction < classes)
    predicted = torch.where(known, prediction.long(), classes)
    pairs = label.long() * columns + predicted
    # One row for each value a label can have: no pixel is selected, so the shapes stay fixed.
    counts = torch.bincount(pairs.flatten(), minlength=LABEL_VALUES * columns)
    counts = counts.view(LABEL_VALUES, columns)
    if counts[classes:IGNORE].any():
        values = counts[:IGNORE].sum(dim=1).nonzero().flatten().tolist()
        raise BenchError(
            f"The labels hold the value {values[-1]}: only 0 to {classes - 1} and {IGNORE} "
            "(not evaluated) have a meaning. Are these masks of another task or release?"
        )
    return counts[:classes]
