"""Sparse R-CNN: a fixed set of learned proposals, refined in stages, without anchors or NMS.

Legend: `B` images, `N` proposals, `K` classes, `S` stages, `C` channels.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from bench.model.layers import precise, xavier_matrices
from bench.model.pool import BINS, Table, make_table, pool

CLASS_PRIOR = 0.01  # the score of every class before training
MAX_LOG_GROWTH = math.log(100_000 / 16)


def decode_boxes(
    deltas: Float[Tensor, "*shape 4"], boxes_xyxy: Float[Tensor, "*shape 4"]
) -> Float[Tensor, "*shape 4"]:
    """Move the boxes: (x, y) by a share of their size, (width, height) by a factor, as logarithms.

    Twice the share, as said by `deltas`. Not clipped to the image. Source: Sparse R-CNN's
    `apply_deltas` with the weights 2, 2, 1, 1.
    """
    shift, growth = deltas.split(2, dim=-1)
    low, high = boxes_xyxy.split(2, dim=-1)
    size = high - low
    centre = low + 0.5 * size + shift / 2 * size
    half = 0.5 * size * growth.clamp(max=MAX_LOG_GROWTH).exp()
    return torch.cat((centre - half, centre + half), dim=-1)


class DynamicConv(nn.Module):
    """Two 1x1 convolutions over the pooled features of a box, whose weights its proposal makes."""

    def __init__(self, channels: int, dynamic: int) -> None:
        super().__init__()
        self.weights = nn.Linear(channels, 2 * channels * dynamic)
        self.norm1 = nn.LayerNorm(dynamic)
        self.norm2 = nn.LayerNorm(channels)
        self.out = nn.Linear(BINS * BINS * channels, channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(
        self, proposals: Float[Tensor, "B N C"], pooled: Float[Tensor, "B N 49 C"]
    ) -> Float[Tensor, "B N C"]:
        """What each proposal reads from its box."""
        channels = proposals.shape[-1]
        reduce, expand = self.weights(proposals).chunk(2, dim=-1)
        x = F.relu(self.norm1(pooled @ reduce.unflatten(-1, (channels, -1))))
        x = F.relu(self.norm2(x @ expand.unflatten(-1, (-1, channels))))
        return F.relu(self.norm3(self.out(x.flatten(2))))


def _branch(channels: int, layers: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            part
            for _ in range(layers)
            for part in (
                nn.Linear(channels, channels, bias=False),
                nn.LayerNorm(channels),
                nn.ReLU(),
            )
        )
    )


class Stage(nn.Module):
    """One refinement: proposals see each other, then each its box, and give class and new box."""

    def __init__(self, classes: int, channels: int, heads: int, ffn: int, dynamic: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.interact = DynamicConv(channels, dynamic)
        self.expand = nn.Linear(channels, ffn)
        self.reduce = nn.Linear(ffn, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.class_branch = _branch(channels, 1)
        self.box_branch = _branch(channels, 3)
        self.classify = nn.Linear(channels, classes)
        self.deltas = nn.Linear(channels, 4)
        xavier_matrices(self)
        nn.init.constant_(self.classify.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))

    def forward(
        self, table: Table, boxes_xyxy: Float[Tensor, "B N 4"], x: Float[Tensor, "B N C"]
    ) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N 4"], Float[Tensor, "B N C"]]:
        """Class logits, refined boxes and refined proposal features."""
        attended, _ = self.attention(x, x, x, need_weights=False)
        x = self.norm1(x + attended)
        x = self.norm2(x + self.interact(x, pool(table, boxes_xyxy)))
        x = self.norm3(x + self.reduce(F.relu(self.expand(x))))
        deltas = precise(self.deltas(self.box_branch(x)))
        return self.classify(self.class_branch(x)), decode_boxes(deltas, boxes_xyxy), x


class SparseRCNN(nn.Module):
    """The detection head: learned proposals and the stages that refine them.

    Every proposal starts as the whole image. The boxes that a stage gives are not followed back
    into the stage before; the features are. Source: PeizeSun/SparseR-CNN. 79,304,532 parameters in
    six stages for ten classes, and 78,000 in 300 proposals; nothing in it depends on the mode.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 256,
        proposals: int = 300,
        stages: int = 6,
        heads: int = 8,
        ffn: int = 2048,
        dynamic: int = 64,
    ) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(proposals, channels))
        whole_image = torch.tensor([0.5, 0.5, 1.0, 1.0])
        self.boxes_cxcywh = nn.Parameter(whole_image.repeat(proposals, 1))
        self.stages = nn.ModuleList(
            Stage(classes, channels, heads, ffn, dynamic) for _ in range(stages)
        )

    def forward(
        self,
        pyramid: list[Float[Tensor, "B C _ _"]],
        sizes_hw: Int[Tensor, "B 2"],
        boxes_xyxy: list[Float[Tensor, "_ 4"]] | None = None,
    ) -> dict[str, Tensor]:
        """What every proposal says after every stage, from P2..P5 and the unpadded image sizes.

        Target boxes are taken as by every detection head, but not looked at.

        - `logits` `[S, B, N, K]`: of each class, independently (sigmoid, no background);
        - `boxes_xyxy` `[S, B, N, 4]`: in pixels, float32, not clipped.
        """
        table = make_table(pyramid)
        boxes = self.first_boxes(sizes_hw)
        x = self.features.expand(len(sizes_hw), -1, -1)
        all_logits, all_boxes = [], []
        for stage in self.stages:
            logits, boxes, x = stage(table, boxes, x)
            all_logits.append(logits)
            all_boxes.append(boxes)
            boxes = boxes.detach()
        return {"logits": torch.stack(all_logits), "boxes_xyxy": torch.stack(all_boxes)}

    def first_boxes(self, sizes_hw: Int[Tensor, "B 2"]) -> Float[Tensor, "B N 4"]:
        """The boxes that the first stage starts from, in pixels of each image."""
        centre, size = self.boxes_cxcywh.split(2, dim=-1)
        share = torch.cat((centre - size / 2, centre + size / 2), dim=-1)
        return share * sizes_hw.flip(-1).repeat(1, 2)[:, None]

    def detect(
        self, outputs: dict[str, Tensor]
    ) -> list[tuple[Float[Tensor, "N 4"], Float[Tensor, " N"], Int64[Tensor, " N"]]]:
        """For each image the best N pairs of box and class: boxes, scores (falling), class ids.

        By the last stage; a box may come several times with different classes. No threshold, no
        NMS; boxes are pixels of the network's input, not clipped.
        """
        scores = outputs["logits"][-1].float().sigmoid()
        boxes = outputs["boxes_xyxy"][-1]
        count, classes = scores.shape[1:]
        best, pairs = scores.flatten(1).topk(count)
        chosen = boxes.gather(1, (pairs // classes)[..., None].expand(-1, -1, 4))
        return list(zip(chosen, best, pairs % classes, strict=True))
