"""Finding the network by names and shapes alone: tensors on the meta device have no values."""

from pathlib import Path

import pytest
import torch

import zoo.manifests
from tests.zoo.examples import bare, meta, published, refused, trunk, under
from zoo.catalog import ZooError
from zoo.detect import NotFound, detect, to_canonical, to_published
from zoo.layouts import LAYOUTS
from zoo.manifests import manifest

MSRA = "detectron2_pkl_msra_caffe2"

# Every other manifest: its layout, its network's role, and how many tensors lie beside that.
TABLE = """
barlowtwins | torchvision | only
barlowtwins_full | barlowtwins | only | projection 13, last BatchNorm 3
bolts_simclr | bolts | only | projection 8, classifier 2
byol_convert_ajtejankar | torchvision | only | classifier 2
byol_deepmind_haiku | byol_haiku | online | target network 501, moving-average internals 212,
    projection 22, classifier 2
canonical_resnet50 | torchvision | only
clip_rn50_openai | clip | only | text tower 150, attention pool 9, sizes 3
deepcluster_v2 | swav | only | projection 9, prototypes 3
densecl | torchvision | only
densecl_training_full | mmselfsup | online | momentum copy 326, the same network again 318,
    projection 8, queue 4
detco_pkl | detectron2 | only
detco_pth | torchvision | only
detectron2_pkl_moco_v2 | detectron2 | only | classifier 4
detectron2_pkl_torchvision | detectron2 | only | classifier 2
dino_resnet50 | torchvision | only
dino_resnet50_full | dino | teacher | the other network 318, heads 36
lightly_barlowtwins | lightly | only | projection 14, classifier 2
lightly_byol | lightly | online | the other network 326, projection 16, classifier 2
lightly_dino | lightly | teacher | the other network 326, projection 8, classifier 2, criterion 1
lightly_mocov2 | lightly | online | the other network 322, projection 4, classifier 2
lightly_simclr | lightly | only | projection 12, classifier 2
lightly_swav | lightly | only | projection 8, prototypes 2, classifier 2
lightly_vicreg | lightly | only | projection 8, classifier 2
mmpretrain_barlowtwins | mmselfsup | only | projection 13, head 3
mmpretrain_byol | mmselfsup | online | momentum copy 327, projection 8, head 8
mmpretrain_densecl | mmselfsup | online | momentum copy 327, projection 8, queue 4
mmpretrain_mocov2 | mmselfsup | online | momentum copy 323, projection 4, queue 2
mmpretrain_mocov3 | mmselfsup | online | momentum copy 329, projection 10, head 7
mmpretrain_simclr | mmselfsup | only | projection 12
mmpretrain_swav | mmselfsup | only | projection 14, head 1
mmselfsup_0x_backbone | torchvision | only
moco_v1 | moco | only | projection 2
moco_v1_training_full | moco | online | momentum copy 320, queue 2, projection 2
moco_v2 | moco | only | projection 4
moco_v2_training_full | moco | online | momentum copy 322, projection 4, queue 2
moco_v3_r50 | moco_v3 | online | momentum copy 328, projection 10, predictor 7
open_clip_RN50 | clip | only | text tower 150, attention pool 9
openselfsup_byol_training_full | mmselfsup | online | momentum copy 327, the same network again 318,
    projection 9, head 9
openselfsup_moco_v1_training_full | mmselfsup | online | momentum copy 320, the same network again
    318, queue 2, projection 2
openselfsup_moco_v2_training_full | mmselfsup | online | momentum copy 322, the same network again
    318, projection 4, queue 2
openselfsup_simclr_training_full | mmselfsup | only | projection 12
pixpro | pixpro | online | momentum copy 327, projection 9, value transform 2
sequential_children | - | only
simclr_v1_tf | simclr_tf | only | classifier 2, step 1
simclr_v1_tonylins | torchvision | only | classifier 2
simclr_v2_r50_1x_sk0_tf | simclr_tf | only | projection 14, classifier 2, step 1
simclr_v2_separius_r50_1x_sk0 | separius | only | projection 18, classifier 2
simsiam | simsiam | only | projection 17, predictor 8
sololearn_byol_r50 | sololearn | online | momentum copy 327, projection 18, classifier 2
sololearn_old_encoder | sololearn | online | momentum copy 327, projection 18, classifier 2
swav | swav | only | projection 9, prototypes 1
timm_resnet50 | torchvision | only | classifier 2
timm_resnet50_clip | timm_clip | only | attention pool 9
timm_resnet_clip_style | - | only
torchvision_v1_legacy_19c8e357 | torchvision | only | classifier 2
torchvision_v1_v2 | torchvision | only | classifier 2
vicreg | torchvision | only
vicreg_full | vicreg | only | projection 15
vissl_converted_caffe2_style | - | only
vissl_converted_torchvision | torchvision | only
vissl_simclr_rn50 | vissl | only | heads 4
"""
ROWS = [line.split(" | ") for line in TABLE.replace("\n   ", "").strip().splitlines()]
FOUND = [row[0] for row in ROWS]
EXACT = ["timm_resnet50_clip", "timm_resnet_clip_style"]

