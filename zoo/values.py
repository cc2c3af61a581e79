"""What trained values look like: hard failures, and the distance from random initialisation.

Names and shapes say that a file holds a ResNet-50; only its values can say that it was trained.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import median

import torch
from torch import Tensor

from zoo.catalog import ZooError

# Where `random_ratio` stops looking random. Measured, by median over a network's convolutions:
# random      a ResNet-50's 1x1 shapes, normal, uniform or truncated    0.99 (each drawing +-0.003)
#             the same with 90 % of the entries zero                    1.02 to 1.03
#             the same, orthogonal                                      0.67
#             a ResNet-20's 3x3 shapes, as small as 16 x 27             0.97 to 1.00 (200 drawings)
# trained     that ResNet-20 on CIFAR-10                                1.28
#             1x1 (3x3) of PP-OCRv4's detector, BatchNorm folded in     1.49 (1.41)
#             of its recogniser, and of PP-OCR's direction classifier   2.18, 1.08
#             of a YOLOv8n                                              1.63 (1.66)
LOOKS_RANDOM_BELOW = 1.05


# -- Hard failures ---------------------------------------------------------------------------------


def check_values(tensors: Mapping[str, Tensor], file: str) -> None:
    """ZooError, naming `file` and the tensor, for values that no trained ResNet-50 has.

    Refused are complex and empty tensors, weights that are integers, values that are not finite,
    running variances of 0 or less, BatchNorm that never saw an image (every running mean 0 and
    variance 1), and a trunk whose convolutions are all zero. Every value is read once and none is
    written: the tensors may be views of a file.
    """
    ranges = {name: _range(name, tensor, file) for name, tensor in tensors.items()}
    means = {name: ends for name, ends in ranges.items() if name.endswith("running_mean")}
    variances = {name: ends for name, ends in ranges.items() if name.endswith("running_var")}
    for name, (low, _) in variances.items():
        if low <= 0:
            raise ZooError(
                f"{file}: '{name}' holds a variance of 0 or less ({low:g}); every trained one is "
                "above 0. A damaged file? Fetch it again."
            )
    convolutions = {name: ranges[name] for name, tensor in tensors.items() if tensor.ndim == 4}
    if _all_are(convolutions, 0):
        raise ZooError(
            f"{file}: every convolution is zero, beginning with '{next(iter(convolutions))}'. "
            "These are not trained weights; save them again after training."
        )
    if _all_are(means, 0) and _all_are(variances, 1):
        raise ZooError(
            f"{file}: '{next(iter(means))}' and every other running mean is 0, and every variance "
            "1: BatchNorm has never seen an image. These are untrained weights; save them again "
            "after training."
        )


def _range(name: str, tensor: Tensor, file: str) -> tuple[float, float]:
    """The smallest and the largest value; ZooError if they cannot be weights.

    One pass: `aminmax` passes NaN on, so that two finite ends mean that everything is finite.
    It is eight times as fast as `isfinite`, and unlike a sum it does not overflow.
    """
    if tensor.is_complex():
        raise ZooError(
            f"{file}: '{name}' is complex ({tensor.dtype}); weights are real. Another network?"
        )
    if tensor.numel() == 0:
        raise ZooError(
            f"{file}: '{name}' is empty, its shape is {tuple(tensor.shape)}. "
            "A damaged file? Fetch it again."
        )
    if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
        raise ZooError(
            f"{file}: '{name}' holds {tensor.dtype} where weights are floating point. "
            "A quantised network? Use the file it was made from."
        )
    low, high = (end.item() for end in _plain(tensor).aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        wrong = _plain(tensor).isfinite().logical_not().sum().item()
        raise ZooError(
            f"{file}: '{name}' holds {wrong} of {tensor.numel()} values that are not finite. "
            "Training that diverged, or a damaged file: fetch it again."
        )
    return low, high


def _plain(tensor: Tensor) -> Tensor:
    """The same values in the order of memory, where their extremes are found fast."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    tensor = tensor.permute(order)
    # Torch finds no extremes among floats of one byte.
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 2 else tensor


def _all_are(ranges: Mapping[str, tuple[float, float]], value: float) -> bool:
    return bool(ranges) and all(ends == (value, value) for ends in ranges.values())


# -- Distance from random initialisation -----------------------------------------------------------


def random_ratio(tensors: Mapping[str, Tensor]) -> float:
    """How far the largest singular values lie beyond those of random weights, 1 for random ones.

    The largest singular value of an m x n matrix of independent entries with standard deviation s
    tends to s (sqrt(m) + sqrt(n)), whatever their distribution (Bai and Yin, "Limit of the smallest
    eigenvalue of a large dimensional sample covariance matrix", Annals of Probability 1993; the
    edge of Marchenko and Pastur's law, 1967). Training adds directions beyond that edge (Martin and
    Mahoney, "Implicit self-regularization in deep neural networks", JMLR 2021). This is the
    median over all 1x1 convolutions of largest singular value / (s (sqrt(m) + sqrt(n))), so it does
    not depend on the scale of any of them. A k x k convolution counts once it is reshaped to
    [out, in * k * k, 1, 1]. Orthogonal matrices, which are also drawn at random, lie between 0.5
    and 1. See LOOKS_RANDOM_BELOW for what was measured.

    Constant convolutions are left out; 0 if nothing else is there. The values must be finite.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # more wait for each other: these matrices take 0.4 s with one
        return median([*_ratios(tensors)] or [0.0])
    finally:
        torch.set_num_threads(threads)


def _ratios(tensors: Mapping[str, Tensor]) -> Iterator[float]:
    for tensor in tensors.values():
        if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            matrix = tensor.flatten(1).double()  # float32 would overflow for absurd scales
            deviation = matrix.std(correction=0)
            if deviation > 0:
                yield _largest_singular_value(matrix / deviation) / sum(
                    map(math.sqrt, matrix.shape)
                )


def _largest_singular_value(matrix: Tensor) -> float:
    """From the smaller Gram matrix in float32: good to 1e-5, and three times as fast as svdvals."""
    matrix = matrix.float()
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(torch.linalg.eigvalsh(gram)[-1].item())
