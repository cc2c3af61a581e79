"""From a protocol's values to modules: the only place in `bench/model` that reads a `Protocol`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from bench.data.classes import CLASSES
from bench.model.faster_rcnn import FasterRCNN
from bench.model.faster_rcnn_loss import FasterRCNNLoss
from bench.model.fpn import FPN
from bench.model.maskformer import MaskFormer
from bench.model.maskformer_loss import MaskFormerLoss
from bench.model.multitask import MultiTask, MultiTaskLoss
from bench.model.semantic_fpn import SemanticFPN
from bench.model.semantic_fpn_loss import SemanticFPNLoss
from bench.model.sparse_rcnn import SparseRCNN
from bench.model.sparse_rcnn_loss import SparseRCNNLoss
from protocols.stages import Adapter, Protocol
from zoo.catalog import IMAGENET_MEAN, IMAGENET_STD
from zoo.clip_parts import Part
from zoo.load import LoadReport, load
from zoo.resnet50 import ResNet50, Size

T = TypeVar("T")


def build(
    protocol: Protocol,
    tasks: tuple[str, ...],
    weights: Path,
    seed: int,
    parts: Mapping[Part, Path] | None = None,
) -> tuple[MultiTask, LoadReport]:
    """Return the model with its trunk loaded from a canonical file, and the load report.

    `parts` are the canonical files of what else an adapter needs. Neck, adapter and heads start
    from random values that depend on the seed and on their own name alone, so every checkpoint of a
    comparison starts with the same ones.
    """
    trunk = load(weights, size=protocol.model.trunk)
    bgr = trunk.input.order == "bgr"
    mean, std, _ = trunk.input
    if protocol.input.contract == "imagenet":
        mean, std = (values[:: -1 if bgr else 1] for values in (IMAGENET_MEAN, IMAGENET_STD))
    channels = protocol.model.channels
    adapter, parts = protocol.adapter, parts or {}
    language = _language(protocol, adapter, tasks, seed, parts["text"]) if adapter else {}
    pool = parts.get("pool")
    model = MultiTask(
        backbone=_with_pool(trunk, pool, protocol.model.trunk) if pool else trunk,
        neck=seeded(f"{seed}/neck", lambda: FPN(trunk.channels, channels)),
        heads={task: seeded(f"{seed}/{task}", lambda t=task: head(protocol, t)) for task in tasks},
        mean=mean,
        std=std,
        bgr=bgr,
        **language,
    )
    return model, trunk.report


def _language(
    protocol: Protocol, sizes: Adapter, tasks: tuple[str, ...], seed: int, text: Path
) -> dict[str, nn.Module]:
    """Return the adapter, and the text encoder in a canonical file that it needs."""
    # Not above: open_clip takes seconds to import, and most protocols do without it.
    from bench.model.lv_adapter import LVAdapter, Prompts, ScoreMaps, TextContext, first_vectors
    from zoo.clip_text import load_text

    tower = load_text(text, size=protocol.model.trunk)
    width, features = tower.encoder.width, tower.encoder.features
    spoken = {**CLASSES, "driv": sizes.driv_names}
    names = {task: [tower.embed(f"{name}.") for name in spoken[task]] for task in tasks}
    vectors = {
        task: seeded(f"{seed}/prompts/{task}", lambda: first_vectors(sizes.vectors, width))
        for task in tasks
    }
    prompts = Prompts(names, vectors)
    between = {"features": features, "channels": protocol.model.channels}
    decoder = {"layers": sizes.layers, "heads": sizes.heads, "dropout": sizes.dropout}

    def scores(context: TextContext | None) -> ScoreMaps:
        classes = sum(len(texts) for texts in names.values())
        return ScoreMaps(prompts, context, classes=classes, **between)

    makers: dict[str, Callable[[], nn.Module]] = {
        "lv": lambda: LVAdapter(prompts, **between, **decoder),
        "prompt": lambda: scores(None),
        "v2l": lambda: scores(TextContext(**between, **decoder)),
    }
    return {"adapter": seeded(f"{seed}/{sizes.name}", makers[sizes.name]), "text": tower.encoder}


def _with_pool(trunk: ResNet50, pool: Path, size: Size) -> nn.Module:
    """Return the trunk with the attention pool in a canonical file behind it."""
    from zoo.clip_pool import ImageTower, load_pool

    return ImageTower(trunk, load_pool(pool, size=size))


def head(protocol: Protocol, task: str) -> nn.Module:
    """Return the head of a task."""
    sizes, classes = protocol.model, len(CLASSES[task])
    kinds = {"transformer": (MaskFormer, SparseRCNN), "conv": (SemanticFPN, FasterRCNN)}
    seg, det = kinds[protocol.heads]
    if task == "det":
        return det(classes=classes, channels=sizes.channels, **asdict(sizes.det))
    return seg(classes=classes, channels=sizes.channels, **asdict(sizes.seg))


def losses(protocol: Protocol, tasks: tuple[str, ...]) -> MultiTaskLoss:
    """Return the sum of the tasks' losses with the protocol's weights."""
    model = protocol.model
    masks = MaskFormerLoss(mask_ignore=model.mask_ignore, size=model.mask_loss)
    kinds = {
        "transformer": (masks, SparseRCNNLoss()),
        "conv": (SemanticFPNLoss(), FasterRCNNLoss()),
    }
    seg, det = kinds[protocol.heads]
    by_task = {task: det if task == "det" else seg for task in tasks}
    return MultiTaskLoss(by_task, asdict(protocol.loss))


def seeded(name: str, make: Callable[[], T]) -> T:
    """Return `make()` run under a seed derived from `name`; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(name))
        return make()


def seed_of(name: str) -> int:
    """Return a 63-bit seed derived from a text."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
