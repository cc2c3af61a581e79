"""Weights that nothing tells from trained ones, made without any code of ours.

torchvision's ResNet-50: each 1x1 convolution has one strong direction, as training gives it, and
BatchNorm's statistics are those of a batch of images.
"""

from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from zoo.detect import NotFound, detect
from zoo.manifests import manifest

# What nearly every network was trained with, as `zoo add` is told it.
LIKE_IMAGENET = {
    "padding": "torch",
    "stride": "3x3",
    "order": "rgb",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


@cache
def network():
    """torchvision's ResNet-50 with its classifier, in eval mode; not to be changed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = resnet50(weights=None)
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                direction = torch.randn(1, module.in_channels, 1, 1)
                module.weight += 0.5 * module.weight.std() * direction
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
        net.train()(torch.randn(4, 3, 96, 96))
    return net.eval()


@cache
def trunk():
    """Its 318 tensors without the classifier; not to be changed."""
    weights = network().state_dict()
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}


def changed(by):
    """The same trunk with every number but the step counters times `by`."""
    return {n: t * by if t.is_floating_point() else t for n, t in trunk().items()}


def same(tensors, expected):
    """Whether these are the same tensors under the same names, bit for bit."""
    return tensors.keys() == expected.keys() and all(
        torch.equal(tensors[name], expected[name]) for name in expected
    )


def under(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def moco_checkpoint():
    """What MoCo-v2's training script leaves: both encoders, the queue, the optimiser's state."""
    names = manifest("moco_v2_training_full").tensors
    heads = {
        name: torch.full(shape, 0.01, dtype=getattr(torch, dtype))
        for name, (dtype, shape) in names.items()
        if ".fc." in name or "queue" in name
    }
    both = under("module.encoder_q.", trunk()) | under("module.encoder_k.", changed(1.5))
    momentum = {n: {"momentum_buffer": torch.zeros(3)} for n in range(3)}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": both | heads,
        "optimizer": {"state": momentum, "param_groups": [{"lr": 0.03, "params": [0, 1, 2]}]},
    }


def meta(shape, dtype="float32"):
    """A tensor without values."""
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def published(name):
    """Every tensor of a manifest, without values, under its joined path through the file."""
    listed = manifest(name)
    return {".".join(listed.keys(n)): meta(s, d) for n, (d, s) in listed.tensors.items()}


def bare(prefix=""):
    """A trunk as most methods publish it, without values."""
    return under(prefix, published("dino_resnet50"))


def refused(tensors, wanted=""):
    """What is said of tensors among which no ResNet-50 is found."""
    with pytest.raises(NotFound) as error:
        detect(tensors, wanted)
    return str(error.value)
