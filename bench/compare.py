"""Which of two is better: the scores of paired cells on the same images, tested.

Each task is tested by its first score, and all p-values that are shown are corrected together.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from bench import BenchError
from bench.cell import Cell
from bench.intervals import FEW, Resampled, resampled
from bench.pairs import Pair, pairs
from bench.results import stands_in
from bench.store import Store, read_result
from reports.compare import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    between_seeds,
    estimate,
    holm,
    over_seeds,
    points,
    verdict,
)

TESTED = {"sem": "sem/mIoU", "driv": "driv/mIoU", "det": "det/mAP"}
ONE_SEED = (
    "One seed each: intervals and tests are about these trained networks on other images. Trained "
    "again, either may come out otherwise: several --seeds tell."
)
SEVERAL_SEEDS = (
    "How much seeds differ is taken to be alike in all pairs, by one score: it is pooled over them."
)
STAND_IN = "‡ stand-in weights or demo data: says nothing about the published checkpoint."


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One score of two, and what may be said of the difference, second less first.

    `scores` are means over seeds, `seeds` the differences of each alone. `corrected` is the p-value
    after Holm's correction, and `text` says it all.
    """

    pair: Pair
    metric: str
    images: int
    scores: tuple[float, float]
    effect: Estimate
    seeds: dict[int, Estimate]
    corrected: float = math.nan
    text: str = ""

    @property
    def better(self) -> str | None:
        """The name of the one that is better; None where that cannot be told."""
        real = self.corrected < 1 - CONFIDENCE
        return self.pair.names[self.effect.value > 0] if real else None


def compare(
    store: Store, first: str, second: str, fits: Callable[[Cell], bool]
) -> tuple[list[Comparison], list[str]]:
    """Return what can be said of every pair that is meant, and what has to be known beside it.

    Raises `BenchError` where there is nothing to compare, and where cells were not scored on the
    same images of the same data by the same protocol version.
    """
    matched, left_out = pairs(store, first, second, fits)
    notes = dict.fromkeys(left_out)
    found = _over_seeds([one for pair in matched for one in _comparisons(pair, notes)])
    if not found:
        raise BenchError(f"{first} and {second} have no score in common: nothing to compare.")
    corrected = holm([one.effect.p for one in found])
    tests = sum(not math.isnan(p) for p in corrected)
    told = [_told(one, p, tests) for one, p in zip(found, corrected, strict=True)]
    return told, [*_about(matched, tests), *notes]


def _comparisons(pair: Pair, notes: dict[str, None]) -> Iterator[Comparison]:
    """Yield the comparison of every task that all cells have; note what weakens it."""
    results = [read_result(cell.home) for cell in pair.cells()]
    known = [resampled(one.home, r) for one, r in zip(pair.cells(), results, strict=True)]
    for task, metric in TESTED.items():
        both = zip(pair.cells(), results, strict=True)
        if lacking := [cell for cell, one in both if metric not in one["metrics"]]:
            if any(task in one.cell.tasks for one in pair.cells()):
                names = " and ".join(one.home.name for one in lacking)
                notes[f"{metric} is not compared: it is no score of {names}."] = None
            continue
        scores = [one["metrics"][metric] for one in results]
        if None in scores:
            notes[f"{metric} does not exist: no image has anything of it to be found."] = None
            continue
        images = _same_images(pair, task, known)
        for cell, one in zip(pair.cells(), known, strict=True):
            if task in one.unknown:
                notes[f"{task}, {cell.home.name}: {one.unknown[task]}."] = None
        if rare := ", ".join(f"{k} {n}" for k, n in _shown(task, known) if 0 < n <= FEW):
            notes[
                f"{task}: few of {images} images show some classes ({rare}): intervals of scores "
                "that rest on so few may be too narrow."
            ] = None
        yield _comparison(pair, metric, images, np.reshape(scores, (-1, 2)), known)


def _comparison(
    pair: Pair, metric: str, images: int, scores: np.ndarray, known: Sequence[Resampled]
) -> Comparison:
    """Return the comparison by one score; `scores` are [seeds, 2], `known` all cells in order."""
    nothing = np.full(RESAMPLES, np.nan)
    spread = np.array([one.values.get(metric, nothing) for one in known])
    values, spread = scores[:, 1] - scores[:, 0], spread[1::2] - spread[::2]
    effect = estimate(float(values.mean()), spread.mean(axis=0), images)
    alone = [estimate(float(v), s, images) for v, s in zip(values, spread, strict=True)]
    first, second = scores.mean(axis=0).tolist()
    return Comparison(
        pair=pair,
        metric=metric,
        images=images,
        scores=(first, second),
        effect=effect,
        seeds=dict(zip(pair.seeds, alone, strict=True)),
    )


