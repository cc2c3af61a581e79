"""What a data folder holds, found out by looking into every file; `index` keeps it.

Left out and counted: labels whose image is missing, frames whose image and mask differ in size
(BDD100K has six that lie on their side), boxes without area. What is found becomes arrays, for each
split one row a frame:

    names        str       in alphabetical order
    image        uint8     in which of the listed folders its image is
    size_hw      int32     [N, 2]
    sem driv det bool      which labels it has
    boxes_from   int64     [N + 1], the rows of its boxes in
    boxes_xyxy, classes, crowd
"""

import hashlib
import json
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data import DataError
from bench.data.boxes import Boxes, read_each, read_list
from bench.data.classes import DRIV, DRIV_OF_2018, TASKS
from bench.data.index import Arrays, Files, Listing
from bench.data.packagings import OF_10K, SPLITS, Found
from bench.data.probe import probe

THREADS = 8  # that look into files: most of the time they wait for the disk
SAMPLE = 32  # drivable masks of a split that are decoded, to see which release's ids they have
AGREED = 0.75  # the share of them that has to agree

FEW = 20  # one label in so many may lack its image, or have another size: more are an error

ON_ITS_SIDE = "image on its side"
OTHER_SIZE = "image and mask of different sizes"
FLAT = "box without area"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a split: masks by task, and boxes by frame."""

    masks: dict[str, Files]
    boxes: dict[str, Boxes]

    def named(self) -> dict[str, set[str]]:
        """Return the names of the frames that each task's labels are of."""
        masks = {task: set(files.names) for task, files in self.masks.items()}
        return {**masks, "det": set(self.boxes)}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is looked at of one frame, and with `Seen` what was seen."""

    name: str
    image: int
    images: tuple[Path, ...]  # the one that is used, and others that a mask is of
    masks: dict[str, Path]
    boxes: Boxes | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks whose label it has."""
        return tuple(t for t in TASKS if t in self.masks or (t == "det" and self.boxes is not None))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A frame's size and the hash of its files, or what does not fit: reason, task and sizes."""

    size_hw: tuple[int, int]
    digest: str
    misfit: tuple[str, str, str] | None


