"""Networks that are not a ResNet-50, and what is said of each: by names and shapes alone."""

import logging

import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from torchvision import models

from tests.zoo.examples import bare, meta, published, refused, under
from zoo.canonical import trunk_of
from zoo.catalog import ZooError
from zoo.detect import NotFound, detect
from zoo.read import read

DEEPER = "Layer3 has more than 6 blocks: ResNet-101"
WIDE = "Layer1's 3x3 is 128 wide: a Wide ResNet"
GROUPED = "Layer1's 3x3 is grouped: a ResNeXt"
BASIC = "Blocks of two 3x3: ResNet-18 or -34"
DEEP_STEM = "A deep stem: ResNet-C, -D, -S or -T"
SE = "Squeeze and excitation in the blocks: an SE-ResNet"
PATCHES = "Patches: a vision transformer"


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("resnet101", DEEPER),
        ("resnet152", DEEPER),
        ("wide_resnet50_2", WIDE),
        ("resnext50_32x4d", GROUPED),
        ("seresnet50", SE),
        ("legacy_seresnet50", SE),
        ("skresnet50", "Selective kernels in the blocks: an SK-ResNet"),
        ("resnet18", BASIC),
        ("resnet34", BASIC),
        ("resnet50c", DEEP_STEM),
        ("resnet50d", "names of CLIP's ResNet-50, as a ResNet-D has, and beside them fc (2)"),
        ("resnet50_gn", "bn1.running_mean' is missing"),
        ("vgg11", "Names begin with features (16)"),
        ("vit_tiny_patch16_224", PATCHES),
    ],
)
def test_timm_s_relatives_of_resnet_50_are_refused_with_what_they_are(architecture, said):
    with torch.device("meta"):
        relative = timm.create_model(architecture, pretrained=False)
    assert said in refused(relative.state_dict())
    assert said in refused(under("state_dict.module.", relative.state_dict()))


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("resnet18", BASIC),
        ("resnet34", BASIC),
        ("resnet101", DEEPER),
        ("wide_resnet50_2", WIDE),
        ("resnext50_32x4d", GROUPED),
        ("vit_b_16", PATCHES),
    ],
)
def test_torchvision_s_are_too(architecture, said):
    with torch.device("meta"):
        relative = getattr(models, architecture)(weights=None)
    assert said in refused(relative.state_dict())


@pytest.mark.parametrize(
    ("blocks", "width", "said"),
    [
        ((3, 4, 23, 3), 64, DEEPER),
        ((4, 6, 10, 6), 80, "'visual.conv1.weight' is (40, 3, 3, 3), not (32, 3, 3, 3)"),
    ],
)
def test_clip_s_larger_networks_are_refused(blocks, width, said):
    with torch.device("meta"):
        tower = ModifiedResNet(blocks, 1024, heads=width // 2, width=width)
    assert said in refused(under("visual.", tower.state_dict()))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((64, 3, 3, 3), "Conv1 is 3x3: a stem for CIFAR"),
        ((128, 3, 7, 7), "Conv1 has 128 channels: twice as wide"),
        ((256, 3, 7, 7), "Conv1 has 256 channels: four times as wide"),
    ],
)
def test_another_stem_is_refused_with_what_it_is_and_both_shapes(shape, said):
    wrong = bare("module.") | {"module.conv1.weight": meta(shape)}
    assert said in refused(wrong)
    assert f"'module.conv1.weight' is {shape}, not (64, 3, 7, 7)" in refused(wrong)


def test_clip_s_trunk_is_not_taken_for_torchvision_s_though_313_tensors_fit():
    clip = published("clip_rn50_openai")
    visual = {n.removeprefix("visual."): t for n, t in clip.items() if n.startswith("visual.")}
    fitting = [n for n, t in bare().items() if n in visual and visual[n].shape == t.shape]
    assert len(fitting) == 313
    found = detect(visual)
    assert (found.dialect, found.required, found.dropped) == ("clip", 275, {"attnpool": 9})
    assert found.layout == found.like == ""  # only the whole file says how it was trained


def test_of_timm_s_resnets_only_three_have_the_names_of_a_resnet_50(caplog):
    caplog.set_level(logging.ERROR)
    names = [name for module in ("resnet", "sknet") for name in timm.list_models(module=module)]
    names += [name for name in timm.list_models("resnet*", module="byobnet") if "x" not in name]
    assert len(names) > 90
    found = {}
    for name in names:
        with torch.device("meta"):
            tensors = timm.create_model(name, pretrained=False).state_dict()
        try:
            found.setdefault(detect(tensors).dialect, []).append(name)
        except NotFound:
            continue
    assert found == {
        "torchvision": ["resnet50", "resnetaa50", "resnetblur50"],
        "timm_clip": ["resnet50_clip", "resnet50_clip_gap"],
    }


@pytest.mark.parametrize("arch", ["resnetaa50", "resnetblur50", "resnetaa50.a1h_in1k"])
def test_a_file_that_calls_itself_a_blurred_resnet_is_refused(tmp_path, arch):
    path = tmp_path / "model_best.pth.tar"
    torch.save({"arch": arch, "state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, path)
    with pytest.raises(ZooError) as error:
        trunk_of(read(path))
    said = f"model_best.pth.tar: it calls itself {arch}, which blurs where ResNet-50 strides."
    assert str(error.value) == said


def test_a_file_without_a_trunk_says_what_its_names_begin_with_and_what_is_nearest():
    said = refused({"state_dict.head.weight": meta((10, 5)), "state_dict.head.bias": meta((10,))})
    assert said == "No ResNet-50 is in this file. Names begin with head (2)."
    queue = refused({"module.encoder_q.fc.weight": meta((128, 2048)), "conv1.weight": meta((7,))})
    assert "Nearest: " in queue
    assert "'conv1.weight' is (7,), not (64, 3, 7, 7)" in queue
