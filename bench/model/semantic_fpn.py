"""Semantic FPN: a label map from all levels of the pyramid, by convolutions alone.

Legend: `B` images, `K` classes, `C` channels, `H W` pixels of the padded image, `h w` those of the
finest level (a quarter of them).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LEVELS = 4  # P2..P5, of which each is half as large as the one before


class Block(nn.Module):
    """A 3x3 convolution with GroupNorm and ReLU; the map is then doubled, if asked for."""

    def __init__(self, inputs: int, outputs: int, *, doubles: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(32, outputs)
        self.doubles = doubles
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B C _ _"]:
        """The map at its own size, or at twice that."""
        x = F.relu(self.norm(self.conv(x)))
        return F.interpolate(x, scale_factor=2, mode="bilinear") if self.doubles else x


class SemanticFPN(nn.Module):
    """The convolutional head of one segmentation task: every level brought to P2's size, summed.

    The pyramid has `channels` channels; inside everything is `width` wide (a multiple of 32).
    Source: detectron2's `SemSegFPNHead` with GroupNorm (Kirillov et al. 2019, Panoptic FPN).
    1,626,259 parameters for 19 classes and the default sizes; nothing in it depends on the mode.
    """

    def __init__(self, *, classes: int, channels: int = 256, width: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(width if number else channels, width, doubles=level > 0)
                    for number in range(max(1, level))
                )
            )
            for level in range(LEVELS)
        )
        self.classify = nn.Conv2d(width, classes, 1)
        nn.init.kaiming_normal_(self.classify.weight, mode="fan_out", nonlinearity="relu")
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)

    def forward(self, pyramid: list[Float[Tensor, "B _ _ _"]]) -> dict[str, Tensor]:
        """From P2..P5, each half as large as the one before: `logits` `[B, K, h, w]`."""
        first, *others = (level(x) for level, x in zip(self.levels, pyramid, strict=True))
        for other in others:
            first = first + other
        return {"logits": self.classify(first)}

    def segment(
        self, outputs: dict[str, Tensor], size_hw: tuple[int, int]
    ) -> Float[Tensor, "B K H W"]:
        """The probability of each class, of which the sum is 1, at the padded `size_hw`.

        The caller crops the padding and resizes.
        """
        return enlarged(outputs, size_hw).softmax(1)


def enlarged(outputs: dict[str, Tensor], size_hw: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """The logits at the padded `size_hw`, four times their own size, in float32."""
    return F.interpolate(outputs["logits"].float(), size=size_hw, mode="bilinear")
