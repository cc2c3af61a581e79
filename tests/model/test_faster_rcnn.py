from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from bench.model.faster_rcnn import SHAPES, FasterRCNN
from bench.model.faster_rcnn_loss import FasterRCNNLoss

SIZES_HW = torch.tensor([[64, 90], [64, 96]])  # one short side: torchvision makes it one
CLASSES = 5
SIZES = {"channels": 16, "anchors": (8, 16, 24, 32, 48), "proposals": 40, "samples": 24}
HIDDEN = 32


def make_head(**changes):
    """A head of which every parameter matters, with anchors and regions of all kinds."""
    torch.manual_seed(0)
    head = FasterRCNN(classes=CLASSES, **(SIZES | {"hidden": HIDDEN} | changes))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return head


def make_pyramid(batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 16, 64 // s, 96 // s, generator=generator) for s in (4, 8, 16, 32)]


def make_targets():
    """Three boxes in image 0 and one in image 1."""
    boxes = torch.tensor(
        [[2, 3, 20, 19], [30, 10, 62, 41], [50, 30, 89, 59], [10, 5, 50, 60]], dtype=torch.float32
    )
    return [boxes[:3], boxes[3:]], [torch.tensor([4, 0, 4]), torch.tensor([2])]


def nothing():
    return [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2


def yes(batch=2):
    return torch.ones(batch, dtype=torch.bool)


def learn(head, targets, labelled, pyramid=None):
    """The terms of the loss as a training step computes them."""
    torch.manual_seed(3)
    outputs = head(pyramid or make_pyramid(), SIZES_HW, targets[0])
    return FasterRCNNLoss()(outputs, *targets, SIZES_HW, labelled)


class SeededSampler(BalancedPositiveNegativeSampler):
    """Draws the same whenever it is asked: torchvision asks in another order."""

    def __call__(self, matched_idxs):
        torch.manual_seed(7)
        return super().__call__(matched_idxs)


class GivenMaps(nn.Module):
    """A backbone that has seen the images already."""

    out_channels = 16

    def forward(self, images):
        assert images.shape[-2:] == (64, 96)
        maps = make_pyramid()
        maps.append(F.max_pool2d(maps[-1], 1, 2, 0))
        return OrderedDict(zip(("0", "1", "2", "3", "pool"), maps, strict=True))


def torchvisions(head):
    """torchvision's whole model around the same weights."""
    model = TorchvisionFasterRCNN(
        GivenMaps(),
        rpn_anchor_generator=AnchorGenerator(
            tuple((side,) for side in SIZES["anchors"]), (SHAPES,) * 5
        ),
        rpn_pre_nms_top_n_train=80,
        rpn_pre_nms_top_n_test=40,
        rpn_post_nms_top_n_train=80,
        rpn_post_nms_top_n_test=40,
        box_head=TwoMLPHead(16 * 49, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, CLASSES + 1),
        box_batch_size_per_image=24,
        min_size=64,
    )
    model.load_state_dict(head.state_dict())
    return model


def images():
    return [torch.zeros(3, *size) for size in SIZES_HW.tolist()]


def test_the_head_has_as_many_parameters_as_torchvisions():
    with torch.device("meta"):
        head = FasterRCNN(classes=10)
        model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=11)
    theirs = [*model.rpn.parameters(), *model.roi_heads.parameters()]
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in theirs)
    assert sum(p.numel() for p in head.parameters()) == 14_545_990


def test_detections_are_those_of_torchvision():
    head = make_head().eval()
    theirs = torchvisions(head).eval()(images())
    ours = head.detect(head(make_pyramid(), SIZES_HW))
    for (boxes, scores, classes), expected in zip(ours, theirs, strict=True):
        assert len(boxes) > 10
        torch.testing.assert_close(boxes, expected["boxes"])
        torch.testing.assert_close(scores, expected["scores"])
        torch.testing.assert_close(classes, expected["labels"] - 1)


