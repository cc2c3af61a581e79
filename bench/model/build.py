"""From a protocol's values to modules: the only place in `bench/model` that reads a `Protocol`."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from bench.data.classes import CLASSES
from bench.model.fpn import FPN
from bench.model.maskformer import MaskFormer
from bench.model.maskformer_loss import MaskFormerLoss
from bench.model.multitask import MultiTask, MultiTaskLoss
from bench.model.sparse_rcnn import SparseRCNN
from bench.model.sparse_rcnn_loss import SparseRCNNLoss
from protocols.stages import Protocol
from zoo.catalog import IMAGENET_MEAN, IMAGENET_STD
from zoo.load import LoadReport, load

T = TypeVar("T")


def build(
    protocol: Protocol, tasks: tuple[str, ...], weights: Path, seed: int
) -> tuple[MultiTask, LoadReport]:
    """Return the model with its trunk loaded from a canonical file, and the load report.

    Neck and heads start from random values that depend on the seed and on their own name alone, so
    every checkpoint of a comparison starts with the same ones.
    """
    trunk = load(weights, size=protocol.model.trunk)
    bgr = trunk.input.order == "bgr"
    mean, std, _ = trunk.input
    if protocol.input.contract == "imagenet":
        mean, std = (values[:: -1 if bgr else 1] for values in (IMAGENET_MEAN, IMAGENET_STD))
    channels = protocol.model.channels
    model = MultiTask(
        backbone=trunk,
        neck=seeded(f"{seed}/neck", lambda: FPN(trunk.channels, channels)),
        heads={task: seeded(f"{seed}/{task}", lambda t=task: head(protocol, t)) for task in tasks},
        mean=mean,
        std=std,
        bgr=bgr,
    )
    return model, trunk.report


def head(protocol: Protocol, task: str) -> nn.Module:
    """Return the head of a task."""
    sizes, classes = protocol.model, len(CLASSES[task])
    if task == "det":
        return SparseRCNN(classes=classes, channels=sizes.channels, **asdict(sizes.det))
    return MaskFormer(classes=classes, channels=sizes.channels, **asdict(sizes.seg))


def losses(protocol: Protocol, tasks: tuple[str, ...]) -> MultiTaskLoss:
    """Return the sum of the tasks' losses with the protocol's weights."""
    by_task = {
        task: SparseRCNNLoss()
        if task == "det"
        else MaskFormerLoss(mask_ignore=protocol.model.mask_ignore)
        for task in tasks
    }
    return MultiTaskLoss(by_task, asdict(protocol.loss))


def seeded(name: str, make: Callable[[], T]) -> T:
    """Return `make()` run under a seed derived from `name`; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(name))
        return make()


def seed_of(name: str) -> int:
    """Return a 63-bit seed derived from a text."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
