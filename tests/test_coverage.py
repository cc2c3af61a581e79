"""Intervals and tests on simulated validation sets, where the truth is known.

A world is a way to draw images and what networks do on them. The truth is the score on very many
images; a thousand validation sets are drawn, and each is judged as a real one would be.
"""

from functools import cache, partial

import numpy as np
import pytest

from bench.eval.ap import Matches, average_precision
from bench.eval.confusion import driv_scores, sem_scores
from reports.compare import estimate, holm, resamples

SETS = 1000
IMAGES = 100
MANY = 100_000
BETTER = 0.15  # in logits: the second network; a third is as good as the first
NETWORKS = (0.0, BETTER, 0.0)
rng = np.random.default_rng


def maps(seed, images, classes, rarest):
    """Confusion matrices of three networks on the same images: 3 times [images, K, K+1].

    An image is hard or easy for all; classes are of unlike size, the first in every image, each
    next one in fewer, the last in a share of `rarest`.
    """
    draw = rng(seed)
    there = draw.random((images, classes)) < np.linspace(1, rarest, classes)
    size = there * np.exp(draw.normal(0, 0.7, (images, classes))) * 1000
    ease = 1 + draw.normal(0, 0.6, (images, 1)) + draw.normal(0, 0.6, (images, classes))
    for better in NETWORKS:
        logit = ease + better + draw.normal(0, 0.4, (images, classes))
        right = np.round(size / (1 + np.exp(-logit)))
        split = draw.dirichlet(np.ones(classes + 1), images)[:, None] * (size - right)[..., None]
        matrix = np.round(split)
        matrix[:, range(classes), range(classes)] = right
        yield matrix


def boxes(seed, images, sets):
    """Matches of three networks on the same images, at one threshold; each set has two classes."""
    draw, shape = rng(seed), (images, sets, 2, 4)
    positives = np.minimum(draw.poisson(1.0, shape[:3]), 3)
    ease = draw.normal(0, 0.7, (images, sets, 1, 1))
    for better in NETWORKS:
        sure = ease + better + draw.normal(0, 1, shape)
        box = np.arange(4) < positives[..., None]
        made = draw.random(shape) < np.where(box, 0.8, 0.3)
        image, number, category, _ = np.nonzero(made)
        right = (box & (sure > -0.5))[made][:, None]
        yield Matches(
            image=image,
            classes=2 * number + category,
            scores=np.where(box, sure, draw.normal(-0.3, 1, shape))[made],
            right=right,
            ignored=np.zeros_like(right),
            positives=positives.reshape(images, -1),
        )


def of_maps(metric, classes, rarest, seed, sets, images, weights):
    """The score of each network on every set: [3, B, sets]."""
    every = [list(maps(seed + number, images, classes, rarest)) for number in range(sets)]
    stacked = (np.stack([one[n] for one in every], axis=1) for n in range(len(NETWORKS)))
    sums = np.stack([weights @ matrices.reshape(images, -1) for matrices in stacked])
    return metric(sums.reshape(*sums.shape[:2], sets, classes, classes + 1).astype(np.int64))


def of_boxes(seed, sets, images, weights):
    """The mean AP of the two classes, for each network on every set: [3, B, sets]."""
    found = [average_precision(one, weights)[..., 0] for one in boxes(seed, images, sets)]
    return np.stack(found).reshape(len(NETWORKS), len(weights), sets, 2).mean(axis=-1)


def sem(sums):
    return sem_scores(sums)["sem/mIoU"]


def driv(sums):
    return driv_scores(sums)["driv/mIoU"]


WORLDS = {
    "sem": partial(of_maps, sem, 6, 0.5),
    "driv": partial(of_maps, driv, 3, 0.5),
    "det": of_boxes,
}


@cache
def simulated(name, images=IMAGES):
    """The true scores [3], those measured on every set [3, SETS], and resampled [3, B, SETS]."""
    world = WORLDS[name]
    truth = world(0, 1, MANY, np.ones((1, MANY)))[:, 0, 0]
    weights = np.concatenate([np.ones((1, images)), resamples(images)])
    parts = [world(1 + first, 50, images, weights) for first in range(0, SETS, 50)]
    scores = np.concatenate(parts, axis=-1)
    return truth, scores[:, 0], scores[:, 1:]


def effects(measured, spread, images=IMAGES):
    """The estimate of every set."""
    return [
        estimate(value, column, images) for value, column in zip(measured, spread.T, strict=True)
    ]


def covered(truth, found):
    """How many percent of the intervals hold the truth."""
    return 100 * np.mean([one.low <= truth <= one.high for one in found])


@pytest.mark.parametrize("name", WORLDS)
def test_an_interval_of_95_percent_holds_the_true_score_that_often(name):
    truth, measured, spread = simulated(name)
    assert 93 <= covered(truth[0], effects(measured[0], spread[0])) <= 97


@pytest.mark.parametrize("name", WORLDS)
def test_an_interval_of_a_difference_holds_the_true_difference_that_often(name):
    truth, measured, spread = simulated(name)
    assert truth[1] - truth[0] > 2  # percent: there is an effect
    found = effects(measured[1] - measured[0], spread[1] - spread[0])
    assert 93 <= covered(truth[1] - truth[0], found) <= 97


def test_of_networks_that_are_equal_one_is_rarely_called_better():
    p = []
    for name in WORLDS:
        _, measured, spread = simulated(name)
        p.append([one.p for one in effects(measured[2] - measured[0], spread[2] - spread[0])])
    wrong = [min(holm(family)) < 0.05 for family in zip(*p, strict=True)]
    assert 100 * np.mean(wrong) <= 6.5


@pytest.mark.parametrize(("name", "often"), [("sem", 0.9), ("driv", 0.6), ("det", 0.1)])
def test_a_true_effect_is_seen_and_never_the_wrong_way_round(name, often):
    _, measured, spread = simulated(name)
    found = effects(measured[1] - measured[0], spread[1] - spread[0])
    assert np.mean([one.p < 0.05 and one.value > 0 for one in found]) > often
    assert np.mean([one.p < 0.05 and one.value < 0 for one in found]) < 0.005
