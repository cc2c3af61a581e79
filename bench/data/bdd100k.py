"""BDD100K's current packaging read into frames: det_20 boxes, drivable masks, sem_seg masks.

    images/{100k,10k}/{train,val}/<name>.jpg
    labels/det_20/det_{train,val}.json              a Scalabel list of frames
    labels/drivable/masks/{train,val}/<name>.png    0 direct, 1 alternative, 2 background
    labels/sem_seg/masks/{train,val}/<name>.png     train ids 0-18, 255 ignored

A frame that the JSON does not list is not annotated; a frame listed with no labels is empty. Pixels
are decoded elsewhere: this file imports no torch. Source: bdd100k/bdd100k doc/source/format.rst.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data import DataError
from bench.data.classes import DET, DET_ALIASES, DET_CROWD, DRIV, TASKS

SPLITS = ("train", "val")
ENCODING_SAMPLE = 32  # drivable masks that are looked into
_SETS = {"det": "100k", "driv": "100k", "sem": "10k"}
_MASKS = {"driv": "drivable", "sem": "sem_seg"}


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotated boxes of one frame.

    `boxes_xyxy` is float64 [N, 4] in continuous pixel coordinates: the inclusive x2, y2 of the file
    plus one. `classes` is int64 [N], `crowd` bool [N] (a region that is neither right nor wrong).
    """

    boxes_xyxy: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True, eq=False)
