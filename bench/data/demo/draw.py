"""The demo data set: a few dozen drawn streets in BDD100K's very layout and formats.

`draw` writes it. The annotation sets overlap as BDD's do: boxes and drivable areas on the 100k
images, semantic masks on the 10k images, a few training images in both. One training frame is not
annotated with boxes (it is absent from the JSON), one is annotated and empty.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data import DataError
from bench.data.demo.layout import sample_scene
from bench.data.demo.paint import Street, paint
from bench.data.demo.scene import Scene

VERSION = 1  # of the drawings; a folder of another version is not this demo
MARKER = "demo.json"
JPEG_QUALITY = 80

# First bytes of the names, as BDD deals them: training names sort before validation names.
FIRST_BYTES = {"train": (0x00, 0xB0), "val": (0xB2, 0xCA)}

NOT_ANNOTATED, EMPTY, FIRST_SHARED = 0, 1, 2  # positions among the 100k training frames


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Frames in each folder of images; the `shared` ones lie in 100k/train and in 10k/train."""

    train_100k: int = 64
    train_10k: int = 22
    shared: int = 8
    val_100k: int = 32
    val_10k: int = 16


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture to draw and the folders it goes into."""

    number: int  # with the seed, all that its street depends on
    name: str
    split: str
    in_100k: bool
    in_10k: bool
    empty: bool  # nothing in it that a detector counts
    annotated: bool  # whether the detection JSON has an entry for it


def is_drawn(folder: Path) -> bool:
    """Return whether a folder holds a demo data set."""
    return (folder / MARKER).is_file()


def draw(folder: Path, seed: int = 0, counts: Counts | None = None) -> bool:
    """Draws the data set into `folder`, all of it or nothing; the same seed gives the same bytes.

    Returns whether it was drawn; False where the complete demo stands there already.
    Raises `DataError` if `folder` holds anything else or cannot be written.
    """
    counts = counts or Counts()
    folder = folder.resolve()
    marker = {"version": VERSION, "seed": seed, "counts": asdict(counts)}
    if _is_there(folder, marker):
        return False
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        _draw_frames(unfinished, seed, plan_frames(seed, counts))
        (unfinished / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
        unfinished.replace(folder)
    except OSError as error:
        if _is_there(folder, marker):  # another process was faster
            return False
        raise DataError(
            f"Cannot write the demo data to {folder}: {error.strerror}. "
            "It needs a folder that can be made or is empty, and 20 MB. Name another folder."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _is_there(folder: Path, marker: dict[str, Any]) -> bool:
    """Whether `folder` is this demo; False where there is room for it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = folder / MARKER
    if not found.is_file():
        raise DataError(
            f"{folder} is not empty and is not demo data. "
            "The demo goes into a new or an empty folder. Name another one."
        )
    if found.read_text() == json.dumps(marker, indent=1) + "\n":
        return True
    raise DataError(
        f"{folder} holds demo data of another seed, size or version than {json.dumps(marker)}. "
        "One folder holds one demo. Delete it or name another folder."
    )


def plan_frames(seed: int, counts: Counts) -> list[Frame]:
    """Every frame of the data set: 100k/train, the rest of 10k/train, 100k/val, 10k/val."""
    assert counts.train_100k >= FIRST_SHARED + counts.shared
    assert counts.train_10k >= counts.shared
    shared = range(FIRST_SHARED, FIRST_SHARED + counts.shared)
    places = [
        *(("train", True, index in shared) for index in range(counts.train_100k)),
        *[("train", False, True)] * (counts.train_10k - counts.shared),
        *[("val", True, False)] * counts.val_100k,
        *[("val", False, True)] * counts.val_10k,
    ]
    return [
        Frame(
            number=number,
            name=_name(seed, number, split),
            split=split,
            in_100k=in_100k,
            in_10k=in_10k,
            empty=number == EMPTY,
            annotated=number != NOT_ANNOTATED,
        )
        for number, (split, in_100k, in_10k) in enumerate(places)
    ]


def _name(seed: int, number: int, split: str) -> str:
    """A name as BDD's are; the frame's number in its middle keeps names apart."""
    rng = np.random.default_rng([seed, 0, number])
    first, ride = rng.integers(*FIRST_BYTES[split]), rng.integers(0, 1 << 32)
    return f"{first:02x}{rng.integers(0, 1 << 8):02x}{number:04x}-{ride:08x}"


def _draw_frames(root: Path, seed: int, frames: list[Frame]) -> None:
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for frame in frames:
        rng = np.random.default_rng([seed, 1, frame.number])
        scene = sample_scene(rng, empty=frame.empty)
        street = paint(scene, rng)
        _write_frame(root, frame, street)
        if frame.in_100k and frame.annotated:
            entries[frame.split].append(_entry(frame, scene, street))
    boxes = _folder(root / "labels" / "det_20")
    for split, listed in entries.items():
        listed.sort(key=lambda entry: entry["name"])
        (boxes / f"det_{split}.json").write_text(json.dumps(listed))


def _write_frame(root: Path, frame: Frame, street: Street) -> None:
    """Writes the picture into its one or two image folders, and the masks that go with them."""
    folders = [size for size, inside in (("100k", frame.in_100k), ("10k", frame.in_10k)) if inside]
    first, *others = (
        _folder(root / "images" / size / frame.split) / f"{frame.name}.jpg" for size in folders
    )
    street.photograph.save(first, quality=JPEG_QUALITY)
    for other in others:
        shutil.copyfile(first, other)
    for kind, mask, wanted in (
        ("drivable", street.driv, frame.in_100k),
        ("sem_seg", street.sem, frame.in_10k),
    ):
        if wanted:
            path = _folder(root / "labels" / kind / "masks" / frame.split) / f"{frame.name}.png"
            Image.fromarray(mask).save(path)


def _entry(frame: Frame, scene: Scene, street: Street) -> dict[str, Any]:
    """The frame's entry in the detection list, in Scalabel's form."""
    labels = [
        {
            "id": f"{frame.number:04d}{index:04d}",
            "category": box.category,
            "attributes": {
                "occluded": box.occluded,
                "truncated": box.truncated,
                "trafficLightColor": box.light,
            },
            "box2d": dict(zip(("x1", "y1", "x2", "y2"), map(float, box.xyxy), strict=True)),
        }
        for index, box in enumerate(street.boxes)
    ]
    return {
        "name": f"{frame.name}.jpg",
        "attributes": scene.attributes,
        "timestamp": 10000,
        "labels": labels,
    }


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