@pytest.mark.parametrize("empty", [False, True])
def test_losses_and_gradients_are_those_of_torchvision(empty):
    head, (boxes, classes) = make_head(), make_targets()
    if empty:
        boxes[1], classes[1] = boxes[1][:0], classes[1][:0]
    model, loss = torchvisions(head), FasterRCNNLoss()
    samplers = SeededSampler(256, 0.5), SeededSampler(24, 0.25)
    loss.sampler = model.rpn.fg_bg_sampler = samplers[0]
    head.roi_heads.fg_bg_sampler = model.roi_heads.fg_bg_sampler = samplers[1]
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, classes, strict=True)]
    theirs = model(images(), targets)
    ours = loss(head(make_pyramid(), SIZES_HW, boxes), boxes, classes, SIZES_HW, yes())
    names = {
        "objectness": "loss_objectness",
        "shifts": "loss_rpn_box_reg",
        "ce": "loss_classifier",
        "moves": "loss_box_reg",
    }
    torch.testing.assert_close({names[name]: x for name, x in ours.items()}, theirs)
    assert all(x > 1e-3 for x in ours.values())
    sum(ours.values()).backward()
    sum(theirs.values()).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_head():
    torch.testing.assert_close(make_head().state_dict(), make_head().state_dict(), rtol=0, atol=0)


def test_outputs_have_the_promised_shapes():
    head, anchors = make_head(), 3 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)
    outputs = head(make_pyramid(), SIZES_HW)
    count = len(outputs["images"])
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "anchors_xyxy": (anchors, 4),
        "objectness": (2, anchors),
        "shifts": (2, anchors, 4),
        "regions_xyxy": (count, 4),
        "images": (count,),
        "logits": (count, CLASSES + 1),
        "moves": (count, CLASSES + 1, 4),
        "sizes_hw": (2, 2),
    }
    assert 0 < outputs["images"].bincount().max() <= 80
    assert 0 < head.eval()(make_pyramid(), SIZES_HW)["images"].bincount().max() <= 40


def test_a_batch_of_two_is_two_batches_of_one():
    head = make_head().eval()
    together = head(make_pyramid(), SIZES_HW)
    for image in range(2):
        alone = head([x[image : image + 1] for x in make_pyramid()], SIZES_HW[image : image + 1])
        for name in ("objectness", "shifts"):
            torch.testing.assert_close(alone[name][0], together[name][image], rtol=1e-4, atol=1e-5)
        its = together["images"] == image
        for name in ("regions_xyxy", "logits", "moves"):
            torch.testing.assert_close(alone[name], together[name][its], rtol=1e-4, atol=1e-4)


def test_to_learn_target_boxes_are_regions_too_and_a_quarter_at_most_hold_one():
    boxes = make_targets()[0]
    outputs = make_head()(make_pyramid(), SIZES_HW, boxes)
    counts = outputs["images"].bincount().tolist()
    assert counts == [24, 24]
    for own, regions in zip(boxes, outputs["regions_xyxy"].split(counts), strict=True):
        held = (own[:, None] == regions).all(-1).any(1)
        assert held.all()


def test_the_sample_is_a_function_of_the_global_seed_alone():
    def sampled(seed):
        torch.manual_seed(seed)
        return head(make_pyramid(), SIZES_HW, make_targets()[0])["regions_xyxy"]

    head = make_head()
    assert torch.equal(sampled(5), sampled(5))
    assert not torch.equal(sampled(5), sampled(6))


def test_gradients_reach_every_parameter_and_level():
    head, pyramid = make_head(), [x.requires_grad_() for x in make_pyramid()]
    sum(learn(head, make_targets(), yes(), pyramid).values()).backward()
    everything = [*head.named_parameters(), *((f"P{k}", x) for k, x in enumerate(pyramid, 2))]
    assert [name for name, x in everything if x.grad is None or not x.grad.any()] == []


def test_regions_are_not_followed_back_into_the_anchors():
    head = make_head()
    head(make_pyramid(), SIZES_HW)["moves"].sum().backward()
    assert all(p.grad is None for p in head.rpn.parameters())
    assert head.roi_heads.box_head.fc6.weight.grad.any()