EXTRA = {  # a tensor of a seventh block, or of attention in the blocks
    "torchvision": "layer3.6.conv1.weight",
    "detectron2": "res4.6.conv1.weight",
    "separius": "net.3.blocks.6.net.0.weight",
    "sequential": "6.6.conv1.weight",
    "clip": "layer3.6.conv1.weight",
    "timm_clip": "stages.2.6.conv1_1x1.conv.weight",
    "timm_deep_stem": "layer1.0.se.fc1.weight",
    "simclr_tf": "conv2d_53/kernel",
    "haiku": "block_group_2/~/block_6/~/conv_0.w",
}


def at(tensors, canonical):
    """The published name of a trunk's tensor."""
    found = detect(tensors)
    return next(link.at(found.prefix) for link in found.links if link.canonical == canonical)


def without_counters(tensors):
    return {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}


# -- Every manifest --------------------------------------------------------------------------------


def test_every_manifest_is_in_the_table():
    files = Path(zoo.manifests.__file__).parent.glob("*.json")
    assert sorted([*FOUND, MSRA]) == sorted(file.stem for file in files)


def test_every_layout_is_in_the_table():
    assert {row[1] for row in ROWS} - {"-"} == set(LAYOUTS)


@pytest.mark.parametrize("row", ROWS, ids=FOUND)
def test_a_published_file_is_found_and_all_beside_its_trunk_is_counted(row):
    name, layout, role = row[:3]
    groups = [group.rsplit(" ", 1) for group in row[3].split(", ")] if len(row) > 3 else []
    tensors = published(name)
    found = detect(tensors)
    assert (found.layout or "-", found.role) == (layout, role)
    assert found.dropped == {group: int(count) for group, count in groups}
    assert found.prefix == manifest(name).trunk
    assert found.required == (275 if "clip" in name.lower() else 265)
    own = [n for n in tensors if n.startswith(found.prefix)]
    counted = any(n.endswith("num_batches_tracked") for n in own)
    assert found.counters == ("file" if counted else "zero")
    taken = found.required // 5 * (6 if counted else 5)
    assert taken + sum(found.dropped.values()) == len(tensors)


@pytest.mark.parametrize("name", FOUND)
def test_there_and_back_again(name):
    tensors = published(name)
    found = detect(tensors)
    canonical = to_canonical(tensors, found)
    assert len(canonical) == (330 if "clip" in name.lower() else 318)
    if found.counters == "zero":
        assert all(t == 0 for n, t in canonical.items() if n.endswith("num_batches_tracked"))
    back = to_published(canonical, found.dialect, found.prefix)
    assert set(without_counters(back)) <= set(tensors)
    for link in found.links:
        there = link.at(found.prefix)
        assert back[there].shape == tensors[there].shape


@pytest.mark.parametrize("name", FOUND)
def test_a_missing_tensor_is_refused_by_name(name):
    tensors = published(name)
    there = at(tensors, "layer3.1.bn2.running_var")
    del tensors[there]
    said = refused(tensors)
    assert f"'{there}' is missing" in said
    assert said.startswith("274 of a" if "clip" in name.lower() else "264 of a")


@pytest.mark.parametrize("name", FOUND)
def test_a_renamed_tensor_is_refused_by_its_name(name):
    tensors = published(name)
    there = at(tensors, "layer3.1.conv2.weight")
    tensors[there.replace("onv", "omv")] = tensors.pop(there)
    if there.replace("onv", "omv") == there:  # a Sequential's names are numbers
        tensors[f"{there}_"] = tensors.pop(there)
    assert f"'{there}' is missing" in refused(tensors)


