"""The verdict about a loaded trunk: what the fingerprint sees, and what each check says."""

import json
import math
import re
from dataclasses import asdict

import pytest
import torch
from torch import nn

from zoo.catalog import IMAGENET_MEAN, IMAGENET_STD, ZooError
from zoo.report import probe_images
from zoo.resnet50 import Normalisation, resnet50
from zoo.values import LOOKS_RANDOM_BELOW
from zoo.verify import fingerprint, same_fingerprint, verdict

IMAGENET = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
COUNTED = 80  # the tiny trunk: 16 convolutions with four BatchNorm tensors each


def calibrated(padding="torch", size="tiny"):
    """timm's random weights; BatchNorm's statistics are those of the probe images."""
    torch.manual_seed(0)
    net = resnet50(variant="plain", padding=padding, size=size)
    net.input = IMAGENET
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    with torch.no_grad():
        net.train()(probe_images(net.input).float())
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return calibrated()


@pytest.fixture(scope="module")
def seen(net):
    return fingerprint(net)


def structured(net):
    """Give each 1x1 convolution one strong direction, as training does."""
    for weight in net.parameters():
        if weight.ndim == 4 and weight.shape[2:] == (1, 1):
            matrix = weight.data.flatten(1)
            strong = torch.ones(len(matrix), 1) @ torch.randn(1, matrix.shape[1])
            matrix += 0.5 * matrix.std() * strong
    return net


# -- Fingerprint -----------------------------------------------------------------------------------


def test_the_first_numbers_are_the_mean_and_deviation_that_float32_gives_too(net, seen):
    with torch.no_grad():
        stages = net(probe_images(IMAGENET).float())
    for numbers, maps in zip(seen.values(), stages, strict=True):
        assert len(numbers) == 6
        assert numbers[:2] == pytest.approx([maps.mean().item(), maps.std().item()], rel=1e-4)
    assert list(seen) == ["C2", "C3", "C4", "C5"]


