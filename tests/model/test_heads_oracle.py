"""Both heads against numbers recorded from the original code: weights, inputs and every result.

Cases: A, every image has targets; B, one image has none; C (detection), no image has any.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.model.layers import sine_position
from bench.model.maskformer import MaskFormer
from bench.model.maskformer_loss import MaskFormerLoss
from bench.model.matching import Pairs, match
from bench.model.pool import level_of, make_table, pool
from bench.model.sparse_rcnn import SparseRCNN, decode_boxes
from bench.model.sparse_rcnn_loss import SparseRCNNLoss, pad_targets

ORACLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "oracles" / "heads"

pytestmark = pytest.mark.skipif(not ORACLES.is_dir(), reason="../shared/data is not here")

# The original's names (parts of them, in this order) and ours.
SPARSE_RCNN_NAMES = (
    ("head_series.", "stages."),
    ("self_attn.", "attention."),
    ("inst_interact.dynamic_layer.", "interact.weights."),
    ("inst_interact.out_layer.", "interact.out."),
    ("inst_interact.", "interact."),
    ("linear1.", "expand."),
    ("linear2.", "reduce."),
    ("cls_module.", "class_branch."),
    ("reg_module.", "box_branch."),
    ("class_logits.", "classify."),
    ("bboxes_delta.", "deltas."),
)
MASKFORMER_NAMES = (
    ("adapter_1.norm.", "laterals.2.1."),
    ("adapter_2.norm.", "laterals.1.1."),
    ("adapter_3.norm.", "laterals.0.1."),
    ("adapter_1.", "laterals.2.0."),
    ("adapter_2.", "laterals.1.0."),
    ("adapter_3.", "laterals.0.0."),
    ("pixel_decoder.layer_1.norm.", "pixel_decoder.outputs.2.1."),
    ("pixel_decoder.layer_2.norm.", "pixel_decoder.outputs.1.1."),
    ("pixel_decoder.layer_3.norm.", "pixel_decoder.outputs.0.1."),
    ("pixel_decoder.layer_4.norm.", "pixel_decoder.top.1."),
    ("pixel_decoder.layer_1.", "pixel_decoder.outputs.2.0."),
    ("pixel_decoder.layer_2.", "pixel_decoder.outputs.1.0."),
    ("pixel_decoder.layer_3.", "pixel_decoder.outputs.0.0."),
    ("pixel_decoder.layer_4.", "pixel_decoder.top.0."),
    ("mask_features.", "pixels."),
    ("predictor.", ""),
    ("transformer.decoder.layers.", "decoder."),
    ("transformer.decoder.norm.", "norm."),
    ("self_attn.", "self_attention."),
    ("multihead_attn.", "cross_attention."),
    ("linear1.", "expand."),
    ("linear2.", "reduce."),
    ("query_embed.weight", "queries"),
    ("class_embed.", "classify."),
    ("mask_embed.layers.0.", "mask.0."),
    ("mask_embed.layers.1.", "mask.2."),
    ("mask_embed.layers.2.", "mask.4."),
)


def renamed(name, names):
    for theirs, ours in names:
        name = name.replace(theirs, ours)
    return name


class Oracle:
    """One recording: its arrays as tensors, by name, and its configuration."""

    def __init__(self, name, names):
        recording = np.load(ORACLES / f"{name}.npz")
        self.arrays = {key: torch.from_numpy(recording[key]) for key in recording.files}
        self.configuration = json.loads((ORACLES / f"{name}.json").read_text())["configuration"]
        self.names = names

    def __getitem__(self, name):
        return self.arrays[name]

    def under(self, prefix):
        """The arrays whose name starts so, by our name of the parameter."""
        return {
            renamed(key.removeprefix(prefix), self.names): value
            for key, value in self.arrays.items()
            if key.startswith(prefix)
        }

    def pyramid(self):
        return [self[f"features/p{level}"].clone().requires_grad_() for level in (2, 3, 4, 5)]


@pytest.fixture(scope="module")
def maskformer():
    return Oracle("maskformer", MASKFORMER_NAMES)


@pytest.fixture(scope="module")
def sparse_rcnn():
    return Oracle("sparse_rcnn", SPARSE_RCNN_NAMES)


def close(actual, expected, relative=1e-4):
    """Equal to `relative` of the largest value, which is how rounding errors spread in a head."""
    scale = max(float(expected.abs().max()), 1e-3) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.detach(), expected, rtol=relative, atol=relative * scale, check_dtype=False
    )


def check_pairs(pairs: Pairs, oracle, case, unit):
    for layer in range(len(pairs.predictions)):
        for image in range(2):
            there = pairs.images == image
            found = dict(
                zip(
                    pairs.predictions[layer, there].tolist(),
                    pairs.targets[layer, there].tolist(),
                    strict=True,
                )
            )
            name = f"matching/{case}/{unit}{layer}/image{image}"
            targets = oracle[f"{name}/target_idx"].tolist()
            yield found, oracle[f"{name}/pred_idx"].tolist(), targets, image


def check_gradients(oracle, module: nn.Module, pyramid, skip=()):
    expected = oracle.under("gradnorm/A/weights/")
    actual = {name: p.grad for name, p in module.named_parameters() if name not in skip}
    assert actual.keys() == expected.keys()
    largest = max(float(norm) for norm in expected.values())
    for name, gradient in actual.items():
        torch.testing.assert_close(
            gradient.norm(), expected[name], rtol=1e-3, atol=1e-5 * largest, msg=name
        )
    for level, features in enumerate(pyramid, start=2):
        close(features.grad.norm(), oracle[f"gradnorm/A/features/p{level}"], 1e-3)


# MaskFormer


@pytest.fixture(scope="module")
def mask_head(maskformer):
    c = maskformer.configuration
    head = MaskFormer(
        classes=c["classes"],
        channels=c["dim"],
        width=c["dim"],
        queries=c["queries"],
        layers=c["layers"],
        heads=c["nheads"],
        ffn=c["ff"],
        dropout=0.0,
    )
    head.load_state_dict(maskformer.under("weights/"))
    return head


def label_map(oracle, case):
    """The recorded binary masks, which do not overlap, as class ids; 255 where there is none."""
    maps = []
    for image in range(2):
        masks = oracle[f"targets/{case}/image{image}/masks"]
        labels = torch.full(masks.shape[1:], 255, dtype=torch.uint8)
        for mask, class_id in zip(
            masks, oracle[f"targets/{case}/image{image}/labels"], strict=True
        ):
            labels[mask.bool()] = class_id.to(torch.uint8)
        maps.append(labels)
    return torch.stack(maps)


def test_maskformer_predicts_what_the_original_predicts(maskformer, mask_head):
    pyramid = maskformer.pyramid()
    outputs = mask_head(pyramid)
    close(outputs["logits"], maskformer["outputs/logits"])
    close(outputs["masks"], maskformer["outputs/mask_logits"])
    close(mask_head.pixel_decoder(pyramid), maskformer["outputs/mask_features"])
    close(mask_head._decode(pyramid[-1]), maskformer["outputs/decoder_hidden"])


def test_sine_position_is_the_original(maskformer):
    expected = maskformer["outputs/position_encoding_p5"][0]
    channels, height, width = expected.shape
    close(sine_position(height, width, channels, torch.device("cpu")), expected, 1e-6)


@pytest.mark.parametrize("case", "AB")
def test_maskformer_matches_and_loses_as_the_original(maskformer, mask_head, case):
    labels = label_map(maskformer, case)
    outputs = mask_head(maskformer.pyramid())
    loss = MaskFormerLoss(mask_ignore="maskformer")
    terms = loss.terms(outputs, labels, torch.ones(2, dtype=torch.bool))
    for layer in range(2):
        for ours, theirs in (("ce", "loss_ce"), ("focal", "loss_mask"), ("dice", "loss_dice")):
            close(terms[ours][layer], maskformer[f"losses/{case}/layer{layer}/{theirs}"])
    total = terms["ce"] + 20 * terms["focal"] + terms["dice"]
    close(total.sum(), maskformer[f"losses/{case}/total_weighted"])


@pytest.mark.parametrize("case", "AB")
def test_maskformer_matches_the_same_queries_as_the_original(maskformer, mask_head, case):
    labels = label_map(maskformer, case)
    outputs = mask_head(maskformer.pyramid())
    loss = MaskFormerLoss(mask_ignore="maskformer")
    cost = loss.cost(outputs["logits"], outputs["masks"], labels)
    present = (labels[:, None] == torch.arange(5)[:, None, None]).flatten(2).any(-1)
    pairs = match(cost, present)
    for found, queries, masks, image in check_pairs(pairs, maskformer, case, "layer"):
        classes = maskformer[f"targets/{case}/image{image}/labels"][masks].tolist()
        assert found == dict(zip(queries, classes, strict=True))


def test_maskformer_learns_as_the_original(maskformer, mask_head):
    mask_head.zero_grad()
    pyramid = maskformer.pyramid()
    loss = MaskFormerLoss(mask_ignore="maskformer")
    terms = loss(mask_head(pyramid), label_map(maskformer, "A"), torch.ones(2, dtype=torch.bool))
    total = sum(terms.values())
    close(total, maskformer["losses/A/total_weighted"])
    total.backward()
    check_gradients(maskformer, mask_head, pyramid)


def test_maskformer_segments_as_the_original(maskformer, mask_head):
    scores = mask_head.segment(mask_head(maskformer.pyramid()), (128, 224)).detach()
    close(scores, maskformer["semantic/padded"])
    best = scores.argmax(1)
    # The closest of the recorded pixels is a tie to within 2e-8.
    assert (best != maskformer["semantic/argmax_padded"]).sum() <= 2
    for image in range(2):
        height, width = maskformer["image_sizes_hw"][image].tolist()
        size = tuple(maskformer["orig_sizes_hw"][image].tolist())
        resized = F.interpolate(
            scores[image : image + 1, :, :height, :width], size, mode="bilinear"
        )
        expected = maskformer[f"semantic/argmax_original_size/image{image}"]
        assert (resized[0].argmax(0) != expected).sum() <= 2


# Sparse R-CNN


@pytest.fixture(scope="module")
def box_head(sparse_rcnn):
    c = sparse_rcnn.configuration
    head = SparseRCNN(
        classes=c["classes"],
        channels=c["hidden"],
        proposals=c["proposals"],
        stages=c["stages"],
        heads=c["nheads"],
        ffn=c["ff"],
        dynamic=c["dim_dynamic"],
    )
    learned = {
        "boxes_cxcywh": sparse_rcnn["proposal_boxes"],
        "features": sparse_rcnn["proposal_features"],
    }
    head.load_state_dict(learned | sparse_rcnn.under("weights/"))
    return head


def box_targets(oracle, case):
    boxes = [oracle[f"targets/{case}/image{image}/boxes_xyxy"] for image in range(2)]
    classes = [oracle[f"targets/{case}/image{image}/labels"] for image in range(2)]
    return boxes, classes


def test_sparse_rcnn_predicts_what_the_original_predicts(sparse_rcnn, box_head):
    outputs = box_head(sparse_rcnn.pyramid(), sparse_rcnn["image_sizes_hw"])
    close(outputs["logits"], sparse_rcnn["outputs/logits"])
    close(outputs["boxes_xyxy"], sparse_rcnn["outputs/boxes_xyxy"])
    first = box_head.first_boxes(sparse_rcnn["image_sizes_hw"])
    close(first, sparse_rcnn["initial_boxes_xyxy"])


def test_each_stage_hands_on_the_features_of_the_original(sparse_rcnn, box_head):
    table = make_table(sparse_rcnn.pyramid())
    boxes, x = sparse_rcnn["initial_boxes_xyxy"], sparse_rcnn["proposal_features"].expand(2, -1, -1)
    for number, stage in enumerate(box_head.stages):
        torch.testing.assert_close(level_of(boxes), sparse_rcnn["outputs/fpn_level"][number])
        _, boxes, x = stage(table, boxes.detach(), x)
        close(x, sparse_rcnn["outputs/proposal_features"][number])


def test_pooled_features_are_the_original(sparse_rcnn):
    table = make_table(sparse_rcnn.pyramid())
    pooled = pool(table, sparse_rcnn["initial_boxes_xyxy"][:, :6])
    close(pooled.mT.unflatten(-1, (7, 7)), sparse_rcnn["outputs/roi_features_stage0"])


def test_boxes_are_decoded_as_in_the_original(sparse_rcnn):
    decoded = decode_boxes(sparse_rcnn["apply_deltas/deltas"], sparse_rcnn["apply_deltas/boxes"])
    torch.testing.assert_close(decoded, sparse_rcnn["apply_deltas/result"])


@pytest.mark.parametrize("case", "ABC")
def test_sparse_rcnn_matches_and_loses_as_the_original(sparse_rcnn, box_head, case):
    sizes = sparse_rcnn["image_sizes_hw"]
    outputs = box_head(sparse_rcnn.pyramid(), sizes)
    labelled = torch.ones(2, dtype=torch.bool)
    terms = SparseRCNNLoss().terms(outputs, *box_targets(sparse_rcnn, case), sizes, labelled)
    for stage in range(2):
        for ours, theirs in (("focal", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
            close(terms[ours][stage], sparse_rcnn[f"losses/{case}/stage{stage}/{theirs}"])
    total = 2 * terms["focal"] + 5 * terms["l1"] + 2 * terms["giou"]
    close(total.sum(), sparse_rcnn[f"losses/{case}/total_weighted"])


@pytest.mark.parametrize("case", "ABC")
def test_sparse_rcnn_matches_the_same_proposals_as_the_original(sparse_rcnn, box_head, case):
    sizes = sparse_rcnn["image_sizes_hw"]
    outputs = box_head(sparse_rcnn.pyramid(), sizes)
    targets = pad_targets(*box_targets(sparse_rcnn, case), torch.ones(2, dtype=torch.bool))
    scale = 1 / sizes.flip(-1).repeat(1, 2)
    cost = SparseRCNNLoss().cost(outputs["logits"], outputs["boxes_xyxy"], targets, scale)
    pairs = match(cost, targets.real)
    for found, proposals, boxes, _ in check_pairs(pairs, sparse_rcnn, case, "stage"):
        assert found == dict(zip(proposals, boxes, strict=True))


def test_sparse_rcnn_learns_as_the_original(sparse_rcnn, box_head):
    box_head.zero_grad()
    pyramid, sizes = sparse_rcnn.pyramid(), sparse_rcnn["image_sizes_hw"]
    labelled = torch.ones(2, dtype=torch.bool)
    outputs = box_head(pyramid, sizes)
    terms = SparseRCNNLoss()(outputs, *box_targets(sparse_rcnn, "A"), sizes, labelled)
    sum(terms.values()).backward()
    check_gradients(sparse_rcnn, box_head, pyramid, skip=("boxes_cxcywh", "features"))
    close(box_head.boxes_cxcywh.grad, sparse_rcnn["grad/A/proposal_boxes"], 1e-3)
    close(box_head.features.grad, sparse_rcnn["grad/A/proposal_features"], 1e-3)


def test_sparse_rcnn_detects_as_the_original(sparse_rcnn, box_head):
    outputs = box_head(sparse_rcnn.pyramid(), sparse_rcnn["image_sizes_hw"])
    for image, (boxes, scores, classes) in enumerate(box_head.detect(outputs)):
        close(boxes, sparse_rcnn[f"inference/image{image}/boxes_xyxy"])
        close(scores, sparse_rcnn[f"inference/image{image}/scores"])
        assert classes.tolist() == sparse_rcnn[f"inference/image{image}/labels"].tolist()