@pytest.mark.parametrize("name", FOUND)
def test_a_reshaped_tensor_is_refused_by_name_and_shapes(name):
    tensors = published(name)
    there = at(tensors, "layer2.0.bn3.bias")
    shape = tuple(tensors[there].shape)
    assert f"'{there}' is (3,), not {shape}" in refused(tensors | {there: meta((3,))})


@pytest.mark.parametrize("name", FOUND)
def test_an_integer_tensor_in_the_trunk_is_refused_by_name(name):
    tensors = published(name)
    there = at(tensors, "layer4.1.conv1.weight")
    wrong = {there: meta(tensors[there].shape, "int8")}
    assert f"'{there}' is torch.int8, not floating-point" in refused(tensors | wrong)


@pytest.mark.parametrize("name", FOUND)
def test_one_tensor_more_that_looks_like_a_trunk_s_is_refused_by_name(name):
    tensors = published(name)
    found = detect(tensors)
    extra = found.prefix + EXTRA[found.dialect]
    assert f"'{extra}' belongs to no ResNet-50" in refused(tensors | {extra: meta((1,))})


@pytest.mark.parametrize("name", [name for name in FOUND if name not in EXACT])
def test_one_tensor_more_that_nobody_knows_is_counted_and_leaves_no_layout(name):
    found = detect(published(name) | {"a_new_head.weight": meta((3, 2048))})
    assert (found.layout, found.like) == ("", "")
    assert found.dropped["a_new_head"] == 1


@pytest.mark.parametrize("name", EXACT)
def test_beside_names_that_a_resnet_d_has_too_nothing_unknown_may_lie(name):
    said = refused(published(name) | {"a_new_head.weight": meta((3, 2048))})
    assert "a_new_head (1): which of the two it is cannot be told" in said


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_point_types_are_a_trunk_too(dtype):
    tensors = {n: t.to(getattr(torch, dtype)) for n, t in without_counters(bare()).items()}
    assert detect(tensors).layout == "torchvision"
    assert {t.dtype for t in to_canonical(tensors, detect(tensors)).values()} == {
        torch.float32,
        torch.int64,
    }


def test_msra_s_weights_are_recognised_and_refused():
    with pytest.raises(NotFound, match=r"MSRA weights.*stride in the 1x1.*BGR") as no:
        detect(published(MSRA))
    assert (no.value.matched, no.value.required) == (265, 265)


# -- Step counters ---------------------------------------------------------------------------------


def test_step_counters_may_be_absent_but_not_half_of_them():
    found = detect(without_counters(bare()))
    assert found.counters == "zero"
    assert to_canonical(without_counters(bare()), found)["bn1.num_batches_tracked"] == 0
    half = bare()
    del half["layer2.1.bn3.num_batches_tracked"]
    assert "'layer2.1.bn3.num_batches_tracked' is missing" in refused(half)


def test_a_step_counter_is_a_whole_number():
    wrong = bare() | {"bn1.num_batches_tracked": meta(())}
    assert "'bn1.num_batches_tracked' is torch.float32, not a whole number" in refused(wrong)


# -- Wrappers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrapped",
    ["", "module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."],
)
@pytest.mark.parametrize("name", ["swav", "moco_v2", "torchvision_v1_v2"])
def test_any_wrappers_are_seen_through(name, wrapped):
    outer = "state_dict." if name == "moco_v2" else ""
    tensors = published(name)
    inner = {n.removeprefix(outer).removeprefix("module."): t for n, t in tensors.items()}
    found = detect(under(outer + wrapped, inner))
    own = "encoder_q." if name == "moco_v2" else ""
    assert found.prefix == outer + wrapped + own
    assert found.layout == detect(tensors).layout
    assert found.dropped == detect(tensors).dropped


def test_training_state_is_counted_and_changes_no_layout():
    state = {
        "optimizer.state.0.momentum_buffer": meta((64, 3, 7, 7)),
        "scaler._scale": meta(()),
        "epoch": meta((), "int64"),
        # an optimiser that keeps its buffers under the network's own names
        **under("optimizer.state.", bare()),
    }
    found = detect(published("moco_v2") | state)
    assert (found.layout, found.role) == ("moco", "only")
    assert found.dropped == {"projection": 4, "training state": 321}


