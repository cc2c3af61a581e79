import torch
from torchvision.ops import sigmoid_focal_loss

from bench.model.focal import focal, focal_either_way


def logits():
    return torch.linspace(-30, 30, 121)


def test_focal_loss_is_that_of_torchvision():
    targets = (torch.arange(121) % 3 == 0).float()
    expected = sigmoid_focal_loss(logits(), targets, alpha=0.25, gamma=2)
    torch.testing.assert_close(focal(logits(), targets), expected)


def test_either_way_is_the_loss_with_target_one_and_with_target_zero():
    positive, negative = focal_either_way(logits())
    torch.testing.assert_close(positive, focal(logits(), torch.ones(121)))
    torch.testing.assert_close(negative, focal(logits(), torch.zeros(121)))


def test_focal_loss_of_extreme_logits_has_a_finite_gradient():
    x = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    focal(x, torch.tensor([0.0, 0.0, 1.0, 1.0])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.75, -0.25, 0.0]))
