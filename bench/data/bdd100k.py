"""BDD100K read into frames, in whichever of its packagings (see `packagings`) the folder has it.

A frame that the boxes' labels do not list is not annotated; a frame listed with no labels is empty.
Masks are 8-bit: sem has the train ids 0-18 and 255 for ignored, driv 0 direct, 1 alternative, 2
background, or as released in 2018 0 background, 1 direct, 2 alternative. Pixels are decoded
elsewhere: this file imports no torch. Source: bdd100k/bdd100k doc/source/format.rst.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from bench.data import index
from bench.data.boxes import Boxes
from bench.data.classes import TASKS
from bench.data.index import Arrays, Listing
from bench.data.packagings import SPLITS, find
from bench.data.survey import survey

PER_FRAME = (
    *("names", "image", "size_hw", "sem", "driv", "det"),
    *("boxes_from", "boxes_xyxy", "classes", "crowd"),
)


@dataclass(frozen=True)
class Of2018:
    """A drivable mask with the ids of 2018."""

    file: Path


@dataclass(frozen=True, eq=False)
class Frame:
    """One image and where its labels are; None stands for a label that does not exist."""

    name: str
    image: Path
    size_hw: tuple[int, int]
    sem: Path | None = None
    driv: Path | Of2018 | None = None
    det: Boxes | None = None

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks whose label this frame has."""
        return tuple(task for task in TASKS if getattr(self, task) is not None)


class Frames(Mapping[str, Frame]):
    """The frames of a split by name, each made of the index's arrays when it is asked for."""

    def __init__(self, listing: Listing, split: str, arrays: Arrays, of_2018: bool) -> None:
        self._images = listing.images[split]
        self._masks = {task: listing.labels[split, task] for task in ("sem", "driv")}
        self._arrays = {name: arrays[f"{split}/{name}"] for name in PER_FRAME}
        self._of_2018 = of_2018
        self._at = {name: i for i, name in enumerate(self._arrays["names"].tolist())}

    def __getitem__(self, name: str) -> Frame:
        i, arrays = self._at[name], self._arrays
        sem, driv = (files.file(name) if arrays[t][i] else None for t, files in self._masks.items())
        height, width = arrays["size_hw"][i].tolist()
        return Frame(
            name=name,
            image=self._images[arrays["image"][i]].file(name),
            size_hw=(height, width),
            sem=sem,
            driv=Of2018(driv) if driv and self._of_2018 else driv,
            det=self._boxes(i) if arrays["det"][i] else None,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def labelled(self, task: str) -> set[str]:
        """Return the names of the frames that carry a task's label."""
        return set(compress(self._at, self._arrays[task].tolist()))

    def _boxes(self, i: int) -> Boxes:
        arrays = self._arrays
        rows = slice(arrays["boxes_from"][i], arrays["boxes_from"][i + 1])
        classes = arrays["classes"][rows].astype(np.int64)
        return Boxes(arrays["boxes_xyxy"][rows], classes, arrays["crowd"][rows])


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """The labelled frames of a folder by split and name, and what was left out and why."""

    root: Path
    train: Frames
    val: Frames
    packaging: dict[str, str]  # in words, for each task
    unused: dict[str, tuple[str, ...]]  # older packagings of a task's labels that are there as well
    excluded: dict[str, list[str]]  # by reason, the names of the frames
    sha256: str  # of which frames there are, which labels they carry, and what these hold

    def labelled(self, split: str) -> dict[str, set[str]]:
        """Return, for each task, the names of the frames of a split that carry its label."""
        frames: Frames = getattr(self, split)
        return {task: frames.labelled(task) for task in TASKS}


def withhold(
    frames: Mapping[str, Frame], carried: Mapping[str, tuple[str, ...]]
) -> dict[str, Frame]:
    """Return the frames that carry a label, each without the labels that it may not carry."""
    return {
        name: replace(frames[name], **{task: None for task in TASKS if task not in tasks})
        for name, tasks in carried.items()
        if tasks
    }


def read(root: Path) -> Dataset:
    """Read a BDD100K folder, from its index where that is there.

    Otherwise every labelled image and mask is opened, to check that it is whole and that their
    sizes agree. What is left out is listed in `excluded`; damage raises `DataError` (see `survey`).
    """
    found = find(root)
    listing = Listing.of(root, found)
    kept = index.load(root, listing)
    if kept is None:
        kept = survey(root, found, listing)
        index.save(root, listing, *kept)
    arrays, words = kept
    of_2018: dict[str, bool] = words["of_2018"]
    ids = dict.fromkeys("2018" if of_2018[split] else "2021" for split in SPLITS)
    train, val = (Frames(listing, split, arrays, of_2018[split]) for split in SPLITS)
    packaging = found.names()
    packaging["driv"] += f", ids of {' and '.join(ids)}"
    return Dataset(
        root=root,
        train=train,
        val=val,
        packaging=packaging,
        unused=found.unused,
        excluded=words["excluded"],
        sha256=words["sha256"],
    )
