"""The network against torchvision, open_clip, timm and TensorFlow's definition of SAME."""

import math

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from timm.models.byobnet import checkpoint_filter_fn, resnet50_clip
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50 as torchvision_resnet50
from torchvision.transforms.v2.functional import normalize

from zoo.catalog import catalog
from zoo.detect import detect, to_canonical
from zoo.dialects import units
from zoo.resnet50 import Normalisation, cut, resnet50

EVEN, ODD = (64, 96), (75, 81)


def images(size_hw):
    return torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(0))


def randomised(net):
    """Give BatchNorm values that matter, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            values = module.state_dict()
            for name in ("weight", "running_var"):
                values[name].uniform_(0.5, 1.5, generator=generator)
            for name in ("bias", "running_mean"):
                values[name].uniform_(-0.3, 0.3, generator=generator)
    return net.eval()


@pytest.fixture(scope="module")
def torchvision_net():
    return randomised(torchvision_resnet50(weights=None))


@pytest.fixture(scope="module")
def clip_net():
    torch.manual_seed(0)
    return randomised(ModifiedResNet([3, 4, 6, 3], 1024, 32))


@pytest.fixture(scope="module")
def our_clip_net(clip_net):
    published = {f"visual.{name}": tensor for name, tensor in clip_net.state_dict().items()}
    net = resnet50(variant="clip", padding="torch")
    net.load_state_dict(to_canonical(published, detect(published)))
    return net.eval()


@pytest.mark.parametrize("size_hw", [EVEN, ODD])
@torch.no_grad()
def test_plain_variant_equals_torchvision_bit_for_bit(torchvision_net, size_hw):
    net = resnet50(variant="plain", padding="torch").eval()
    weights = torchvision_net.state_dict()
    net.load_state_dict({name: weights[name] for name in weights if not name.startswith("fc.")})
    x = torchvision_net.conv1(images(size_hw))
    x = torchvision_net.maxpool(torchvision_net.relu(torchvision_net.bn1(x)))
    for stage, ours in enumerate(net(images(size_hw)), start=1):
        x = getattr(torchvision_net, f"layer{stage}")(x)
        assert torch.equal(ours, x), f"C{stage + 1}"


@pytest.mark.parametrize("size_hw", [EVEN, ODD])
@torch.no_grad()
def test_clip_variant_equals_open_clip(clip_net, our_clip_net, size_hw):
    x = clip_net.stem(images(size_hw))
    for stage, ours in enumerate(our_clip_net(images(size_hw)), start=1):
        x = getattr(clip_net, f"layer{stage}")(x)
        torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_clip_variant_equals_timm_s_own_clip_network(clip_net, our_clip_net):
    timm_net = resnet50_clip(pretrained=False).eval()
    published = {f"visual.{name}": tensor for name, tensor in clip_net.state_dict().items()}
    timm_net.load_state_dict(checkpoint_filter_fn(published, timm_net))
    theirs = timm_net.forward_intermediates(images(EVEN), intermediates_only=True)[-4:]
    for ours, expected in zip(our_clip_net(images(EVEN)), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


# -- SAME padding, from the definition in tf.nn's documentation -----------------------------------


def pads(length, kernel, stride):
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def padded_as_same(x, kernel, stride, value=0.0):
    (top, bottom), (left, right) = (pads(length, kernel, stride) for length in x.shape[-2:])
    return F.pad(x, (left, right, top, bottom), value=value)


def reference(weights, x, *, padding, strided=2):
    """A plain tiny ResNet as plain functions of its weights; conv`strided` halves the map."""

    def conv(x, name, stride=1):
        weight = weights[f"{name}.weight"]
        kernel = weight.shape[-1]
        if padding == "same":
            return F.conv2d(padded_as_same(x, kernel, stride), weight, stride=stride)
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2)

    def bn(x, name):
        of = [weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *of, eps=1e-5)

    x = bn(conv(x, "conv1", 2), "bn1").relu()
    if padding == "torch":
        x = F.max_pool2d(x, 3, 2, padding=1)
    else:
        x = F.max_pool2d(padded_as_same(x, 3, 2, -math.inf), 3, 2)
    stages = []
    for stage in (1, 2, 3, 4):
        at, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        strides = {1: 1, 2: 1} | {strided: stride}
        y = bn(conv(x, f"{at}.conv1", strides[1]), f"{at}.bn1").relu()
        y = bn(conv(y, f"{at}.conv2", strides[2]), f"{at}.bn2").relu()
        y = bn(conv(y, f"{at}.conv3"), f"{at}.bn3")
        if stage > 1:  # the tiny stem already has the width of C2
            x = bn(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
        x = (x + y).relu()
        stages.append(x)
    return stages


@pytest.mark.parametrize("size_hw", [EVEN, ODD, (66, 95), (90, 160)])
@pytest.mark.parametrize("padding", ["same", "same_pool"])
@torch.no_grad()
def test_same_padding_follows_tensorflow_s_definition(padding, size_hw):
    net = randomised(resnet50(variant="plain", padding=padding, size="tiny"))
    expected = reference(net.state_dict(), images(size_hw), padding=padding)
    for ours, theirs in zip(net(images(size_hw)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_same_padding_differs_from_torch_s_at_even_sizes_and_only_there():
    torch_net = randomised(resnet50(variant="plain", padding="torch", size="tiny"))
    same_net = resnet50(variant="plain", padding="same", size="tiny").eval()
    same_net.load_state_dict(torch_net.state_dict())
    odd, even = images((65, 65)), images((64, 64))
    assert torch.equal(torch_net(odd)[-1], same_net(odd)[-1])
    assert not torch.allclose(torch_net(even)[0], same_net(even)[0], atol=0.1)


# -- The stride in the 1x1 convolution, as Caffe's ResNets have it ---------------------------------


@pytest.mark.parametrize("size_hw", [EVEN, ODD, (90, 160)])
@pytest.mark.parametrize("padding", ["torch", "same", "same_pool"])
@torch.no_grad()
def test_stride_1x1_strides_in_the_first_convolution_of_a_stage(padding, size_hw):
    net = randomised(resnet50(variant="plain", padding=padding, stride="1x1", size="tiny"))
    expected = reference(net.state_dict(), images(size_hw), padding=padding, strided=1)
    for ours, theirs in zip(net(images(size_hw)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_place_of_the_stride_is_in_no_tensor_and_changes_every_stage_after_the_first():
    in_3x3 = randomised(resnet50(variant="plain", padding="torch", size="tiny"))
    in_1x1 = resnet50(variant="plain", padding="torch", stride="1x1", size="tiny").eval()
    in_1x1.load_state_dict(in_3x3.state_dict())
    first, *later = zip(in_3x3(images(EVEN)), in_1x1(images(EVEN)), strict=True)
    assert torch.equal(*first)
    for ours, theirs in later:
        assert ours.shape == theirs.shape
        assert not torch.allclose(ours, theirs, atol=0.1)


@torch.no_grad()
def test_stride_1x1_is_torchvision_s_network_with_its_strides_exchanged(torchvision_net):
    net = resnet50(variant="plain", padding="torch", stride="1x1").eval()
    weights = torchvision_net.state_dict()
    net.load_state_dict({name: weights[name] for name in weights if not name.startswith("fc.")})
    theirs = torchvision_resnet50(weights=None).eval()
    theirs.load_state_dict(weights)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images(ODD)))))
    for stage, ours in enumerate(net(images(ODD)), start=1):
        first = getattr(theirs, f"layer{stage}")[0]
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
        x = getattr(theirs, f"layer{stage}")(x)
        assert torch.equal(ours, x)


# -- Normalisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", catalog()[::11], ids=lambda row: row.name)
def test_normalisation_is_torchvision_s(row):
    images = torch.rand(2, 3, 5, 7)
    wanted = Normalisation(row.mean, row.std, row.order)
    expected = normalize(images, list(row.mean), list(row.std))
    torch.testing.assert_close(wanted(images), expected)


def test_bgr_is_the_channels_the_other_way_round():
    images = torch.rand(2, 3, 5, 7)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    blue_first = images[:, [2, 1, 0]]
    ours = Normalisation(mean, std, "bgr")(images)
    torch.testing.assert_close(ours, normalize(blue_first, list(mean), list(std)))
    rgb = Normalisation(mean[::-1], std[::-1])(images)
    torch.testing.assert_close(ours, rgb[:, [2, 1, 0]])


# -- Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "size", "parameters", "channels"),
    [
        ("plain", "full", 23_508_032, (256, 512, 1024, 2048)),
        ("clip", "full", 23_527_264, (256, 512, 1024, 2048)),
        ("plain", "tiny", 513_152, (64, 128, 256, 512)),
        ("clip", "tiny", 532_384, (64, 128, 256, 512)),
    ],
)
def test_parameters_and_channels(variant, size, parameters, channels):
    with torch.device("meta"):
        net = resnet50(variant=variant, padding="torch", size=size)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert net.channels == channels


@pytest.mark.parametrize("variant", ["plain", "clip"])
def test_the_table_of_units_is_the_network(variant):
    with torch.device("meta"):
        net = resnet50(variant=variant, padding="torch")
    expected = {}
    for unit in units(variant):
        expected[f"{unit.conv}.weight"] = unit.shape
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{unit.bn}.{leaf}"] = unit.shape[:1]
        expected[f"{unit.bn}.num_batches_tracked"] = ()
    assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == expected


def test_a_cut_takes_the_leading_slices():
    with torch.device("meta"):
        tiny = resnet50(variant="plain", padding="torch", size="tiny")
    full = resnet50(variant="plain", padding="torch").state_dict()
    taken = cut(full, tiny)
    assert taken.keys() == tiny.state_dict().keys()
    assert torch.equal(taken["conv1.weight"], full["conv1.weight"])
    assert torch.equal(taken["layer3.0.conv2.weight"], full["layer3.0.conv2.weight"][:64, :64])
    assert torch.equal(taken["layer4.0.bn3.running_var"], full["layer4.0.bn3.running_var"][:512])
