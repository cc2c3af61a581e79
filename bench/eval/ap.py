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
from bench.eval.confusion import mean_of_present

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100  # of an image and class, the best by score
ANY_AREA = (0.0, 1e10)
BLOCK = 1 << 16  # numbers in one temporary array: few enough for the processor's cache


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

    best = _best_first(scores, spot_group)
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
    scores = np.zeros((len(rows), classes, matches.right.shape[1]))
    best = _best_first(matches.scores, matches.classes)
    bounds = np.searchsorted(matches.classes[best], np.arange(classes + 1))
    right, ignored = (_places(bits, best, bounds) for bits in (matches.right, matches.ignored))
    for category in range(classes):
        image = matches.image[best[bounds[category] : bounds[category + 1]]]
        steps = list(map(_Step, right[category], ignored[category]))
        share = max(1, BLOCK // max(1, len(image)))
        for first in range(0, len(rows), share):
            block = slice(first, first + share)
            positives = rows[block] @ matches.positives[:, category]
            scores[block, category] = _of_class(rows[block][:, image], positives, steps)
    return scores.reshape(*times.shape[:-1], *scores.shape[1:])


def det_scores(precision: Float64[np.ndarray, "*B K T"]) -> dict[str, Float64[np.ndarray, "*B"]]:
    """Return the scores of boxes: means over the classes that have ground truth."""
    every = precision.reshape(*precision.shape[:-2], -1)
    return {
        "det/mAP": mean_of_present(every),
        "det/AP50": mean_of_present(precision[..., 0]),
        "det/AP75": mean_of_present(precision[..., 5]),
    }


class _Step:
    """Of one class and threshold: the places of the right and the ignored detections, best first.

    `before` says how many ignored ones come before each that is right.
    """

    def __init__(self, hits: np.ndarray, skipped: np.ndarray) -> None:
        self.hits, self.skipped = hits, skipped
        self.before = np.searchsorted(skipped, hits)


def _places(
    bits: Bool[np.ndarray, "N T"], best: Integer[np.ndarray, "N"], bounds: Integer[np.ndarray, "L"]
) -> list[list[Integer[np.ndarray, "H"]]]:
    """Return for every class and threshold where the bit is set: places in `best`, from its bound.

    `bounds` are where the classes begin in `best`, and its end.
    """
    total, steps = bits.shape
    place = np.empty(total, dtype=np.int64)
    place[best] = np.arange(total)
    row, step = np.nonzero(bits)
    found = np.sort(step * total + place[row])
    cuts = np.searchsorted(found, np.arange(steps)[:, None] * total + bounds)  # [T, K+1]
    return [
        [found[cuts[t, k] : cuts[t, k + 1]] - t * total - bounds[k] for t in range(steps)]
        for k in range(len(bounds) - 1)
    ]


def _of_class(
    times: Float64[np.ndarray, "B N"], positives: Float64[np.ndarray, "B"], steps: Sequence[_Step]
) -> Float64[np.ndarray, "B T"]:
    """Return the AP of one class; `times` says how often each of its detections counts.

    Precision at a recall is the best at this recall or a greater one, so that only detections that
    are right have to be looked at.
    """
    scores = np.zeros((len(times), len(steps)))
    claimed = np.cumsum(times, axis=1)
    for t, step in enumerate(steps):
        if not step.hits.size:
            continue
        claims = claimed[:, step.hits]
        if step.skipped.size:
            skipped = np.cumsum(times[:, step.skipped], axis=1)
            claims -= np.pad(skipped, ((0, 0), (1, 0)))[:, step.before]
        found = np.cumsum(times[:, step.hits], axis=1)
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
    spot, box, overlap = spot[::-1], box[::-1], overlap[::-1]  # of equals the last box first
    liked = np.lexsort((-overlap, 2 * spot + ignored[box]))
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

    That is intersection over union, or on a crowd over the detection alone, step by step as
    pycocotools rounds.
    """
    start, stop = (np.searchsorted(boxes[1], spots[1], side=side) for side in ("left", "right"))
    count = stop - start
    total = np.cumsum(count)
    cuts = np.searchsorted(total, np.arange(BLOCK, total[-1], BLOCK)) if total.size else []
    here, there = _edges(spots[0]), _edges(boxes[0])
    found = []
    for first, last in pairwise([0, *cuts, len(count)]):
        spot = np.repeat(np.arange(first, last), count[first:last])
        box = _spans(start[first:last], count[first:last])
        width = _common(here[0], spot, there[0], box)
        meet = np.flatnonzero(width > 0)  # few do, and the rest is for them alone
        spot, box = spot[meet], box[meet]
        both = width[meet] * np.maximum(_common(here[1], spot, there[1], box), 0.0)
        own, other = here[2][spot], there[2][box]
        union = np.where(crowd[box], own, own + other - both)
        overlap = np.divide(both, union, out=np.zeros_like(both), where=both > 0)
        near = overlap >= IOU_THRESHOLDS[0]
        found.append((spot[near], box[near], overlap[near]))
    spot, box, overlap = (np.concatenate(column) for column in zip(*found, strict=True))
    return spot, box, overlap


def _edges(boxes: Float64[np.ndarray, "N 4"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where boxes begin and end in x, and in y, as [2, N]; and their areas."""
    x, y, width, height = boxes.T
    return np.stack([x, x + width]), np.stack([y, y + height]), width * height


def _common(spots: np.ndarray, spot: np.ndarray, boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return how long the common stretch of pairs is on one axis; negative where there is none."""
    first = np.maximum(spots[0][spot], boxes[0][box])
    return np.minimum(spots[1][spot], boxes[1][box]) - first


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


def _best_first(
    scores: Float[np.ndarray, "N"], group: Integer[np.ndarray, "N"]
) -> Integer[np.ndarray, "N"]:
    """Return the order of `np.lexsort((-scores, group))`, in half its time."""
    place = np.empty(len(scores), dtype=np.int64)
    place[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return np.argsort(group * len(scores) + place)


def _rank(group: Integer[np.ndarray, "N"]) -> Integer[np.ndarray, "N"]:
    """Return how many of its group stand before each; equal groups stand together."""
    new = np.diff(group, prepend=-1) != 0
    starts = np.flatnonzero(new)
    return np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))


def _spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return `starts[0]`, `starts[0] + 1`, … so many as `counts` says, then those of the next."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
