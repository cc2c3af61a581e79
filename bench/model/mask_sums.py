"""What the mask losses are made of, summed over the pixels without keeping anything of a pixel.

Legend: `L` decoder layers, `M` matched masks, `P` pixels of the labels, `h w` rows and columns of
the predicted masks.
At an image's full size a dozen masks of six layers are tens of millions of numbers. Autograd would
write and read each a dozen times, and keep half of that. Here they are made a layer at a time, on a
CPU a few thousand pixels at a time, once for the sums and once more for their gradient, which is
written out.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.model.focal import ALPHA

IN_CACHE = 2**17  # numbers of which a dozen arrays fit into a processor's cache


def mask_sums(
    masks: Float[Tensor, "L M h w"],
    truth: UInt8[Tensor, "P M"],
    classes: Int64[Tensor, "L M"],
    counted: Float[Tensor, "P M"],
    size_hw: tuple[int, int],
) -> tuple[Float[Tensor, "L M"], Float[Tensor, "L M"], Float[Tensor, "L M"]]:
    """Each mask's focal loss, its overlap with the pixels of its class, and the size of both.

    `masks` are logits, resized (bilinear) to the labels' `size_hw`. `truth` is the class of every
    pixel of the mask's image; `counted` is 1, or 0 for a pixel to be left out, which is of no class
    then. The gradient is autograd's but for rounding; there is no second one.
    """
    return _MaskSums.apply(masks, truth, classes, counted, size_hw)


class _MaskSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        masks: Tensor,
        truth: Tensor,
        classes: Tensor,
        counted: Tensor,
        size_hw: tuple[int, int],
    ) -> tuple[Tensor, ...]:
        # Compared in eight bits: next to 64 it takes four times as long.
        classes = classes.to(truth.dtype)
        ctx.save_for_backward(masks, truth, classes, counted)
        ctx.size_hw = size_hw
        sums = masks.new_zeros(3, *classes.shape)
        for layer, mask in enumerate(masks):
            focal, overlap, sizes = sums[:, layer]
            for x, true, count in _parts(_by_pixel(mask, size_hw), truth, counted):
                inside, turn, wrong, weight = _compared(x, true, classes[layer], count)
                chance = wrong.sigmoid()
                focal += F.softplus(wrong).mul_(chance).mul_(chance).mul_(weight).sum(0)
                probability = chance.mul_(turn).add_(inside)
                overlap += (probability * inside).sum(0)
                sizes += probability.mul_(count).add_(inside).sum(0)
        sums[0] *= 1 - ALPHA
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *upstream: Tensor
    ) -> tuple[Any, ...]:
        focal, overlap, sizes = upstream
        focal = (1 - ALPHA) * focal
        masks, truth, classes, counted = ctx.saved_tensors
        gradient = torch.empty_like(masks)
        for layer, mask in enumerate(masks):
            with torch.enable_grad():
                leaf = mask.detach().requires_grad_()
                logits = _by_pixel(leaf, ctx.size_hw)
            by_pixel = torch.empty_like(logits)
            parts = _parts(logits.detach(), truth, counted, by_pixel)
            for x, true, count, wanted in parts:
                inside, turn, wrong, weight = _compared(x, true, classes[layer], count)
                chance = wrong.sigmoid()
                right = 1 - chance
                # d(chance^2 softplus) = chance^2 (2 right softplus + chance)
                slope = F.softplus(wrong).mul_(right).mul_(2).add_(chance).mul_(chance)
                slope.mul_(weight).mul_(turn).mul_(focal[layer])
                slope += right.mul_(inside.mul_(overlap[layer]).add_(count * sizes[layer]))
                torch.mul(slope, chance, out=wanted)
            (gradient[layer],) = torch.autograd.grad(logits, leaf, by_pixel)
        return gradient, None, None, None, None


def _compared(
    x: Tensor, true: Tensor, classes: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether a pixel is of the mask's class (1, 0), the sign that turns a logit (-1, 1) into that
    of being wrong, that logit, and the pixel's weight, where that outside of the mask is 1."""
    # Straight from bool to float takes four times as long.
    inside = (true == classes).view(torch.uint8).to(x.dtype)
    turn = inside.mul(-2).add_(1)
    weight = counted.add(inside, alpha=ALPHA / (1 - ALPHA) - 1)
    return inside, turn, x * turn, weight


def _by_pixel(mask: Float[Tensor, "M h w"], size_hw: tuple[int, int]) -> Float[Tensor, "P M"]:
    """The masks of a layer at the labels' size."""
    # Pixels first, masks last: resizing and its gradient are several times faster so on a CPU. The
    # gradient of `sized[0]` would be laid out the other way round.
    sized = mask[None].contiguous(memory_format=torch.channels_last)
    if sized.shape[-2:] != size_hw:
        sized = F.interpolate(sized, size=size_hw, mode="bilinear")
    return sized.permute(0, 2, 3, 1).flatten(0, 2)


def _parts(*arrays: Shaped[Tensor, "P M"]) -> Iterator[tuple[Tensor, ...]]:
    """The same pixels of all arrays: some after the other on a CPU, all at once on a GPU."""
    pixels, masks = arrays[0].shape
    step = max(IN_CACHE // masks, 1) if arrays[0].device.type == "cpu" else pixels
    return zip(*(array.split(step) for array in arrays), strict=True)
