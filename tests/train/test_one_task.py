"""Schemes of one task a step, where they train: labels, gradients, ranks, resumption."""

from dataclasses import replace
from itertools import islice
from unittest.mock import patch

import pytest
import torch

import bench.train.engine
from bench import dist
from bench.data.bdd100k import read
from bench.data.loader import training_batches
from bench.model.build import build, losses
from bench.ranks import together
from bench.run import run_cell
from bench.selftest import compare
from bench.train.engine import take_step
from protocols.presets import protocol
from protocols.schemes import ONE_TASK, order_of
from protocols.stages import PARTS
from tests.train.tiny import Cut, at_call, prepared, pull_the_plug
from zoo.catalog import find
from zoo.store import Zoo

TASKS = ("sem", "driv", "det")
LEARNS = tuple(part for part in PARTS if part != "adapter")


def ordered(streets, scheme):
    """An order over frames some of which carry all labels, and the frames."""
    train = read(streets).train
    carried = {name: frame.tasks() for name, frame in train.items()}
    return order_of(scheme, carried, TASKS, epochs=1, batch=4, seed="0/finetune"), train


def batches(streets, scheme, rank=0, size=1):
    """An order and its batches, of which one rank gets its share."""
    order, train = ordered(streets, scheme)
    with patch.object(dist, "rank", lambda: rank), patch.object(dist, "size", lambda: size):
        found = training_batches(order, train, protocol("paf", "tiny").input, start=0)
        return order, [one for (one,) in found]


@pytest.mark.parametrize("scheme", ONE_TASK)
def test_a_batch_carries_the_labels_of_its_task_alone_though_its_frames_have_others(
    streets, scheme
):
    assert any(len(frame.tasks()) == 3 for frame in read(streets).train.values())
    order, found = batches(streets, scheme)
    for step, batch in enumerate(found):
        task = order.task_at(step)
        assert batch.names == tuple(order.batch_at(step))
        assert {t: flags.all().item() for t, flags in batch.labelled.items()} == {
            t: t == task for t in TASKS
        }
        assert task == "sem" or (batch.sem == 255).all()
        assert task == "driv" or (batch.driv == 255).all()
        assert task == "det" or not any(map(len, batch.boxes_xyxy))


@pytest.mark.parametrize("scheme", ONE_TASK)
def test_the_ranks_share_out_a_batch_and_agree_on_its_task(streets, scheme):
    _, whole = batches(streets, scheme)
    parts = zip(*(batches(streets, scheme, rank, 2)[1] for rank in (0, 1)), strict=True)
    for batch, (first, second) in zip(whole, parts, strict=True):
        assert first.names + second.names == batch.names
        for task in TASKS:
            flags = {one.labelled[task].all().item() for one in (batch, first, second)}
            assert len(flags) == 1


@pytest.mark.parametrize("heads", ["transformer", "conv"])
@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_gets_a_gradient_and_only_its_task_a_loss(stand_ins, streets, heads, task):
    value = protocol("pf", "tiny", heads)
    weights = Zoo(stand_ins).canonical(find("moco_v2"), stand_in=True)
    model, _ = build(value, TASKS, weights, seed=0)
    learning = model.learn(LEARNS)
    order, found = batches(streets, "round-robin")
    batch = next(one for step, one in enumerate(found) if order.task_at(step) == task)
    terms = losses(value, TASKS)(model(batch.images, batch.sizes_hw, batch.boxes_xyxy), batch)
    sum(terms.values()).backward()
    assert {t: bool(term != 0) for t, term in terms.items()} == {t: t == task for t in TASKS}
    assert all(parameter.grad is not None for parameter in learning)  # which is what DDP needs
    moved = {t: any(p.grad.any() for p in model.heads[t].parameters()) for t in TASKS}
    assert moved == {t: t == task for t in TASKS}


def three_steps(shelf, streets, to):
    """Take a step of each task, with BatchNorm frozen and no dropout; rank 0 writes what is left.

    The rate is one that moves the weights little, so that ranks stay comparable.
    """
    value = protocol("pf", "tiny")
    seg = replace(value.model.seg, dropout=0.0)
    value = replace(value, model=replace(value.model, seg=seg))
    weights = Zoo(shelf).canonical(find("moco_v2"), stand_in=True)
    model, _ = build(value, TASKS, weights, seed=0)
    optimiser = torch.optim.SGD(model.learn(LEARNS), lr=1e-3)
    model.backbone.eval()
    network = torch.nn.parallel.DistributedDataParallel(model) if dist.size() > 1 else model
    order, frames = ordered(streets, "round-robin")
    parts = islice(training_batches(order, frames, value.input, start=0), 3)
    rows = [
        take_step(network, losses(value, TASKS), optimiser, value.optim, part) for part in parts
    ]
    if dist.rank() == 0:
        torch.save({"rows": torch.stack(rows), **model.state_dict()}, to)


def test_two_ranks_take_the_steps_of_one_process(stand_ins, streets, tmp_path):
    three_steps(stand_ins, streets, tmp_path / "alone.pt")
    together(three_steps, (stand_ins, streets, tmp_path / "two.pt"), 2)
    alone, two = (torch.load(tmp_path / f"{name}.pt") for name in ("alone", "two"))
    assert [[value > 0 for value in row] for row in alone["rows"][:, :3].tolist()] == [
        [task == whose for task in TASKS] for whose in TASKS
    ]
    assert torch.allclose(alone.pop("rows"), two.pop("rows"), rtol=1e-4)
    for name, tensor in alone.items():
        assert torch.allclose(tensor.double(), two[name].double(), atol=1e-5), name


def test_cut_off_it_ends_as_the_run_left_in_peace(streets, new_store, monkeypatch):
    whole, home = (
        prepared(
            new_store(name),
            streets,
            "pf",
            overrides=("stages.finetune.epochs=2",),
            scheme="round-robin",
        )
        for name in ("whole", "home")
    )
    run_cell(str(whole))
    with monkeypatch.context() as patched:
        at_call(patched, bench.train.engine, "take_step", 5, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(home))
    run_cell(str(home))
    assert compare(whole, home) == []
