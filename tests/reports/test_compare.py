"""Intervals and tests against SciPy's where a score is a plain mean, and the words for them."""

import math

import numpy as np
import pytest
from scipy import stats

from reports.compare import (
    RESAMPLES,
    Estimate,
    between_seeds,
    estimate,
    holm,
    over_seeds,
    points,
    resamples,
    verdict,
    visible,
)

NAMES = ("pf", "paf")


def bootstrapped(values):
    """The estimate of a mean over images."""
    images = len(values)
    return estimate(float(values.mean()), resamples(images) @ values / images, images)


@pytest.mark.parametrize("images", [12, 40, 300])
def test_a_mean_has_the_interval_and_the_p_of_student_s_test(images):
    values = np.random.default_rng(images).normal(0.3, 1, images)
    ours, theirs = bootstrapped(values), stats.ttest_1samp(values, 0)
    ends = theirs.confidence_interval(0.95)
    tenth = 0.1 * (ends.high - ends.low)  # a thousand resamples know the error to some percent
    assert (ours.low, ours.high) == pytest.approx((ends.low, ends.high), abs=tenth)
    exact = Estimate(value=values.mean(), error=stats.sem(values), freedom=images - 1)
    assert exact.p == pytest.approx(theirs.pvalue)
    assert (exact.low, exact.high) == pytest.approx((ends.low, ends.high))


def test_an_interval_leaves_out_0_exactly_where_p_is_below_5_percent():
    random = np.random.default_rng(1)
    for _ in range(300):
        value, error, freedom = random.normal(0, 2), random.uniform(0.5, 1), random.uniform(2, 99)
        one = Estimate(value=value, error=error, freedom=freedom)
        assert (one.p < 0.05) == (not one.low <= 0 <= one.high)


def test_images_are_drawn_with_replacement_and_always_the_same():
    drawn = resamples(50)
    assert drawn.shape == (RESAMPLES, 50)
    assert set(drawn.sum(axis=1)) == {50}
    assert drawn.mean() == pytest.approx(1)
    assert drawn.var() == pytest.approx(1 - 1 / 50, rel=0.05)
    np.testing.assert_array_equal(drawn, resamples(50))


def test_the_variance_between_seeds_is_that_of_all_pairs_together():
    random = np.random.default_rng(2)
    groups = [random.normal(mean, 2, 4) for mean in (1, 5, 9)]
    residual = stats.f_oneway(*groups)  # F = between / within
    variance, freedom = between_seeds([group.tolist() for group in groups])
    means = np.array([group.mean() for group in groups])
    assert freedom == 9
    assert 4 * means.var(ddof=1) / variance == pytest.approx(residual.statistic)
    assert math.isnan(between_seeds([[1.0], [2.0]])[0])


def test_over_seeds_without_an_error_of_images_it_is_student_s_test():
    seeds = np.random.default_rng(2).normal(2, 1, 4)
    mean = Estimate(value=seeds.mean(), error=0.0, freedom=29)
    one, student = over_seeds(mean, 4, *between_seeds([seeds])), stats.ttest_1samp(seeds, 0)
    assert one.p == pytest.approx(student.pvalue)
    ends = student.confidence_interval(0.95)
    assert (one.low, one.high) == pytest.approx((ends.low, ends.high))


def test_of_one_seed_everywhere_the_error_is_that_of_images_alone():
    mean = Estimate(value=1.0, error=0.3, freedom=29)
    assert over_seeds(mean, 1, *between_seeds([[1.0], [3.0]])) == mean


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(("seeds", "pairs"), [(2, 1), (2, 3), (2, 9), (3, 1), (3, 9), (5, 1)])
def test_over_seeds_no_test_is_wrong_more_often_than_it_says(seeds, pairs, ratio):
    """No effect; trainings differ `ratio` times as much as sets of 32 images do."""
    random, sets = np.random.default_rng(3), 2000
    trained = random.normal(0, ratio, (sets, pairs, seeds))
    errors = np.sqrt(random.chisquare(31, sets) / 31)
    values = random.normal(0, 1, sets) + trained[:, 0].mean(axis=-1)
    p = np.array(
        [
            over_seeds(
                Estimate(value=value, error=error, freedom=31), seeds, *between_seeds(groups)
            ).p
            for value, error, groups in zip(values, errors, trained, strict=True)
        ]
    )
    assert (p < 0.05).mean() <= 0.062  # 5 %, and 2.5 errors of 2,000 sets
    assert (p < 0.05 / 15).mean() <= 0.007