def test_training_state_beside_names_without_a_prefix_is_no_second_network():
    state = {"optimizer.layer3.1.conv2.weight.momentum_buffer": meta((256, 256, 3, 3))}
    found = detect(bare() | state)
    assert (found.layout, found.role) == ("torchvision", "only")
    assert found.dropped == {"training state": 1}


# -- Several networks in one file ------------------------------------------------------------------


def test_of_a_query_encoder_and_its_momentum_copy_the_query_encoder_is_taken():
    tensors = published("moco_v2_training_full")
    found = detect(dict(reversed(tensors.items())))
    assert (found.prefix, found.role) == ("state_dict.module.encoder_q.", "online")
    copy = detect(tensors, "module.encoder_k.")
    assert (copy.prefix, copy.role) == ("state_dict.module.encoder_k.", "teacher")


def test_a_momentum_copy_alone_is_not_taken_unasked():
    copy = bare("module.encoder_k.")
    said = refused(copy)
    assert "under ['module.encoder_k.'] could be momentum copies only" in said
    assert "bench zoo add FILE --name NAME --prefix PREFIX" in said
    assert detect(copy, "module.encoder_k.").prefix == "module.encoder_k."


def test_two_online_networks_stop_and_are_listed_until_one_is_named():
    two = bare("backbone.") | bare("encoder.")
    assert "under ['backbone.', 'encoder.'] could all be meant" in refused(two)
    assert detect(two, "encoder.").prefix == "encoder."
    assert detect(two, "encoder.").role == "online"


def test_a_prefix_that_is_not_there_is_answered_with_those_that_are():
    said = refused(published("dino_resnet50_full"), "backbone.encoder.")
    assert "No ResNet-50 is under 'backbone.encoder.'; those here are under" in said
    assert "'student.module.backbone.', 'teacher.module.backbone.'" in said


def test_dino_is_used_by_its_teacher_unless_the_student_is_named():
    tensors = published("dino_resnet50_full")
    assert detect(tensors).prefix == "teacher.module.backbone."
    student = detect(tensors, "student.module.backbone.")
    assert (student.layout, student.role) == ("dino", "online")
    assert student.dropped == {"the other network": 318, "heads": 36}


def test_in_lightly_s_dino_the_backbone_is_the_teacher_and_in_its_byol_the_student():
    dino, byol = detect(published("lightly_dino")), detect(published("lightly_byol"))
    assert dino.prefix == byol.prefix == "state_dict.backbone."
    assert (dino.role, byol.role) == ("teacher", "online")


def test_byol_s_target_network_is_not_taken_for_the_online_one():
    tensors = published("byol_deepmind_haiku")
    target = {name: t for name, t in tensors.items() if ".online_" not in name}
    assert "could be momentum copies only" in refused(target)
    # parameters of one network and statistics of the other are no network
    mixed = {n: t for n, t in tensors.items() if ".online_state." not in n}
    assert "'experiment_state.online_state.res_net50" in refused(mixed)


@pytest.mark.parametrize("alias", ["encoder_q.0.", "online_net.0."])
def test_aliases_are_left_out_if_they_are_the_same_tensors_and_refused_if_not(alias):
    # Without values of their own, but equal ones: one number under a shape.
    own = {
        n: (torch.tensor(3) if not t.ndim else torch.full((1,), 0.5).expand(t.shape))
        for n, t in trunk().items()
    }
    file = under("backbone.", own) | under(alias, own)
    found = detect(file)
    assert (found.prefix, found.role, found.aliases) == ("backbone.", "online", (alias,))
    assert len(to_canonical(file, found)) == 318
    file[f"{alias}layer3.4.bn1.bias"] = torch.full((256,), 0.25)
    with pytest.raises(ZooError) as error:
        to_canonical(file, found)
    assert "'backbone.layer3.4.bn1.bias' and" in str(error.value)
    assert f"'{alias}layer3.4.bn1.bias' should be the same tensor" in str(error.value)
    assert "--prefix" in str(error.value)
    assert detect(file, alias).aliases == ()
