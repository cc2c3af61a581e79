"""The feature pyramid between the backbone and the heads.

Legend: `B` images, `_` channels, rows and columns, which differ from level to level.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bench.model.layers import xavier_conv


class FPN(nn.Module):
    """Feature pyramid network without norms: P2..P5 from C2..C5, coarse added to fine.

    Source: detectron2 `FPN` with its default settings and no extra levels. 3,344,384 parameters
    for ResNet-50 and 256 channels.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(xavier_conv(inputs, channels, 1) for inputs in in_channels)
        self.outputs = nn.ModuleList(xavier_conv(channels, channels, 3) for _ in in_channels)

    def forward(self, maps: list[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        """The pyramid of `maps`, both ordered from fine to coarse, sizes unchanged."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in reversed(range(len(sums) - 1)):
            size = sums[level].shape[-2:]
            sums[level] = sums[level] + F.interpolate(sums[level + 1], size=size, mode="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]
