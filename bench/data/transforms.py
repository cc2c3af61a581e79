"""Sizes: how large a frame is when the network sees it (paper section 5.1: scale, nothing else)."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from bench.data.sample import Sample


def fit(size_hw: tuple[int, int], short: int, max_long: int) -> tuple[int, int]:
    """Return the size with short side `short`, or less where the long side would pass `max_long`.

    The sides keep their proportion: 720x1280 with short 600 is 600x1067.
    """
    scale = min(short / min(size_hw), max_long / max(size_hw))
    return (round(size_hw[0] * scale), round(size_hw[1] * scale))


def resize(sample: Sample, size_hw: tuple[int, int]) -> Sample:
    """Resize image (bilinear, antialiased), label maps (nearest) and boxes (scaled)."""
    if size_hw == sample.size_hw:
        return sample
    boxes = sample.boxes_xyxy
    if boxes is not None:
        y, x = (new / old for new, old in zip(size_hw, sample.size_hw, strict=True))
        boxes = boxes * torch.tensor([x, y, x, y])
    return replace(
        sample,
        image=resize_image(sample.image, size_hw),
        sem=_nearest(sample.sem, size_hw),
        driv=_nearest(sample.driv, size_hw),
        boxes_xyxy=boxes,
    )


def resize_image(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize a uint8 image [3, H, W], to train and to test alike; a GPU cannot in eight bits."""
    in_bytes = image.device.type == "cpu"
    return _bilinear(image, size_hw) if in_bytes else resize_in_float(image, size_hw)


def resize_in_float(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize a uint8 image [3, H, W] in float32 and round: values differ by 1 at most."""
    return _bilinear(image.float(), size_hw).round().clamp(0, 255).byte()


def _bilinear(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    resized = functional.interpolate(
        image[None], size_hw, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0]


def _nearest(label: Tensor | None, size_hw: tuple[int, int]) -> Tensor | None:
    if label is None:
        return None
    return functional.interpolate(label[None, None], size_hw, mode="nearest-exact")[0, 0]
