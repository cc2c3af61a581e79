"""The written-out sums and gradient are those of autograd."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from bench.model import mask_sums as module
from bench.model.mask_sums import mask_sums

IGNORE, SIZE_HW = 255, (12, 20)


def make(size_hw=SIZE_HW, dtype=torch.float64):
    """Two layers of three masks, of which two are of one image; a fifth of the pixels ignored."""
    generator = torch.Generator().manual_seed(0)
    masks = 5 * torch.randn(2, 3, 3, 5, generator=generator, dtype=dtype)
    images = torch.randint(0, 4, (2, *size_hw), generator=generator).byte()
    images[torch.rand(images.shape, generator=generator) < 0.2] = IGNORE
    truth = images.flatten(1)[[0, 0, 1]].T.contiguous()
    classes = torch.tensor([[0, 1, 2], [1, 0, 3]])
    return masks.requires_grad_(), truth, classes, (truth != IGNORE).to(dtype), size_hw


def through_autograd(masks, truth, classes, counted, size_hw):
    x = F.interpolate(masks, size_hw, mode="bilinear").flatten(2)
    inside = (classes[..., None] == truth.T).to(x.dtype)
    probability = x.sigmoid() * counted.T
    focal = sigmoid_focal_loss(x, inside, alpha=0.25, gamma=2) * counted.T
    return focal.sum(2), (probability * inside).sum(2), (probability + inside).sum(2)


@pytest.mark.parametrize("in_cache", [12, 2**17])
@pytest.mark.parametrize("size_hw", [SIZE_HW, (3, 5)], ids=["larger", "as large"])
def test_the_sums_and_their_gradient_are_autograds(monkeypatch, in_cache, size_hw):
    monkeypatch.setattr(module, "IN_CACHE", in_cache)
    arguments = make(size_hw)
    upstream = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for function in (mask_sums, through_autograd):
        sums = torch.stack(function(*arguments))
        results.append((sums, *torch.autograd.grad((sums * upstream).sum(), arguments[0])))
    torch.testing.assert_close(results[0], results[1])


def test_the_gradient_is_that_of_small_changes():
    masks, *others = make((6, 10))
    assert torch.autograd.gradcheck(lambda x: mask_sums(x, *others), (masks,))


def test_logits_far_out_give_finite_gradients():
    masks, *others = make(dtype=torch.float32)
    far = (1e4 * masks.detach().sign()).requires_grad_()
    focal, *_ = mask_sums(far, *others)
    focal.sum().backward()
    assert focal.isfinite().all()
    assert far.grad.isfinite().all()