def _over_seeds(found: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons whose effects have the error between seeds, of all pairs by one score."""
    told = []
    for one in found:
        alike = [other.seeds.values() for other in found if other.metric == one.metric]
        between = between_seeds([[each.value for each in seeds] for seeds in alike])
        told.append(replace(one, effect=over_seeds(one.effect, len(one.seeds), *between)))
    return told


def _same_images(pair: Pair, task: str, known: Sequence[Resampled]) -> int:
    """Return how many images a task was scored on; `BenchError` where cells differ in which."""
    there = [one.images[task] for one in known if task in one.images]
    if len({one.names for one in there}) > 1:
        counts = ", ".join(f"{one.count:,}" for one in there)
        raise BenchError(
            f"{' and '.join(cell.home.name for cell in pair.cells())} were scored on different "
            f"images of {task} ({counts}). Compare cells of the same validation set."
        )
    return there[0].count if there else 0


def _shown(task: str, known: Sequence[Resampled]) -> list[tuple[str, int]]:
    return next((list(one.images[task].shown.items()) for one in known if task in one.images), [])


def _told(one: Comparison, corrected: float, tests: int) -> Comparison:
    count = len(one.seeds)
    of = f"{one.images:,} images" + (f" and {count} seeds" if count > 1 else "")
    what = ", ".join(text for text in (one.pair.where, one.metric) if text)
    text = verdict(one.effect, corrected, tests, names=one.pair.names, what=what, of=of)
    return replace(one, corrected=corrected, text=text)


def _about(matched: Sequence[Pair], tests: int) -> Iterator[str]:
    """Yield what a reader has to know of all comparisons."""
    if tests:
        first, second = matched[0].names
        shown = f"all {tests} tests" if tests > 1 else "the one test"
        yield (
            f"Differences are {second} less {first}, in points; each 95 % interval is of that "
            f"difference alone; p is corrected for {shown} shown (Holm), and below 0.05 a "
            "difference is called real."
        )
    if all(len(pair.seeds) == 1 for pair in matched):
        yield ONE_SEED
    elif len(matched) > 1:
        yield SEVERAL_SEEDS
    if any(stands_in(cell.order) for pair in matched for cell in pair.cells()):
        yield STAND_IN


def table(found: Sequence[Comparison]) -> Table:
    """Return the comparisons as a table for the terminal."""
    names = found[0].pair.names
    seeds = any(len(one.seeds) > 1 for one in found)
    columns = ["", "score", *names, "difference", "95 % interval", "p (Holm)", "better"]
    shown = Table(*columns, *(["by seed"] if seeds else []), box=None, pad_edge=False)
    for one in found:
        effect = one.effect
        unknown = math.isnan(effect.error)
        interval = " to ".join(points(end, effect.error) for end in (effect.low, effect.high))
        row = (
            *(one.pair.where, one.metric, *(f"{score:.1f}" for score in one.scores)),
            signed(effect.value, effect),
            "unknown" if unknown else interval,
            "" if unknown else f"{one.corrected:.2g}" if one.corrected >= 1e-4 else "< 0.0001",
            one.better or "cannot be told",
            *([" ".join(signed(e.value, effect) for e in one.seeds.values())] if seeds else []),
        )
        shown.add_row(*row)
    return shown


def signed(number: float, effect: Estimate) -> str:
    """Return a difference with its sign."""
    return f"{'+' * (number >= 0)}{points(number, effect.error)}"


def to_json(one: Comparison) -> dict[str, Any]:
    """Return what `compare --json` prints of a comparison; what is unknown is None."""
    cells = list(one.pair.seeds.values())
    sides = [
        {"name": name, "keys": [both[side].order["key"] for both in cells], "score": _number(score)}
        for side, (name, score) in enumerate(zip(one.pair.names, one.scores, strict=True))
    ]
    return {
        "where": one.pair.where,
        "metric": one.metric,
        "images": one.images,
        "first": sides[0],
        "second": sides[1],
        **_effect(one.effect),
        "p": _number(one.effect.p),
        "p_holm": _number(one.corrected),
        "better": one.better,
        "text": one.text,
        "seeds": [{"seed": seed, **_effect(effect)} for seed, effect in one.seeds.items()],
    }


def _effect(effect: Estimate) -> dict[str, float | None]:
    ends = {"low": _number(effect.low), "high": _number(effect.high)}
    return {"difference": _number(effect.value), **ends}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