def test_over_seeds_an_interval_holds_for_new_images_and_new_trainings():
    random, held = np.random.default_rng(3), []
    for _ in range(1000):
        image, training = random.normal(0, 2, 60), random.normal(0, 0.4, (9, 3, 1))
        cells = 1.0 + image + training + random.normal(0, 1, (9, 3, 60))
        between = between_seeds(cells.mean(axis=2))
        one = over_seeds(bootstrapped(cells[0].mean(axis=0)), 3, *between)
        held.append(one.low <= 1.0 <= one.high)
    assert 93 <= 100 * np.mean(held) <= 99


def test_holm_corrects_as_worked_by_hand_and_leaves_out_what_is_no_test():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.7]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert holm([]) == []


@pytest.mark.parametrize(
    ("resampled", "images", "value"),
    [
        (np.linspace(0, 2, RESAMPLES), 10, 1.0),
        (np.where(np.arange(RESAMPLES) % 10 == 0, np.nan, np.arange(RESAMPLES)), 50, 1.0),
        (np.full(RESAMPLES, 1.0), 50, 1.0),
        (np.linspace(0, 2, RESAMPLES), 50, math.nan),
    ],
    ids=["ten images", "a tenth of the sets without a score", "one image alone", "no score"],
)
def test_where_nothing_is_known_nothing_is_claimed(resampled, images, value):
    one = estimate(value, resampled, images)
    assert all(math.isnan(number) for number in (one.error, one.low, one.high, one.p))
    text = verdict(one, math.nan, 0, names=NAMES, what="sem/mIoU", of=f"{images} images")
    assert "nothing can be told" in text


def test_what_is_the_same_on_every_set_is_the_same():
    one = estimate(0.0, np.zeros(RESAMPLES), 50)
    assert one.p == 1.0
    text = verdict(one, 1.0, 3, names=NAMES, what="det/mAP", of="50 images")
    assert text == "det/mAP: both are the same, whichever of 50 images are drawn."


def said(value, error, *, tests=3):
    one = Estimate(value=value, error=error, freedom=43)
    corrected = min(1.0, tests * one.p)
    return verdict(one, corrected, tests, names=NAMES, what="sem/mIoU", of="44 images")


@pytest.mark.parametrize(("value", "better"), [(1.8, "paf"), (-1.8, "pf")])
def test_a_real_difference_is_told_by_the_name_of_the_better(value, better):
    assert said(value, 0.45) == (
        f"sem/mIoU: {better} is better by 1.8 points, 95 % interval 0.9 to 2.7, from 44 images."
    )


def test_where_no_difference_can_be_told_the_invisible_size_is():
    assert said(-0.3, 0.45) == (
        "sem/mIoU: no difference can be told (paf -0.3, 95 % interval -1.2 to 0.6). "
        "With 44 images an effect below about 1.5 points often goes unseen."
    )


def test_an_interval_without_0_is_not_called_real_among_many_tests():
    assert said(1.1, 0.45, tests=27) == (
        "sem/mIoU: no difference can be told (paf +1.1, 95 % interval 0.2 to 2.0). That leaves "
        "out 0, as among 27 tests chance alone may do. With 44 images an effect below about 1.9 "
        "points often goes unseen."
    )


def test_a_visible_effect_is_seen_four_times_of_five():
    one = Estimate(value=0.0, error=1.0, freedom=500)
    values = np.random.default_rng(4).normal(visible(one, 5), 1.0, 4000)
    seen = [5 * Estimate(value=v, error=1.0, freedom=500).p < 0.05 for v in values]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("error", "text"), [(2.0, "1.2"), (0.05, "1.23"), (0.001, "1.234"), (math.nan, "1.2")]
)
def test_numbers_have_the_decimals_that_their_error_leaves_a_meaning(error, text):
    assert points(1.2345, error) == text
    assert points(-0.001, 1.0) == "0.0"


def test_two_seeds_that_disagree_show_nothing_and_no_interval_is_wider_than_all_there_is():
    mean = Estimate(value=-1.7, error=1.0, freedom=31)
    one = over_seeds(mean, 2, *between_seeds([[-19.2, 15.9]]))
    assert (one.low, one.high) == (-100, 100)
    text = verdict(one, 1.0, 6, names=NAMES, what="driv/mIoU", of="32 images and 2 seeds")
    assert "With 32 images and 2 seeds no effect of any size is likely to be seen." in text
