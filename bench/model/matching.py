"""Which prediction answers for which target: the assignment of least total cost.

Legend: `L` layers or stages, `B` images, `Q` predictions, `T` places for targets, `M` pairs in one
layer, over all images.
"""

from collections.abc import Sequence
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


class Question(NamedTuple):
    """What it costs each prediction to answer for each target; only `real` places hold a target."""

    cost: Float[Tensor, "L B Q T"]
    real: Bool[Tensor, "B T"]


def match(cost: Float[Tensor, "L B Q T"], real: Bool[Tensor, "B T"]) -> Pairs:
    """The answer to one question, see `match_all`."""
    return match_all([Question(cost, real)])[0]


@torch.no_grad()
def match_all(questions: Sequence[Question]) -> list[Pairs]:
    """Pair predictions with targets, in each layer and image at least total cost.

    Waits for the device once, however many questions there are. A cost that is not finite counts as
    very high, so that diverged predictions give a loss that is not finite instead of an error here.
    """
    device = questions[0].cost.device
    asked = torch.cat([_finite(question).flatten() for question in questions]).cpu()
    parts = asked.split([question.cost.numel() for question in questions])
    answers = [
        _solve_all(part.view(question.cost.shape).numpy())
        for part, question in zip(parts, questions, strict=True)
    ]
    flat = torch.from_numpy(np.concatenate([part.ravel() for parts in answers for part in parts]))
    told = iter(flat.to(device).split([part.size for parts in answers for part in parts]))
    return [Pairs(*(next(told).view(part.shape) for part in parts)) for parts in answers]


def _finite(question: Question) -> Tensor:
    """The costs in float32, infinite where there is no target."""
    finite = question.cost.float().nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9)
    return finite.masked_fill(~question.real[:, None], torch.inf)


def _solve_all(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images `[M]`, predictions and targets `[L, M]` of the costs `[L, B, Q, T]`."""
    places = [np.flatnonzero(np.isfinite(image[0])) for image in costs[0]]
    solved = [
        np.concatenate(
            [_solve(image[:, place], place) for image, place in zip(layer, places, strict=True)],
            axis=1,
        )
        for layer in costs
    ]
    counts = [min(len(place), costs.shape[2]) for place in places]
    predictions, targets = np.stack(solved, axis=1)
    return np.repeat(np.arange(len(counts)), counts), predictions, targets


def _solve(cost: np.ndarray, places: np.ndarray) -> np.ndarray:
    predictions, columns = linear_sum_assignment(cost)
    order = columns.argsort()
    return np.stack((predictions[order], places[columns[order]]))
