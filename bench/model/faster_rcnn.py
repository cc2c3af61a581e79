"""Faster R-CNN: regions proposed from anchors, then each classified and refined on its own.

Legend: `B` images, `N` boxes of an image, `A` anchors of all levels, `R` regions of all images,
`K` classes, `C` channels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import MultiScaleRoIAlign

SHAPES = (0.5, 1.0, 2.0)  # height / width of the three anchors at a place
FINEST_STRIDE = 4  # of P2
BINS = 7  # the side of what is read from a region


class FasterRCNN(nn.Module):
    """The convolutional detection head: a region proposal network and a head for the regions.

    P2..P5 give the regions' features; the proposals come from those and from P6, every second cell
    of P5. `anchors` are the sides of the anchors in pixels, one for each of P2..P6. The proposal
    network keeps at most `proposals` regions of an image, in training mode twice as many, and
    learning looks at `samples` of those, at most a quarter of which hold an object.
    Source: torchvision's `FasterRCNN`, of whose parts, numbers and starting values it is made; the
    names of its tensors are the same. 14,545,990 parameters for ten classes and the default sizes.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 256,
        anchors: tuple[int, ...] = (32, 64, 128, 256, 512),
        proposals: int = 1000,
        samples: int = 512,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        kept = {"training": 2 * proposals, "testing": proposals}
        self.rpn = RegionProposalNetwork(
            AnchorGenerator(tuple((side,) for side in anchors), (SHAPES,) * len(anchors)),
            RPNHead(channels, len(SHAPES)),
            # Of the four numbers about learning none is read: see FasterRCNNLoss.
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=kept,
            post_nms_top_n=kept,
            nms_thresh=0.7,
        )
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(["P2", "P3", "P4", "P5"], output_size=BINS, sampling_ratio=2),
            TwoMLPHead(channels * BINS * BINS, hidden),
            FastRCNNPredictor(hidden, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )

    def forward(
        self,
        pyramid: list[Float[Tensor, "B C _ _"]],
        sizes_hw: Int[Tensor, "B 2"],
        boxes_xyxy: list[Float[Tensor, "_ 4"]] | None = None,
    ) -> dict[str, Tensor]:
        """What is said of every anchor and of some regions, from P2..P5 and unpadded image sizes.

        - `anchors_xyxy` `[A, 4]`: in pixels, the same for all images;
        - `objectness` `[B, A]`: the logit that an anchor holds an object; `shifts` `[B, A, 4]`:
          from the anchor to the object's box;
        - `regions_xyxy` `[R, 4]` and `images` `[R]`: the regions and whose they are, image by
          image; they are not followed back into the anchors;
        - `logits` `[R, K + 1]`: of the classes, the first being "no object"; `moves`
          `[R, K + 1, 4]`: from the region to the box, were it of that class;
        - `sizes_hw` `[B, 2]`: as they were given.

        The regions are those proposed. To learn, give the target boxes of each image: they become
        regions too, and a sample is drawn from torch's global generator.
        """
        levels = [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]
        height, width = pyramid[0].shape[-2:]
        padded_hw = (FINEST_STRIDE * height, FINEST_STRIDE * width)
        per_level, per_level_shifts = self.rpn.head(levels)
        flat = concat_box_prediction_layers(per_level, per_level_shifts)
        objectness, shifts = (x.float().unflatten(0, (len(sizes_hw), -1)) for x in flat)
        anchors = self._anchors(levels, padded_hw)
        boxes = self.rpn.box_coder.decode(
            shifts.detach().flatten(0, 1), [anchors] * len(sizes_hw)
        ).view_as(shifts)
        counts = [one[0].numel() for one in per_level]
        regions, _ = self.rpn.filter_proposals(boxes, objectness, _pairs(sizes_hw), counts)
        if boxes_xyxy is not None:
            regions = self._sample(regions, boxes_xyxy)
        maps = dict(zip(self.roi_heads.box_roi_pool.featmap_names, pyramid, strict=True))
        pooled = self.roi_heads.box_roi_pool(maps, regions, [padded_hw] * len(sizes_hw))
        logits, moves = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        numbers = torch.arange(len(sizes_hw), device=sizes_hw.device)
        found = torch.tensor([len(one) for one in regions], device=sizes_hw.device)
        return {
            "anchors_xyxy": anchors,
            "objectness": objectness.squeeze(-1),
            "shifts": shifts,
            "regions_xyxy": torch.cat(regions),
            "images": numbers.repeat_interleave(found),
            "logits": logits,
            "moves": moves.unflatten(1, (-1, 4)),
            "sizes_hw": sizes_hw,
        }

    def _anchors(
        self, levels: list[Float[Tensor, "B C _ _"]], padded_hw: tuple[int, int]
    ) -> Float[Tensor, "A 4"]:
        """The anchors of one image, in float32 whatever the maps are in."""
        thin = [level[:1, :1].float() for level in levels]
        image = thin[0].new_zeros(()).expand(1, 1, *padded_hw)  # only its size is read
        (anchors,) = self.rpn.anchor_generator(ImageList(image, [padded_hw]), thin)
        return anchors

    @torch.no_grad()
    def _sample(
        self, regions: list[Float[Tensor, "_ 4"]], boxes_xyxy: list[Float[Tensor, "_ 4"]]
    ) -> list[Float[Tensor, "_ 4"]]:
        """The target boxes and some of the regions, of which enough hold a target or do not."""
        targets = [
            {"boxes": real, "labels": torch.ones(len(real), dtype=torch.int64, device=real.device)}
            for real in (boxes[has_area(boxes)] for boxes in boxes_xyxy)
        ]
        return self.roi_heads.select_training_samples(regions, targets)[0]

    def detect(
        self, outputs: dict[str, Tensor]
    ) -> list[tuple[Float[Tensor, "N 4"], Float[Tensor, " N"], Int64[Tensor, " N"]]]:
        """For each image at most 100 boxes with their scores (falling) and class ids.

        Scores are probabilities above 0.05. Boxes of one class that overlap by more than half are
        reduced to the best of them. Boxes are pixels of the network's input, inside the image.
        """
        sizes_hw = outputs["sizes_hw"]
        counts = outputs["images"].bincount(minlength=len(sizes_hw)).tolist()
        found = self.roi_heads.postprocess_detections(
            outputs["logits"].float(),
            outputs["moves"].float().flatten(1),
            list(outputs["regions_xyxy"].split(counts)),
            _pairs(sizes_hw),
        )
        return [(boxes, scores, classes - 1) for boxes, scores, classes in zip(*found, strict=True)]


def has_area(boxes_xyxy: Float[Tensor, "N 4"]) -> Bool[Tensor, " N"]:
    """Whether a box is more than a line: no region is a line, so none could answer."""
    return (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(1)


def _pairs(sizes_hw: Int[Tensor, "B 2"]) -> list[tuple[int, int]]:
    return [(height, width) for height, width in sizes_hw.tolist()]