def test_an_unlabelled_image_is_as_if_it_were_not_there():
    head, (boxes, classes) = make_head(samples=200), make_targets()  # no region is left to chance
    torch.manual_seed(3)
    outputs = head(make_pyramid(), SIZES_HW, boxes)
    for name in ("objectness", "shifts", "logits", "moves"):
        outputs[name].retain_grad()
    torch.manual_seed(3)
    both = FasterRCNNLoss()(outputs, boxes, classes, SIZES_HW, torch.tensor([True, False]))
    first = [x[:1] for x in make_pyramid()]
    torch.manual_seed(3)
    alone = head(first, SIZES_HW[:1], boxes[:1])
    torch.manual_seed(3)
    expected = FasterRCNNLoss()(alone, boxes[:1], classes[:1], SIZES_HW[:1], yes(1))
    torch.testing.assert_close(both, expected)
    sum(both.values()).backward()
    assert not outputs["objectness"].grad[1].any()
    assert not outputs["shifts"].grad[1].any()
    others = outputs["images"] == 1
    assert not outputs["logits"].grad[others].any()
    assert not outputs["moves"].grad[others].any()
    assert outputs["logits"].grad[~others].any()


def test_a_labelled_image_without_boxes_says_that_there_are_no_objects():
    terms = learn(make_head(), nothing(), yes())
    assert terms["shifts"] == terms["moves"] == 0
    assert terms["objectness"] > 0
    assert terms["ce"] > 0


def test_with_nothing_labelled_the_loss_is_zero_and_still_connected():
    head, pyramid = make_head(), [x.requires_grad_() for x in make_pyramid()]
    terms = learn(head, nothing(), ~yes(), pyramid)
    assert [x.item() for x in terms.values()] == [0, 0, 0, 0]
    sum(terms.values()).backward()
    assert all(x.grad is not None and not x.grad.any() for x in [*head.parameters(), *pyramid])


def test_boxes_without_area_are_dropped():
    boxes, classes = make_targets()
    more = [torch.cat((own, torch.tensor([[5.0, 5.0, 5.0, 40.0]]))) for own in boxes]
    ids = [torch.cat((own, torch.tensor([1]))) for own in classes]
    found = learn(make_head(), (more, ids), yes())
    torch.testing.assert_close(found, learn(make_head(), (boxes, classes), yes()))


def test_a_box_that_fills_no_anchor_well_is_held_by_the_best_of_them():
    boxes = [torch.tensor([[0.0, 30.0, 96.0, 32.0]]), torch.zeros(0, 4)]
    classes = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    assert learn(make_head(), (boxes, classes), yes())["shifts"] > 0


def test_heads_that_find_no_region_at_all_learn_and_detect_nothing():
    head = make_head()
    with torch.no_grad():  # every box so small that it is left out
        head.rpn.head.bbox_pred.bias.fill_(-50.0)
    terms = learn(head, nothing(), yes())
    assert all(x.isfinite() for x in terms.values())
    sum(terms.values()).backward()
    found = head.eval().detect(head(make_pyramid(), SIZES_HW))
    assert [[len(x) for x in one] for one in found] == [[0, 0, 0], [0, 0, 0]]


def test_losses_stay_float32_and_anchors_exact_under_autocast():
    head = make_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = [x.bfloat16() for x in make_pyramid()]
        outputs = head(maps, SIZES_HW, make_targets()[0])
        terms = FasterRCNNLoss()(outputs, *make_targets(), SIZES_HW, yes())
        head.detect(outputs)
    exact = head(make_pyramid(), SIZES_HW)["anchors_xyxy"]
    torch.testing.assert_close(outputs["anchors_xyxy"], exact, rtol=0, atol=0)
    assert {x.dtype for x in terms.values()} == {torch.float32}
    assert all(x.isfinite() for x in terms.values())
    sum(terms.values()).backward()


@pytest.mark.parametrize("targets", [make_targets, nothing])
def test_diverged_predictions_give_a_loss_that_is_not_finite_instead_of_an_error(targets):
    maps = [x * torch.nan for x in make_pyramid()]
    assert sum(learn(make_head(), targets(), yes(), maps).values()).isnan()
