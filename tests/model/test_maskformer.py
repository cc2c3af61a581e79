import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from bench.model.maskformer import MaskFormer
from bench.model.maskformer_loss import MaskFormerLoss

SIZE_HW = (64, 96)
CLASSES = 4


def make_head(**changes):
    torch.manual_seed(0)
    sizes = {"channels": 32, "width": 32, "queries": 6, "layers": 2, "heads": 4, "ffn": 48}
    return MaskFormer(classes=CLASSES, **(sizes | {"dropout": 0.0} | changes))


def make_pyramid(batch=2, channels=32):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, channels, SIZE_HW[0] // s, SIZE_HW[1] // s, generator=generator)
        for s in (4, 8, 16, 32)
    ]


def make_outputs(batch=2, layers=2, queries=6):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(layers, batch, queries, CLASSES + 1, generator=generator)
    masks = torch.randn(layers, batch, queries, 16, 24, generator=generator)
    return {"logits": logits.requires_grad_(), "masks": masks.requires_grad_()}


def make_labels(batch=2):
    """Three classes in image 0 and two in image 1, each with an ignored border at the right."""
    labels = torch.zeros(batch, *SIZE_HW, dtype=torch.uint8)
    labels[0, 20:, 30:] = 2
    labels[0, :30, 50:] = 3
    labels[1:, 10:40] = 1
    labels[:, :, 80:] = 255
    return labels


def yes(batch=2):
    return torch.ones(batch, dtype=torch.bool)


def only(outputs, images):
    return {name: x[:, images] for name, x in outputs.items()}


@pytest.mark.parametrize(("classes", "parameters"), [(19, 12_850_708), (3, 12_846_596)])
def test_maskformer_has_the_known_number_of_parameters(classes, parameters):
    with torch.device("meta"):
        head = MaskFormer(classes=classes)
    assert sum(p.numel() for p in head.parameters()) == parameters


def test_outputs_have_the_promised_shapes():
    head = make_head(width=64, layers=3)
    outputs = head(make_pyramid())
    assert outputs["logits"].shape == (3, 2, 6, CLASSES + 1)
    assert outputs["masks"].shape == (3, 2, 6, 16, 24)
    assert head.segment(outputs, SIZE_HW).shape == (2, CLASSES, *SIZE_HW)


def test_to_predict_only_the_last_masks_are_made():
    head = make_head(width=64, layers=3)
    learning, predicting = head(make_pyramid()), head.eval()(make_pyramid())
    torch.testing.assert_close(predicting["masks"], learning["masks"][-1:])
    torch.testing.assert_close(
        head.segment(predicting, SIZE_HW), head.segment(learning, SIZE_HW), rtol=0, atol=1e-6
    )


def test_a_projection_is_made_only_for_another_width():
    assert not any("project" in name for name in make_head().state_dict())
    assert any("project" in name for name in make_head(width=64).state_dict())


def test_the_same_seed_gives_the_same_head():
    torch.testing.assert_close(make_head().state_dict(), make_head().state_dict(), rtol=0, atol=0)


