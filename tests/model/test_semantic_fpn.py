import pytest
import torch
from torch import nn

from bench.model.semantic_fpn import SemanticFPN
from bench.model.semantic_fpn_loss import SemanticFPNLoss

SIZE_HW = (64, 96)
CLASSES = 4


def make_head(**changes):
    torch.manual_seed(0)
    return SemanticFPN(**({"classes": CLASSES, "channels": 16, "width": 64} | changes))


def make_pyramid(batch=2, channels=16):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, channels, SIZE_HW[0] // s, SIZE_HW[1] // s, generator=generator)
        for s in (4, 8, 16, 32)
    ]


def make_labels(batch=2):
    labels = torch.zeros(batch, *SIZE_HW, dtype=torch.uint8)
    labels[0, 20:, 30:] = 2
    labels[1:, 10:40] = 1
    labels[:, :, 80:] = 255
    return labels


def yes(batch=2):
    return torch.ones(batch, dtype=torch.bool)


class Reference(nn.Module):
    """detectron2's head, put together from torch's own modules."""

    def __init__(self, classes, channels, width):
        super().__init__()

        def branch(doublings):
            parts, inputs = [], channels
            for _ in range(max(1, doublings)):
                parts += [nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.GroupNorm(32, width)]
                parts += [nn.ReLU()]
                parts += [nn.Upsample(scale_factor=2, mode="bilinear")] if doublings else []
                inputs = width
            return nn.Sequential(*parts)

        self.p2, self.p3, self.p4, self.p5 = map(branch, range(4))
        self.predictor = nn.Conv2d(width, classes, 1)
        self.enlarge = nn.Upsample(scale_factor=4, mode="bilinear")

    def forward(self, p2, p3, p4, p5):
        x = torch.stack([self.p2(p2), self.p3(p3), self.p4(p4), self.p5(p5)]).sum(0)
        return self.enlarge(self.predictor(x))


@pytest.mark.parametrize(("classes", "parameters"), [(19, 1_626_259), (3, 1_624_195)])
def test_semantic_fpn_has_the_known_number_of_parameters(classes, parameters):
    with torch.device("meta"):
        head, reference = SemanticFPN(classes=classes), Reference(classes, 256, 128)
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert sum(p.numel() for p in reference.parameters()) == parameters


def test_the_logits_and_the_loss_are_those_of_a_reference():
    ours, reference = make_head(), Reference(CLASSES, 16, 64)
    with torch.no_grad():  # every parameter shall matter
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        pairs = zip(ours.parameters(), reference.parameters(), strict=True)
        for mine, its in pairs:
            its.copy_(mine)
    outputs = ours(make_pyramid())
    assert outputs["logits"].shape == (2, CLASSES, 16, 24)
    expected = reference(*make_pyramid())
    probability = ours.segment(outputs, SIZE_HW)
    torch.testing.assert_close(probability, expected.softmax(1))
    torch.testing.assert_close(probability.sum(1), torch.ones(2, *SIZE_HW))
    loss = nn.CrossEntropyLoss(ignore_index=255)(expected, make_labels().long())
    torch.testing.assert_close(SemanticFPNLoss()(outputs, make_labels(), yes())["ce"], loss)


def test_the_same_seed_gives_the_same_head():
    torch.testing.assert_close(make_head().state_dict(), make_head().state_dict(), rtol=0, atol=0)


def test_convolutions_start_with_the_variance_of_the_fan_out_and_without_bias():
    head = make_head(width=128)
    weight = head.levels[3][2].conv.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert not head.classify.bias.any()


def test_a_batch_of_two_is_two_batches_of_one():
    head = make_head()
    together = head(make_pyramid())["logits"]
    for image in range(2):
        alone = head([x[image : image + 1] for x in make_pyramid()])["logits"]
        torch.testing.assert_close(alone[0], together[image], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_level():
    head, pyramid = make_head(), [x.requires_grad_() for x in make_pyramid()]
    SemanticFPNLoss()(head(pyramid), make_labels(), yes())["ce"].backward()
    everything = [*head.named_parameters(), *((f"P{k}", x) for k, x in enumerate(pyramid, 2))]
    assert [name for name, x in everything if x.grad is None or not x.grad.any()] == []


def test_the_loss_is_a_mean_over_the_labelled_pixels_of_the_batch():
    outputs, labels = make_head()(make_pyramid()), make_labels()
    labels[1, :, 8:] = 255
    pixels = [(labels[i] != 255).sum() for i in range(2)]
    apart = [
        SemanticFPNLoss()({"logits": outputs["logits"][[i]]}, labels[[i]], yes(1))["ce"]
        for i in range(2)
    ]
    expected = (apart[0] * pixels[0] + apart[1] * pixels[1]) / sum(pixels)
    torch.testing.assert_close(SemanticFPNLoss()(outputs, labels, yes())["ce"], expected)


@pytest.mark.parametrize("without", ["label", "pixels"])
def test_an_image_without_labels_is_as_if_it_were_not_there(without):
    outputs, labels, labelled = make_head()(make_pyramid()), make_labels(), yes()
    if without == "label":
        labelled[1] = False
    else:
        labels[1] = 255
    outputs["logits"].retain_grad()
    both = SemanticFPNLoss()(outputs, labels, labelled)
    alone = SemanticFPNLoss()({"logits": outputs["logits"][[0]]}, labels[[0]], yes(1))
    torch.testing.assert_close(both, alone)
    both["ce"].backward()
    assert not outputs["logits"].grad[1].any()


@pytest.mark.parametrize("without", ["labels", "pixels"])
def test_with_nothing_labelled_the_loss_is_zero_and_still_connected(without):
    head, labels, labelled = make_head(), make_labels(), yes()
    if without == "labels":
        labelled = ~labelled
    else:
        labels[:] = 255
    (term,) = SemanticFPNLoss()(head(make_pyramid()), labels, labelled).values()
    assert term == 0
    term.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_the_loss_is_computed_in_float32_under_autocast():
    outputs = {"logits": torch.randn(2, CLASSES, 16, 24).bfloat16()}
    expected = SemanticFPNLoss()(outputs, make_labels(), yes())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SemanticFPNLoss()(outputs, make_labels(), yes())
    assert found["ce"].dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_diverged_predictions_give_a_loss_that_is_not_finite_instead_of_an_error():
    outputs = {"logits": torch.full((2, CLASSES, 16, 24), torch.nan)}
    assert SemanticFPNLoss()(outputs, make_labels(), yes())["ce"].isnan()
