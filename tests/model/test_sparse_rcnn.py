import pytest
import torch
from torchvision.ops import generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from bench.model.sparse_rcnn import SparseRCNN, decode_boxes
from bench.model.sparse_rcnn_loss import SparseRCNNLoss, generalized_iou

SIZES_HW = torch.tensor([[60, 90], [64, 96]])
CLASSES = 5


def make_head(**changes):
    torch.manual_seed(0)
    sizes = {"channels": 32, "proposals": 7, "stages": 2, "heads": 4, "ffn": 48, "dynamic": 8}
    return SparseRCNN(**({"classes": CLASSES} | sizes | changes))


def make_pyramid(batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 32, 64 // s, 96 // s, generator=generator) for s in (4, 8, 16, 32)]


def make_boxes(*shape):
    generator = torch.Generator().manual_seed(2)
    low = torch.rand(*shape, 2, generator=generator) * 50
    return torch.cat((low, low + 5 + torch.rand(*shape, 2, generator=generator) * 30), dim=-1)


def make_outputs(proposals=7):
    logits = torch.randn(2, 2, proposals, CLASSES, generator=torch.Generator().manual_seed(3))
    boxes = make_boxes(2, 2, proposals)
    return {"logits": logits.requires_grad_(), "boxes_xyxy": boxes.requires_grad_()}


def make_targets():
    """Three boxes in image 0 and one in image 1."""
    boxes = make_boxes(4)
    return [boxes[:3], boxes[3:]], [torch.tensor([4, 0, 4]), torch.tensor([2])]


def yes(batch=2):
    return torch.ones(batch, dtype=torch.bool)


def only(outputs, images):
    return {name: x[:, images] for name, x in outputs.items()}


def test_sparse_rcnn_has_the_known_number_of_parameters():
    with torch.device("meta"):
        head = SparseRCNN(classes=10)
    learned = head.features.numel() + head.boxes_cxcywh.numel()
    assert learned == 78_000
    assert sum(p.numel() for p in head.parameters()) == 79_304_532 + learned


@pytest.mark.parametrize("classes", [4, 10, 32])
def test_only_the_classifiers_start_at_the_prior(classes):
    state = make_head(classes=classes).state_dict()
    at_prior = [name for name, x in state.items() if torch.all((x + 4.59512).abs() < 1e-5)]
    assert at_prior == ["stages.0.classify.bias", "stages.1.classify.bias"]


def test_every_proposal_starts_as_the_whole_image_without_its_padding():
    first = make_head().first_boxes(SIZES_HW)
    torch.testing.assert_close(first[0, 3], torch.tensor([0.0, 0.0, 90.0, 60.0]))
    torch.testing.assert_close(first[1, 6], torch.tensor([0.0, 0.0, 96.0, 64.0]))


def test_the_same_seed_gives_the_same_head():
    torch.testing.assert_close(make_head().state_dict(), make_head().state_dict(), rtol=0, atol=0)


def test_boxes_without_deltas_stay_and_growth_is_limited():
    boxes = make_boxes(3)
    torch.testing.assert_close(decode_boxes(torch.zeros(3, 4), boxes), boxes)
    grown = decode_boxes(torch.tensor([0.0, 0.0, 99.0, 0.0]), torch.tensor([0.0, 0.0, 2.0, 4.0]))
    torch.testing.assert_close(grown, torch.tensor([1 - 6250.0, 0.0, 1 + 6250.0, 4.0]))
    moved = decode_boxes(torch.tensor([2.0, -1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0, 4.0]))
    torch.testing.assert_close(moved, torch.tensor([2.0, -2.0, 4.0, 2.0]))


def test_a_batch_of_two_is_two_batches_of_one():
    head = make_head()
    together = head(make_pyramid(), SIZES_HW)
    assert together["logits"].shape == (2, 2, 7, CLASSES)
    assert together["boxes_xyxy"].shape == (2, 2, 7, 4)
    for image in range(2):
        alone = head([x[image : image + 1] for x in make_pyramid()], SIZES_HW[image : image + 1])
        for name, x in alone.items():
            scale = SIZES_HW.max().item() if name == "boxes_xyxy" else 1  # boxes are in pixels
            expected = together[name][:, image] / scale
            torch.testing.assert_close(x[:, 0] / scale, expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_parameter_and_level():
    head, pyramid = make_head(), [x.requires_grad_() for x in make_pyramid()]
    with torch.no_grad():  # proposals of every size, so that every level is read
        head.boxes_cxcywh[:, 2:] = torch.linspace(0.05, 12, 7)[:, None]
    outputs = head(pyramid, SIZES_HW)
    loss = SparseRCNNLoss()(outputs, *make_targets(), SIZES_HW, yes())
    sum(loss.values()).backward()
    everything = [*head.named_parameters(), *((f"P{k}", x) for k, x in enumerate(pyramid, 2))]
    assert [name for name, x in everything if x.grad is None or not x.grad.any()] == []


def test_boxes_are_not_followed_back_into_the_stage_before():
    head = make_head()
    outputs = head(make_pyramid(), SIZES_HW)
    outputs["boxes_xyxy"][1].sum().backward()
    assert not head.boxes_cxcywh.grad.any()
    assert not head.stages[0].deltas.weight.grad.any()
    assert head.stages[0].expand.weight.grad.any()


def test_detect_takes_the_best_pairs_of_box_and_class():
    logits = torch.full((1, 1, 3, 2), -9.0)
    logits[0, 0, 2] = torch.tensor([3.0, 1.0])
    logits[0, 0, 0, 1] = 2.0
    boxes = make_boxes(1, 1, 3)
    found = make_head().detect({"logits": logits, "boxes_xyxy": boxes})
    (chosen, scores, classes) = found[0]
    torch.testing.assert_close(chosen, boxes[0, 0, [2, 0, 2]])
    torch.testing.assert_close(scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    assert classes.tolist() == [0, 1, 1]


def test_generalized_iou_is_that_of_torchvision():
    a, b = make_boxes(9), make_boxes(17)[9:]
    torch.testing.assert_close(generalized_iou(a[:, None], b), generalized_box_iou(a, b))


def test_the_terms_are_those_written_out_box_by_box():
    outputs, (boxes, classes) = make_outputs(), make_targets()
    matched = [[{4: 0, 1: 1, 2: 2}, {5: 0}], [{0: 0, 3: 1, 6: 2}, {2: 0}]]
    with torch.no_grad():  # so sure of their class that the matching is nearly known
        outputs["logits"] -= 20
        for stage, of_images in enumerate(matched):
            for image, pairs in enumerate(of_images):
                for proposal, target in pairs.items():
                    outputs["boxes_xyxy"][stage, image, proposal] = boxes[image][target] + 1
                    outputs["logits"][stage, image, proposal, classes[image][target]] += 25
    found = SparseRCNNLoss().terms(outputs, boxes, classes, SIZES_HW, yes())
    for stage, of_images in enumerate(matched):
        targets, l1, giou = torch.zeros(2, 7, CLASSES), 0.0, 0.0
        for image, pairs in enumerate(of_images):
            height, width = SIZES_HW[image].tolist()
            for proposal, target in pairs.items():
                targets[image, proposal, classes[image][target]] = 1
                a, b = outputs["boxes_xyxy"][stage, image, proposal], boxes[image][target]
                l1 += (a - b).abs().div(torch.tensor([width, height, width, height])).sum()
                giou += generalized_box_iou_loss(a, b)
        focal = sigmoid_focal_loss(outputs["logits"][stage], targets, reduction="sum")
        torch.testing.assert_close(found["focal"][stage], focal / 4)
        torch.testing.assert_close(found["l1"][stage], l1 / 4)
        torch.testing.assert_close(found["giou"][stage], giou / 4)


def test_the_loss_is_the_weighted_sum_over_the_stages():
    arguments = make_outputs(), *make_targets(), SIZES_HW, yes()
    terms, loss = SparseRCNNLoss().terms(*arguments), SparseRCNNLoss()(*arguments)
    torch.testing.assert_close(loss["focal"], 2 * terms["focal"].sum())
    torch.testing.assert_close(loss["l1"], 5 * terms["l1"].sum())
    torch.testing.assert_close(loss["giou"], 2 * terms["giou"].sum())


def test_an_image_alone_costs_as_much_as_the_same_image_twice():
    outputs, (boxes, classes) = make_outputs(), make_targets()
    alone = SparseRCNNLoss()(only(outputs, [0]), boxes[:1], classes[:1], SIZES_HW[:1], yes(1))
    twice = only(outputs, [0, 0]), boxes[:1] * 2, classes[:1] * 2, SIZES_HW[[0, 0]], yes()
    torch.testing.assert_close(alone, SparseRCNNLoss()(*twice))


def test_an_unlabelled_image_is_as_if_it_were_not_there():
    outputs, (boxes, classes) = make_outputs(), make_targets()
    both = SparseRCNNLoss()(outputs, boxes, classes, SIZES_HW, torch.tensor([True, False]))
    alone = SparseRCNNLoss()(only(outputs, [0]), boxes[:1], classes[:1], SIZES_HW[:1], yes(1))
    torch.testing.assert_close(both, alone)
    sum(both.values()).backward()
    assert not outputs["logits"].grad[:, 1].any()
    assert not outputs["boxes_xyxy"].grad[:, 1].any()


def test_a_labelled_image_without_boxes_says_that_there_are_no_objects():
    outputs = make_outputs()
    nothing = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    terms = SparseRCNNLoss()(outputs, *nothing, SIZES_HW, yes())
    assert terms["l1"] == terms["giou"] == 0
    expected = 2 * sigmoid_focal_loss(outputs["logits"], torch.zeros(2, 2, 7, CLASSES)).sum()
    torch.testing.assert_close(terms["focal"], expected)
    sum(terms.values()).backward()
    assert torch.all(outputs["logits"].grad > 0)


def test_with_nothing_labelled_the_loss_is_zero_and_still_connected():
    head = make_head()
    outputs = head(make_pyramid(), SIZES_HW)
    terms = SparseRCNNLoss()(outputs, *make_targets(), SIZES_HW, ~yes())
    assert [x.item() for x in terms.values()] == [0, 0, 0]
    sum(terms.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_boxes_without_area_are_dropped():
    outputs, (boxes, classes) = make_outputs(), make_targets()
    expected = SparseRCNNLoss()(outputs, boxes, classes, SIZES_HW, yes())
    flat = torch.tensor([[5.0, 5.0, 5.0, 9.0], [5.0, 9.0, 8.0, 7.0]])
    boxes = [torch.cat((flat, boxes[0])), boxes[1]]
    classes = [torch.cat((torch.tensor([1, 1]), classes[0])), classes[1]]
    found = SparseRCNNLoss()(outputs, boxes, classes, SIZES_HW, yes())
    torch.testing.assert_close(found, expected)


def test_more_targets_than_proposals_are_no_error_and_all_counted():
    outputs = make_outputs(proposals=2)
    boxes, classes = [make_boxes(5)] * 2, [torch.zeros(5, dtype=torch.int64)] * 2
    terms = SparseRCNNLoss().terms(outputs, boxes, classes, SIZES_HW, yes())
    assert all(x.isfinite().all() for x in terms.values())
    assert torch.all(terms["giou"] <= 2 * 4 / 10)


def test_the_loss_is_computed_in_float32_under_autocast():
    outputs = make_outputs()
    outputs["logits"] = outputs["logits"].detach().bfloat16()
    expected = SparseRCNNLoss()(outputs, *make_targets(), SIZES_HW, yes())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SparseRCNNLoss()(outputs, *make_targets(), SIZES_HW, yes())
    assert {x.dtype for x in found.values()} == {torch.float32}
    torch.testing.assert_close(found, expected)


def test_boxes_stay_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = make_head()(make_pyramid(), SIZES_HW)
    assert outputs["boxes_xyxy"].dtype == torch.float32


def test_diverged_predictions_give_a_loss_that_is_not_finite_instead_of_an_error():
    head = make_head()
    outputs = head([x * torch.nan for x in make_pyramid()], SIZES_HW)
    terms = SparseRCNNLoss()(outputs, *make_targets(), SIZES_HW, yes())
    assert sum(terms.values()).isnan()