def test_a_batch_of_two_is_two_batches_of_one():
    head = make_head()
    together = head(make_pyramid())
    for image in range(2):
        alone = head([x[image : image + 1] for x in make_pyramid()])
        for name, x in alone.items():
            torch.testing.assert_close(x[:, 0], together[name][:, image], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter():
    head = make_head(width=64)
    with torch.no_grad():  # at first the queries see nothing but biases, which are zero
        for layer in head.decoder:
            layer.self_attention.out_proj.bias.normal_()
            layer.self_attention.in_proj_bias.normal_()
    sum(MaskFormerLoss()(head(make_pyramid()), make_labels(), yes()).values()).backward()
    without = {name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()}
    # What the first layer's queries see of each other is the same for all of them.
    assert without <= {"decoder.0.self_attention.in_proj_weight"}


def test_segment_is_class_probability_times_mask_probability():
    logits = torch.full((1, 1, 2, 3), -50.0)
    logits[0, 0, 0, 1] = 50  # query 0 is class 1, query 1 is no object
    logits[0, 0, 1, 2] = 50
    masks = torch.tensor([0.0, 50.0]).view(1, 1, 2, 1, 1).expand(-1, -1, -1, 2, 2)
    scores = make_head().segment({"logits": logits, "masks": masks}, (8, 8))
    torch.testing.assert_close(scores[0, 0], torch.zeros(8, 8))
    torch.testing.assert_close(scores[0, 1], torch.full((8, 8), 0.5))


def reference_terms(outputs, labels, predictions):
    """The loss written out for every mask, for given queries `[layer][image][class]`."""
    weight = torch.tensor([1.0] * CLASSES + [0.1])
    terms = {"ce": [], "focal": [], "dice": []}
    for layer, of_images in enumerate(predictions):
        targets = torch.full(outputs["logits"].shape[1:3], CLASSES)
        focal, dice = [], []
        for image, of_classes in enumerate(of_images):
            counted = labels[image] != 255
            for class_id, query in of_classes.items():
                targets[image, query] = class_id
                mask = outputs["masks"][layer, image, query][None, None]
                x = F.interpolate(mask, size=SIZE_HW, mode="bilinear")[0, 0][counted]
                t = (labels[image] == class_id).float()[counted]
                focal.append(sigmoid_focal_loss(x, t, alpha=0.25, gamma=2, reduction="mean"))
                p = x.sigmoid()
                dice.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
        logits = outputs["logits"][layer].flatten(0, 1)
        terms["ce"].append(F.cross_entropy(logits, targets.flatten(), weight))
        terms["focal"].append(torch.stack(focal).mean())
        terms["dice"].append(torch.stack(dice).mean())
    return {name: torch.stack(values) for name, values in terms.items()}


def test_the_terms_are_those_written_out_mask_by_mask():
    outputs = make_outputs()
    queries = [[{0: 4, 2: 1, 3: 0}, {0: 2, 1: 5}], [{0: 0, 2: 3, 3: 5}, {0: 1, 1: 2}]]
    with torch.no_grad():  # so sure of their class that the matching is known
        for layer, of_images in enumerate(queries):
            for image, of_classes in enumerate(of_images):
                for class_id, query in of_classes.items():
                    outputs["logits"][layer, image, query, class_id] += 1000
    found = MaskFormerLoss(ce_weight=100.0).terms(outputs, make_labels(), yes())
    expected = reference_terms(outputs, make_labels(), queries)
    torch.testing.assert_close(found, expected)


def test_the_loss_is_the_weighted_sum_over_the_layers():
    outputs = make_outputs()
    terms = MaskFormerLoss().terms(outputs, make_labels(), yes())
    loss = MaskFormerLoss()(outputs, make_labels(), yes())
    torch.testing.assert_close(loss["ce"], terms["ce"].sum())
    torch.testing.assert_close(loss["focal"], 20 * terms["focal"].sum())
    torch.testing.assert_close(loss["dice"], terms["dice"].sum())


def test_an_image_alone_costs_as_much_as_the_same_image_twice():
    outputs, labels = make_outputs(), make_labels()
    alone = MaskFormerLoss()(only(outputs, [0]), labels[[0]], yes(1))
    twice = MaskFormerLoss()(only(outputs, [0, 0]), labels[[0, 0]], yes())
    torch.testing.assert_close(alone, twice)


@pytest.mark.parametrize("without", ["label", "pixels"])
def test_an_image_without_labels_is_as_if_it_were_not_there(without):
    outputs, labels, labelled = make_outputs(), make_labels(), yes()
    if without == "label":
        labelled[1] = False
    else:
        labels[1] = 255
    both = MaskFormerLoss()(outputs, labels, labelled)
    torch.testing.assert_close(both, MaskFormerLoss()(only(outputs, [0]), labels[[0]], yes(1)))
    sum(both.values()).backward()
    assert not outputs["logits"].grad[:, 1].any()
    assert not outputs["masks"].grad[:, 1].any()


@pytest.mark.parametrize("mask_ignore", ["valid", "maskformer"])
def test_with_nothing_labelled_the_loss_is_zero_and_still_connected(mask_ignore):
    head = make_head()
    terms = MaskFormerLoss(mask_ignore=mask_ignore)(head(make_pyramid()), make_labels(), ~yes())
    assert [x.item() for x in terms.values()] == [0, 0, 0]
    sum(terms.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_predictions_on_ignored_pixels_change_nothing():
    outputs, labels = make_outputs(), make_labels()
    strange = {"logits": outputs["logits"], "masks": outputs["masks"].detach().clone()}
    strange["masks"][..., 21:] += 7  # columns 84 and up, out of reach of the pixels that count
    loss = MaskFormerLoss()
    torch.testing.assert_close(loss(strange, labels, yes()), loss(outputs, labels, yes()))
    original = MaskFormerLoss(mask_ignore="maskformer")
    as_negatives = original(strange, labels, yes())["focal"]
    assert as_negatives > original(outputs, labels, yes())["focal"] + 1


def test_padding_an_image_changes_nothing():
    labels, outputs = make_labels(), make_outputs()
    padded = {"logits": outputs["logits"], "masks": F.pad(outputs["masks"], (0, 8, 0, 8))}
    more = F.pad(labels, (0, 32, 0, 32), value=255)
    labels[:, -4:] = 255  # what bilinear resizing mixes with the padding
    more[:, SIZE_HW[0] - 4 :] = 255
    loss = MaskFormerLoss()
    torch.testing.assert_close(loss(padded, more, yes()), loss(outputs, labels, yes()))


def test_at_a_quarter_of_the_size_the_loss_is_that_with_labels_of_that_size():
    outputs, labels = make_outputs(), make_labels()
    small = labels[:, ::4, ::4]  # the nearest pixel is the first of four
    quarter = MaskFormerLoss(size="quarter")(outputs, labels, yes())
    torch.testing.assert_close(quarter, MaskFormerLoss()(outputs, small, yes()))
    assert abs(quarter["focal"] / MaskFormerLoss()(outputs, labels, yes())["focal"] - 1) > 1e-3


def test_more_classes_than_queries_are_no_error():
    terms = MaskFormerLoss()(make_outputs(queries=2), make_labels(), yes())
    assert all(x.isfinite() and x > 0 for x in terms.values())


def test_the_loss_is_computed_in_float32_under_autocast():
    outputs = {name: x.detach().bfloat16() for name, x in make_outputs().items()}
    expected = MaskFormerLoss()(outputs, make_labels(), yes())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MaskFormerLoss()(outputs, make_labels(), yes())
    assert {x.dtype for x in found.values()} == {torch.float32}
    torch.testing.assert_close(found, expected)


def test_diverged_predictions_give_a_loss_that_is_not_finite_instead_of_an_error():
    outputs = make_outputs()
    outputs["masks"].data.fill_(torch.nan)
    assert sum(MaskFormerLoss()(outputs, make_labels(), yes()).values()).isnan()
