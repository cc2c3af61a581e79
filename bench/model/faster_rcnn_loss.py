"""The loss of Faster R-CNN: anchors and regions answer for the targets that they overlap.

Legend: `B` images, `N` boxes of an image, `A` anchors, `R` regions, `X` either of the two.
Source: torchvision, `RegionProposalNetwork.compute_loss` and `fastrcnn_loss`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.ops import box_iou

from bench import dist
from bench.model.faster_rcnn import has_area

SMOOTHNESS = 1 / 9  # where the box losses go over from squares to absolute values


class FasterRCNNLoss:
    """Whether there is an object and where, twice: for sampled anchors and for the regions.

    Of each image 256 anchors are drawn from torch's global generator, at most half of which hold
    an object. An anchor holds the target that it overlaps most, by an IoU of at least 0.7 or as
    the best of all anchors; below 0.3 it holds none. For a region both limits are 0.5.
    """

    def __init__(self) -> None:
        self.to_anchors = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        self.to_regions = Matcher(0.5, 0.5)
        self.sampler = BalancedPositiveNegativeSampler(256, positive_fraction=0.5)
        self.anchor_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.region_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def __call__(
        self,
        outputs: dict[str, Tensor],
        boxes_xyxy: list[Float[Tensor, "_ 4"]],
        classes: list[Int64[Tensor, " _"]],
        sizes_hw: Int[Tensor, "B 2"],
        labelled: Bool[Tensor, " B"],
    ) -> dict[str, Tensor]:
        """The terms `objectness` and `shifts` of the anchors, `ce` and `moves` of the regions.

        `outputs` as `FasterRCNN` returns them for these boxes. Every term is divided by the number
        of anchors or regions that it is about. A labelled image without boxes says "no objects";
        one that is not `labelled` is left out of everything. With no image left all terms are zero,
        and still part of the graph. Boxes without area are dropped.
        """
        real = [has_area(boxes) for boxes in boxes_xyxy]
        boxes = [one[keep] for one, keep in zip(boxes_xyxy, real, strict=True)]
        ids = [one[keep] for one, keep in zip(classes, real, strict=True)]
        return {
            **self._of_anchors(outputs, boxes, labelled),
            **self._of_regions(outputs, boxes, ids, labelled),
        }

    def _of_anchors(
        self,
        outputs: dict[str, Tensor],
        boxes: list[Float[Tensor, "_ 4"]],
        labelled: Bool[Tensor, " B"],
    ) -> dict[str, Tensor]:
        anchors = outputs["anchors_xyxy"]
        objectness, shifts = outputs["objectness"].float(), outputs["shifts"].float()
        answers = torch.stack([_answers(self.to_anchors, one, anchors) for one in boxes])
        # What the sampler knows: 1 object, 0 none, -1 not to be drawn.
        drawn = (answers >= 0).long() - (answers == Matcher.BETWEEN_THRESHOLDS).long()
        drawn[~labelled] = -1
        positive, negative = (torch.stack(x).bool() for x in self.sampler(list(drawn)))
        wanted = [
            self.anchor_coder.encode_single(one[answer[here]], anchors[here])
            for one, answer, here in zip(boxes, answers, positive, strict=True)
        ]
        sampled = positive | negative
        count = dist.over_all(sampled.sum()).clamp(min=1)
        losses = F.binary_cross_entropy_with_logits(
            objectness, positive.float(), sampled.float(), reduction="sum"
        )
        return {
            "objectness": losses / count,
            "shifts": _distance(shifts[positive], torch.cat(wanted)) / count,
        }

    def _of_regions(
        self,
        outputs: dict[str, Tensor],
        boxes: list[Float[Tensor, "_ 4"]],
        classes: list[Int64[Tensor, " _"]],
        labelled: Bool[Tensor, " B"],
    ) -> dict[str, Tensor]:
        logits, moves = outputs["logits"].float(), outputs["moves"].float()
        regions, images = outputs["regions_xyxy"], outputs["images"]
        targets = torch.zeros_like(images)  # the first class is "no object"
        wanted = torch.zeros_like(regions)
        for image, (one, ids) in enumerate(zip(boxes, classes, strict=True)):
            here = (images == image).nonzero().flatten()
            answers = _answers(self.to_regions, one, regions[here])
            here, answers = here[answers >= 0], answers[answers >= 0]
            targets[here] = ids[answers] + 1
            wanted[here] = self.region_coder.encode_single(one[answers], regions[here])
        counted = labelled[images]
        count = dist.over_all(counted.sum()).clamp(min=1)
        losses = F.cross_entropy(logits, targets, reduction="none")
        held = (counted & (targets > 0)).nonzero().flatten()
        return {
            "ce": (losses * counted).sum() / count,
            "moves": _distance(moves[held, targets[held]], wanted[held]) / count,
        }


def _answers(
    matcher: Matcher, boxes: Float[Tensor, "N 4"], places: Float[Tensor, "X 4"]
) -> Int64[Tensor, " X"]:
    """Which of the target boxes each place holds; negative where it holds none, or may not say."""
    if len(boxes) and len(places):
        return matcher(box_iou(boxes, places))
    return torch.full(
        (len(places),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.int64, device=places.device
    )


def _distance(found: Float[Tensor, "N 4"], wanted: Float[Tensor, "N 4"]) -> Float[Tensor, ""]:
    return F.smooth_l1_loss(found, wanted, beta=SMOOTHNESS, reduction="sum")
