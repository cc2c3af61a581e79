"""The presets: every value of the paper, of the demo, and of the tests.

Where the paper is silent the values are those of the two code bases it builds on: Sparse R-CNN's
detectron2 config (batch 16, clipping at 1.0, decay at 77.8 and 92.6 % of the run) and MaskFormer's
R50 config (100 queries, 6 decoder layers).
"""

from dataclasses import replace

from protocols import known
from protocols.stages import (
    ADAPTERS,
    PARTS,
    Adapter,
    FasterRCNNSizes,
    Input,
    LossWeights,
    MaskFormerSizes,
    Model,
    Optim,
    Protocol,
    Pseudo,
    SemanticFPNSizes,
    SparseRCNNSizes,
    Stage,
)

PROTOCOLS = ("pf", "paf", *ADAPTERS)
PRESETS = ("paper", "demo", "tiny")
HEADS = ("transformer", "conv")

_ADAPT = Stage(name="adapt", epochs=6, lr=2.5e-4, learns=("neck",))
_FINETUNE = Stage(
    name="finetune",
    epochs=30,
    lr=2.5e-5,
    learns=("backbone", "neck", "heads"),
    decay_at=(0.7778, 0.9259),
)

_PAPER = Protocol(
    name="paf",
    preset="paper",
    stages=(_ADAPT, _FINETUNE),
    scheme="self-training",
    heads="transformer",
    input=Input(train_short=(600, 624, 648, 672, 696, 720), test_short=720, max_long=1280),
    model=Model(
        trunk="full",
        channels=256,
        seg=MaskFormerSizes(width=256, queries=100, layers=6, heads=8, ffn=2048),
        det=SparseRCNNSizes(proposals=300, stages=6, heads=8, ffn=2048, dynamic=64),
    ),
    loss=LossWeights(),
    optim=Optim(batch=16),
    pseudo=Pseudo(),
    proportional_split=False,
    val_every=6,
)

# The real ResNet-50 at 160x90 with small heads, few epochs and rates with which few steps learn.
_DEMO = replace(
    _PAPER,
    preset="demo",
    stages=(
        replace(_ADAPT, epochs=1, lr=1e-3, warmup_steps=10),
        replace(_FINETUNE, epochs=4, lr=5e-4, warmup_steps=10),
    ),
    input=Input(train_short=(90,), test_short=90, max_long=160),
    model=Model(
        trunk="full",
        channels=64,
        seg=MaskFormerSizes(width=64, queries=20, layers=2, heads=4, ffn=256, dropout=0.0),
        det=SparseRCNNSizes(proposals=50, stages=2, heads=4, ffn=256, dynamic=16),
    ),
    optim=Optim(batch=4),
    proportional_split=True,
    val_every=0,
)

_TINY = replace(
    _DEMO,
    preset="tiny",
    stages=(_DEMO.stages[0], replace(_DEMO.stages[1], epochs=2)),
    model=Model(
        trunk="tiny",
        channels=64,
        seg=MaskFormerSizes(width=64, queries=10, layers=1, heads=4, ffn=128, dropout=0.1),
        det=SparseRCNNSizes(proposals=20, stages=1, heads=4, ffn=128, dynamic=16),
    ),
)

_BY_PRESET = {"paper": _PAPER, "demo": _DEMO, "tiny": _TINY}

# The convolutional heads (paper, appendix D.2) are torchvision's and detectron2's, at their sizes.
_CONV = {
    "paper": (
        SemanticFPNSizes(width=128),
        FasterRCNNSizes(anchors=(32, 64, 128, 256, 512), proposals=1000, samples=512, hidden=1024),
    ),
    "demo": (
        SemanticFPNSizes(width=64),
        FasterRCNNSizes(anchors=(8, 16, 32, 64, 128), proposals=200, samples=128, hidden=256),
    ),
    "tiny": (
        SemanticFPNSizes(width=32),
        FasterRCNNSizes(anchors=(8, 16, 32, 64, 128), proposals=50, samples=32, hidden=64),
    ),
}

# The paper's sizes; few vectors and layers where few steps have to do.
_ADAPTER = {
    "paper": Adapter(name="lv"),
    "demo": Adapter(name="lv", dropout=0.0),
    "tiny": Adapter(name="lv", vectors=4, layers=1),
}


def protocol(name: str, preset: str = "paper", heads: str = "transformer") -> Protocol:
    """Return the protocol of this name with the values of a preset, and one kind of heads.

    `pf` spends all of `paf`'s epochs on its one stage, finetune; those with an adapter spend one of
    them on adapt, where it learns beside the neck (paper section 5.3).
    """
    known("preset", preset, PRESETS)
    known("protocol", name, PROTOCOLS)
    known("heads", heads, HEADS)
    paf = _BY_PRESET[preset]
    if heads == "conv":
        seg, det = _CONV[preset]
        paf = replace(paf, heads=heads, model=replace(paf.model, seg=seg, det=det))
    if name == "paf":
        return paf
    adapt, finetune = paf.stages
    epochs = adapt.epochs + finetune.epochs
    if name == "pf":
        return replace(paf, name="pf", stages=(replace(finetune, epochs=epochs),))
    stages = (
        replace(adapt, epochs=1, learns=(*adapt.learns, "adapter")),
        replace(finetune, epochs=epochs - 1, learns=PARTS),
    )
    return replace(paf, name=name, stages=stages, adapter=replace(_ADAPTER[preset], name=name))


def teacher(student: Protocol) -> Protocol:
    """Return the protocol of a student's teachers: `pf` of its preset, on one task's labels alone.

    Sizes, inputs, optimiser and loss weights are the student's own, stages the preset's.
    """
    return replace(
        student,
        name="pf",
        stages=protocol("pf", student.preset).stages,
        scheme="zeroing",
        pseudo=_PAPER.pseudo,
        adapter=None,
    )
