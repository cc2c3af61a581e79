"""Values that no trained network has, and how far trained ones are from random ones."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.catalog import ZooError, find
from zoo.resnet50 import resnet50
from zoo.stand_in import stand_in
from zoo.values import LOOKS_RANDOM_BELOW, check_values, random_ratio

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


# -- Hard failures ---------------------------------------------------------------------------------


def trained():
    generator = torch.Generator().manual_seed(0)
    return {
        "conv1.weight": torch.randn(4, 3, 7, 7, generator=generator),
        "bn1.weight": torch.rand(4, generator=generator),
        "bn1.running_mean": torch.randn(4, generator=generator),
        "bn1.running_var": torch.rand(4, generator=generator) + 0.1,
        "bn1.num_batches_tracked": torch.tensor(7),
        "layer1.0.conv1.weight": torch.randn(4, 4, 1, 1, generator=generator),
        "layer1.0.bn1.running_mean": torch.zeros(4),
        "layer1.0.bn1.running_var": torch.ones(4),
    }


def with_one(value, shape=(4, 3, 7, 7), dtype=torch.float32):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    tensor.view(-1)[3] = value
    return tensor


REFUSED = {
    "nan": ({"conv1.weight": with_one(math.nan)}, r"'conv1.weight' holds 1 of 588 .* not finite"),
    "infinity": ({"bn1.weight": with_one(math.inf, (4,))}, r"'bn1.weight' .* not finite"),
    "minus infinity": ({"conv1.weight": with_one(-math.inf)}, r"'conv1.weight' .* not finite"),
    "nan in float16": (
        {"conv1.weight": with_one(math.nan, dtype=torch.float16)},
        r"'conv1.weight' .* not finite",
    ),
    "nan in float8": (
        {"conv1.weight": with_one(math.nan, dtype=torch.float8_e4m3fn)},
        r"'conv1.weight' .* not finite",
    ),
    "nan in a view": (
        {"conv1.weight": with_one(math.nan, (7, 7, 3, 4)).permute(3, 2, 0, 1)},
        r"'conv1.weight' .* not finite",
    ),
    "variance 0": ({"bn1.running_var": with_one(0.0, (4,)).abs()}, r"'bn1.running_var' .*\(0\)"),
    "variance below 0": (
        {"bn1.running_var": torch.tensor([1, -0.5, 1, 1])},
        r"'bn1.running_var' holds a variance of 0 or less \(-0.5\)",
    ),
    "never saw an image": (
        {"bn1.running_mean": torch.zeros(4), "bn1.running_var": torch.ones(4)},
        "'bn1.running_mean' and every other running mean is 0, .* untrained weights",
    ),
    "zero": (
        {
            "conv1.weight": torch.zeros(4, 3, 7, 7),
            "layer1.0.conv1.weight": -torch.zeros(4, 4, 1, 1),
        },
        "every convolution is zero, beginning with 'conv1.weight'",
    ),
    "empty": ({"conv1.weight": torch.empty(0, 3, 7, 7)}, r"'conv1.weight' is empty.*\(0, 3, 7, 7"),
    "complex": (
        {"conv1.weight": torch.ones(4, 3, 7, 7, dtype=torch.complex64)},
        r"'conv1.weight' is complex \(torch.complex64\)",
    ),
    "integers": (
        {"conv1.weight": torch.ones(4, 3, 7, 7, dtype=torch.int8)},
        r"'conv1.weight' holds torch.int8",
    ),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED)
def test_values_of_no_trained_network_are_refused_by_name(changed, said):
    check_values(trained(), "x.pth")
    with pytest.raises(ZooError, match=rf"^x\.pth: {said}"):
        check_values(trained() | changed, "x.pth")


ACCEPTED = {
    # What is left of a dead channel's variance: torch's running average stops shrinking there.
    "the smallest variance": {"bn1.running_var": torch.full((4,), 5.6e-45)},
    "a sum beyond float32": {"conv1.weight": torch.full((4, 3, 7, 7), 3e38)},
    "one zero convolution": {"conv1.weight": torch.zeros(4, 3, 7, 7)},
    "one fresh BatchNorm": {"bn1.running_mean": torch.zeros(4)},
    "a view": {"conv1.weight": torch.rand(7, 7, 3, 4).permute(3, 2, 0, 1)},
    "a slice": {"conv1.weight": with_one(math.nan, (8, 3, 7, 7))[4:]},
    "float16": {"conv1.weight": torch.full((4, 3, 7, 7), 65504.0, dtype=torch.float16)},
}


@pytest.mark.parametrize("changed", ACCEPTED.values(), ids=ACCEPTED)
def test_odd_values_that_trained_networks_do_have_are_accepted(changed):
    check_values(trained() | changed, "x.pth")


def test_a_trunk_straight_from_its_constructor_is_refused_as_untrained():
    with pytest.raises(ZooError, match="untrained weights"):
        check_values(resnet50(variant="clip", padding="torch").state_dict(), "x.pth")


def test_tensors_without_convolutions_or_statistics_are_not_called_untrained():
    check_values({"bn1.weight": torch.ones(4)}, "x.pth")


def test_nothing_is_written_to_the_tensors():
    tensors = trained()
    before = {name: (tensor._version, tensor.clone()) for name, tensor in tensors.items()}
    check_values(tensors, "x.pth")
    random_ratio(tensors)
    for name, (version, values) in before.items():
        assert tensors[name]._version == version
        assert torch.equal(tensors[name], values)


# -- Distance from random initialisation -----------------------------------------------------------

SHAPES = [(64, 256), (128, 512), (512, 128), (256, 512), (512, 256)]


def drawn(draw, shapes=SHAPES):
    torch.manual_seed(0)
    return {f"{i}": draw(torch.empty(*shape, 1, 1)) for i, shape in enumerate(shapes)}


def svd_ratio(tensor):
    matrix = tensor.flatten(1).double()
    edge = matrix.std() * sum(length**0.5 for length in matrix.shape)
    return (torch.linalg.svdvals(matrix)[0] / edge).item()


DRAWS = {
    "normal": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "uniform": lambda w: nn.init.kaiming_uniform_(w, a=5**0.5),
    "truncated": lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    "mostly zero": lambda w: w.normal_() * (torch.rand_like(w) < 0.2),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_random_weights_of_any_distribution_and_scale_lie_at_the_edge(draw):
    weights = drawn(draw)
    assert random_ratio(weights) == pytest.approx(1, abs=0.03)
    scaled = {name: 10.0 ** (int(name) * 8 - 20) * weight for name, weight in weights.items()}
    assert random_ratio(scaled) == pytest.approx(random_ratio(weights), rel=1e-5)


def test_orthogonal_weights_lie_within_the_edge():
    assert 0.5 <= random_ratio(drawn(nn.init.orthogonal_)) < 0.7


@pytest.mark.parametrize("name", ["moco_v2", "clip"])
def test_stand_ins_look_random(name):
    assert random_ratio(stand_in(find(name))) == pytest.approx(1, abs=0.03)


def test_a_planted_direction_lies_beyond_the_edge():
    def planted(w):
        out, into = w.shape[:2]
        return w.normal_() + 1.5 * (torch.randn(out, 1) @ torch.randn(1, into) / out**0.5).view_as(
            w
        )

    weights = drawn(planted)
    assert random_ratio(weights) > LOOKS_RANDOM_BELOW


def test_the_ratio_is_the_median_of_what_singular_values_give():
    weights = drawn(DRAWS["normal"], [(64, 256), (100, 70), (300, 300)])
    weights["1"][0] *= 20
    weights["2"][:, 0] *= 3
    expected = sorted(svd_ratio(weight) for weight in weights.values())
    assert random_ratio(weights) == pytest.approx(expected[1], rel=1e-4)


def test_only_1x1_convolutions_that_vary_count():
    weights = drawn(DRAWS["normal"])
    others = {
        "3x3": torch.ones(8, 8, 3, 3),
        "fc": torch.ones(8, 8),
        "constant": torch.ones(8, 8, 1, 1),
    }
    assert random_ratio(weights | others) == random_ratio(weights)
    assert random_ratio(others) == 0


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_a_trained_resnet_is_beyond_the_edge_and_its_shapes_drawn_at_random_are_not():
    file = DATA / "weights" / "resnet20-12fca82f.th"
    tensors = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    matrices = [
        tensor.flatten(1)[..., None, None] for tensor in tensors.values() if tensor.ndim == 4
    ]
    trained = {str(i): matrix for i, matrix in enumerate(matrices)}
    assert len(trained) == 19
    assert random_ratio(trained) == pytest.approx(1.281, abs=1e-3)
    fresh = drawn(DRAWS["normal"], [matrix.shape[:2] for matrix in matrices])
    assert random_ratio(fresh) < LOOKS_RANDOM_BELOW