def test_the_trunk_is_left_in_float32_with_its_own_tensors(net):
    before = {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    fingerprint(net.train())
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == before
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert not net.training


def test_a_fingerprint_survives_json(seen):
    assert same_fingerprint(json.loads(json.dumps(seen)), seen, tolerance=0) == []


@pytest.mark.parametrize("training", [False, True])
def test_the_same_network_in_another_number_of_threads_has_the_same_fingerprint(seen, training):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = fingerprint(calibrated().train(training))
    finally:
        torch.set_num_threads(threads)
    assert same_fingerprint(again, seen, tolerance=1e-5) == []


@pytest.mark.parametrize(
    "name",
    ["conv1.weight", "layer1.0.bn2.running_var", "layer3.0.conv2.weight", "layer4.0.bn3.bias"],
)
def test_a_tensor_nudged_by_one_percent_changes_the_fingerprint(seen, name):
    nudged = calibrated()
    nudged.state_dict()[name].mul_(1.01)
    assert same_fingerprint(fingerprint(nudged), seen) != []


def test_one_number_of_the_stem_nudged_by_one_percent_changes_the_fingerprint(seen):
    nudged = calibrated()
    weights = nudged.state_dict()["conv1.weight"].view(-1)
    weights[weights.argmax()] *= 1.01
    assert same_fingerprint(fingerprint(nudged), seen) != []


def test_two_channels_exchanged_change_the_fingerprint(seen):
    exchanged = calibrated()
    order = [1, 0, *range(2, 512)]
    state = exchanged.state_dict()
    for name in ("conv3.weight", "bn3.weight", "bn3.bias", "bn3.running_mean", "bn3.running_var"):
        state[f"layer4.0.{name}"].copy_(state[f"layer4.0.{name}"][order])
    sentences = same_fingerprint(fingerprint(exchanged), seen)
    assert len(sentences) == 1
    assert sentences[0].startswith("C5's ")


@pytest.mark.parametrize("padding", ["same", "same_pool"])
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_other_padding_of_the_same_tensors_changes_every_stage(padding, size):
    torch_net = calibrated(size=size)
    same_net = resnet50(variant="plain", padding=padding, size=size)
    same_net.input = IMAGENET
    same_net.load_state_dict(torch_net.state_dict())
    sentences = same_fingerprint(fingerprint(same_net), fingerprint(torch_net))
    assert [sentence[:4] for sentence in sentences] == ["C2's", "C3's", "C4's", "C5's"]


def test_another_normalisation_changes_the_fingerprint(seen):
    other = calibrated()
    other.input = Normalisation(IMAGENET_MEAN, (0.228, 0.224, 0.225))  # SwAV's
    assert same_fingerprint(fingerprint(other), seen) != []


def test_features_that_are_not_finite_have_no_fingerprint():
    broken = calibrated()
    broken.state_dict()["bn1.weight"].fill_(math.inf)
    with pytest.raises(ZooError, match=r"^C2 of the fixed images is not finite"):
        fingerprint(broken)


def test_a_difference_is_relative_to_its_stage_and_names_the_worst_number():
    a = {stage: [1.0, 2.0, 0.0, 0.0, 0.0, 0.0] for stage in ("C2", "C3", "C4")}
    a["C5"] = [100.0] + 5 * [0.0]
    assert same_fingerprint(a, a | {"C2": [1.0, 2.0, 0.00019, 0.0, 0.0, 0.0]}) == []
    assert same_fingerprint(a, a | {"C5": [100.0, 0.009, 0.0, 0.0, 0.0, 0.0]}) == []
    assert same_fingerprint(a, a | {"C4": [1.0, 2.1, 0.05, 0.0, 0.0, 0.0]}) == [
        "C4's standard deviation is 2 against 2.1, 4.8 % of the stage's scale apart"
    ]
    [sentence] = same_fingerprint(a, a | {"C3": [1.0, 2.0, 0.0, 0.0, 0.0, math.nan]})
    assert sentence.startswith("C3's projection 4 is 0 against nan")


def test_fingerprints_of_different_numbers_are_not_compared(seen):
    for other in ({}, seen | {"C5": seen["C5"][:2]}, seen | {"C6": seen["C5"]}):
        [sentence] = same_fingerprint(seen, other)
        assert "another version" in sentence


# -- Verdict ---------------------------------------------------------------------------------------

SHA = "0676ba61" + "5" * 56


def judged(net, **changed):
    arguments = {
        "name": "mine",
        "file": "mine.pth",
        "sha256": SHA,
        "published_sha256": "0676ba61",
        "remembered_sha256": SHA,
        "required": COUNTED,
        "matched": COUNTED,
        "tensors": net.state_dict(),
        "net": net,
    }
    if "remembered_fingerprint" not in changed:
        arguments["remembered_fingerprint"] = fingerprint(net)
    return verdict(**(arguments | changed))


def failed(found):
    return {check.what: check.words for check in found.checks if not check.ok}


@pytest.fixture(scope="module")
def trained():
    return structured(calibrated())


def test_a_trained_and_known_file_passes_every_check(trained):
    found = judged(trained)
    assert found.ok
    assert failed(found) == {}
    assert [check.what for check in found.checks] == [
        "published checksum",
        "remembered checksum",
        "coverage",
        "shapes",
        "values",
        "fingerprint",
        "distance from random initialisation",
    ]
    assert not any("unknown" in check.words for check in found.checks)
    assert found.random_ratio > LOOKS_RANDOM_BELOW


def test_a_verdict_goes_into_json(trained):
    found = judged(trained)
    text = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert text["checks"][0]["what"] == "published checksum"
    assert text["fingerprint"] == found.fingerprint


def test_what_nobody_published_or_remembers_is_unknown_and_no_failure(trained):
    unknown = {"remembered_sha256": None, "remembered_fingerprint": None, "published_sha256": ""}
    found = judged(trained, **unknown)
    assert found.ok
    words = {check.what: check.words for check in found.checks if "unknown" in check.words}
    assert words.keys() == {"published checksum", "remembered checksum", "fingerprint"}
    assert "its publisher gives no SHA-256" in words["published checksum"]


@pytest.mark.parametrize(
    ("changed", "what", "said"),
    [
        ({"published_sha256": "11ad3fa6"}, "published checksum", "published one begins 11ad3fa6"),
        ({"remembered_sha256": "5" * 64}, "remembered checksum", "it was 5555"),
        ({"matched": COUNTED - 1}, "coverage", f"{COUNTED - 1} of the {COUNTED} tensors"),
        (
            {"remembered_fingerprint": {s: [1.0] * 6 for s in ("C2", "C3", "C4", "C5")}},
            "fingerprint",
            "C2's .* against 1, .* apart; C3's ",
        ),
    ],
)
def test_what_is_not_as_it_should_be_fails_alone(trained, changed, what, said):
    found = judged(trained, **changed)
    assert not found.ok
    assert failed(found).keys() == {what}
    assert re.search(said, failed(found)[what])


def test_a_file_with_all_of_the_published_checksum_is_told_from_one_with_its_beginning(trained):
    assert judged(trained).checks[0].words == "SHA-256 begins 0676ba61, as published"
    assert (
        judged(trained, published_sha256=SHA).checks[0].words == f"SHA-256 is {SHA}, as published"
    )


def test_tensors_that_are_not_those_of_the_network_fail_by_name(trained):
    tensors = dict(trained.state_dict())
    tensors["fc.weight"] = torch.ones(10, 512)
    tensors["bn1.bias"] = torch.ones(32)
    tensors["layer1.0.bn1.weight"] = 1.01 * tensors["layer1.0.bn1.weight"]
    del tensors["bn1.weight"]
    found = judged(trained, tensors=tensors)
    assert failed(found) == {
        "shapes": "'bn1.bias' is (32,), not (64,); 'bn1.weight' is missing; "
        "'fc.weight' is no part of it; 4 in all"
    }


def test_a_value_that_only_the_network_has_fails(trained):
    tensors = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    tensors["layer1.0.bn1.weight"] *= 1.01
    said = "'layer1.0.bn1.weight' holds other values in the network than in the file"
    assert failed(judged(trained, tensors=tensors)) == {"shapes": said}


def test_step_counters_may_be_absent_from_the_file(trained):
    tensors = {n: t for n, t in trained.state_dict().items() if "num_batches" not in n}
    assert judged(trained, tensors=tensors).ok


def test_unsound_values_fail_and_are_not_measured():
    broken = structured(calibrated())
    seen = fingerprint(broken)
    broken.state_dict()["layer2.0.conv2.weight"][0, 0] = math.nan
    found = judged(broken, remembered_fingerprint=seen)
    words = failed(found)
    assert words.keys() == {"values", "fingerprint", "distance from random initialisation"}
    assert "mine.pth: 'layer2.0.conv2.weight' holds 9 of" in words["values"]
    assert (found.fingerprint, found.random_ratio) == ({}, None)
    json.dumps(asdict(found), allow_nan=False)


def test_finite_weights_of_absurd_scale_fail_in_words():
    absurd = structured(calibrated())
    seen = fingerprint(absurd)
    for name, tensor in absurd.state_dict().items():
        if "bn" in name and name.endswith("weight"):
            tensor.fill_(1e38)
    found = judged(absurd, remembered_fingerprint=seen)
    assert failed(found).keys() == {"fingerprint"}
    assert "is not finite, though the weights are" in failed(found)["fingerprint"]


def test_random_weights_fail_unless_they_are_a_stand_in_s(net):
    found = judged(net)
    assert found.random_ratio < LOOKS_RANDOM_BELOW
    assert failed(found).keys() == {"distance from random initialisation"}
    assert "the weights look random" in failed(found)["distance from random initialisation"]
    pretended = judged(net, stand_in=True)
    assert pretended.ok
    assert pretended.stand_in
    assert "a stand-in has no published file" in pretended.checks[0].words
