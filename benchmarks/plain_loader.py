"""The loader written straight down: all of a sample is made on the CPU, as floats.

Pillow decodes and resizes; the image is normalised, and each class of a label map becomes a mask of
0 and 1, as in the original code bases.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data.bdd100k import Frame
from bench.data.classes import CLASSES
from zoo.catalog import IMAGENET_MEAN, IMAGENET_STD


def samples(frames: list[Frame], size_hw: tuple[int, int]) -> Iterator[dict[str, Tensor]]:
    """Yield the frames at a size: `image` [3, H, W], `sem` [19, H, W] and `driv` [3, H, W]."""
    wide = size_hw[::-1]
    mean, std = (np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for frame in frames:
        image = Image.open(frame.image).convert("RGB").resize(wide, Image.Resampling.BILINEAR)
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std
        sample = {"image": torch.from_numpy(pixels).permute(2, 0, 1).contiguous()}
        for task in ("sem", "driv"):
            label = Image.open(getattr(frame, task)).resize(wide, Image.Resampling.NEAREST)
            classes = np.arange(len(CLASSES[task]))[:, None, None]
            sample[task] = torch.from_numpy((np.asarray(label) == classes).astype(np.float32))
        yield sample
