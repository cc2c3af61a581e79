"""How sure the scores of a finished cell are, from the statistics of every validation image.

Every score is computed again on resampled validation sets (`reports.compare.resamples`), once, and
kept in the cell's `resampled.npz`, with the result's key and scores so that it is never taken for
another's. Two cells that were scored on the same images are resampled alike: the difference of what
is kept is the resampled difference. Needs neither the data set nor torch.
"""

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.classes import CLASSES
from bench.eval.ap import Matches, average_precision, det_scores
from bench.eval.confusion import driv_scores, sem_scores
from bench.store import whole

FILE = "resampled.npz"
FEW = 10  # images that show a class: so few say little about how others would
VERSION = 1  # of how scores are resampled
SEG_SCORES = {"sem": sem_scores, "driv": driv_scores}
DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError)
Scores = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Images:
    """The validation images of a task: how many, which (a hash of their names), and classes shown.

    `shown` counts the images that show each class at all; `labelled` those that show any.
    """

    count: int
    names: str
    labelled: int
    shown: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """What is known of a cell's scores beside their values.

    `values` are the scores on the resampled sets, by metric; `low` and `high` the ends of the 95 %
    intervals, for scores that are not the same on all sets. `images` is by task, and `unknown` says
    why a task has no intervals.
    """

    images: dict[str, Images] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def resampled(home: Path, result: dict[str, Any]) -> Resampled:
    """Return what is kept of a finished cell's resampled scores; it is computed where it is not.

    `result` is what `result.json` holds, or is about to.
    """
    belongs = json.dumps([VERSION, result["key"], result["metrics"]], sort_keys=True)
    if (kept := _kept(home / FILE, belongs)) is not None:
        return kept
    found = _computed(home / "preds", result["metrics"])
    if found.images:
        with suppress(OSError):  # a store that may be read alone
            _keep(home / FILE, belongs, found)
    return found


def _computed(preds: Path, metrics: dict[str, float | None]) -> Resampled:
    found = Resampled()
    for task in dict.fromkeys(metric.partition("/")[0] for metric in metrics):
        scores = {m: v for m, v in metrics.items() if m.startswith(f"{task}/") and v is not None}
        try:
            columns = _read(preds / f"{task}.npz")
        except DAMAGED:
            found.unknown[task] = f"preds/{task}.npz is missing or damaged"
            continue
        _add(found, task, columns, scores)
    return found


def _add(
    found: Resampled, task: str, columns: dict[str, np.ndarray], scores: dict[str, float]
) -> None:
    """Add the resampled scores of one task, or why there are none."""
    from reports.compare import estimate, resamples

    if task == "det" and "right" not in columns:
        found.unknown[task] = "scored by an earlier version, which kept no matches of boxes"
        return
    images, resample = (_of_boxes if task == "det" else _of_maps)(task, columns)
    found.images[task] = images
    if images.labelled <= FEW:
        found.unknown[task] = f"{images.labelled} labelled images are too few to tell"
        return
    once = resample(np.ones((1, images.count)))
    if any(not math.isclose(once[m][0], v, abs_tol=1e-6) for m, v in scores.items()):
        found.unknown[task] = f"preds/{task}.npz does not belong to the result's scores"
        return
    again = resample(resamples(images.count))
    for metric, value in scores.items():
        one = estimate(value, again[metric], images.count)
        found.values[metric] = again[metric]
        if one.error > 0:
            low, high = np.clip([one.low, one.high], 0.0, 100.0).tolist()
            found.low[metric], found.high[metric] = low, high


def _of_maps(task: str, columns: dict[str, np.ndarray]) -> tuple[Images, Scores]:
    order = np.argsort(columns["names"])
    confusions = columns["confusions"][order].astype(np.float64)
    shows = confusions.sum(axis=2) > 0

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = weights @ confusions.reshape(len(confusions), -1)  # whole numbers, far below 2^53
        return SEG_SCORES[task](sums.astype(np.int64).reshape(-1, *confusions.shape[1:]))

    return _images(task, columns["names"][order], shows), scores


def _of_boxes(task: str, columns: dict[str, np.ndarray]) -> tuple[Images, Scores]:
    matches = Matches.from_columns(columns)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        return det_scores(average_precision(matches, weights))

    return _images(task, columns["names"], matches.positives > 0), scores


def _images(task: str, names: np.ndarray, shows: np.ndarray) -> Images:
    return Images(
        count=len(names),
        names=hashlib.sha256("\n".join(names.tolist()).encode()).hexdigest(),
        labelled=int(shows.any(axis=1).sum()),
        shown=dict(zip(CLASSES[task], shows.sum(axis=0).tolist(), strict=True)),
    )


def _read(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return dict(arrays.items())


def _keep(file: Path, belongs: str, found: Resampled) -> None:
    told = {
        "images": {task: asdict(one) for task, one in found.images.items()},
        **{name: getattr(found, name) for name in ("low", "high", "unknown")},
    }
    columns: dict[str, Any] = {"belongs": belongs, "told": json.dumps(told), **found.values}
    with whole(file) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


def _kept(file: Path, belongs: str) -> Resampled | None:
    """Return what was kept of this result; None where it is of another, damaged, or not there."""
    try:
        values = _read(file)
        if str(values.pop("belongs")) != belongs:
            return None
        told = json.loads(str(values.pop("told")))
    except DAMAGED:
        return None
    images = {task: Images(**one) for task, one in told.pop("images").items()}
    return Resampled(images=images, values=values, **told)