def survey(root: Path, found: Found, listing: Listing) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of both splits, and in words what was left out and which ids driv has.

    Of images and masks the hash of the data sees sizes and last bytes, which compression makes
    depend on all. What is damaged, or does not fit in more than a few frames, raises `DataError`.
    """
    excluded: dict[str, list[str]] = {}
    arrays: Arrays = {}
    hashed: list[dict[str, tuple[tuple[str, ...], str]]] = []
    of_2018 = {}
    for split in SPLITS:
        labels = _labels(found, listing, split, excluded)
        looks = _looks(found, listing, split, labels, excluded)
        with ThreadPoolExecutor(THREADS) as pool:
            seen = list(pool.map(_seen, looks, chunksize=64))
        _leave_out_misfits(split, looks, seen, excluded)
        kept = [(look, one) for look, one in zip(looks, seen, strict=True) if one.misfit is None]
        for task in TASKS:
            if not any(task in look.tasks for look, _ in kept):
                raise DataError(f"{root} has no {split} frame with a {task} label. Is it complete?")
        of_2018[split] = _is_of_2018(
            [look.masks["driv"] for look, _ in kept if "driv" in look.masks]
        )
        hashed.append({look.name: (look.tasks, one.digest) for look, one in kept})
        arrays |= {f"{split}/{name}": array for name, array in _arrays(kept).items()}
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    return arrays, {"excluded": excluded, "of_2018": of_2018, "sha256": digest}


def _labels(found: Found, listing: Listing, split: str, excluded: dict[str, list[str]]) -> Labels:
    files = listing.labels[split, "det"]
    paths = [files.file(name) for name in files.names]
    frames = read_each(paths) if found.labels[split, "det"].suffix else read_list(*paths)
    boxes = {}
    for name, own, flat in frames:
        boxes[name] = own
        if flat:
            excluded.setdefault(FLAT, []).extend([name] * flat)
    masks = {task: listing.labels[split, task] for task in TASKS if task != "det"}
    return Labels(masks=masks, boxes=boxes)


def _looks(
    found: Found, listing: Listing, split: str, labels: Labels, excluded: dict[str, list[str]]
) -> list[Look]:
    """Return what is to be looked at: the frames that have a label and an image."""
    folders = listing.images[split]
    image = {name: i for i, files in reversed([*enumerate(folders)]) for name in files.names}
    named = labels.named()
    _leave_out_without_image(split, named, image.keys(), excluded)
    of_10k = [
        (files, set(files.names))
        for files, place in zip(folders, found.images[split], strict=True)
        if place in {one.format(split) for one in OF_10K}
    ]

    def look(name: str) -> Look:
        own = {task: f.file(name) for task, f in labels.masks.items() if name in named[task]}
        drawn_on = [files.file(name) for files, names in of_10k if "sem" in own and name in names]
        return Look(
            name=name,
            image=image[name],
            images=tuple(dict.fromkeys([folders[image[name]].file(name), *drawn_on])),
            masks=own,
            boxes=labels.boxes.get(name),
        )

    return [look(name) for name in sorted(image.keys() & set().union(*named.values()))]


def _leave_out_without_image(
    split: str, named: dict[str, set[str]], images: Set[str], excluded: dict[str, list[str]]
) -> None:
    """Count the labels whose image is missing; where they are many, the folder is not complete."""
    for task, names in named.items():
        missing = sorted(names - images)
        if len(missing) * FEW > len(names):
            place = "images/10k" if task == "sem" else "images/100k"
            raise DataError(
                f"{len(missing):,} of {len(names):,} {split} frames with a {task} label have"
                f" no image (the first: {missing[0]}). Is {place}/{split} complete?"
            )
        if missing:
            excluded.setdefault(f"{task} label without an image", []).extend(missing)


def _seen(look: Look) -> Seen:
    """Look into a frame's files: are they whole, do image and masks agree in size?

    A sem mask has to agree with the image of 10k that it was drawn on, even where the same name in
    100k is the image that is used.
    """
    sizes = [probe(image) for image in look.images]
    size_hw, _, tail = sizes[0]
    digest, misfit = hashlib.sha256(tail), None
    for task, mask in look.masks.items():
        mask_hw, mode, tail = probe(mask)
        digest.update(tail)
        if mode != "L":
            raise DataError(f"{mask} is a PNG of mode {mode}; masks are 8-bit, one channel.")
        for hw, _, _ in sizes if task == "sem" else sizes[:1]:
            if misfit is None and hw != mask_hw:
                reason = ON_ITS_SIDE if hw == mask_hw[::-1] else OTHER_SIZE
                said = f"{mask} is {mask_hw[1]}x{mask_hw[0]}, its image {hw[1]}x{hw[0]}"
                misfit = (reason, task, said)
    if look.boxes is not None:
        for values in (look.boxes.boxes_xyxy, look.boxes.classes, look.boxes.crowd):
            digest.update(values.tobytes())
    return Seen(size_hw=size_hw, digest=digest.hexdigest(), misfit=misfit)


def _leave_out_misfits(
    split: str, looks: list[Look], seen: list[Seen], excluded: dict[str, list[str]]
) -> None:
    """Count the frames that do not fit; many masks of another size are not those of the images."""
    misfits = [(look.name, one.misfit) for look, one in zip(looks, seen, strict=True) if one.misfit]
    for task in ("sem", "driv"):
        own = [said for _, (why, of, said) in misfits if (why, of) == (OTHER_SIZE, task)]
        labels = sum(task in look.masks for look in looks)
        if len(own) * FEW > labels:
            raise DataError(
                f"{own[0]}, and so {len(own):,} of {labels:,} in {split} differ: a {task} mask "
                "has the size of its image. Are images and masks of one release?"
            )
    for name, (reason, _, _) in misfits:
        excluded.setdefault(reason, []).append(name)


def _is_of_2018(masks: list[Path]) -> bool:
    """Return whether drivable masks have the ids of 2018: is background, most of a street, 0 or 2?

    Names that end in `_drivable_id` say that they do. Masks that contradict each other or their
    names raise `DataError`.
    """
    sample = masks[:: max(1, len(masks) // SAMPLE)]
    counts = np.zeros((len(sample), 256), dtype=np.int64)
    for row, mask in zip(counts, sample, strict=True):
        with Image.open(mask) as label:
            row += np.bincount(np.asarray(label).ravel(), minlength=256)
    commonest = counts.argmax(1)
    today = DRIV.index("background")
    for background in (today, DRIV_OF_2018.index(today)):
        if (commonest == background).mean() >= AGREED and counts.sum(0).argmax() == background:
            if background == today and masks[0].stem.endswith("_drivable_id"):
                raise DataError(
                    f"Drivable masks like {masks[0]} have the names of 2018 and the ids of today: "
                    "background, which covers the most, is 2. Which of them is wrong?"
                )
            return background != today
    shares = ", ".join(f"{i}: {100 * counts[:, i].sum() / counts.sum():.0f} %" for i in range(3))
    raise DataError(
        f"Drivable masks like {masks[0]} have the ids {shares}. In BDD100K's current release "
        "background is 2 and covers the most; in that of 2018 it is 0: these are neither, or both "
        "mixed. Use the masks of bdd100k_drivable_labels_trainval.zip."
    )


def _arrays(kept: list[tuple[Look, Seen]]) -> Arrays:
    looks = [look for look, _ in kept]
    boxes = [look.boxes for look in looks]
    some = [one for one in boxes if one is not None]
    counts = [0 if one is None else len(one.classes) for one in boxes]
    flags = {t: np.array([t in look.tasks for look in looks]) for t in TASKS}
    return {
        "names": np.array([look.name for look in looks]),
        "image": np.array([look.image for look in looks], dtype=np.uint8),
        "size_hw": np.array([one.size_hw for _, one in kept], dtype=np.int32),
        **flags,
        "boxes_from": np.cumsum([0, *counts], dtype=np.int64),
        "boxes_xyxy": np.concatenate([one.boxes_xyxy for one in some]),
        "classes": np.concatenate([one.classes for one in some]).astype(np.uint8),
        "crowd": np.concatenate([one.crowd for one in some]),
    }
