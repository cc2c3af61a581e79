"""Parts that more than one neck or head is built of.

Legend: `B` images, `Q` queries, `T` tokens, `C` channels, `H W` rows and columns of a map.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def precise(x: Tensor) -> Tensor:
    """In float32 what has less, and all else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def xavier_conv(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size, initialised as by detectron2's `c2_xavier_fill`."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def xavier_matrices(module: nn.Module) -> None:
    """Draw every parameter of two or more dimensions anew, Xavier-uniform; leave the others."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def sine_position(
    height: int, width: int, channels: int, device: torch.device
) -> Float[Tensor, "channels height width"]:
    """Where a cell of a map lies, as sines and cosines: first half by row, second half by column.

    Rows and columns count from 1 and are scaled so that the last one is 2 pi; the wavelengths grow
    geometrically up to 10000 (facebookresearch/detr, `PositionEmbeddingSine`, normalised).
    """
    exponents = torch.arange(channels // 4, device=device) / (channels // 4)

    def encode(length: int) -> Float[Tensor, "length half"]:
        place = torch.arange(1, length + 1, device=device) * (2 * math.pi / (length + 1e-6))
        angles = place[:, None] / 10000**exponents
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).permute(2, 0, 1)


class MLP(nn.Sequential):
    """Linear layers of one width with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        between = [part for linear in linears[:-1] for part in (linear, nn.ReLU())]
        super().__init__(*between, linears[-1])


class TransformerDecoderLayer(nn.Module):
    """One post-norm decoder layer of DETR: queries attend to each other, then to the tokens.

    The positions are added to what is compared (queries and keys), never to what is passed on.
    """

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.expand = nn.Linear(width, ffn)
        self.reduce = nn.Linear(ffn, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        xavier_matrices(self)

    def forward(
        self,
        x: Float[Tensor, "B Q C"],
        query_position: Float[Tensor, "#B Q C"],
        keys: Float[Tensor, "B T C"],
        tokens: Float[Tensor, "B T C"],
    ) -> Float[Tensor, "B Q C"]:
        """The queries one layer further; `keys` are the tokens with their positions added."""
        placed = x + query_position
        attended, _ = self.self_attention(placed, placed, x, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        attended, _ = self.cross_attention(x + query_position, keys, tokens, need_weights=False)
        x = self.norm2(x + self.dropout(attended))
        expanded = self.reduce(self.dropout(F.relu(self.expand(x))))
        return self.norm3(x + self.dropout(expanded))
