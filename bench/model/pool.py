"""RoIAlign over a feature pyramid: the features inside a box, from the level that suits its size.

Legend: `B` images, `N` boxes, `C` channels, `P` cells of all levels and images, `S` samples.
Instead of one call for every level, whose boxes have to be looked up on the host, the levels lie
behind each other in one table and every bin is a weighted sum of 16 of its rows: shapes are fixed,
nothing waits for the device, and on a CPU it is several times faster.
"""

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from bench.model.layers import precise

FINEST, COARSEST = 2, 5  # P2..P5, level k has stride 2**k
BINS = 7
SAMPLES = 2 * BINS  # along each side: two in a bin


class Table(NamedTuple):
    """The cells of a pyramid as rows, by level, image, row and column."""

    cells: Float[Tensor, "P C"]
    sizes_hw: Int64[Tensor, "4 2"]
    starts: Int64[Tensor, " 4"]  # of each level in `cells`


def make_table(pyramid: list[Float[Tensor, "B C _ _"]]) -> Table:
    """The pyramid P2..P5 laid out for `pool`, in float32 or more."""
    cells = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in pyramid])
    sizes_hw = tuple((x.shape[-2], x.shape[-1]) for x in pyramid)
    return Table(precise(cells), *_places(len(pyramid[0]), sizes_hw, pyramid[0].device))


@lru_cache  # to copy them to a device is to wait for it
def _places(
    images: int, sizes_hw: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Int64[Tensor, "4 2"], Int64[Tensor, " 4"]]:
    """The sizes of the levels, and where each starts in the table."""
    counts = [images * height * width for height, width in sizes_hw]
    with torch.inference_mode(False):
        starts = torch.tensor([0, *accumulate(counts[:-1])], device=device)
        return torch.tensor(sizes_hw, device=device), starts


def level_of(boxes_xyxy: Float[Tensor, "*shape 4"]) -> Int64[Tensor, "*shape"]:
    """The level to pool each box from: 4 for a side of 224 pixels, one up per doubling."""
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).unbind(-1)
    side = (width * height).clamp(min=0).sqrt()
    level = (4 + torch.log2(side / 224 + 1e-8)).floor()
    return level.clamp(FINEST, COARSEST).long()


def pool(table: Table, boxes_xyxy: Float[Tensor, "B N 4"]) -> Float[Tensor, "B N 49 C"]:
    """The features in each box, as 7 x 7 bins, row by row.

    The same numbers as detectron2's `ROIPooler` (RoIAlign aligned, sampling ratio 2). The boxes
    get no gradient.
    """
    # Far outside of every image nothing is sampled; without this a NaN would be an invalid row.
    boxes = precise(boxes_xyxy.detach()).nan_to_num().clamp(-1e6, 1e6)
    images, count = boxes.shape[:2]
    level = level_of(boxes) - FINEST
    scaled = boxes / 2.0 ** (level + FINEST)[..., None]
    height, width = table.sizes_hw[level].unbind(-1)
    columns, column_weights = _samples(scaled[..., 0], scaled[..., 2], width)
    rows, row_weights = _samples(scaled[..., 1], scaled[..., 3], height)
    image = torch.arange(images, device=boxes.device)[:, None]
    first = table.starts[level] + image * height * width
    rows = first[..., None, None] + rows * width[..., None, None]
    # [B, N, 7 rows of bins, 4 rows, 7 columns of bins, 4 columns] -> 16 cells for each bin.
    cells = rows[..., :, :, None, None] + columns[..., None, None, :, :]
    weights = row_weights[..., :, :, None, None] * column_weights[..., None, None, :, :]
    # 32 bits, which embedding_bag's gradient sorts in half the time.
    cells = cells.transpose(3, 4).reshape(-1, 16).int()
    weights = weights.transpose(3, 4).reshape(-1, 16)
    pooled = F.embedding_bag(cells, table.cells, mode="sum", per_sample_weights=weights)
    return pooled.view(images, count, BINS * BINS, -1)


def _samples(
    low: Float[Tensor, "B N"], high: Float[Tensor, "B N"], size: Int64[Tensor, "B N"]
) -> tuple[Int64[Tensor, "B N 7 4"], Float[Tensor, "B N 7 4"]]:
    """The cells along one side that each bin reads, and their weights, which sum to at most 1.

    A sample lies between two cells; beyond the border the last cell counts, and more than one
    cell beyond it nothing.
    """
    steps = (torch.arange(SAMPLES, device=low.device) + 0.5) / SAMPLES
    place = low[..., None] + (high - low)[..., None] * steps - 0.5
    last = (size - 1)[..., None]
    inside = (place >= -1) & (place <= last + 1)
    place = torch.minimum(place.clamp(min=0), last)
    before = place.floor()
    part = place - before
    cells = torch.stack((before, torch.minimum(before + 1, last)), dim=-1).long()
    weights = torch.stack((1 - part, part), dim=-1) * inside[..., None] / 2
    return cells.unflatten(2, (BINS, 2)).flatten(3), weights.unflatten(2, (BINS, 2)).flatten(3)
