import torch
from torchvision.ops import FeaturePyramidNetwork

from bench.model.fpn import FPN

WIDTHS = (8, 16, 24, 32)


def trunk_maps(batch=2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, width, 24 >> level, 40 >> level, generator=generator)
        for level, width in enumerate(WIDTHS)
    ]


def test_fpn_equals_the_one_of_torchvision():
    ours, theirs = FPN(WIDTHS, 16), FeaturePyramidNetwork(list(WIDTHS), 16)
    names = {"laterals": "inner_blocks", "outputs": "layer_blocks"}
    state = {}
    for key, value in ours.state_dict().items():
        part, level, name = key.split(".")
        state[f"{names[part]}.{level}.0.{name}"] = value
    theirs.load_state_dict(state)
    expected = theirs({str(level): x for level, x in enumerate(trunk_maps())})
    torch.testing.assert_close(ours(trunk_maps()), list(expected.values()))


def test_fpn_of_resnet50_has_the_known_number_of_parameters():
    with torch.device("meta"):
        fpn = FPN((256, 512, 1024, 2048), 256)
    assert sum(p.numel() for p in fpn.parameters()) == 3_344_384


def test_fpn_starts_uniform_with_the_variance_of_the_fan_in_and_without_bias():
    torch.manual_seed(0)
    conv = FPN((64, 64), 64).outputs[0]
    assert not conv.bias.any()
    limit = (3 / (64 * 9)) ** 0.5
    assert 0.99 * limit < conv.weight.abs().max() <= limit


def test_fpn_of_two_images_is_that_of_each():
    fpn = FPN(WIDTHS, 16)
    together = fpn(trunk_maps())
    for image in range(2):
        alone = fpn([x[image : image + 1] for x in trunk_maps()])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[image])
