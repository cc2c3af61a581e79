"""One frame decoded, and a batch of them.

Legend: B images, H W pixels, N boxes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bench.data import DataError
from bench.data.bdd100k import Frame, Of2018
from bench.data.boxes import Boxes
from bench.data.classes import CLASSES, DRIV_OF_2018, IGNORE


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One frame: its image and the labels it has.

    `image` is uint8 [3, H, W], RGB. `sem` and `driv` are uint8 label maps [H, W] with 255 for
    pixels that are not evaluated; `boxes_xyxy` is float32 [N, 4] in pixels of this image and
    `classes` int64 [N]. None means "not annotated"; no boxes means "empty".
    """

    name: str
    image: Tensor
    sem: Tensor | None = None
    driv: Tensor | None = None
    boxes_xyxy: Tensor | None = None
    classes: Tensor | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Return (height, width) of the image."""
        return (self.image.shape[-2], self.image.shape[-1])

    def pinned(self) -> Self:
        """Return it with image and label maps in memory from which a GPU copies on its own."""
        return self._with_pixels(Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        """Return it with image and label maps on a device; boxes stay: they are scaled."""
        return self._with_pixels(lambda tensor: tensor.to(device, non_blocking=True))

    def _with_pixels(self, change: Callable[[Tensor], Tensor]) -> Self:
        pixels = {name: getattr(self, name) for name in ("image", "sem", "driv")}
        return replace(self, **{n: change(t) for n, t in pixels.items() if t is not None})


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Samples padded at the right and the bottom to one size.

    `images` is uint8 [B, 3, H, W]; `sizes_hw` int64 [B, 2] the sizes before padding; `sem` and
    `driv` uint8 [B, H, W], 255 wherever there is nothing to learn; `boxes_xyxy` and `classes` one
    tensor an image; `labelled` says for each task which images carry its label, bool [B].
    """

    names: tuple[str, ...]
    images: Tensor
    sizes_hw: Tensor
    sem: Tensor
    driv: Tensor
    boxes_xyxy: list[Tensor]
    classes: list[Tensor]
    labelled: dict[str, Tensor]

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device; from pinned memory the copies do not wait."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            images=move(self.images),
            sizes_hw=move(self.sizes_hw),
            sem=move(self.sem),
            driv=move(self.driv),
            boxes_xyxy=[move(boxes) for boxes in self.boxes_xyxy],
            classes=[move(classes) for classes in self.classes],
            labelled={task: move(mask) for task, mask in self.labelled.items()},
        )

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        several = (*self.boxes_xyxy, *self.classes, *self.labelled.values())
        return [self.images, self.sizes_hw, self.sem, self.driv, *several]


def decode(frame: Frame, tasks: tuple[str, ...]) -> Sample:
    """Decode a frame's image and its labels for the given tasks, at the size they are stored in.

    Crowd regions and boxes without area are left out: they are not training targets. An unreadable
    file or a class id that does not exist raises `DataError` with the file's name.
    """
    boxes_xyxy, classes = _targets(frame.det) if frame.det and "det" in tasks else (None, None)
    return Sample(
        name=frame.name,
        image=_decode(frame.image, "RGB").permute(2, 0, 1),
        sem=_label_map(frame.sem, "sem") if "sem" in tasks else None,
        driv=_label_map(frame.driv, "driv") if "driv" in tasks else None,
        boxes_xyxy=boxes_xyxy,
        classes=classes,
    )


def padded(sizes_hw: Iterable[tuple[int, int]], pad_to: int) -> tuple[int, int]:
    """Return the largest height and width, each rounded up to a multiple of `pad_to`."""
    height, width = (-(-max(side) // pad_to) * pad_to for side in zip(*sizes_hw, strict=True))
    return height, width


def collate(samples: list[Sample], size_hw: tuple[int, int]) -> Batch:
    """Pad samples to a size, below and on the right, where their pixels are.

    In memory the channels of an image's pixel lie together, as decoders leave them and as
    convolutions are quickest with.
    """
    count, eight_bits = len(samples), {"dtype": torch.uint8, "device": samples[0].image.device}
    images = torch.empty(count, 3, *size_hw, **eight_bits, memory_format=torch.channels_last)
    maps = {task: torch.empty(count, *size_hw, **eight_bits) for task in ("sem", "driv")}
    for i, sample in enumerate(samples):
        _pad(sample.image, images[i], 0)
        for task, padded in maps.items():
            _pad(getattr(sample, task), padded[i], IGNORE)
    labelled = {
        "sem": [s.sem is not None for s in samples],
        "driv": [s.driv is not None for s in samples],
        "det": [s.boxes_xyxy is not None for s in samples],
    }
    return Batch(
        names=tuple(s.name for s in samples),
        images=images,
        sizes_hw=torch.tensor([s.size_hw for s in samples]),
        sem=maps["sem"],
        driv=maps["driv"],
        boxes_xyxy=[torch.zeros(0, 4) if s.boxes_xyxy is None else s.boxes_xyxy for s in samples],
        classes=[torch.zeros(0).long() if s.classes is None else s.classes for s in samples],
        labelled={task: torch.tensor(flags) for task, flags in labelled.items()},
    )


def _pad(pixels: Tensor | None, place: Tensor, around: int) -> None:
    """Write pixels [..., h, w], if there are any, into the corner of a place, and around them."""
    h, w = (0, 0) if pixels is None else pixels.shape[-2:]
    place[..., :h, w:] = around
    place[..., h:, :] = around
    if pixels is not None:
        place[..., :h, :w] = pixels


def _targets(boxes: Boxes) -> tuple[Tensor, Tensor]:
    sides = boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]
    keep = ~boxes.crowd & (sides > 0).all(axis=1)
    return (
        torch.from_numpy(boxes.boxes_xyxy[keep]).float(),
        torch.from_numpy(boxes.classes[keep]),
    )


def _label_map(file: Path | Of2018 | None, task: str) -> Tensor | None:
    """Return a mask's classes, uint8 [H, W]; the ids of 2018 become today's."""
    if file is None:
        return None
    if isinstance(file, Of2018):
        file, today = file.file, (*DRIV_OF_2018, *range(len(DRIV_OF_2018), 256))
    else:
        today = None
    label = _decode(file, "L", today)
    # In eight bits 255 + 1 is 0: one pass over the pixels is enough while all is well.
    if (label + 1).max() > len(CLASSES[task]):
        unknown = label[(label >= len(CLASSES[task])) & (label != IGNORE)]
        raise DataError(
            f"{file} has pixels of class {int(unknown[0])}; {task} has the classes 0 to "
            f"{len(CLASSES[task]) - 1}, and {IGNORE} for none. Is it a mask of train ids?"
        )
    return label


def _decode(file: Path, mode: str, become: Sequence[int] | None = None) -> Tensor:
    """Return a file's pixels, uint8 [H, W] or [H, W, 3], in one of Pillow's modes.

    With `become` each value v becomes `become[v]`.
    """
    try:
        with Image.open(file) as image:
            pixels = image if image.mode == mode else image.convert(mode)
            return torch.from_numpy(np.array(pixels if become is None else pixels.point(become)))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} cannot be decoded ({error}). Copy it again.") from None
