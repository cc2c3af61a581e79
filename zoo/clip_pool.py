"""CLIP's attention pool, asked by all cells of C5 and not by their mean alone.

Legend: `B` images, `C` channels of C5, `h w` its rows and columns, `T` tokens (1 + h w),
`D` features.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.clip_parts import read_part
from zoo.resnet50 import ResNet50, Size

HEAD = 64  # channels of an attention head
GRID = 7  # rows and columns of C5 in CLIP's own training
SIZES = {"full": (2048, 1024), "tiny": (512, 128)}


class AttentionPool(nn.Module):
    """Self-attention over the mean of C5 and its cells (paper, equation 2, not yet normalised).

    CLIP itself keeps the mean's token alone. For another grid than 7x7 the positions are
    interpolated. Source: raoyongming/DenseCLIP `AttentionPool2d`.
    """

    def __init__(self, size: Size = "full") -> None:
        super().__init__()
        channels, features = SIZES[size]
        self.positional_embedding = nn.Parameter(torch.zeros(1 + GRID * GRID, channels))
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, features)

    def forward(self, c5: Float[Tensor, "B C h w"]) -> Float[Tensor, "B T D"]:
        """What the mean (first) and every cell, row by row, see in the map."""
        cells = c5.flatten(2).mT
        x = torch.cat((cells.mean(dim=1, keepdim=True), cells), dim=1)
        x = x + self._positions(c5.shape[-2], c5.shape[-1])
        projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (one.unflatten(-1, (-1, HEAD)).transpose(1, 2) for one in projected)
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.c_proj(seen.transpose(1, 2).flatten(2))

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "T C"]:
        mean, cells = self.positional_embedding[:1], self.positional_embedding[1:]
        if (rows, columns) == (GRID, GRID):
            return self.positional_embedding
        grid = cells.T.unflatten(1, (GRID, GRID))[None]
        resized = F.interpolate(grid, size=(rows, columns), mode="bilinear")
        return torch.cat((mean, resized[0].flatten(1).T))


class ImageTower(nn.Module):
    """A trunk with its attention pool behind it."""

    def __init__(self, trunk: ResNet50, pool: AttentionPool) -> None:
        super().__init__()
        self.trunk = trunk
        self.pool = pool

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """C2 to C5 of normalised images, and what the pool makes of C5, [B, T, D]."""
        maps = self.trunk(images)
        return [*maps, self.pool(maps[-1])]


def load_pool(path: Path, *, size: Size = "full") -> AttentionPool:
    """The attention pool in a canonical file that `zoo.clip_parts` made.

    "tiny" takes the leading slices of its tensors.
    """
    tensors = read_part(path, "pool")[0]
    with torch.device("meta"):
        pool = AttentionPool(size)
    wanted = {name: tuple(map(slice, tensor.shape)) for name, tensor in pool.state_dict().items()}
    own = {name: tensors.pop(name)[leading].clone() for name, leading in wanted.items()}
    pool.load_state_dict(own, assign=True)
    return pool
