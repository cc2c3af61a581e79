"""Loading and the store, with a file as its publisher would give it."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import zoo.canonical
import zoo.store
from tests.zoo.examples import LIKE_IMAGENET, changed, network, same, trunk, under
from zoo.canonical import convert, read_canonical, tensors_sha256, write
from zoo.catalog import ZooError, default_folder, find
from zoo.load import load, opened
from zoo.own import add
from zoo.resnet50 import Normalisation
from zoo.store import Zoo

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
HEADS = {f"fc.{n}.{leaf}": torch.ones(3) for n in (0, 2) for leaf in ("weight", "bias")}
RELEASE = {"epoch": 200, "arch": "resnet50"}
ROW = find("moco_v2")


def write_release(path, tensors, **more):
    """A file as MoCo-v2's authors publish it: the query encoder and its projection."""
    names = under("module.encoder_q.", tensors | HEADS) | more
    torch.save(RELEASE | {"state_dict": names}, path, _use_new_zipfile_serialization=False)


@pytest.fixture(scope="module", autouse=True)
def shelf(tmp_path_factory):
    """A zoo that has MoCo-v2's file, and is the one in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        shelf = Zoo(tmp_path_factory.mktemp("zoo"))
        patch.setenv("BENCH_ZOO", str(shelf.folder))
        write_release(shelf.folder / ROW.file, trunk())
        yield shelf


@pytest.fixture(scope="module")
def net():
    return load("moco_v2")


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another zoo, which is empty; it is the one in the environment."""
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    (tmp_path / "zoo").mkdir()
    return Zoo(tmp_path / "zoo")


# -- From a name or a path to the network ----------------------------------------------------------


@torch.no_grad()
def test_a_name_loads_its_file_and_the_network_computes_what_torchvision_s_does(net):
    assert not net.training
    assert same(net.state_dict(), trunk())
    images, theirs = torch.rand(2, 3, 64, 97), network()
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(net.input(images)))))
    for ours, stage in zip(net(net.input(images)), (1, 2, 3, 4), strict=True):
        x = getattr(theirs, f"layer{stage}")(x)
        assert torch.equal(ours, x)


def test_its_report_says_what_was_matched_dropped_and_renamed(net, shelf):
    report = json.loads(json.dumps(asdict(net.report)))
    activation = report.pop("activation")
    assert activation.keys() == {"C2", "C3", "C4", "C5"}
    assert all(0.1 < scale < 10 for scale in activation.values())
    assert report == {
        "name": "moco_v2_200ep",
        "file": "moco_v2_200ep_pretrain.pth.tar",
        "sha256": shelf.sha256_of(shelf.folder / ROW.file),
        "stand_in": False,
        "container": "torch legacy",
        "layout": "moco",
        "variant": "plain",
        "padding": "torch",
        "stride": "3x3",
        "order": "rgb",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "nesting": ["state_dict"],
        "prefix": "module.encoder_q.",
        "role": "only",
        "required": 265,
        "matched": 265,
        "counters": "file",
        "dropped": {"projection": 4},
        "renamed": 265,
        "warnings": [],
    }


def test_its_path_and_its_canonical_file_are_the_same_weights(net, shelf):
    canonical = shelf.canonical(ROW, stand_in=False)
    for path in (shelf.folder / ROW.file, str(canonical), canonical):
        tensors, record = opened(path)
        assert same(dict(tensors), trunk())
        assert record.checkpoint == ROW
    assert asdict(load(canonical).report) == asdict(net.report)


def test_another_folder_is_looked_in_when_it_is_named(other, shelf):
    with pytest.raises(ZooError, match="Missing weights"):
        load("moco_v2")
    assert load("moco_v2", size="tiny", folder=shelf.folder).report.name == "moco_v2_200ep"


def test_a_file_of_one_s_own_loads_by_its_name_and_by_its_path(other, tmp_path):
    torch.save(trunk(), tmp_path / "bare.pth")
    with pytest.raises(ZooError, match="bench zoo add"):
        load(tmp_path / "bare.pth")
    pixels = {"order": "bgr", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    add(tmp_path / "bare.pth", "mine", LIKE_IMAGENET | pixels | {"padding": "same"})
    for source in ("mine", tmp_path / "bare.pth", str(tmp_path / "bare.pth")):
        net = load(source, size="tiny")
        assert net.input == Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "bgr")
        assert (net.report.name, net.report.padding) == ("mine", "same")
        assert net.report.renamed == 0


def test_tiny_is_the_same_path_with_less_of_the_weights(net):
    tiny = load("moco_v2", size="tiny")
    assert tiny.channels == (64, 128, 256, 512)
    full = trunk()["layer2.0.conv3.weight"]
    assert torch.equal(tiny.state_dict()["layer2.0.conv3.weight"], full[:128, :32])


# -- The canonical file ----------------------------------------------------------------------------


