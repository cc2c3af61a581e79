from itertools import permutations

import torch

from bench.model.matching import Question, match, match_all
from benchmarks.counting import Waits


def all_real(images, places):
    return torch.ones(images, places, dtype=torch.bool)


def test_match_finds_the_pairing_of_least_cost():
    cost = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    pairs = match(cost, all_real(2, 4))
    for layer in range(3):
        for image in range(2):
            here = pairs.images == image
            chosen = cost[layer, image, pairs.predictions[layer, here], pairs.targets[layer, here]]
            best = min(
                sum(float(cost[layer, image, p, t]) for t, p in enumerate(order))
                for order in permutations(range(5), 4)
            )
            torch.testing.assert_close(float(chosen.sum()), best)


def test_the_cheaper_prediction_may_yield_to_a_better_total():
    pairs = match(torch.tensor([[[[1.0, 2.0], [2.0, 9.0]]]]), all_real(1, 2))
    assert pairs.predictions.tolist() == [[1, 0]]
    assert pairs.targets.tolist() == [[0, 1]]


def test_only_real_targets_are_matched():
    real = torch.tensor([[False, True, False], [False, False, False], [True, False, True]])
    pairs = match(torch.rand(2, 3, 4, 3), real)
    assert pairs.images.tolist() == [0, 2, 2]
    assert pairs.targets.tolist() == [[1, 0, 2]] * 2


def test_predictions_fewer_than_targets_are_all_matched():
    pairs = match(torch.tensor([[[[5.0, 1.0, 9.0]]]]), all_real(1, 3))
    assert (pairs.predictions.tolist(), pairs.targets.tolist()) == ([[0]], [[1]])


def test_nothing_to_match_gives_no_pairs():
    pairs = match(torch.rand(2, 3, 4, 0), all_real(3, 0))
    assert pairs.predictions.shape == (2, 0)
    assert pairs.pick(torch.rand(2, 3, 4, 7)).shape == (2, 0, 7)


def test_costs_that_are_not_finite_are_avoided_and_no_error():
    cost = torch.tensor([[[[torch.nan, 0.0], [0.0, torch.inf], [-torch.inf, 1.0]]]])
    pairs = match(cost, all_real(1, 2))
    assert pairs.predictions.tolist() == [[2, 0]]


def test_pick_takes_the_matched_predictions_of_each_layer():
    cost = torch.tensor([[[[0.0], [1.0]]], [[[1.0], [0.0]]]])
    values = torch.tensor([[[10.0, 11.0]], [[20.0, 21.0]]])
    assert match(cost, all_real(1, 1)).pick(values).tolist() == [[10.0], [21.0]]


def test_questions_of_several_heads_are_answered_at_once_and_as_if_alone():
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2, 5, 4), (1, 2, 7, 9), (2, 2, 4, 0))
    questions = [
        Question(
            torch.randn(shape, generator=generator),
            torch.rand(shape[1], shape[3], generator=generator) > 0.4,
        )
        for shape in shapes
    ]
    with Waits() as waits:
        answers = match_all(questions)
    assert waits.count == 2  # one copy out, one in
    for answer, question in zip(answers, questions, strict=True):
        for found, alone in zip(answer, match(*question), strict=True):
            assert torch.equal(found, alone)
