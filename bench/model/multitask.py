"""The network: one trunk, one neck, one head a task, learning in parts (paper, Figure 3).

Legend: B images, H W pixels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from bench.data.sample import Batch
from bench.model.matching import match_all


class MultiTask(nn.Module):
    """A ResNet-50, an FPN and the heads of the tasks, in parts that learn or stay as they are.

    `mean` and `std` are those of the checkpoint, for pixels in [0, 1]; with `bgr` it takes the
    channels in that order, and they are given in it. An `adapter` puts another P5 in the place of
    the neck's, with the help of the `text` encoder, which is no part that could learn. What the
    backbone puts out beside C2 to C5 goes to the adapter.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        heads: Mapping[str, nn.Module],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        bgr: bool = False,
        adapter: nn.Module | None = None,
        text: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.adapter = adapter
        self.text = text
        self.heads = nn.ModuleDict(heads)
        self.bgr = bgr
        self.scale: Tensor
        self.shift: Tensor
        scale = 1 / (255 * torch.tensor(std))
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        shift = -torch.tensor(mean) / torch.tensor(std)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        self.learns: frozenset[str] = frozenset()

    def compile_maps(self) -> None:
        """Let torch.compile fuse what makes feature maps: backbone, neck and pixel decoders.

        These have one shape for all batches padded to one size. Each shape, and each part learning
        or not, is compiled once; were there too many of them, it would be an error, and no return
        to uncompiled code.
        """
        decoders = (getattr(head, "pixel_decoder", None) for head in self.heads.values())
        for part in (self.backbone, self.neck, *decoders):
            if part is not None:
                part.compile(dynamic=False, fullgraph=True)

    def learn(self, parts: tuple[str, ...]) -> list[nn.Parameter]:
        """Let exactly these of backbone, neck, adapter and heads learn; return their parameters.

        A part that does not learn gets no gradients; a backbone that does not learn also keeps its
        BatchNorm statistics and builds no graph. The heads' dropout acts whenever the model trains.
        """
        self.learns = frozenset(parts)
        for name, part in self.named_children():
            part.requires_grad_(name in self.learns)
        self.train()
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> "MultiTask":
        """Switch to training or testing; a backbone that does not learn stays in testing mode."""
        super().train(mode)
        if "backbone" not in self.learns:
            self.backbone.eval()
        return self

    def forward(
        self,
        images: UInt8[Tensor, "B 3 H W"],
        sizes_hw: Int[Tensor, "B 2"],
        boxes_xyxy: list[Float[Tensor, "_ 4"]] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """Return each head's dict of outputs for uint8 RGB images padded to a multiple of 32.

        `sizes_hw` are the sizes before padding; `boxes_xyxy`, given to learn, are the target boxes:
        a detection head may have to know where to look. The padding is zero after normalisation, so
        that it looks the same for every checkpoint.
        """
        ordered = images.flip(1) if self.bgr else images
        normalised = ordered * self.scale + self.shift
        normalised = normalised * _inside(images.shape[-2:], sizes_hw)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "backbone" in self.learns):
            maps = self.backbone(normalised)
        pyramid = self.neck(maps[:4])
        if self.adapter is not None:
            pyramid[-1] = self.adapter(pyramid[-1], self.text, *maps[4:])
        boxes = {"sizes_hw": sizes_hw, "boxes_xyxy": boxes_xyxy}
        return {
            task: head(pyramid, **(boxes if task == "det" else {}))
            for task, head in self.heads.items()
        }


class MultiTaskLoss:
    """The weighted sum of the tasks' losses; a frame counts for the tasks whose label it has."""

    def __init__(self, losses: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        self.losses = dict(losses)
        self.weights = dict(weights)

    def __call__(self, outputs: Mapping[str, dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
        """Return each task's loss, weighted; their sum is what is minimised.

        Losses that match predictions with targets ask for that all at once.
        """
        asked = {task: (outputs[task], *_targets(task, batch)) for task in self.losses}
        asking = [task for task, loss in self.losses.items() if hasattr(loss, "question")]
        questions = [self.losses[task].question(*asked[task]) for task in asking]
        answers = zip(asking, match_all(questions), strict=True) if asking else ()
        pairs = {task: {"pairs": found} for task, found in answers}
        terms: dict[str, Any] = {
            task: self.weights[task] * sum(loss(*asked[task], **pairs.get(task, {})).values())
            for task, loss in self.losses.items()
        }
        return terms


def _targets(task: str, batch: Batch) -> tuple[Any, ...]:
    """Return what a task's loss compares the outputs with."""
    labelled = batch.labelled[task]
    if task == "det":
        return batch.boxes_xyxy, batch.classes, batch.sizes_hw, labelled
    return getattr(batch, task), labelled


def _inside(size_hw: torch.Size, sizes_hw: Tensor) -> Tensor:
    """Return [B, 1, H, W]: True where a pixel belongs to the image, False in the padding."""
    rows = torch.arange(size_hw[0], device=sizes_hw.device)[:, None] < sizes_hw[:, 0, None, None]
    columns = torch.arange(size_hw[1], device=sizes_hw.device) < sizes_hw[:, 1, None, None]
    return (rows & columns)[:, None]
