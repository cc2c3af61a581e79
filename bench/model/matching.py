"""Which prediction answers for which target: the assignment of least total cost.

Legend: `L` layers or stages, `B` images, `Q` predictions, `T` places for targets, `M` pairs in one
layer, over all images.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Pairs(NamedTuple):
    """Matched predictions and targets of every layer, sorted by image, then by target.

    Each layer is matched on its own, but to the same number of targets in an image:
    all of them, or as many as there are predictions.
    """

    images: Int64[Tensor, "M"]
    predictions: Int64[Tensor, "L M"]
    targets: Int64[Tensor, "L M"]

    def pick(self, values: Float[Tensor, "L B Q *rest"]) -> Float[Tensor, "L M *rest"]:
        """The values of the matched predictions."""
        layers = torch.arange(len(values), device=values.device)[:, None]
        return values[layers, self.images, self.predictions]


@torch.no_grad()
def match(cost: Float[Tensor, "L B Q T"], real: Bool[Tensor, "B T"]) -> Pairs:
    """Pair predictions with targets, in each layer and image at least total `cost`.

    Only the places that are `real` hold a target. Waits for the device once. A cost that is not
    finite counts as very high, so that diverged predictions give a loss that is not finite
    instead of an error here.
    """
    finite = cost.float().nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9)
    costs = finite.masked_fill(~real[:, None], torch.inf).cpu().numpy()
    places = [np.flatnonzero(np.isfinite(costs[0, image, 0])) for image in range(len(real))]
    solved = [
        [_solve(costs[layer, image][:, place], place) for image, place in enumerate(places)]
        for layer in range(len(cost))
    ]
    indices = torch.from_numpy(np.stack([np.concatenate(layer, axis=1) for layer in solved]))
    predictions, targets = indices.to(cost.device).unbind(1)
    counts = [pairs.shape[1] for pairs in solved[0]]
    images = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(cost.device)
    return Pairs(images, predictions, targets)


def _solve(cost: np.ndarray, places: np.ndarray) -> np.ndarray:
    predictions, columns = linear_sum_assignment(cost)
    order = columns.argsort()
    return np.stack((predictions[order], places[columns[order]]))
