"""Models and batches to measure with: random weights, drawn labels, nothing read from disk."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.classes import CLASSES, IGNORE, TASKS
from bench.data.sample import Batch
from bench.model.build import head
from bench.model.fpn import FPN
from bench.model.multitask import MultiTask
from protocols.stages import Protocol
from zoo.catalog import IMAGENET_MEAN, IMAGENET_STD
from zoo.resnet50 import resnet50

BOXES = 18  # an image: BDD100K's average
PRESENT = {"sem": 12, "driv": 3}  # classes that an image has pixels of, about


def make_model(protocol: Protocol) -> MultiTask:
    """The network of a protocol without adapter, with all its heads and random weights."""
    torch.manual_seed(0)
    trunk = resnet50(variant="plain", padding="torch", size=protocol.model.trunk)
    model = MultiTask(
        backbone=trunk,
        neck=FPN(trunk.channels, protocol.model.channels),
        heads={task: head(protocol, task) for task in TASKS},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return model.to(memory_format=torch.channels_last)  # as in a run


def make_batch(images: int, size_hw: tuple[int, int], seed: int = 0) -> Batch:
    """Random images with the labels of all tasks: blocks of classes, a few of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size_hw

    def drawn(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def label_map(task: str) -> Tensor:
        chosen = torch.randperm(len(CLASSES[task]), generator=generator)[: PRESENT[task]]
        blocks = torch.cat((chosen, torch.tensor([IGNORE])))[drawn(len(chosen) + 1, images, 6, 10)]
        return F.interpolate(blocks[:, None].float(), size_hw)[:, 0].byte()

    low = torch.rand(images, BOXES, 2, generator=generator) * 0.8
    sides = 0.02 + torch.rand(images, BOXES, 2, generator=generator) * 0.18
    boxes = torch.cat((low, low + sides), dim=-1) * torch.tensor([width, height] * 2)
    return Batch(
        names=tuple(map(str, range(images))),
        images=drawn(256, images, height, width, 3).byte().permute(0, 3, 1, 2),  # as collated
        sizes_hw=torch.tensor([size_hw] * images),
        sem=label_map("sem"),
        driv=label_map("driv"),
        boxes_xyxy=list(boxes),
        classes=list(drawn(len(CLASSES["det"]), images, BOXES)),
        labelled={task: torch.ones(images, dtype=torch.bool) for task in TASKS},
    )
