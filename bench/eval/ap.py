"""Average precision on arrays: boxes are matched once, then AP is recomputed for any weights.

The rules are those of `bench.eval.detection`, and the numbers equal pycocotools' to 1e-9; but a
bootstrap over images needs AP a thousand times. `match` says of each detection at each IoU
threshold whether it is right, or neither right nor wrong; with the boxes' scores and how many
boxes of each class every image has, that is all that AP depends on. An image that counts twice is
an image of weight 2: its detections stand side by side in the order of scores.

Legend: `N` detections of all images, `I` images, `K` classes, `T` IoU thresholds, `B` weightings.
Source: cocodataset/cocoapi `cocoeval.py`, `maskApi.c:bbIou`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Real

from bench import BenchError

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100  # of an image and class, the best by score
ANY_AREA = (0.0, 1e10)
BLOCK = 1 << 21  # numbers in one temporary array


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The annotated boxes of one image; `classes` count from 0, `crowd` marks regions to ignore."""

    name: str
    boxes_xyxy: Float[np.ndarray, "N 4"]
    classes: Integer[np.ndarray, "N"]
    crowd: Bool[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The predicted boxes of one image; `classes` count from 0."""

    name: str
    boxes_xyxy: Float[np.ndarray, "N 4"]
    classes: Integer[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What became of every detection: the images by name, in each all as they were handed in.

    `right` found a box that no better detection had; `ignored` is neither right nor wrong (on a
    crowd, or beyond the best hundred); what is neither is a false alarm. `positives` counts the
    boxes to be found.
    """

    image: Integer[np.ndarray, "N"]
    classes: Integer[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"]
    right: Bool[np.ndarray, "N T"]
    ignored: Bool[np.ndarray, "N T"]
    positives: Integer[np.ndarray, "I K"]

    def columns(self) -> dict[str, np.ndarray]:
        """Return what `from_columns` reads, beside the images' names, counts, classes and scores.

        Rows of `right` and `ignored` are packed, eight thresholds to a byte.
        """
        return {
            "right": np.packbits(self.right, axis=1),
            "ignored": np.packbits(self.ignored, axis=1),
            "positives": self.positives.astype(np.int32),
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> "Matches":
        """Return the matches of the arrays of `det.npz`, whose images are in order of names."""
        bits = {
            name: np.unpackbits(columns[name], axis=1, count=len(IOU_THRESHOLDS)).astype(bool)
            for name in ("right", "ignored")
        }
        return cls(
            image=np.repeat(np.arange(len(columns["names"])), columns["count"]),
            **{name: columns[name] for name in ("classes", "scores", "positives")},
            **bits,
        )


def match(
    truth: Sequence[Truth],
    detections: Sequence[Detections],
    classes: int,
    area: tuple[float, float] = ANY_AREA,
) -> Matches:
    """Match detections with the boxes of their image and class, the best scores first.

    Images are those of `truth`, by name; of two predictions for one image the later counts.
    Boxes outside the `area`, in square pixels, are ignored, and so are detections that lie there
    and found nothing. Raises `BenchError` where two entries of `truth` have one name.
    """
    images = sorted(truth, key=lambda image: image.name)
    names = [image.name for image in images]
    if len(set(names)) < len(names):
        raise BenchError(f"{len(names) - len(set(names))} images are in the ground truth twice.")
    latest = {image.name: image for image in detections}
    found = [latest.get(name) or _nothing(name) for name in names]
    boxes, box_group = _boxes(images, classes)
    spots, spot_group = _boxes(found, classes)
    crowd = _joined([image.crowd for image in images], bool)
    scores = _joined([image.scores for image in found], float)
    unwanted = crowd | _outside(boxes, area)
    positives = np.bincount(box_group[~unwanted], minlength=len(images) * classes)

    best = np.lexsort((-scores, spot_group))  # group by group, within it the best first
    place = _rank(spot_group[best])
    kept = best[place < MAX_DETECTIONS]
    right, ignored = (np.zeros((len(scores), len(IOU_THRESHOLDS)), dtype=bool) for _ in range(2))
    right[kept], ignored[kept] = _assign(
        (spots[kept], spot_group[kept]), (boxes, box_group), crowd, unwanted
    )
    ignored |= _outside(spots, area)[:, None] & ~right
    ignored[best[place >= MAX_DETECTIONS]] = True
    return Matches(
        image=spot_group // classes,
        classes=spot_group % classes,
        scores=scores,
        right=right,
        ignored=ignored,
        positives=positives.reshape(len(images), classes),
    )


def average_precision(
    matches: Matches, weights: Real[np.ndarray, "*B I"] | None = None
) -> Float64[np.ndarray, "*B K T"]:
    """Return the AP of every class and threshold, in percent; NaN where nothing is to be found.

    `weights` says how often each image counts, in one row or in a row for each of `B` results.
    """
    images, classes = matches.positives.shape
    times = np.ones(images) if weights is None else np.asarray(weights, dtype=np.float64)
    rows = np.atleast_2d(times)
    scores = np.empty((len(rows), classes, matches.right.shape[1]))
    counted = ~matches.ignored.all(axis=1)
    for category in range(classes):
        mine = np.flatnonzero(counted & (matches.classes == category))
        mine = mine[np.argsort(-matches.scores[mine], kind="stable")]
        share = max(1, BLOCK // max(1, len(mine)))
        for first in range(0, len(rows), share):
            block = slice(first, first + share)
            scores[block, category] = _of_class(
                rows[block][:, matches.image[mine]],
                rows[block] @ matches.positives[:, category],
                matches.right[mine],
                matches.ignored[mine],
            )
    return scores.reshape(*times.shape[:-1], *scores.shape[1:])


def _of_class(
    times: Float64[np.ndarray, "B N"],
    positives: Float64[np.ndarray, "B"],
    right: Bool[np.ndarray, "N T"],
    ignored: Bool[np.ndarray, "N T"],
) -> Float64[np.ndarray, "B T"]:
    """Return the AP of one class, whose detections come in the order of their scores.

    Precision at a recall is the best at this recall or a greater one, so that only detections that
    are right have to be looked at. `times` says how often each detection counts.
    """
    scores = np.zeros((len(times), right.shape[1]))
    claimed = np.cumsum(times, axis=1)
    for t in range(right.shape[1]):
        hits, skipped = np.flatnonzero(right[:, t]), np.flatnonzero(ignored[:, t])
        if not hits.size:
            continue
        claims = claimed[:, hits]
        if skipped.size:
            none = np.zeros((len(times), 1))
            left_out = np.concatenate([none, np.cumsum(times[:, skipped], axis=1)], axis=1)
            claims = claims - left_out[:, np.searchsorted(skipped, hits)]
        found = np.cumsum(times[:, hits], axis=1)
        precision = found / (claims + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / np.maximum(positives, np.spacing(1))[:, None]
        passed = np.searchsorted(RECALLS, recall, side="right")
        scores[:, t] = (best * np.diff(passed, axis=1, prepend=0)).sum(axis=1)
    scores[positives == 0] = np.nan
    return 100.0 * scores / len(RECALLS)


def _assign(
    spots: tuple[np.ndarray, np.ndarray],
    boxes: tuple[np.ndarray, np.ndarray],
    crowd: Bool[np.ndarray, "M"],
    unwanted: Bool[np.ndarray, "M"],
) -> tuple[Bool[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """Give each detection its box: which are right, and which lie on a box that is ignored.

    `spots` and `boxes` are corners with sizes, and groups (image and class); detections come group
    by group, the best first. A detection takes of the free boxes the one that it overlaps most,
    of equals the last; one that is ignored only where no other fits; a crowd is always free.

    What one detection may take depends on those before it in its group alone. So all groups take
    turns together: every group's first detection its best box, its second best, and so on; then
    every group's second detection.
    """
    order = np.lexsort((unwanted, boxes[1]))  # ignored ones last
    spot, box, overlap = _overlapping(spots, (boxes[0][order], boxes[1][order]), crowd[order])
    ignored, shared = unwanted[order], crowd[order]
    liked = np.lexsort((-box, -overlap, ignored[box], spot))
    spot, box, overlap = spot[liked], box[liked], overlap[liked]
    choice = _rank(spot)
    firsts = np.flatnonzero(choice == 0)
    turn = np.repeat(_rank(spots[1][spot[firsts]]), np.diff(firsts, append=len(spot)))
    moves = np.lexsort((choice, turn))
    ends = np.flatnonzero(np.diff(turn[moves]) | np.diff(choice[moves])) + 1

    limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    right, aside = (np.zeros((len(spots[1]), len(limits)), dtype=bool) for _ in range(2))
    taken = np.zeros((len(order), len(limits)), dtype=bool)
    for first, last in pairwise([0, *ends, len(moves)]):
        move = moves[first:last]
        who, what = spot[move], box[move]
        open_ = ~(right[who] | aside[who]) & (~taken[what] | shared[what][:, None])
        takes = open_ & (overlap[move][:, None] >= limits)
        taken[what] |= takes
        right[who] |= takes & ~ignored[what][:, None]
        aside[who] |= takes & ignored[what][:, None]
    return right, aside


def _overlapping(
    spots: tuple[np.ndarray, np.ndarray], boxes: tuple[np.ndarray, np.ndarray], crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of one group that overlap enough: detection, box, and how much.

    That is intersection over union, or on a crowd over the detection alone.
    """
    start, stop = (np.searchsorted(boxes[1], spots[1], side=side) for side in ("left", "right"))
    count = stop - start
    total = np.cumsum(count)
    cuts = np.searchsorted(total, np.arange(BLOCK, total[-1], BLOCK)) if total.size else []
    found = []
    for first, last in pairwise([0, *cuts, len(count)]):
        spot = np.repeat(np.arange(first, last), count[first:last])
        box = _spans(start[first:last], count[first:last])
        overlap = _iou(spots[0][spot], boxes[0][box], crowd[box])
        near = overlap >= IOU_THRESHOLDS[0]
        found.append((spot[near], box[near], overlap[near]))
    spot, box, overlap = (np.concatenate(column) for column in zip(*found, strict=True))
    return spot, box, overlap


def _iou(
    spots: Float64[np.ndarray, "P 4"], boxes: Float64[np.ndarray, "P 4"], crowd: np.ndarray
) -> Float64[np.ndarray, "P"]:
    """Return the overlap of pairs, as x, y, width, height: step by step as pycocotools rounds."""
    ends = np.minimum(spots[:, :2] + spots[:, 2:], boxes[:, :2] + boxes[:, 2:])
    sides = np.maximum(ends - np.maximum(spots[:, :2], boxes[:, :2]), 0.0)
    both, own = sides[:, 0] * sides[:, 1], spots[:, 2] * spots[:, 3]
    union = np.where(crowd, own, own + boxes[:, 2] * boxes[:, 3] - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _boxes(
    images: Sequence[Truth] | Sequence[Detections], classes: int
) -> tuple[Float64[np.ndarray, "N 4"], Integer[np.ndarray, "N"]]:
    """Return all boxes as x, y, width, height, and their groups: `image * classes + class`."""
    image = np.repeat(np.arange(len(images)), [len(one.classes) for one in images])
    group = image * classes + _joined([one.classes for one in images], np.int64)
    boxes = np.concatenate([np.empty((0, 4)), *(one.boxes_xyxy for one in images)])
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1), group


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *parts])


def _nothing(name: str) -> Detections:
    none = np.empty(0)
    return Detections(
        name=name, boxes_xyxy=np.empty((0, 4)), classes=none.astype(np.int64), scores=none
    )


def _outside(boxes: Float64[np.ndarray, "N 4"], area: tuple[float, float]) -> np.ndarray:
    size = boxes[:, 2] * boxes[:, 3]
    return (size < area[0]) | (size > area[1])


def _rank(group: Integer[np.ndarray, "N"]) -> Integer[np.ndarray, "N"]:
    """Return how many of its group stand before each; equal groups stand together."""
    new = np.diff(group, prepend=-1) != 0
    starts = np.flatnonzero(new)
    return np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))


def _spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return `starts[0]`, `starts[0] + 1`, … so many as `counts` says, then those of the next."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
