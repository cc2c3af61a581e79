"""The plain training step of the benchmarks is another way to the same losses and gradients."""

from dataclasses import replace

import pytest
import torch

from bench.data.classes import IGNORE
from bench.model.build import losses
from benchmarks.cases import make_batch, make_model
from benchmarks.plain import Plain, plain_heads
from protocols.presets import protocol

TINY = protocol("paf", "tiny")
PARTLY = {"sem": [True, True], "driv": [True, False], "det": [False, True]}
NONE = {"sem": [False, False], "driv": [False, False], "det": [False, False]}


def labelled(batch, flags):
    return replace(batch, labelled={task: torch.tensor(value) for task, value in flags.items()})


def emptied(batch):
    """Image 0 has nothing to find: no boxes, and no pixel with a class."""
    maps = {task: getattr(batch, task).clone() for task in ("sem", "driv")}
    for one in maps.values():
        one[0] = IGNORE
    boxes, classes = batch.boxes_xyxy[1], batch.classes[1]
    return replace(batch, **maps, boxes_xyxy=[boxes[:0], boxes], classes=[classes[:0], classes])


@pytest.mark.parametrize(
    "change",
    [lambda b: b, emptied, lambda b: labelled(b, PARTLY), lambda b: labelled(b, NONE)],
    ids=["all labelled", "one empty", "partly labelled", "nothing labelled"],
)
@pytest.mark.parametrize("stage", [0, 1], ids=["adapt", "finetune"])
def test_its_losses_and_gradients_are_those_of_the_real_step(change, stage):
    batch = change(make_batch(2, (96, 160)))
    model = make_model(TINY)
    plain = Plain(model, TINY, TINY.stages[stage])
    found = []
    for plainly in (False, True):
        torch.manual_seed(1)  # the same dropout
        if plainly:
            with plain_heads():
                outputs = model(batch.images, batch.sizes_hw, batch.boxes_xyxy)
            terms = plain.losses(outputs, batch)
        else:
            outputs = model(batch.images, batch.sizes_hw, batch.boxes_xyxy)
            terms = losses(TINY, tuple(model.heads))(outputs, batch)
        model.zero_grad()
        sum(terms.values()).backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        found.append((terms, torch.cat([g.flatten() for g in gradients])))
    (terms, gradient), (plain_terms, plain_gradient) = found
    torch.testing.assert_close(terms, plain_terms, rtol=1e-5, atol=1e-6)
    assert (gradient - plain_gradient).norm() <= 1e-4 * plain_gradient.norm()
    assert bool(plain_gradient.any()) == any(map(bool, torch.cat(list(batch.labelled.values()))))
