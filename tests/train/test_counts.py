"""What a training step asks of a device: how it is asked, how often, and how much arithmetic."""

import pytest

from bench.model.build import losses
from bench.train.engine import take_step
from bench.train.optim import adamw
from benchmarks.cases import make_batch, make_model
from benchmarks.counting import Calls, Waits
from benchmarks.counts import operations
from benchmarks.plain import Plain
from protocols.presets import protocol

# 10^9 operations on one image of 1280x736, a multiplication and an addition being two.
# As counted for a prototype of this model: 2102.0, 1380.2, 702.1; its inference made the masks of
# all six decoder layers, where one is enough.
SAVED = 5 * 2 * 100 * 256 * 184 * 320 * 2 / 1e9  # layers, heads, queries, channels, pixels
GIGAFLOP = {"finetune": 2101.2, "adapt": 1379.7, None: 701.9 - SAVED}


@pytest.mark.parametrize("stage", GIGAFLOP, ids=str)
def test_an_image_takes_the_arithmetic_that_it_must(stage):
    learns = {one.name: one.learns for one in protocol("paf").stages}.get(stage, ())
    assert operations("paper", learns, (736, 1280)) == pytest.approx(GIGAFLOP[stage], rel=1e-3)


@pytest.fixture(scope="module")
def steps():
    """The step and the plain step of the demo's network, each taken once already."""
    demo, batch = protocol("paf", "demo"), make_batch(2, (96, 160))
    model, stage = make_model(demo), demo.stages[1]
    optimiser = adamw(model.learn(stage.learns), stage, demo.optim)
    wanted, plain = losses(demo, tuple(model.heads)), Plain(model, demo, stage)

    def ours():
        take_step(model, wanted, optimiser, demo.optim, [batch])

    def theirs():
        plain(batch)

    ours()
    theirs()
    return ours, theirs


def test_a_step_waits_for_the_device_to_match_and_for_nothing_else(steps):
    ours, theirs = steps
    with Waits() as waits:
        ours()
    assert dict(waits.by_name) == {"cpu": 1, "to": 1}
    with Waits() as waits:
        theirs()
    assert waits.by_name["cpu"] == 2 * (2 + 2 + 2)  # images x (layers, layers, stages)


def test_a_step_makes_half_the_calls_of_the_plain_one(steps):
    counts = []
    for step in steps:
        with Calls() as calls:
            step()
        counts.append(calls.count)
    assert counts[0] <= 0.5 * counts[1]
