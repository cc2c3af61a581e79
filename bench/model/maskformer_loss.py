"""The loss of MaskFormer: every class present in an image is one mask, which one query answers for.

Legend: `B` images, `Q` queries, `K` classes, `L` decoder layers, `M` matched masks, `P` pixels,
`H W` rows and columns of the padded image, `h w` those of the predicted masks.
Source: facebookresearch/MaskFormer, `criterion.py` and `matcher.py`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from bench import dist
from bench.data.classes import IGNORE
from bench.model.focal import focal_either_way
from bench.model.layers import precise
from bench.model.mask_sums import mask_sums
from bench.model.matching import Pairs, Question, match


def dice(
    overlap: Float[Tensor, "*shape"], sizes: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """One minus the Dice coefficient, smoothed by 1; `sizes` is the sum of both masks' sizes."""
    return 1 - (2 * overlap + 1) / (sizes + 1)


@dataclass(frozen=True, kw_only=True)
class MaskFormerLoss:
    """Class, focal and Dice loss of the masks, matched in every decoder layer on its own.

    The weights serve the loss and the matching cost alike. `mask_ignore` says what an ignored
    pixel (255, also padding) is to a mask: "valid": nothing, it is left out of focal and Dice, in
    costs and losses; "maskformer": outside of every mask, as in the original code. `size` is that
    at which the loss compares masks with labels: "full", the image's, or "quarter", the masks' own,
    which takes a fraction of the time and gives other numbers. Costs are always at the latter.
    """

    ce_weight: float = 1.0
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    no_object_weight: float = 0.1
    mask_ignore: Literal["valid", "maskformer"] = "valid"
    size: Literal["full", "quarter"] = "full"

    def __call__(
        self,
        outputs: dict[str, Tensor],
        labels: UInt8[Tensor, "B H W"],
        labelled: Bool[Tensor, " B"],
        pairs: Pairs | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms `ce`, `focal` and `dice`, over all layers; the loss is their sum.

        `outputs` as `MaskFormer` returns them; `labels` are class ids or 255. An image that is not
        `labelled`, or has no pixel that is, is left out of everything; with none left all terms
        are zero, and still part of the graph. `pairs` are the answer to `question`, if it is
        known already.
        """
        usable = _usable(labels, labelled)
        weights = {"ce": self.ce_weight, "focal": self.focal_weight, "dice": self.dice_weight}
        terms = self.terms(outputs, labels, usable, pairs)
        return {name: weights[name] * per_layer.sum() for name, per_layer in terms.items()}

    def question(
        self,
        outputs: dict[str, Tensor],
        labels: UInt8[Tensor, "B H W"],
        labelled: Bool[Tensor, " B"],
    ) -> Question:
        """Which query answers for which class that an image has, in each layer."""
        logits, masks = precise(outputs["logits"]), precise(outputs["masks"])
        present = _present(labels, classes=logits.shape[-1] - 1)
        return Question(
            self.cost(logits, masks, labels), present & _usable(labels, labelled)[:, None]
        )

    def terms(
        self,
        outputs: dict[str, Tensor],
        labels: UInt8[Tensor, "B H W"],
        usable: Bool[Tensor, " B"],
        pairs: Pairs | None = None,
    ) -> dict[str, Float[Tensor, " L"]]:
        """The unweighted terms of each layer; a usable image without masks is all "no object"."""
        with torch.autocast(labels.device.type, enabled=False):
            logits, masks = precise(outputs["logits"]), precise(outputs["masks"])
            pairs = pairs or match(*self.question(outputs, labels, usable))
            present = _present(labels, classes=logits.shape[-1] - 1) & usable[:, None]
            count = dist.over_all(present.sum()).clamp(min=1)
            focal_loss, dice_loss = self._mask_terms(pairs.pick(masks), labels, pairs)
            return {
                "ce": self._class_term(logits, usable, pairs),
                "focal": focal_loss.sum(1) / count,
                "dice": dice_loss.sum(1) / count,
            }

    @torch.no_grad()
    def cost(
        self,
        logits: Float[Tensor, "L B Q _"],
        masks: Float[Tensor, "L B Q h w"],
        labels: UInt8[Tensor, "B H W"],
    ) -> Float[Tensor, "L B Q K"]:
        """What it costs each query to answer for each class, judged at the size of `masks`."""
        small = _shrunk(labels, masks)[:, None].flatten(2)
        classes = torch.arange(logits.shape[-1] - 1, device=labels.device)
        inside = (small == classes[:, None]).to(masks.dtype)
        counted = self._counted(small).to(masks.dtype)
        truth = inside.mT, (counted - inside).mT, torch.cat((inside, counted), dim=1).mT
        # Layer by layer, for all of them at once would be written to memory and read again.
        sums = [_cost_sums(layer.flatten(2), *truth) for layer in masks]
        focal, overlap, sizes = (torch.stack(layers) for layers in zip(*sums, strict=True))
        focal_cost = focal / counted.sum(-1, keepdim=True).clamp(min=1)
        dice_cost = dice(overlap, sizes + inside.sum(-1)[:, None])
        class_cost = -logits.softmax(-1)[..., :-1]
        return (
            self.ce_weight * class_cost
            + self.focal_weight * focal_cost
            + self.dice_weight * dice_cost
        )

    def _counted(self, labels: UInt8[Tensor, "..."]) -> Bool[Tensor, "..."]:
        if self.mask_ignore == "maskformer":
            return torch.ones_like(labels, dtype=torch.bool)
        return labels != IGNORE

    def _class_term(
        self, logits: Float[Tensor, "L B Q _"], usable: Bool[Tensor, " B"], pairs: Pairs
    ) -> Float[Tensor, " L"]:
        no_object = logits.shape[-1] - 1
        targets = torch.full(logits.shape[:-1], no_object, device=logits.device)
        layers = torch.arange(len(logits), device=logits.device)[:, None]
        targets[layers, pairs.images, pairs.predictions] = pairs.targets
        weights = torch.where(targets == no_object, self.no_object_weight, 1.0) * usable[:, None]
        losses = F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none")
        total = dist.over_all(weights.sum((1, 2)))
        return (weights * losses).sum((1, 2)) / total.where(total > 0, 1.0)

    def _mask_terms(
        self, masks: Float[Tensor, "L M h w"], labels: UInt8[Tensor, "B H W"], pairs: Pairs
    ) -> tuple[Float[Tensor, "L M"], Float[Tensor, "L M"]]:
        """Focal (mean over the pixels) and Dice loss of each matched mask."""
        if not len(pairs.images):
            nothing = masks.sum((2, 3))
            return nothing, nothing
        if self.size == "quarter":
            labels = _shrunk(labels, masks)
        truth = labels.flatten(1)[pairs.images].T.contiguous()
        counted = self._counted(truth).view(torch.uint8).to(masks.dtype)  # sooner than from bool
        size_hw = (labels.shape[1], labels.shape[2])
        focal_sum, overlap, sizes = mask_sums(masks, truth, pairs.targets, counted, size_hw)
        return focal_sum / counted.sum(0).clamp(min=1), dice(overlap, sizes)


def _cost_sums(
    masks: Float[Tensor, "B Q P"],
    inside: Float[Tensor, "B P K"],
    outside: Float[Tensor, "B P K"],
    inside_and_counted: Float[Tensor, "B P _"],
) -> tuple[Float[Tensor, "B Q K"], Float[Tensor, "B Q K"], Float[Tensor, "B Q 1"]]:
    """Of each mask with each class: focal loss and overlap; and the mask's size, in pixels."""
    as_inside, as_outside = focal_either_way(masks)
    focal = torch.baddbmm(as_inside @ inside, as_outside, outside)
    overlap, sizes = (masks.sigmoid() @ inside_and_counted).split((inside.shape[-1], 1), dim=-1)
    return focal, overlap, sizes


def _shrunk(
    labels: UInt8[Tensor, "B H W"], masks: Float[Tensor, "*layers h w"]
) -> UInt8[Tensor, "B h w"]:
    """The label of the pixel nearest to each of the masks'."""
    return F.interpolate(labels[:, None], size=masks.shape[-2:], mode="nearest")[:, 0]


def _usable(labels: UInt8[Tensor, "B H W"], labelled: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Which images have a pixel of a class that counts."""
    return labelled & (labels != IGNORE).flatten(1).any(1)


def _present(labels: UInt8[Tensor, "B H W"], classes: int) -> Bool[Tensor, "B K"]:
    """Which classes an image has a pixel of."""
    seen = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
    return seen.scatter_(1, labels.flatten(1).long(), True)[:, :classes]
