"""The training step written straight down, to measure `bench` against and to test it by.

One decoder layer, stage, image and pyramid level after the other; float masks of 0 and 1 at the
images' size; what torch, torchvision and scipy have ready made. The original codes (MaskFormer,
Sparse R-CNN on detectron2) go the same ways. It gives the same losses and gradients, is not slowed
down, and learns with the same weights: a `MultiTask` is shared by both.

Legend: `B` images, `Q` queries, `N` proposals, `K` classes, `T` targets of one image, `H W` pixels.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou, roi_align, sigmoid_focal_loss

from bench.data.classes import IGNORE
from bench.data.sample import Batch
from bench.model.maskformer import MaskFormer
from bench.model.multitask import MultiTask, MultiTaskLoss
from bench.model.sparse_rcnn import Stage as SparseStage
from bench.model.sparse_rcnn import decode_boxes
from protocols.stages import Protocol, Stage

CE, FOCAL, DICE, NO_OBJECT = 1.0, 20.0, 1.0, 0.1  # MaskFormer
CLASS, L1, GIOU = 2.0, 5.0, 2.0  # Sparse R-CNN
ALPHA = 0.25


class Plain:
    """A model's training step: its own heads' ways and losses, and torch's default AdamW."""

    def __init__(self, model: MultiTask, protocol: Protocol, stage: Stage) -> None:
        self.model, self.optim = model, protocol.optim
        terms = {"det": detection_loss}
        by_task = {task: terms.get(task, mask_loss) for task in model.heads}
        self.losses = MultiTaskLoss(by_task, asdict(protocol.loss))
        self.optimiser = torch.optim.AdamW(
            model.learn(stage.learns), lr=stage.lr, weight_decay=protocol.optim.weight_decay
        )

    def __call__(self, batch: Batch) -> Tensor:
        """Take a step; return the tasks' losses and the gradient's norm."""
        with plain_heads():
            outputs = self.model(batch.images, batch.sizes_hw, batch.boxes_xyxy)
        terms = torch.stack(list(self.losses(outputs, batch).values()))
        terms.sum().backward()
        learning = self.optimiser.param_groups[0]["params"]
        norm = nn.utils.clip_grad_norm_(learning, self.optim.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return torch.cat([terms.detach(), norm[None]])


@contextmanager
def plain_heads() -> Iterator[None]:
    """Let the heads predict layer by layer and pool level by level."""
    with (
        patch.object(MaskFormer, "forward", predict_masks),
        patch("bench.model.sparse_rcnn.make_table", lambda pyramid: pyramid),
        patch.object(SparseStage, "forward", refine),
    ):
        yield


def predict_masks(self: MaskFormer, pyramid: list[Tensor]) -> dict[str, Tensor]:
    """What `MaskFormer.forward` does, with a `logits0`, `masks0`, … for each decoder layer."""
    pixels = self.pixel_decoder(pyramid)
    outputs = {}
    for layer, hidden in enumerate(self._decode(self.project(pyramid[-1]))):
        outputs[f"logits{layer}"] = self.classify(hidden)
        outputs[f"masks{layer}"] = torch.einsum("bqc,bchw->bqhw", self.mask(hidden), pixels)
    return outputs


def refine(
    self: SparseStage, pyramid: list[Tensor], boxes_xyxy: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a stage of Sparse R-CNN does, with `pool` below."""
    attended, _ = self.attention(x, x, x, need_weights=False)
    x = self.norm1(x + attended)
    x = self.norm2(x + self.interact(x, pool(pyramid, boxes_xyxy)))
    x = self.norm3(x + self.reduce(F.relu(self.expand(x))))
    boxes = decode_boxes(self.deltas(self.box_branch(x)), boxes_xyxy)
    return self.classify(self.class_branch(x)), boxes, x


def pool(pyramid: list[Tensor], boxes_xyxy: Tensor) -> Tensor:
    """What `bench.model.pool` does, as detectron2's `ROIPooler`: level by level."""
    images, count = boxes_xyxy.shape[:2]
    boxes = boxes_xyxy.detach().flatten(0, 1)
    numbers = torch.arange(images, device=boxes.device).repeat_interleave(count)
    rois = torch.cat((numbers[:, None].to(boxes), boxes), dim=1)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    levels = (4 + torch.log2(sides / 224 + 1e-8)).floor().clamp(2, 5).long()
    pooled = boxes.new_zeros(len(boxes), pyramid[0].shape[1], 7, 7)
    for level, maps in enumerate(pyramid, 2):
        (here,) = (levels == level).nonzero(as_tuple=True)
        pooled[here] = roi_align(maps, rois[here], 7, 0.5**level, sampling_ratio=2, aligned=True)
    return pooled.flatten(2).mT.unflatten(0, (images, count))


class Masks(NamedTuple):
    """What there is to find in one image."""

    classes: Tensor  # [T]
    inside: Tensor  # [T, H, W], 0 or 1
    counted: Tensor  # [1, H, W], 0 where no class is known


def mask_loss(outputs: Mapping[str, Tensor], labels: Tensor, labelled: Tensor) -> dict[str, Tensor]:
    """The terms of `MaskFormerLoss`, whose every number this is, layer by layer."""
    usable = [i for i, one in enumerate(labels) if labelled[i] and (one != IGNORE).any()]
    targets = {i: masks_of(labels[i]) for i in usable}
    names = ("ce", "focal", "dice")
    if not targets:
        return dict.fromkeys(names, sum(output.sum() * 0 for output in outputs.values()))
    layers = [
        layer_terms(outputs[f"logits{layer}"], outputs[f"masks{layer}"], targets)
        for layer in range(len(outputs) // 2)
    ]
    return {name: sum(terms[name] for terms in layers) for name in names}


def masks_of(label: Tensor) -> Masks:
    """A mask for each class that an image has a pixel of."""
    counted = label != IGNORE
    classes = label[counted].unique()
    inside = label == classes[:, None, None]
    return Masks(classes.long(), inside.float(), counted[None].float())


def layer_terms(logits: Tensor, masks: Tensor, targets: dict[int, Masks]) -> dict[str, Tensor]:
    """The weighted terms of one decoder layer, image by image."""
    no_object = logits.shape[-1] - 1
    expected = torch.full(logits.shape[:2], -100, device=logits.device)  # not counted
    weights = torch.ones(no_object + 1, device=logits.device)
    weights[-1] = NO_OBJECT
    focal, dice = logits.new_zeros(2)
    for i, wanted in targets.items():
        queries, places = match_masks(logits[i], masks[i], wanted)
        expected[i] = no_object
        expected[i, queries] = wanted.classes[places]
        terms = image_mask_terms(masks[i, queries], wanted.inside[places], wanted.counted)
        focal, dice = focal + terms[0], dice + terms[1]
    number = sum(len(wanted.classes) for wanted in targets.values())
    ce = F.cross_entropy(logits.mT, expected, weights)
    return {"ce": CE * ce, "focal": FOCAL * focal / number, "dice": DICE * dice / number}


@torch.no_grad()
def match_masks(logits: Tensor, masks: Tensor, wanted: Masks) -> tuple[Tensor, Tensor]:
    """Queries and targets of an image that belong together, judged at the masks' size."""
    flat, size = masks.flatten(1), masks.shape[-2:]
    inside = F.interpolate(wanted.inside[None], size, mode="nearest").flatten(2)[0]
    counted = F.interpolate(wanted.counted[None], size, mode="nearest").flatten()
    probability = flat.sigmoid()
    ones = F.binary_cross_entropy_with_logits(flat, torch.ones_like(flat), reduction="none")
    zeros = F.binary_cross_entropy_with_logits(flat, torch.zeros_like(flat), reduction="none")
    as_inside = ALPHA * (1 - probability) ** 2 * ones * counted
    as_outside = (1 - ALPHA) * probability**2 * zeros * counted
    focal = as_inside @ inside.T + as_outside @ (1 - inside).T
    sizes = (probability * counted).sum(1)[:, None] + inside.sum(1)
    dice = 1 - (2 * probability @ inside.T + 1) / (sizes + 1)
    cost = -CE * logits.softmax(-1)[:, wanted.classes]
    return assign(cost + FOCAL * focal / counted.sum().clamp(min=1) + DICE * dice)


def image_mask_terms(masks: Tensor, inside: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of focal (mean over the pixels) and Dice loss of an image's matched masks."""
    large = F.interpolate(masks[:, None], inside.shape[-2:], mode="bilinear")[:, 0]
    focal = sigmoid_focal_loss(large, inside, alpha=ALPHA, gamma=2) * counted
    probability = large.sigmoid() * counted
    overlap, sizes = (probability * inside).sum((1, 2)), (probability + inside).sum((1, 2))
    return focal.sum() / counted.sum(), (1 - (2 * overlap + 1) / (sizes + 1)).sum()


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of least total cost; waits for the device."""
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


def detection_loss(
    outputs: Mapping[str, Tensor],
    boxes_xyxy: list[Tensor],
    classes: list[Tensor],
    sizes_hw: Tensor,
    labelled: Tensor,
) -> dict[str, Tensor]:
    """The terms of `SparseRCNNLoss`, whose every number this is, stage by stage."""
    images = [i for i in range(len(sizes_hw)) if labelled[i]]
    number = max(sum(len(boxes_xyxy[i]) for i in images), 1)
    totals: list[dict[str, Any]] = []
    for logits, boxes in zip(outputs["logits"], outputs["boxes_xyxy"], strict=True):
        terms = [
            image_terms(logits[i], boxes[i], boxes_xyxy[i], classes[i], sizes_hw[i]) for i in images
        ]
        nothing = logits.sum() * 0 + boxes.sum() * 0
        totals.append({n: sum((t[n] for t in terms), nothing) for n in ("focal", "l1", "giou")})
    weights = {"focal": CLASS, "l1": L1, "giou": GIOU}
    return {
        name: weight * sum(terms[name] for terms in totals) / number
        for name, weight in weights.items()
    }


def image_terms(
    logits: Tensor, boxes: Tensor, targets: Tensor, classes: Tensor, size_hw: Tensor
) -> dict[str, Tensor]:
    """The unweighted sums of one stage and image."""
    scale = 1 / size_hw.flip(0).repeat(2)
    with torch.no_grad():
        probability = logits.sigmoid()
        negative = (1 - ALPHA) * probability**2 * F.softplus(logits)
        positive = ALPHA * (1 - probability) ** 2 * F.softplus(-logits)
        cost = CLASS * (positive - negative)[:, classes]
        cost = cost + L1 * torch.cdist(boxes * scale, targets * scale, p=1)
        cost = cost - GIOU * generalized_box_iou(boxes, targets)
        proposals, places = assign(cost)
    expected = torch.zeros_like(logits)
    expected[proposals, classes[places]] = 1.0
    found, wanted = boxes[proposals], targets[places]
    return {
        "focal": sigmoid_focal_loss(logits, expected, alpha=ALPHA, gamma=2, reduction="sum"),
        "l1": F.l1_loss(found * scale, wanted * scale, reduction="sum"),
        "giou": (1 - torch.diag(generalized_box_iou(found, wanted))).sum(),
    }
