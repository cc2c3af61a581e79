"""The loss of Sparse R-CNN: each target box is answered for by one proposal.

Legend: `B` images, `N` proposals, `K` classes, `S` stages, `T` places for an image's target boxes,
`M` matched pairs.
Source: PeizeSun/SparseR-CNN, `loss.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench import dist
from bench.model.focal import focal, focal_either_way
from bench.model.layers import precise
from bench.model.matching import Pairs, Question, match


def generalized_iou(
    a: Float[Tensor, "*#shape 4"], b: Float[Tensor, "*#shape 4"]
) -> Float[Tensor, "*#shape"]:
    """Generalised IoU of boxes (xyxy) that belong together, -1 to 1 (Rezatofighi et al. 2019)."""
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = inner.clamp(min=0).prod(-1)
    union = area_a + area_b - intersection
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return intersection / union - (hull - union) / hull


class Targets(NamedTuple):
    """The boxes of a batch, padded to the largest number of them in an image."""

    boxes_xyxy: Float[Tensor, "B T 4"]
    classes: Int64[Tensor, "B T"]
    real: Bool[Tensor, "B T"]  # neither filling, nor without area, nor of an unlabelled image


def pad_targets(
    boxes_xyxy: list[Float[Tensor, "_ 4"]],
    classes: list[Int64[Tensor, " _"]],
    labelled: Bool[Tensor, " B"],
) -> Targets:
    """The targets of all images in one block; filling has no area, and is not real."""
    boxes = pad_sequence(boxes_xyxy, batch_first=True)
    has_area = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    return Targets(boxes, pad_sequence(classes, batch_first=True), has_area & labelled[:, None])


@dataclass(frozen=True, kw_only=True)
class SparseRCNNLoss:
    """Focal, L1 and GIoU loss of the proposals, matched in every stage on its own.

    The weights serve the loss and the matching cost alike.
    """

    focal_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0

    def __call__(
        self,
        outputs: dict[str, Tensor],
        boxes_xyxy: list[Float[Tensor, "_ 4"]],
        classes: list[Int64[Tensor, " _"]],
        sizes_hw: Int[Tensor, "B 2"],
        labelled: Bool[Tensor, " B"],
        pairs: Pairs | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms `focal`, `l1` and `giou`, summed over stages; the loss is their sum.

        `outputs` as `SparseRCNN` returns them; boxes in the same pixels, `sizes_hw` the unpadded
        image sizes. A labelled image without boxes says "no objects"; one that is not `labelled`
        is left out of everything. With no image left all terms are zero, and still part of the
        graph. Boxes without area are dropped. `pairs` are the answer to `question`, if it is known
        already.
        """
        weights = {"focal": self.focal_weight, "l1": self.l1_weight, "giou": self.giou_weight}
        terms = self.terms(outputs, boxes_xyxy, classes, sizes_hw, labelled, pairs)
        return {name: weights[name] * per_stage.sum() for name, per_stage in terms.items()}

    def question(
        self,
        outputs: dict[str, Tensor],
        boxes_xyxy: list[Float[Tensor, "_ 4"]],
        classes: list[Int64[Tensor, " _"]],
        sizes_hw: Int[Tensor, "B 2"],
        labelled: Bool[Tensor, " B"],
    ) -> Question:
        """Which proposal answers for which target box, in each stage."""
        logits, boxes = precise(outputs["logits"]), precise(outputs["boxes_xyxy"])
        targets = pad_targets(boxes_xyxy, classes, labelled)
        return Question(self.cost(logits, boxes, targets, _shares(sizes_hw)), targets.real)

    def terms(
        self,
        outputs: dict[str, Tensor],
        boxes_xyxy: list[Float[Tensor, "_ 4"]],
        classes: list[Int64[Tensor, " _"]],
        sizes_hw: Int[Tensor, "B 2"],
        labelled: Bool[Tensor, " B"],
        pairs: Pairs | None = None,
    ) -> dict[str, Float[Tensor, " S"]]:
        """The unweighted terms of each stage, divided by the number of target boxes."""
        logits, boxes = precise(outputs["logits"]), precise(outputs["boxes_xyxy"])
        targets = pad_targets(boxes_xyxy, classes, labelled)
        pairs = pairs or match(*self.question(outputs, boxes_xyxy, classes, sizes_hw, labelled))
        count = dist.over_all(targets.real.sum()).clamp(min=1)
        found, wanted = pairs.pick(boxes), targets.boxes_xyxy[pairs.images, pairs.targets]
        away = (found - wanted) * _shares(sizes_hw)[pairs.images]
        return {
            "focal": _class_term(logits, targets, labelled, pairs) / count,
            "l1": away.abs().sum((1, 2)) / count,
            "giou": (1 - generalized_iou(found, wanted)).sum(1) / count,
        }

    @torch.no_grad()
    def cost(
        self,
        logits: Float[Tensor, "S B N K"],
        boxes: Float[Tensor, "S B N 4"],
        targets: Targets,
        scale: Float[Tensor, "B 4"],
    ) -> Float[Tensor, "S B N T"]:
        """What it costs each proposal to answer for each place for a target."""
        positive, negative = focal_either_way(logits)
        classes = targets.classes[None, :, None].expand(*logits.shape[:3], -1)
        focal_cost = (positive - negative).gather(-1, classes)
        found, wanted = boxes[..., None, :], targets.boxes_xyxy[:, None]
        l1_cost = ((found - wanted) * scale[:, None, None]).abs().sum(-1)
        giou_cost = -generalized_iou(found, wanted)
        return (
            self.focal_weight * focal_cost + self.l1_weight * l1_cost + self.giou_weight * giou_cost
        )


def _shares(sizes_hw: Int[Tensor, "B 2"]) -> Float[Tensor, "B 4"]:
    """What a box in pixels is multiplied by, to be in shares of its image's sides."""
    return 1 / sizes_hw.flip(-1).repeat(1, 2).float()


def _class_term(
    logits: Float[Tensor, "S B N K"],
    targets: Targets,
    labelled: Bool[Tensor, " B"],
    pairs: Pairs,
) -> Float[Tensor, " S"]:
    stages = torch.arange(len(logits), device=logits.device)[:, None]
    positive = torch.zeros_like(logits)
    classes = targets.classes[pairs.images, pairs.targets]
    positive[stages, pairs.images, pairs.predictions, classes] = 1.0
    return (focal(logits, positive) * labelled[:, None, None]).sum((1, 2, 3))
