"""Layouts, by names and shapes alone: tensors on the meta device have no values."""

import re

import pytest
import timm
import torch

from zoo.catalog import CATALOG, ZooError
from zoo.layouts import LAYOUTS, identify, to_canonical, to_published
from zoo.manifests import manifest

LAYOUT_IDS = sorted({row.layout for row in CATALOG})
TRUNK_TENSOR = {  # one of the middle of the trunk, far from what detection looks at
    "simclr_v1_tf": "base_model/conv2d_20/kernel",
    "byol_deepmind_haiku": "online_state/res_net50/~/block_group_2/~/block_1/~/batchnorm_1/~/"
    "var_ema//average",
}


def trunk_tensor(layout):
    return TRUNK_TENSOR.get(layout, f"{manifest(layout).prefix}layer3.1.bn2.running_var")


def meta(shape, dtype="float32"):
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def published(layout):
    return {n: meta(shape, dtype) for n, (dtype, shape) in manifest(layout).tensors.items()}


def bare_trunk(prefix=""):
    return {prefix + name: tensor for name, tensor in published("densecl").items()}


def refused(tensors, layout):
    with pytest.raises(ZooError) as error:
        to_canonical(tensors, layout)
    return str(error.value)


def test_every_manifest_has_a_layout_and_a_row():
    assert sorted(LAYOUTS) == LAYOUT_IDS


@pytest.mark.parametrize("row", CATALOG, ids=lambda row: row.short)
def test_a_published_file_gives_every_canonical_tensor_and_accounts_for_the_rest(row):
    tensors = published(row.layout)
    canonical = to_canonical(tensors, row.layout)
    clip, has_counters = row.variant == "clip", row.short not in ("simclr", "byol")
    assert canonical.required == (275 if clip else 265)
    assert len(canonical.tensors) == (330 if clip else 318)
    assert canonical.counters == ("file" if has_counters else "zero")
    assert canonical.prefix == manifest(row.layout).prefix
    assert canonical.role == ("online" if row.short == "byol" else "only")
    taken = len(canonical.tensors) if has_counters else canonical.required
    assert sum(canonical.dropped.values()) == len(tensors) - taken


@pytest.mark.parametrize("layout", LAYOUT_IDS)
def test_there_and_back_again(layout):
    tensors = published(layout)
    canonical = to_canonical(tensors, layout)
    back = to_published(canonical.tensors, layout, canonical.prefix)
    assert {name: tensor.shape for name, tensor in back.items()} == {
        name: tensors[name].shape for name in back
    }
    assert to_canonical(tensors | back, layout).tensors.keys() == canonical.tensors.keys()


@pytest.mark.parametrize("layout", LAYOUT_IDS)
@pytest.mark.parametrize("extra", ["fc.9.weight", "layer3.6.conv1.weight", "se.fc/kernel"])
def test_one_tensor_too_many_is_refused_by_name(layout, extra):
    name = manifest(layout).prefix + extra
    assert f"'{name}' is neither part of ResNet-50" in refused(
        published(layout) | {name: meta((1,))}, layout
    )


@pytest.mark.parametrize("layout", LAYOUT_IDS)
def test_a_missing_tensor_is_refused_by_name(layout):
    tensors = published(layout)
    del tensors[trunk_tensor(layout)]
    assert f"'{trunk_tensor(layout)}' is missing" in refused(tensors, layout)


@pytest.mark.parametrize("layout", LAYOUT_IDS)
def test_a_renamed_tensor_is_refused_by_both_names(layout):
    tensors = published(layout)
    tensors[trunk_tensor(layout) + "_x"] = tensors.pop(trunk_tensor(layout))
    said = refused(tensors, layout)
    assert f"'{trunk_tensor(layout)}' is missing" in said
    assert f"'{trunk_tensor(layout)}_x' is neither" in said


@pytest.mark.parametrize("layout", LAYOUT_IDS)
def test_a_reshaped_tensor_is_refused_by_name_and_shape(layout):
    said = refused(published(layout) | {trunk_tensor(layout): meta((3,))}, layout)
    assert f"'{trunk_tensor(layout)}' is (3,), not (" in said


def test_the_stem_is_named_too_when_it_is_the_one_that_is_wrong():
    assert "'conv1.weight' is (128, 3, 7, 7), not (64, 3, 7, 7)" in refused(
        bare_trunk() | {"conv1.weight": meta((128, 3, 7, 7))}, "densecl"
    )