def test_the_canonical_file_tells_its_history_to_whoever_reads_safetensors(shelf):
    with safe_open(shelf.canonical(ROW, stand_in=False), framework="pt") as file:
        header = {key: json.loads(text) for key, text in file.metadata().items()}
        assert set(file.keys()) == set(trunk())
        for name in ("conv1.weight", "layer4.2.bn3.running_var", "bn1.num_batches_tracked"):
            assert torch.equal(file.get_tensor(name), trunk()[name])
    assert header["sha256"] == shelf.sha256_of(shelf.folder / ROW.file)
    assert header["layout"] == "moco"
    assert (header["nesting"], header["prefix"]) == (["state_dict"], "module.encoder_q.")
    assert (header["role"], header["counters"], header["renamed"]) == ("only", "file", 265)
    assert header["dropped"] == {"projection": 4}
    assert header["stand_in"] is False
    assert header["checkpoint"]["licence"] == ROW.licence
    assert header["checkpoint"]["url"] == ROW.url
    assert header["checkpoint"]["mean"] == [0.485, 0.456, 0.406]
    assert header["checkpoint"]["std"] == [0.229, 0.224, 0.225]
    assert header["architecture"]["stride_in"] == "3x3"
    assert header["architecture"]["input"].startswith("RGB in [0, 1]")
    assert header["converter"] == zoo.store.CONVERTER


def test_conversion_is_idempotent_to_the_byte(shelf, tmp_path):
    first = shelf.canonical(ROW, stand_in=False)
    opened_again = read_canonical(first)
    assert opened_again is not None
    write(tmp_path / "again", *opened_again)
    write(tmp_path / "anew", *convert(shelf.folder / ROW.file, ROW))
    assert (tmp_path / "again").read_bytes() == first.read_bytes()
    assert (tmp_path / "anew").read_bytes() == first.read_bytes()


def test_a_canonical_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch, shelf):
    tensors, record = opened("moco_v2")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "x.safetensors", tensors, record)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_converter_is_not_used(tmp_path, monkeypatch):
    tensors, record = opened("moco_v2")
    with monkeypatch.context() as patch:
        patch.setattr(zoo.canonical, "CONVERTER", -1)
        write(tmp_path / "x.safetensors", tensors, record)
    with pytest.raises(ZooError, match=r"^x\.safetensors was converted by another version"):
        load(tmp_path / "x.safetensors")


# -- Files that are not what their row says --------------------------------------------------------


def refused(shelf, path=None):
    with pytest.raises(ZooError) as error:
        load(path or "moco_v2", folder=shelf.folder)
    assert not (shelf.folder / "canonical").exists()
    return str(error.value)


def test_another_file_under_a_catalogue_name_is_refused(other):
    torch.save(trunk(), other.folder / ROW.file)
    assert refused(other) == (
        f"{ROW.file} is laid out as torchvision, moco_v2_200ep is published as moco. "
        "Another file under the same name?"
    )


def test_a_network_of_another_kind_under_a_catalogue_name_is_refused(other):
    row = find("clip_rn50_timm")
    torch.save(trunk(), other.folder / row.file)
    with pytest.raises(ZooError, match="holds a plain ResNet-50, clip_rn50_timm is clip"):
        load("clip_rn50_timm")


def test_tensors_that_nobody_knows_are_refused_for_a_published_file(other, tmp_path):
    write_release(other.folder / ROW.file, trunk(), **{"module.new_head.weight": torch.ones(3)})
    said = refused(other)
    assert said.startswith(
        f"{ROW.file} also holds encoder_q (4), new_head (1), neither part of ResNet-50 nor on "
        "moco's list in zoo/layouts.py."
    )
    assert f"bench zoo add {ROW.file} --name NAME" in said
    # which a user may do for a file of theirs, after being shown what it holds
    row = add(other.folder / ROW.file, "mine", LIKE_IMAGENET)
    assert "without encoder_q (4), new_head (1)" in row.notes
    assert load("mine", size="tiny").report.dropped == {"encoder_q": 4, "new_head": 1}


def test_a_file_with_another_hash_than_the_published_one_is_refused(other):
    row = find("supervised")
    torch.save(network().state_dict(), other.folder / row.file)
    with pytest.raises(ZooError) as error:
        load("supervised")
    ours = other.sha256_of(other.folder / row.file)
    assert str(error.value) == (
        f"resnet50-0676ba61.pth has SHA-256 {ours}, that of supervised_tv_v1 begins 0676ba61. "
        f"Download it again from {row.url}"
    )


def test_values_that_no_training_leaves_are_refused_with_the_file_s_name_for_them(other):
    weights = trunk() | {"layer1.2.bn2.running_var": torch.zeros(64)}
    write_release(other.folder / ROW.file, weights)
    said = refused(other)
    assert said.startswith(f"{ROW.file}: 'layer1.2.bn2.running_var' holds a variance of 0")


def test_a_file_of_unknown_name_is_used_as_its_layout_says(net, shelf, tmp_path):
    (tmp_path / "checkpoint.pth").symlink_to(shelf.folder / ROW.file)
    other = load(tmp_path / "checkpoint.pth", size="tiny")
    assert (other.report.name, other.report.layout) == ("checkpoint", "moco")
    assert other.input == net.input


