"""Every published layout, written as a real file and read again: the trunk that was put in.

What is expected is said here in the words and the direction of the sources, from published names to
canonical ones; nothing in it is taken from `zoo.dialects` and `zoo.layouts`.
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import torch

from tests.conftest import ROOT, SHARED
from tests.zoo.written import write
from zoo.canonical import trunk_of
from zoo.catalog import ZooError
from zoo.manifests import KEYS, manifest
from zoo.own import Unsaid, known
from zoo.read import read

SPEC = SHARED.parent / "spec" / "manifests"


class Expected(NamedTuple):
    """What a file holds: the family of names, what stands before them, and which network it is.

    `used` is how the file is used as it is; "ask" where its names do not say how it was trained.
    """

    names: str
    prefix: str
    role: str
    used: str


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
USED = {  # variant, padding, stride, order, (mean, std)
    "plainly": ("plain", "torch", "3x3", "rgb", IMAGENET),
    "as SwAV": ("plain", "torch", "3x3", "rgb", (IMAGENET[0], (0.228, 0.224, 0.225))),
    "as SimCLR": ("plain", "same_pool", "3x3", "rgb", ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    "as BYOL": ("plain", "same", "3x3", "rgb", IMAGENET),
    "as CLIP": (
        "clip",
        "torch",
        "3x3",
        "rgb",
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ),
}
MM, TV = "state_dict.backbone.", "torchvision"
VISSL = "classy_state_dict.base_model.model.trunk._feature_blocks."
EXPECTED = {
    "barlowtwins": Expected(TV, "", "only", "ask"),
    "barlowtwins_full": Expected(TV, "model.module.backbone.", "only", "plainly"),
    "bolts_simclr": Expected(TV, "state_dict.encoder.", "only", "plainly"),
    "byol_convert_ajtejankar": Expected(TV, "", "only", "ask"),
    "byol_deepmind_haiku": Expected(
        "haiku", "experiment_state.online_params.res_net50/~/", "online", "as BYOL"
    ),
    "canonical_resnet50": Expected(TV, "", "only", "ask"),
    "clip_rn50_openai": Expected("clip", "visual.", "only", "as CLIP"),
    "deepcluster_v2": Expected(TV, "module.", "only", "as SwAV"),
    "densecl": Expected(TV, "state_dict.", "only", "ask"),
    "densecl_training_full": Expected(TV, MM, "online", "plainly"),
    "detco_pkl": Expected("detectron2", "model.", "only", "ask"),
    "detco_pth": Expected(TV, "state_dict.", "only", "ask"),
    "detectron2_pkl_moco_v2": Expected("detectron2", "model.", "only", "ask"),
    "detectron2_pkl_torchvision": Expected("detectron2", "model.", "only", "ask"),
    "dino_resnet50": Expected(TV, "", "only", "ask"),
    "dino_resnet50_full": Expected(TV, "teacher.module.backbone.", "teacher", "plainly"),
    "lightly_barlowtwins": Expected(TV, MM, "only", "plainly"),
    "lightly_byol": Expected(TV, MM, "online", "plainly"),
    "lightly_dino": Expected(TV, MM, "teacher", "plainly"),
    "lightly_mocov2": Expected(TV, MM, "online", "plainly"),
    "lightly_simclr": Expected(TV, MM, "only", "plainly"),
    "lightly_swav": Expected(TV, MM, "only", "plainly"),
    "lightly_vicreg": Expected(TV, MM, "only", "plainly"),
    "mmpretrain_barlowtwins": Expected(TV, MM, "only", "plainly"),
    "mmpretrain_byol": Expected(TV, MM, "online", "plainly"),
    "mmpretrain_densecl": Expected(TV, MM, "online", "plainly"),
    "mmpretrain_mocov2": Expected(TV, MM, "online", "plainly"),
    "mmpretrain_mocov3": Expected(TV, MM, "online", "plainly"),
    "mmpretrain_simclr": Expected(TV, MM, "only", "plainly"),
    "mmpretrain_swav": Expected(TV, MM, "only", "plainly"),
    "mmselfsup_0x_backbone": Expected(TV, "state_dict.", "only", "ask"),
    "moco_v1": Expected(TV, "state_dict.module.encoder_q.", "only", "plainly"),
    "moco_v1_training_full": Expected(TV, "state_dict.module.encoder_q.", "online", "plainly"),
    "moco_v2": Expected(TV, "state_dict.module.encoder_q.", "only", "plainly"),
    "moco_v2_training_full": Expected(TV, "state_dict.module.encoder_q.", "online", "plainly"),
    "moco_v3_r50": Expected(TV, "state_dict.module.base_encoder.", "online", "plainly"),
    "open_clip_RN50": Expected("clip", "state_dict.visual.", "only", "as CLIP"),
    "openselfsup_byol_training_full": Expected(TV, MM, "online", "plainly"),
    "openselfsup_moco_v1_training_full": Expected(TV, MM, "online", "plainly"),
    "openselfsup_moco_v2_training_full": Expected(TV, MM, "online", "plainly"),
    "openselfsup_simclr_training_full": Expected(TV, MM, "only", "plainly"),
    "pixpro": Expected(TV, "model.module.encoder.", "online", "plainly"),
    "sequential_children": Expected("sequential", MM, "only", "ask"),
    "simclr_v1_tf": Expected("simclr_tf", "base_model/", "only", "as SimCLR"),
    "simclr_v1_tonylins": Expected(TV, "state_dict.", "only", "ask"),
    "simclr_v2_r50_1x_sk0_tf": Expected("simclr_tf", "base_model/", "only", "as SimCLR"),
    "simclr_v2_separius_r50_1x_sk0": Expected("separius", "resnet.", "only", "as SimCLR"),
    "simsiam": Expected(TV, "state_dict.module.encoder.", "only", "plainly"),
    "sololearn_byol_r50": Expected(TV, MM, "online", "plainly"),
    "sololearn_old_encoder": Expected(TV, "state_dict.encoder.", "online", "plainly"),
    "swav": Expected(TV, "module.", "only", "as SwAV"),
    "timm_resnet50": Expected(TV, "", "only", "ask"),
    "timm_resnet50_clip": Expected("timm_clip", "", "only", "as CLIP"),
    "timm_resnet_clip_style": Expected("timm_deep_stem", "", "only", "ask"),
    "torchvision_v1_legacy_19c8e357": Expected(TV, "", "only", "ask"),
    "torchvision_v1_v2": Expected(TV, "", "only", "ask"),
    "vicreg": Expected(TV, "", "only", "ask"),
    "vicreg_full": Expected(TV, "model.module.backbone.", "only", "plainly"),
    "vissl_converted_caffe2_style": Expected(
        TV, "model_state_dict._feature_blocks.", "only", "ask"
    ),
    "vissl_converted_torchvision": Expected(TV, "", "only", "ask"),
    "vissl_simclr_rn50": Expected(TV, VISSL, "only", "plainly"),
}
REFUSED = {
    "detectron2_pkl_msra_caffe2": r"Caffe2's MSRA weights, trained with the stride in the 1x1 .*BGR"
}
NAMES = sorted(file.stem for file in (ROOT / "zoo" / "manifests").glob("*.json"))


# -- From published names to canonical ones --------------------------------------------------------


def by_rules(*rules):
    def rename(name):
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return rename


def lower(match):
    """`res3.` or `stages.1.` or `5.`: the number in it, as torchvision counts its layers."""
    word, number = re.match(r"(\D*)(\d)", match[0]).groups()
    return f"layer{int(number) + {'res': -1, 'stages.': 1, '': -3}[word]}."


detectron2 = by_rules(
    (r"^stem\.", ""),
    (r"^res\d\.", lower),
    (r"shortcut\.norm", "downsample.1"),
    (r"shortcut", "downsample.0"),
    (r"conv(\d)\.norm", r"bn\1"),
)
sequential = by_rules((r"^0\.", "conv1."), (r"^1\.", "bn1."), (r"^[4-7]\.", lower))
separius = by_rules(
    (r"^net\.0\.0\.", "conv1."),
    (r"^net\.0\.1\.0\.", "bn1."),
    (r"^net\.(\d)\.blocks\.(\d)\.", r"layer\1.\2."),
    (r"projection\.shortcut\.", "downsample.0."),
    (r"projection\.bn\.0\.", "downsample.1."),
    (r"net\.0\.", "conv1."),
    (r"net\.2\.", "conv2."),
    (r"net\.4\.", "conv3."),
    (r"net\.1\.0\.", "bn1."),
    (r"net\.3\.0\.", "bn2."),
    (r"net\.5\.0\.", "bn3."),
)
clip = by_rules(
    (r"^bn3\.", "bn@."),
    (r"^conv3\.", "conv1.6."),
    (r"^bn2\.", "conv1.4."),
    (r"^conv2\.", "conv1.3."),
    (r"^bn1\.", "conv1.1."),
    (r"^conv1\.(weight)", r"conv1.0.\1"),
    (r"^bn@\.", "bn1."),
    (r"downsample\.1\.", "downsample.2."),
    (r"downsample\.0\.", "downsample.1."),
)
byobnet = by_rules(
    (r"^stem\.conv(\d)\.conv\.", r"conv\1."),
    (r"^stem\.conv(\d)\.bn\.", r"bn\1."),
    (r"^stages\.\d\.", lower),
    (r"shortcut\.conv\.conv\.", "downsample.0."),
    (r"shortcut\.conv\.bn\.", "downsample.1."),
    (r"conv(\d)_\w+\.conv\.", r"conv\1."),
    (r"conv(\d)_\w+\.bn\.", r"bn\1."),
)
haiku = by_rules(
    (r"^initial_conv\.w$", "conv1.weight"),
    (r"^initial_batchnorm", "bn1"),
    (r"^block_group_(\d)/~/block_(\d)/~/", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"shortcut_conv\.w$", "downsample.0.weight"),
    (r"shortcut_batchnorm", "downsample.1"),
    (r"batchnorm_(\d)", lambda m: f"bn{int(m[1]) + 1}"),
    (r"conv_(\d)\.w$", lambda m: f"conv{int(m[1]) + 1}.weight"),
    (r"\.scale$", ".weight"),
    (r"\.offset$", ".bias"),
    (r"/~/mean_ema\.average$", ".running_mean"),
    (r"/~/var_ema\.average$", ".running_var"),
)
# The order in which the TensorFlow code makes its variables: a stage's shortcut comes first.
MODULES = [("conv1", "bn1")]
for layer, blocks in enumerate((3, 4, 6, 3), start=1):
    for block in range(blocks):
        at = f"layer{layer}.{block}."
        MODULES += [(f"{at}downsample.0", f"{at}downsample.1")] * (block == 0)
        MODULES += [(f"{at}conv{part}", f"{at}bn{part}") for part in (1, 2, 3)]
LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def simclr_tf(name):
    match = re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d+))?/(\w+)", name)
    if not match:
        return name
    conv, bn = MODULES[int(match[2] or 0)]
    return f"{conv}.weight" if match[1] == "conv2d" else f"{bn}.{LEAVES[match[3]]}"


CANONICAL = {
    "torchvision": str,
    "timm_deep_stem": str,
    "detectron2": detectron2,
    "sequential": sequential,
    "separius": separius,
    "clip": clip,
    "timm_clip": lambda name: clip(byobnet(name)),
    "simclr_tf": simclr_tf,
    "haiku": haiku,
}


def expected_trunk(put_in, expected):
    """The canonical trunk, made of what was put into the file; counters only if it has them."""
    clip_like = expected.names in ("clip", "timm_clip", "timm_deep_stem")
    whole = manifest("timm_resnet_clip_style" if clip_like else "canonical_resnet50").tensors
    states = expected.prefix.replace("_params", "_state")
    trunk = {}
    for name, tensor in put_in.items():
        prefix = next((p for p in (expected.prefix, states) if name.startswith(p)), None)
        canonical = (
            CANONICAL[expected.names](name.removeprefix(prefix)) if prefix is not None else ""
        )
        if canonical in whole:
            shape = tuple(whole[canonical][1])
            if expected.names in ("simclr_tf", "haiku"):  # kernels HWIO; haiku's vectors 1,1,1,C
                one_row = tensor.ndim == 4 and len(shape) == 1
                tensor = tensor.flatten() if one_row else tensor
                tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor
            assert tuple(tensor.shape) == shape
            assert canonical not in trunk
            trunk[canonical] = tensor
    missing = whole.keys() - trunk.keys()
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return trunk | dict.fromkeys(missing, torch.tensor(0))


def same_bits(one, other):
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = torch.int32 if one.is_floating_point() else one.dtype
    return torch.equal(one.view(bits), other.view(bits))


# -- The files -------------------------------------------------------------------------------------


@pytest.fixture
def folder():
    """A folder that is gone after the test: the files are large."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_back_the_trunk_that_was_put_in(name, folder, monkeypatch):
    monkeypatch.setenv("BENCH_ZOO", str(folder / "zoo"))
    path, put_in = write(manifest(name), folder, seed=NAMES.index(name))
    published = read(path)
    assert published.container == manifest(name).container
    if name in REFUSED:
        for look in (trunk_of, lambda published: known(path, published)):
            with pytest.raises(ZooError, match=REFUSED[name]):
                look(published)
        return

    expected = EXPECTED[name]
    tensors, found = trunk_of(published)
    wanted = expected_trunk(put_in, expected)
    assert tensors.keys() == wanted.keys()
    assert len(tensors) - 55 == 275 if found.names.variant == "clip" else len(tensors) - 53 == 265
    for tensor, put in zip((tensors[n] for n in wanted), wanted.values(), strict=True):
        as_float32 = put.float() if put.is_floating_point() else put
        assert same_bits(tensor, as_float32)
    assert (found.dialect, found.prefix, found.role) == expected[:3]

    if expected.used == "ask":
        like = "clip_rn50" if found.names.variant == "clip" else "supervised_tv_v1"
        with pytest.raises(Unsaid) as error:
            known(path, published)
        assert str(error.value).endswith(f"bench zoo add {path} --name checkpoint --like {like}")
        return
    row, _ = known(path, published)
    how = (row.variant, row.padding, row.stride, row.order, (row.mean, row.std))
    assert how == USED[expected.used]


def test_every_manifest_is_expected_to_be_something():
    assert sorted(EXPECTED.keys() | REFUSED.keys()) == NAMES


def test_every_tensor_beside_the_trunk_is_read_too(folder):
    path, put_in = write(manifest("moco_v2_training_full"), folder, seed=1)
    tensors = read(path).tensors
    assert tensors.keys() - put_in.keys() == {
        f"optimizer.state.{i}.momentum_buffer" for i in (0, 1)
    }
    for name, tensor in put_in.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


@pytest.mark.parametrize("name", [name for name in NAMES if name != "simsiam"])
def test_a_manifest_lists_what_its_source_does(name):
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    if not SPEC.is_dir():
        pytest.skip("the lists are not here")
    source = json.loads((SPEC / f"{name}.json").read_text())
    ours = manifest(name)
    theirs = {}
    for path, (dtype, shape) in source["tensors"].items():
        if "name_note" in source | source["container"]:  # the first slash, and two, are keys
            path = path.replace("//", KEYS).replace("/", KEYS, 1)
        theirs[path] = (dtype.removeprefix("ndarray:"), tuple(shape))
    assert ours.tensors == theirs
    assert len(theirs) == source["n_tensors"]