def test_an_integer_tensor_in_the_trunk_is_refused():
    wrong = published("densecl") | {"bn1.bias": meta((64,), "int64")}
    assert "'bn1.bias' is torch.int64, not floating-point" in refused(wrong, "densecl")


def test_step_counters_may_be_absent_but_not_half_of_them():
    tensors = bare_trunk()
    without = {name: t for name, t in tensors.items() if "num_batches" not in name}
    assert to_canonical(without, "densecl").counters == "zero"
    assert to_canonical(without, "densecl").tensors["bn1.num_batches_tracked"] == 0
    del tensors["layer2.1.bn3.num_batches_tracked"]
    assert "'layer2.1.bn3.num_batches_tracked' is missing" in refused(tensors, "densecl")


@pytest.mark.parametrize("wrapped", [0, 1, 2])
def test_any_number_of_data_parallel_wrappers_is_seen_through(wrapped):
    bare = {n.removeprefix("module."): t for n, t in published("swav").items()}
    canonical = to_canonical({"module." * wrapped + n: t for n, t in bare.items()}, "swav")
    assert canonical.prefix == "module." * wrapped
    assert canonical.dropped == {"projection": 9, "prototypes": 1}


# -- Several networks in one file -----------------------------------------------------------------


def test_of_a_query_encoder_and_its_momentum_copy_the_query_encoder_is_taken():
    both = bare_trunk("module.encoder_k.") | published("moco_v2")
    canonical = to_canonical(both, "moco_v2")
    assert (canonical.prefix, canonical.role) == ("module.encoder_q.", "online")
    assert canonical.dropped == {"projection": 4, "momentum encoder": 318}


def test_a_momentum_copy_alone_is_refused():
    assert "only a momentum copy is in this file" in refused(
        bare_trunk("module.encoder_k."), "moco_v2"
    )


def test_two_online_networks_are_refused():
    two = bare_trunk("backbone.") | bare_trunk("encoder_q.")
    assert "under ['backbone.', 'encoder_q.'] could all be meant" in refused(two, "moco_v2")


def test_byol_never_takes_the_target_network():
    tensors = published("byol_deepmind_haiku")
    target = {name: t for name, t in tensors.items() if name.startswith("target_")}
    assert "only a momentum copy is in this file" in refused(target, "byol_deepmind_haiku")


# -- Networks that are not the one ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("resnet101", "'layer3.6.conv1.weight' is neither part of ResNet-50"),
        ("wide_resnet50_2", "'layer1.0.conv1.weight' is (128, 64, 1, 1), not (64, 64, 1, 1)"),
        ("resnext50_32x4d", "'layer1.0.conv1.weight' is (128, 64, 1, 1), not (64, 64, 1, 1)"),
        ("seresnet50", "'layer1.0.se.fc1.weight' is neither"),
        ("resnet50d", "'conv1.weight' is missing"),
        ("resnet34", "'layer1.0.downsample.0.weight' is missing"),
        ("resnet18", "'conv1.weight' is (64, 3, 7, 7), which fits, but the blocks'"),
        ("vgg11", "'features.0.weight' is (64, 3, 3, 3), a 3x3 stem"),
        ("vit_tiny_patch16_224", "'patch_embed.proj.weight' is (192, 3, 16, 16), where"),
    ],
)
def test_relatives_of_resnet_50_are_refused(architecture, said):
    with torch.device("meta"):
        relative = timm.create_model(architecture, pretrained=False)
    assert said in refused(dict(relative.state_dict()), "torchvision_v1_v2")


def test_clip_s_trunk_is_not_taken_for_torchvision_s_though_313_tensors_fit():
    visual = {n[7:]: t for n, t in published("clip_rn50_openai").items() if n.startswith("visual.")}
    fitting = sum(
        name in visual and visual[name].shape == tensor.shape
        for name, tensor in bare_trunk().items()
    )
    assert fitting == 313
    assert "'conv1.weight' is (32, 3, 3, 3)" in refused(visual, "densecl")


def test_a_torch_conversion_is_not_taken_for_the_tensorflow_original():
    assert "No ResNet-50 in this file" in refused(bare_trunk(), "simclr_v1_tf")
    assert "No ResNet-50 in this file" in refused(bare_trunk(), "byol_deepmind_haiku")


@pytest.mark.parametrize("layout", LAYOUT_IDS)
def test_identify_finds_the_trunk_of_every_layout(layout):
    prefix = re.escape(manifest(layout).prefix)
    assert re.search(f"names under '{prefix}'", identify(published(layout), "some.pth"))
