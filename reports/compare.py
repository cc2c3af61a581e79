"""What may be concluded from scores: intervals, paired tests, and the words for them.

The images of a validation set are a sample of what a network may meet. `resamples` draws other
sets from them, and the spread of a score over those is its error. Two networks that are scored on
the same images are resampled alike, so that what makes an image hard for both cancels out of their
difference. All intervals are `value ± t · error`, with Student's t and the factor n/(n-1) that a
few images need: of percentile, bias-corrected and t intervals these cover the truth best where
average precision is concerned, and a test at 5 % says exactly whether 0 lies in the interval.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Hesterberg, What Teachers
Should Know About the Bootstrap, 2015; Mickey and Brown, Bounds on the Distribution Functions of
the Behrens-Fisher Statistic, 1966; Holm 1979.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

RESAMPLES = 1000
CONFIDENCE = 0.95
POWER = 0.8  # how often an effect is to be seen that is called visible
FEW = 10  # so few images (or less) say nothing about how others would do


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number of points, its standard error, and the degrees of freedom behind that.

    Points are percent, so that no truth is beyond 100. The error is NaN where nothing can be said
    of it, and then so are `low`, `high` and `p`.
    """

    value: float
    error: float
    freedom: float

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return max(self.value - self._reach, -100.0)

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return min(self.value + self._reach, 100.0)

    @property
    def p(self) -> float:
        """How probable a value so far from 0, or farther, would be if the truth were 0."""
        if self.error > 0:
            return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))
        return 1.0 if self.error == 0 else math.nan

    @property
    def _reach(self) -> float:
        return float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.error


def resamples(images: int) -> np.ndarray:
    """Return how often each image is in each of the sets drawn: [RESAMPLES, images], integers.

    The same sets for the same number of images, always.
    """
    draw = np.random.default_rng(0).multinomial
    return draw(images, np.full(images, 1 / images), size=RESAMPLES)


def estimate(value: float, resampled: np.ndarray, images: int) -> Estimate:
    """Return a score, or a difference of scores, with its error over other images.

    `resampled` is the same on the sets of `resamples`, [RESAMPLES]. Nothing is known of the error
    where images are few, where more than one set in twenty has no score, and where a difference
    is the same on every set though it is not 0: then very few images make it.
    """
    there = resampled[~np.isnan(resampled)]
    freedom = images - 1.0
    if images <= FEW or len(there) < 0.95 * len(resampled) or math.isnan(value):
        return Estimate(value=value, error=math.nan, freedom=freedom)
    error = float(np.std(there, ddof=1)) * math.sqrt(images / (images - 1))
    if np.ptp(there) == 0:
        error = 0.0 if value == 0 else math.nan
    return Estimate(value=value, error=error, freedom=freedom)


def between_seeds(values: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the variance between seeds, of all groups of values together, and its freedom.

    Each group holds one value a seed: a difference, as each seed has it. Of no group with two
    seeds the variance is NaN.
    """
    groups = [np.asarray(group) for group in values]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return (squares / freedom if freedom else math.nan), freedom


def over_seeds(mean: Estimate, seeds: int, variance: float, freedom: int) -> Estimate:
    """Return a mean over seeds, with its error over other images and other trainings too.

    `mean` is that of so many seeds over other images; `variance` and `freedom` are those of
    `between_seeds`. Both errors count, with the smaller freedom of the two, so that no interval is
    too narrow whichever error is larger (Mickey and Brown 1966): with Welch's freedom and two seeds
    that happen to agree, a test at 5 % would be wrong in up to 12 %.
    """
    if math.isnan(variance):
        return mean
    error = math.sqrt(mean.error**2 + variance / seeds)
    return Estimate(value=mean.value, error=error, freedom=min(mean.freedom, freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, by Holm's method; NaN is no test and stays NaN.

    Whoever calls those below 0.05 real is wrong about any of them in at most 5 % of such families.
    """
    tests = [number for number, one in enumerate(p) if not math.isnan(one)]
    corrected, least = [math.nan] * len(p), 0.0
    for rank, number in enumerate(sorted(tests, key=lambda number: p[number])):
        least = max(least, min(1.0, (len(tests) - rank) * p[number]))
        corrected[number] = least
    return corrected


def visible(effect: Estimate, tests: int) -> float:
    """Return how large a true effect must be to be seen in four of five such comparisons.

    To be seen is to be called real when it is the smallest of so many `tests`.
    """
    level = (1 - CONFIDENCE) / max(1, tests)
    reach = float(stdtrit(effect.freedom, 1 - level / 2) + ndtri(POWER))
    return reach * effect.error


def verdict(
    effect: Estimate, corrected: float, tests: int, *, names: tuple[str, str], what: str, of: str
) -> str:
    """Return in words what a difference, second less first, says about the two that are named.

    `corrected` is its p after Holm's correction for so many `tests`; `what` is the metric, `of`
    what the estimate rests on, as in "44 images".
    """
    first, second = names
    low, high, value = (
        points(one, effect.error) for one in (effect.low, effect.high, effect.value)
    )
    seen = f"{second} {'+' * (effect.value >= 0)}{value}"
    if math.isnan(effect.error):
        return f"{what}: nothing can be told from {of} ({seen}, interval unknown)."
    if effect.error == 0:
        return f"{what}: both are the same, whichever of {of} are drawn."
    if corrected < 1 - CONFIDENCE:
        better, size = (second, value) if effect.value > 0 else (first, value.lstrip("-"))
        ends = f"{low} to {high}" if effect.value > 0 else f"{high} to {low}".replace("-", "")
        return f"{what}: {better} is better by {size} points, 95 % interval {ends}, from {of}."
    least = visible(effect, tests)
    unseen = (
        f"an effect below about {points(least, effect.error)} points often goes unseen."
        if least < 100
        else "no effect of any size is likely to be seen."
    )
    chance = f" That leaves out 0, as among {tests} tests chance alone may do."
    return (
        f"{what}: no difference can be told ({seen}, 95 % interval {low} to {high})."
        f"{chance if effect.p < 1 - CONFIDENCE else ''} With {of} {unseen}"
    )


def points(number: float, error: float) -> str:
    """Return a number with as many decimals as its error leaves a meaning: 1 to 3."""
    decimals = 1 if not 0 < error < 0.1 else 2 if error >= 0.01 else 3
    return f"{round(number, decimals) + 0.0:.{decimals}f}"
