"""In which of BDD100K's packagings a folder has its images and labels.

            since 2021                         2018
    boxes   labels/det_20/det_<split>.json     labels/bdd100k_labels_images_<split>.json, or one
                                               file a frame: 100k/<split>/<name>.json
    driv    labels/drivable/masks/<split>/     drivable_maps/labels/<split>/<name>_drivable_id.png
    sem     labels/sem_seg/masks/<split>/      seg/labels/<split>/<name>_train_id.png
    images  images/{100k,10k}/<split>/         the same, seg/images/<split>/, 100k/<split>/

Each label is taken from the newest packaging that has both splits, and where none has both, each
split from its newest. Source: bdd100k/bdd100k doc/source/download.rst; ucbdrive/bdd-data.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.data import DataError
from bench.data.classes import TASKS

SPLITS = ("train", "val")
IMAGES = ("images/100k/{}", "100k/{}", "images/10k/{}", "10k/{}", "seg/images/{}")
OF_10K = IMAGES[2:]  # those that sem masks are of


@dataclass(frozen=True, kw_only=True)
class Packaging:
    """One form in which a task's labels are published: a file a split, or a folder of files."""

    name: str
    place: str  # within the data folder, with {} for the split
    suffix: str = ""  # of a folder's files, behind the frame's name; empty: `place` is a file
    mark: str = ""  # may stand between name and suffix
    archive: str = ""  # that of today, where there is one

    def at(self, split: str) -> str:
        """Return where the labels of a split are, relative to the data folder."""
        return self.place.format(split)

    def has(self, root: Path, split: str) -> bool:
        """Return whether a data folder has labels of a split in this form."""
        where = root / self.at(split)
        return _holds(where, self.suffix) if self.suffix else where.is_file()


_EACH = {"name": "2018, a file a frame", "suffix": ".json"}
_DRIV = {"suffix": ".png", "mark": "_drivable_id"}
_SEM = {"suffix": ".png", "mark": "_train_id"}

PACKAGINGS: Mapping[str, tuple[Packaging, ...]] = {  # the newest first
    "sem": (
        Packaging(
            name="masks of 2021",
            place="labels/sem_seg/masks/{}",
            archive="bdd100k_sem_seg_labels_trainval.zip",
            **_SEM,
        ),
        Packaging(name="masks of 2018", place="seg/labels/{}", **_SEM),
    ),
    "driv": (
        Packaging(
            name="masks of 2021",
            place="labels/drivable/masks/{}",
            archive="bdd100k_drivable_labels_trainval.zip",
            **_DRIV,
        ),
        Packaging(name="maps of 2018", place="drivable_maps/labels/{}", **_DRIV),
    ),
    "det": (
        Packaging(
            name="det_20",
            place="labels/det_20/det_{}.json",
            archive="bdd100k_det_20_labels_trainval.zip",
        ),
        Packaging(name="2018, one list", place="labels/bdd100k_labels_images_{}.json"),
        Packaging(place="labels/100k/{}", **_EACH),
        Packaging(place="100k/{}", **_EACH),
        Packaging(place="images/100k/{}", **_EACH),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a data folder has: for each split and task its packaging, and the folders of images."""

    labels: dict[tuple[str, str], Packaging]  # by (split, task)
    images: dict[str, tuple[str, ...]]  # by split
    unused: dict[str, tuple[str, ...]]  # by task: older packagings that are there as well

    def names(self) -> dict[str, str]:
        """Return in words which packaging each task's labels are in."""
        said = {}
        for task in TASKS:
            names = [self.labels[split, task].name for split in SPLITS]
            both = " and ".join(f"{s}: {name}" for s, name in zip(SPLITS, names, strict=True))
            said[task] = names[0] if len(set(names)) == 1 else both
        return said


def find(root: Path) -> Found:
    """Return in which packagings a data folder has its labels.

    A folder that is no BDD100K folder, or lacks the labels of a task and split, raises `DataError`.
    """
    images = {split: _images(root, split) for split in SPLITS}
    there = {
        (split, task): [one for one in PACKAGINGS[task] if one.has(root, split)]
        for split in SPLITS
        for task in TASKS
    }
    if not any(images.values()) or not any(there.values()):
        raise DataError(
            f"{root} is not a BDD100K folder: it has no images/ and labels/. "
            "Give --data the folder that holds both, or 'demo'."
        )
    labels, unused = {}, {}
    for task in TASKS:
        both = [one for one in there["train", task] if one in there["val", task]]
        for split in SPLITS:
            if not there[split, task]:
                raise DataError(_missing(root, split, task))
            labels[split, task] = (both or there[split, task])[0]
        chosen = {labels[split, task] for split in SPLITS}
        others = {one.name for s in SPLITS for one in there[s, task] if one not in chosen}
        if others:
            unused[task] = tuple(sorted(others))
    return Found(labels=labels, images=images, unused=unused)


def _images(root: Path, split: str) -> tuple[str, ...]:
    places = [place.format(split) for place in IMAGES]
    return tuple(place for place in places if _holds(root / place, ".jpg"))


def _missing(root: Path, split: str, task: str) -> str:
    newest, *older = PACKAGINGS[task]
    else_at = ", ".join(dict.fromkeys(one.at(split) for one in older))
    return (
        f"{root / newest.at(split)} is missing: the {task} labels of {split} belong there "
        f"({newest.archive}), or as released in 2018 at {else_at}."
    )


def _holds(folder: Path, suffix: str) -> bool:
    """Return whether a folder is there and has a file with this suffix."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(suffix) for entry in entries)
