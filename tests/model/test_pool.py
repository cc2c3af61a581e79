from itertools import product

import torch
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from bench.model.pool import level_of, make_table, pool

SIZE_HW = (256, 448)


def pyramid():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 8, SIZE_HW[0] // s, SIZE_HW[1] // s, generator=generator, requires_grad=True)
        for s in (4, 8, 16, 32)
    ]


def boxes(count=60):
    """Boxes of all sizes, some of them partly or wholly outside of the image."""
    generator = torch.Generator().manual_seed(1)
    centre = torch.rand(2, count, 2, generator=generator) * 500 - 25
    size = torch.exp(torch.rand(2, count, 2, generator=generator) * 7)
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def pooled_by_torchvision(maps):
    pooled = torch.empty(2, 60, 8, 7, 7)
    for image, level in product(range(2), range(2, 6)):
        here = level_of(boxes()[image]) == level
        x = maps[level - 2][image : image + 1]
        pooled[image, here] = roi_align(x, [boxes()[image, here]], 7, 0.5**level, 2, aligned=True)
    return pooled


def test_pooling_is_that_of_torchvision_and_so_is_its_gradient():
    ours, theirs = pyramid(), pyramid()
    assert set(level_of(boxes()).flatten().tolist()) == {2, 3, 4, 5}
    expected = pooled_by_torchvision(theirs)
    found = pool(make_table(ours), boxes()).mT.unflatten(-1, (7, 7))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn(found.shape)
    found.backward(gradient)
    expected.backward(gradient)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


def test_boxes_go_to_the_level_that_torchvision_sends_them_to():
    sides = torch.exp(torch.linspace(0, 7, 500))
    squares = torch.stack((torch.zeros(500), torch.zeros(500), sides, sides), dim=-1)
    assert (level_of(squares) - 2).tolist() == LevelMapper(2, 5)([squares]).tolist()


def test_boxes_get_no_gradient():
    learned = boxes().requires_grad_()
    pool(make_table(pyramid()), learned).sum().backward()
    assert learned.grad is None


def test_boxes_that_are_not_finite_or_inside_out_are_no_error():
    strange = torch.tensor(
        [
            [torch.nan, 0, 9, 9],
            [0, -torch.inf, 9, torch.inf],
            [90, 10, 20, 80],
            [-1e30, -1e30, 1e30, 1e30],
        ]
    )
    assert pool(make_table(pyramid()), strange.expand(2, -1, -1)).isfinite().all()