class Frame:
    """One image and where its labels are; None stands for a label that does not exist."""

    name: str
    image: Path
    size_hw: tuple[int, int]
    sem: Path | None = None
    driv: Path | None = None
    det: Boxes | None = None
    digest: str = ""  # of the sizes and last bytes of its files, and of its boxes

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks whose label this frame has."""
        return tuple(task for task in TASKS if getattr(self, task) is not None)


@dataclass(frozen=True)
class Dataset:
    """The labelled frames of a folder by split and name, and what was left out and why."""

    root: Path
    train: dict[str, Frame]
    val: dict[str, Frame]
    excluded: dict[str, list[str]] = field(default_factory=dict)

    def labelled(self, split: str) -> dict[str, set[str]]:
        """Return, for each task, the names of the frames of a split that carry its label."""
        frames = getattr(self, split)
        return {task: {n for n, f in frames.items() if task in f.tasks()} for task in TASKS}

    @cached_property
    def sha256(self) -> str:
        """A hash of which frames there are, which labels they carry, and what these hold.

        Of images and masks it sees sizes and last bytes, which compression makes depend on all.
        """
        splits = (self.train, self.val)
        named = [{n: (f.tasks(), f.digest) for n, f in frames.items()} for frames in splits]
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


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
    """Read a BDD100K folder.

    Every labelled image and mask is opened to check that it is whole and that their sizes agree.
    Left out and listed in `excluded`: labels whose image is missing (at most 1 in 20) and frames
    stored on their side (BDD100K has six whose image is 720x1280 under a 1280x720 mask of another
    scene). Some drivable masks are decoded, to tell the ids of 2018 from today's. Everything
    else that does not fit raises `DataError`.
    """
    if not (root / "images").is_dir() or not (root / "labels").is_dir():
        raise DataError(
            f"{root} is not a BDD100K folder: it has no images/ and labels/. "
            "Give --data the folder that holds both, or 'demo'."
        )
    excluded: dict[str, list[str]] = {}
    frames = {split: _read_split(root, split, excluded) for split in SPLITS}
    for split, task in ((split, task) for split in SPLITS for task in TASKS):
        if not any(task in frame.tasks() for frame in frames[split].values()):
            raise DataError(f"{root} has no {split} frame with a {task} label. Is it complete?")
    _check_encoding([*frames["train"].values(), *frames["val"].values()])
    return Dataset(root, frames["train"], frames["val"], excluded)


def _read_split(root: Path, split: str, excluded: dict[str, list[str]]) -> dict[str, Frame]:
    images = {kind: _files(root / "images" / kind / split, ".jpg") for kind in ("10k", "100k")}
    labels: dict[str, dict[str, Boxes] | dict[str, Path]] = {}
    for task in TASKS:
        labels[task] = _read_boxes(root, split) if task == "det" else _masks(root, split, task)
        missing = sorted(set(labels[task]) - set(images["10k"]) - set(images["100k"]))
        if len(missing) * 20 > len(labels[task]):
            raise DataError(
                f"{len(missing):,} of {len(labels[task]):,} {split} frames with a {task} label have"
                f" no image (the first: {missing[0]}). Is images/{_SETS[task]}/{split} complete?"
            )
        if missing:
            excluded.setdefault(f"{task} label without an image", []).extend(missing)
    frames = {}
    for name in sorted(set().union(*labels.values())):
        image = images["100k"].get(name) or images["10k"].get(name)
        if image is not None:
            found = {task: labels[task][name] for task in TASKS if name in labels[task]}
            frame = _checked(name, image, found, excluded)
            if frame is not None:
                frames[name] = frame
    return frames


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the files of a folder by stem; an absent folder has none."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(suffix)]
    return {name.removesuffix(suffix): folder / name for name in sorted(names)}


def _masks(root: Path, split: str, task: str) -> dict[str, Path]:
    folder = root / "labels" / _MASKS[task] / "masks" / split
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing: the {task} masks of {split} belong there "
            f"(bdd100k_{_MASKS[task]}_labels_trainval.zip)."
        )
    return _files(folder, ".png")


def _read_boxes(root: Path, split: str) -> dict[str, Boxes]:
    file = root / "labels" / "det_20" / f"det_{split}.json"
    if not file.is_file():
        raise DataError(
            f"{file} is missing: the boxes of {split} belong there "
            "(bdd100k_det_20_labels_trainval.zip)."
        )
    try:
        listed = json.loads(file.read_bytes())
        return {Path(item["name"]).stem: _boxes(item.get("labels") or []) for item in listed}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not a Scalabel list of frames ({type(error).__name__}: {error}). "
            "Is the file complete?"
        ) from None


def _boxes(labels: list[dict]) -> Boxes:
    rows, classes, crowd = [], [], []
    for label in labels:
        box = label.get("box2d")
        if box is None:
            continue
        category = label["category"]
        name = DET_CROWD.get(category, DET_ALIASES.get(category, category))
        if name not in DET:
            raise KeyError(f"unknown category {category!r}")
        attributes = label.get("attributes") or {}
        rows.append((box["x1"], box["y1"], box["x2"] + 1, box["y2"] + 1))
        classes.append(DET.index(name))
        crowd.append(
            category in DET_CROWD
            or bool(attributes.get("crowd"))
            or bool(attributes.get("ignored"))
        )
    return Boxes(
        np.array(rows, dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
        np.array(crowd, dtype=bool),
    )


def _checked(
    name: str, image: Path, labels: dict[str, Boxes | Path], excluded: dict[str, list[str]]
) -> Frame | None:
    """Return the frame if its files are whole and agree in size; None if it lies on its side."""
    size_hw, _, tail = _probe(image, end=b"\xff\xd9")
    digest = hashlib.sha256(tail)
    for task, label in labels.items():
        if isinstance(label, Boxes):
            for values in (label.boxes_xyxy, label.classes, label.crowd):
                digest.update(values.tobytes())
            continue
        mask_hw, mode, tail = _probe(label, end=b"IEND")
        digest.update(tail)
        if mode != "L":
            raise DataError(f"{label} is a PNG of mode {mode}; masks are 8-bit, one channel.")
        if mask_hw == size_hw[::-1] and mask_hw != size_hw:
            excluded.setdefault("image on its side", []).append(name)
            return None
        if mask_hw != size_hw:
            raise DataError(
                f"{label} is {mask_hw[1]}x{mask_hw[0]}, its image {size_hw[1]}x{size_hw[0]}: "
                f"a {task} mask has the size of its image. Replace one of the two."
            )
    given = cast(dict[str, Any], labels)
    return Frame(name, image, size_hw, digest=digest.hexdigest(), **given)


def _probe(file: Path, end: bytes) -> tuple[tuple[int, int], str, bytes]:
    """Return (height, width), Pillow's mode, and length and last bytes of a whole image file."""
    try:
        with Image.open(file) as image:
            size_hw, mode = (image.height, image.width), image.mode
        with file.open("rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            stream.seek(max(0, length - 512))
            tail = stream.read()
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}). Copy it again.") from None
    if end not in tail:
        raise DataError(f"{file} is truncated: its end is missing. Copy it again.")
    return size_hw, mode, str(length).encode() + tail


def _check_encoding(frames: Iterable[Frame]) -> None:
    """Refuse drivable masks in which background (2) is not the commonest id, as in 2018's."""
    masks = [frame.driv for frame in frames if frame.driv is not None]
    counts = np.zeros(256, dtype=np.int64)
    for mask in masks[:: max(1, len(masks) // ENCODING_SAMPLE)]:
        with Image.open(mask) as label:
            counts += np.bincount(np.asarray(label).ravel(), minlength=256)
    if counts[: len(DRIV)].argmax() != DRIV.index("background"):
        shares = ", ".join(f"{i}: {100 * counts[i] / counts.sum():.0f} %" for i in range(3))
        raise DataError(
            f"Drivable masks like {masks[0]} have the ids {shares}. In BDD100K's current release "
            "background is 2 and covers the most; in that of 2018 it is 0. Use the masks of "
            "bdd100k_drivable_labels_trainval.zip."
        )
