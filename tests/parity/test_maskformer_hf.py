"""Our MaskFormer head computes what Hugging Face transformers' computes, its losses included."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.model.maskformer import MaskFormer
from bench.model.maskformer_loss import MaskFormerLoss
from tests.parity.interpreter import needs_transformers, run_beside_transformers

pytestmark = needs_transformers

# The paper's sizes, and small images of three shapes.
SIZES = {"width": 256, "queries": 100, "layers": 6, "heads": 8, "ffn": 2048, "classes": 19}
BATCHES = range(20)
SIZES_HW = ((64, 96), (96, 64), (32, 128))
IGNORE = 255

# Our names (parts of them, in this order) and theirs.
NAMES = (
    ("pixel_decoder.top.", "model.pixel_level_module.decoder.fpn.stem."),
    ("pixel_decoder.pixels.", "model.pixel_level_module.decoder.mask_projection."),
    *((f"pixel_decoder.laterals.{i}.", f"FPN.{i}.proj.") for i in range(3)),
    *((f"pixel_decoder.outputs.{i}.", f"FPN.{i}.block.") for i in range(3)),
    ("FPN.", "model.pixel_level_module.decoder.fpn.layers."),
    *((f"decoder.{i}.", f"model.transformer_module.decoder.layers.{i}.") for i in range(6)),
    (".self_attention.out_proj.", ".self_attn.o_proj."),
    (".cross_attention.out_proj.", ".encoder_attn.o_proj."),
    (".self_attention.", ".self_attn."),
    (".cross_attention.", ".encoder_attn."),
    (".expand.", ".mlp.fc1."),
    (".reduce.", ".mlp.fc2."),
    (".norm1.", ".self_attn_layer_norm."),
    (".norm2.", ".encoder_attn_layer_norm."),
    (".norm3.", ".final_layer_norm."),
    *((f"mask.{2 * i}.", f"mask_embedder.{i}.0.") for i in range(3)),
)
WHOLE_NAMES = {
    "queries": "model.transformer_module.queries_embedder.weight",
    "norm.weight": "model.transformer_module.decoder.layernorm.weight",
    "norm.bias": "model.transformer_module.decoder.layernorm.bias",
    "classify.weight": "class_predictor.weight",
    "classify.bias": "class_predictor.bias",
}


def translated(state):
    """The weights by transformers' names; it keeps queries, keys and values apart."""
    found = {}
    for name, value in state.items():
        theirs = WHOLE_NAMES.get(name, name)
        for ours, its in NAMES:
            theirs = theirs.replace(ours, its)
        if ".in_proj_" in theirs:
            before, kind = theirs.split(".in_proj_")
            for part, third in zip("qkv", value.chunk(3), strict=True):
                found[f"{before}.{part}_proj.{kind}"] = third.contiguous()
        else:
            found[theirs] = value
    return found


def make_head():
    """A head of which every parameter matters, also those that start at 0 or 1."""
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if name != "classes"}
    head = MaskFormer(classes=SIZES["classes"], dropout=0.0, **sizes)  # as it learns: all layers
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return head


def make_batch(number):
    """The maps of two images, and labels of 1 to 19 classes in blocks, some of them ignored."""
    generator = torch.Generator().manual_seed(number)
    height, width = SIZES_HW[number % len(SIZES_HW)]
    maps = [
        torch.randn(2, SIZES["width"], height // s, width // s, generator=generator)
        for s in (4, 8, 16, 32)
    ]
    known = torch.randperm(SIZES["classes"], generator=generator)[: number % SIZES["classes"] + 1]
    values = torch.cat((known, known, torch.tensor([IGNORE])))
    blocks = (2, height // 8, width // 8)
    labels = values[torch.randint(len(values), blocks, generator=generator)]
    labels[:, 0, 0] = known[0]  # transformers wants a mask in every image
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return maps, labels.roll((3, 5), (1, 2)).byte()


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture(scope="module")
def theirs(head, tmp_path_factory):
    """What transformers answers, by batch and name."""
    folder = tmp_path_factory.mktemp("maskformer_hf")
    (folder / "sizes.json").write_text(json.dumps(SIZES))
    save_file(translated(head.state_dict()), folder / "weights.safetensors")
    batches = {}
    for number in BATCHES:
        maps, labels = make_batch(number)
        batches |= {f"{number}.p{level}": x for level, x in enumerate(maps, start=2)}
        batches[f"{number}.labels"] = labels
    save_file(batches, folder / "batches.safetensors")
    run_beside_transformers("write_maskformer_hf.py", folder)
    return load_file(folder / "answers.safetensors")


@pytest.mark.parametrize("number", BATCHES)
def test_predictions_and_losses_of_every_layer_are_those_of_transformers(head, theirs, number):
    maps, labels = make_batch(number)
    with torch.inference_mode():
        outputs = head(maps)
        loss = MaskFormerLoss(mask_ignore="maskformer")
        labelled = torch.ones(len(labels), dtype=torch.bool)
        terms = loss(outputs, labels, labelled)
    expected = {name: theirs[f"{number}.{name}"] for name in ("logits", "masks", "terms")}
    assert len(expected["logits"]) == SIZES["layers"]
    for name in ("logits", "masks"):
        assert expected[name].std() > 0.1
        torch.testing.assert_close(outputs[name], expected[name], rtol=0, atol=1e-4)
    found = torch.stack([terms[name] for name in ("ce", "focal", "dice")])
    assert found.min() > 0.01
    torch.testing.assert_close(found, expected["terms"].sum(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.sum(), expected["terms"].sum(), rtol=1e-5, atol=0)


def test_ignored_pixels_make_the_difference_between_the_two_losses(head, theirs):
    number = next(n for n in BATCHES if (make_batch(n)[1] == IGNORE).any())
    maps, labels = make_batch(number)
    with torch.inference_mode():
        valid = MaskFormerLoss()(head(maps), labels, torch.ones(2, dtype=torch.bool))
    total = theirs[f"{number}.terms"].sum()
    assert abs(sum(valid.values()) / total - 1) > 1e-3
