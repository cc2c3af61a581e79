"""Reading: what is opened, and what is refused in words."""

import argparse
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.catalog import ZooError
from zoo.read import read, sha256_of

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WEIGHTS = {
    "conv1.weight": torch.arange(6.0).reshape(2, 3),
    "bn1.num_batches_tracked": torch.tensor(7),
}


def same(tensors):
    return tensors.keys() == WEIGHTS.keys() and all(
        torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS
    )


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    ("content", "nesting"),
    [
        (WEIGHTS, ()),
        ({"state_dict": WEIGHTS, "epoch": 200, "arch": "resnet50"}, ("state_dict",)),
        ({"model": {"state_dict": WEIGHTS}}, ("model", "state_dict")),
        ({"experiment_state": WEIGHTS, "step": 3}, ("experiment_state",)),
    ],
)
def test_torch_files_are_read_whatever_they_are_nested_in(tmp_path, content, nesting, as_zip):
    path = tmp_path / "weights.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    published = read(path)
    assert published.nesting == nesting
    assert published.container == ("torch zip" if as_zip else "torch legacy")
    assert same(published.tensors)


def test_tensors_beside_the_network_keep_their_whole_path(tmp_path):
    path = tmp_path / "weights.pth"
    state = {"state": {0: {"momentum_buffer": torch.zeros(2)}}}
    torch.save({"state_dict": WEIGHTS, "optimizer": state}, path)
    assert "optimizer.state.0.momentum_buffer" in read(path).tensors


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    published = read(tmp_path / "model.safetensors")
    assert published.container == "safetensors"
    assert same(published.tensors)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a git-lfs pointer"),
        (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "is a raw pickle"),
        (b"x" * 40 + bytes.fromhex("57fb808b247547db"), "is the index of a TensorFlow checkpoint"),
        (b"PK\x03\x04 and no more", "is a truncated zip"),
        (b"II*\x00 something else", "not a weight file"),
        ((9).to_bytes(8, "little") + b"{not json" + b" " * 9, "is a damaged safetensors file"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, content, said):
    path = tmp_path / "resnet50.pth"
    path.write_bytes(content)
    with pytest.raises(ZooError, match=said):
        read(path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_every_truncation_of_a_torch_file_is_refused(tmp_path, as_zip):
    path = tmp_path / "cut.pth"
    torch.save({"state_dict": WEIGHTS}, path, _use_new_zipfile_serialization=as_zip)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ZooError):
            read(path)


def test_code_in_a_file_is_named_and_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=0.03)}, path)
    with pytest.raises(ZooError, match=r"holds a argparse\.Namespace, not tensors alone"):
        read(path)


def test_a_torchscript_archive_is_named(tmp_path):
    path = tmp_path / "RN50.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive/data.pkl", "archive/code/__torch__.py", "archive/constants.pkl"):
            archive.writestr(name, b"")
    with pytest.raises(ZooError, match="is a TorchScript archive"):
        read(path)


def test_a_zip_of_something_else_is_named(tmp_path):
    path = tmp_path / "ResNet50_1x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ResNet50_1x/model.ckpt-225206.index", b"")
    with pytest.raises(ZooError, match=r"model\.ckpt-225206\.index"):
        read(path)


def test_a_folder_and_a_file_without_tensors_are_refused(tmp_path):
    with pytest.raises(ZooError, match="is not a file"):
        read(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "log.pth")
    with pytest.raises(ZooError, match="without a single tensor"):
        read(tmp_path / "log.pth")


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_a_real_legacy_file_is_read_and_hashed():
    path = DATA / "weights" / "resnet20-12fca82f.th"
    published = read(path)
    assert (published.container, published.nesting) == ("torch legacy", ("state_dict",))
    assert published.tensors["module.conv1.weight"].shape == (16, 3, 3, 3)
    assert sha256_of(path).startswith("12fca82f")
