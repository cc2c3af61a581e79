"""The plain MaskFormer head against that of Hugging Face's transformers: the same step, same maps.

    make .venv-parity/ready
    PYTHONPATH=.venv-parity/transformers:. .venv/bin/python -m benchmarks.hugging_face    minutes

Forward, matching, losses of all layers and backward pass, for 19 classes and one image of 640x352
with 256 channels on four levels; two threads. It says that the plain side of the other benchmarks
is not slowed down.
"""

import sys

import torch

from bench.model.maskformer import MaskFormer
from benchmarks.cases import make_batch
from benchmarks.figures import HEADER, Figure, figure, timed
from benchmarks.plain import mask_loss, predict_masks
from tests.parity.write_maskformer_hf import network, targets

SIZE_HW, CLASSES, ROUNDS = (352, 640), 19, 5
SIZES = {"width": 256, "queries": 100, "layers": 6, "heads": 8, "ffn": 2048, "classes": CLASSES}


def figures() -> list[Figure]:
    """Measure it."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    height, width = SIZE_HW
    maps = [
        torch.randn(1, 256, height // s, width // s, requires_grad=True) for s in (4, 8, 16, 32)
    ]
    labels, labelled = make_batch(1, SIZE_HW).sem, torch.ones(1, dtype=torch.bool)
    head = MaskFormer(classes=CLASSES)
    theirs = network(SIZES).train()
    theirs.config.use_auxiliary_loss = True
    theirs.model.pixel_level_module.encoder.maps = tuple(maps)
    masks, classes = targets(labels[0])

    def plain() -> None:
        terms = mask_loss(predict_masks(head, maps), labels, labelled)
        torch.stack(list(terms.values())).sum().backward()

    def hugging_face() -> None:
        outputs = theirs(
            torch.zeros(1, 3, *SIZE_HW),
            mask_labels=[masks],
            class_labels=[classes],
            output_auxiliary_logits=True,
            output_hidden_states=True,
        )
        outputs.loss.backward()

    spent = timed({"plain": plain, "theirs": hugging_face}, ROUNDS)
    name = "plain MaskFormer head / Hugging Face's, a step at 640x352"
    return [figure(name, spent["plain"], spent["theirs"], 1.0)]


if __name__ == "__main__":
    found = figures()
    print(HEADER, *(one.row() for one in found), sep="\n")
    sys.exit(not all(one.met for one in found))