def test_safetensors_of_somebody_else_are_no_canonical_file(tmp_path):
    save_file({"conv1.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(ZooError, match=r"^model\.safetensors: No ResNet-50 .* a ResNet for CIFAR"):
        load(tmp_path / "model.safetensors")


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_a_real_resnet_for_cifar_is_refused_for_its_stem():
    with pytest.raises(ZooError, match="Conv1 is 3x3 with 16 channels: a ResNet for CIFAR"):
        load(DATA / "weights" / "resnet20-12fca82f.th")


# -- Hashes and identities -------------------------------------------------------------------------


def test_an_identity_is_that_of_the_tensors_and_of_what_is_declared(shelf):
    identity = shelf.identity(ROW, stand_in=False)
    for differs in ({"padding": "same"}, {"std": (1.0, 1.0, 1.0)}, {"order": "bgr"}):
        assert shelf.identity(replace(ROW, **differs), stand_in=False) != identity
    for same_use in ({"licence": "none"}, {"label": "another"}):
        assert shelf.identity(replace(ROW, **same_use), stand_in=False) == identity
    assert shelf.identity(ROW, stand_in=True) != identity


def test_the_hash_of_tensors_is_of_names_shapes_and_values_but_not_of_step_counters():
    digest = tensors_sha256(trunk())
    assert tensors_sha256(dict(reversed(trunk().items()))) == digest
    assert tensors_sha256({n: t for n, t in trunk().items() if "num_b" not in n}) == digest
    nudged = trunk()["bn1.bias"].clone()
    nudged[3] = torch.nextafter(nudged[3], torch.tensor(9.0))
    assert tensors_sha256(trunk() | {"bn1.bias": nudged}) != digest
    turned = trunk()["conv1.weight"].transpose(2, 3)
    assert tensors_sha256(trunk() | {"conv1.weight": turned}) != digest


def test_an_identity_is_remembered_without_torch(shelf):
    identity = shelf.identity(ROW, stand_in=False)
    code = (
        "import sys; from pathlib import Path; from zoo.catalog import find; "
        "from zoo.store import Zoo; zoo = Zoo(Path(sys.argv[1])); "
        "print(zoo.identity(find('moco_v2'), stand_in=False), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(shelf.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [identity, "False"]


def test_a_hash_is_taken_once_for_each_size_and_time_of_a_file(other, monkeypatch):
    taken = []
    hashed = zoo.store.sha256_of
    monkeypatch.setattr(zoo.store, "sha256_of", lambda path: taken.append(path) or hashed(path))
    file = other.folder / "weights.pth"
    file.write_bytes(b"one")
    first = other.sha256_of(file)
    assert other.sha256_of(file) == Zoo(other.folder).sha256_of(file) == first
    assert len(taken) == 1
    time = file.stat().st_mtime_ns
    file.write_bytes(b"two")
    os.utime(file, ns=(time, time + 1))
    assert other.sha256_of(file) != first
    file.write_bytes(b"three")
    os.utime(file, ns=(time, time + 1))
    other.sha256_of(file)
    assert len(taken) == 3


def test_a_rewritten_file_is_looked_at_again(other):
    file = other.folder / ROW.file
    write_release(file, trunk())
    first, canonical = (
        other.identity(ROW, stand_in=False),
        other.canonical(ROW, stand_in=False),
    )
    write_release(file, changed(2.0))
    assert other.identity(ROW, stand_in=False) != first
    assert other.canonical(ROW, stand_in=False) != canonical
    assert same(dict(opened("moco_v2")[0]), changed(2.0))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ZooError, match="is damaged"):
        other.identity(ROW, stand_in=False)


def test_the_same_tensors_under_two_names_are_said(other, tmp_path):
    torch.save(trunk(), tmp_path / "bare.pth")
    add(tmp_path / "bare.pth", "mine", LIKE_IMAGENET)
    assert load("mine", size="tiny").report.warnings == []
    write_release(other.folder / ROW.file, trunk())
    (warning,) = load("moco_v2", size="tiny").report.warnings
    assert warning == f"the same tensors as {tmp_path / 'bare.pth'}"


# -- Folders ---------------------------------------------------------------------------------------


def test_missing_files_are_listed_with_where_to_get_them(shelf):
    missing = shelf.missing([find("byol"), find("moco_v2"), find("clip")])
    assert [row.short for row in missing] == ["byol", "clip"]
    text = shelf.how_to_get(missing)
    for row in missing:
        assert row.file in text
        assert row.url in text
    assert str(shelf.folder) in text
    with pytest.raises(ZooError, match=r"Missing weights:\n  byol: pretrain_res50x1\.pkl"):
        load("byol")


def test_the_folder_is_the_one_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("BENCH_ZOO")
    assert default_folder().name == "zoo"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ZooError, match=r"Cannot make .*\$BENCH_ZOO"):
        Zoo(tmp_path / "file").canonical(ROW, stand_in=True)
