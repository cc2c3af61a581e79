"""Boxes as the three packagings of BDD100K write them, read into one form.

    det_20       one list of frames: name, labels: category, attributes, box2d
    2018         the same, with older names of classes; lanes and drivable areas among the labels
    per image    one file a frame: name, frames: [one of them], objects: category, attributes, box2d

Sources: bdd100k/bdd100k doc/source/format.rst and configs/det.toml; ucbdrive/bdd-data.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import DataError
from bench.data.classes import DET, DET_ALIASES, DET_CROWD

CHUNK = 1 << 24  # characters of a list that are read at once: 2018's has more than a gigabyte
LONGEST = 1 << 20  # characters of one frame


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotated boxes of one frame.

    `boxes_xyxy` is float64 [N, 4] in continuous pixel coordinates: the inclusive x2, y2 of the file
    plus one. `classes` is int64 [N], `crowd` bool [N] (a region that is neither right nor wrong).
    """

    boxes_xyxy: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


def read_list(file: Path) -> Iterator[tuple[str, Boxes, int]]:
    """Yield each frame of a list, det_20's or 2018's: name, boxes, how many were without area."""
    try:
        for frame in _items(file):
            yield Path(frame["name"]).stem, *_boxes(frame.get("labels") or [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not a Scalabel list of frames ({type(error).__name__}: {error}). "
            "Is the file complete?"
        ) from None


def read_each(files: Iterable[Path]) -> Iterator[tuple[str, Boxes, int]]:
    """Yield the frame of each file: name, boxes, how many were without area."""
    for file in files:
        try:
            (frame,) = json.loads(file.read_bytes())["frames"]
            yield file.stem, *_boxes(frame.get("objects") or [])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file} is not the label file of one frame ({type(error).__name__}: {error}). "
                "Is the file complete?"
            ) from None


def _items(file: Path) -> Iterator[Any]:
    """Yield the items of a file's JSON list one by one, without holding all of them."""
    decoder, text, at, mark = json.JSONDecoder(), "", 0, "["
    with file.open(encoding="utf-8") as stream:
        while True:
            if len(text) - at < LONGEST:
                text, at = text[at:] + stream.read(CHUNK), 0
            at = _past(text, at)
            if mark == "," and text[at : at + 1] == "]":
                break
            if text[at : at + 1] != mark:
                raise ValueError(f"there is no {mark} before {text[at : at + 20]!r}")
            at = _past(text, at + 1)
            if mark == "[" and text[at : at + 1] == "]":
                break
            item, at = decoder.raw_decode(text, at)
            mark = ","
            yield item


def _past(text: str, at: int) -> int:
    """Return where text goes on that is not space."""
    while text[at : at + 1].isspace():
        at += 1
    return at


def _boxes(labels: list[dict[str, Any]]) -> tuple[Boxes, int]:
    """Return the boxes among labels, and how many more there are that have no area."""
    rows, classes, crowd, flat = [], [], [], 0
    for label in labels:
        box = label.get("box2d")
        if box is None:
            continue
        category = label["category"]
        name = DET_CROWD.get(category, DET_ALIASES.get(category, category))
        if name not in DET:
            raise KeyError(f"unknown category {category!r}")
        if box["x2"] <= box["x1"] or box["y2"] <= box["y1"]:
            flat += 1
            continue
        attributes = label.get("attributes") or {}
        rows.append((box["x1"], box["y1"], box["x2"] + 1, box["y2"] + 1))
        classes.append(DET.index(name))
        crowd.append(
            category in DET_CROWD
            or bool(attributes.get("crowd"))
            or bool(attributes.get("ignored"))
        )
    boxes = Boxes(
        np.array(rows, dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
        np.array(crowd, dtype=bool),
    )
    return boxes, flat
