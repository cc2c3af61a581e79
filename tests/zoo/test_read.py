"""Reading: every container gives what its own library gives, and the rest is refused in words."""

import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import SHARED
from tests.zoo.bundles import pack, write_bundle
from tests.zoo.written import FOREIGN, importable
from zoo.catalog import ZooError
from zoo.files import sha256_of
from zoo.read import read

WEIGHTS = {
    "conv1.weight": torch.arange(6.0).reshape(2, 3),
    "bn1.num_batches_tracked": torch.tensor(7),
}
both_formats = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


def save(content, path, as_zip=True):
    with importable(*FOREIGN):
        torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    return path


def by_torch(path):
    """What torch itself reads, running whatever the file says: these files are our own."""
    with importable(*FOREIGN):
        return torch.load(path, map_location="cpu", weights_only=False)


def same(one, other):
    """Two tensors have the same dtype, shape and bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*raw)


def holds(tensors, wanted):
    return tensors.keys() == wanted.keys() and all(same(tensors[n], wanted[n]) for n in wanted)


def refused(path):
    with pytest.raises(ZooError) as error:
        read(path)
    assert str(error.value).startswith(path.name)
    return str(error.value)


# -- Containers and nesting ------------------------------------------------------------------------


@both_formats
@pytest.mark.parametrize(
    ("content", "before"),
    [
        (WEIGHTS, ""),
        (OrderedDict(WEIGHTS), ""),
        ({"state_dict": WEIGHTS, "epoch": 200, "arch": "resnet50"}, "state_dict."),
        ({"model": {"state_dict": WEIGHTS}}, "model.state_dict."),
        ([3, (WEIGHTS,)], "1.0."),
        ({7: WEIGHTS, None: 1}, "7."),
        ({torch.float16: WEIGHTS, ("a", "b"): 1}, "torch.float16."),
    ],
)
def test_tensors_keep_their_whole_path_through_the_file(tmp_path, content, before, as_zip):
    published = read(save(content, tmp_path / "weights.pth.tar", as_zip))
    assert published.container == ("torch zip" if as_zip else "torch legacy")
    assert holds(published.tensors, {before + name: t for name, t in WEIGHTS.items()})
    assert published.keys[f"{before}conv1.weight"][-1] == "conv1.weight"


def test_what_a_script_says_of_its_network_in_words_is_kept(tmp_path):
    content = {"arch": "resnet50", "author": "DenseCL", "epoch": 3, "state_dict": WEIGHTS}
    assert read(save(content, tmp_path / "a.pth")).facts == {
        "arch": "resnet50",
        "author": "DenseCL",
    }


def test_safetensors_are_read_as_their_library_reads_them(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS | {"half": torch.rand(3).half(), "none": torch.empty(0, 4)}, path)
    published = read(path)
    assert published.container == "safetensors"
    assert holds(published.tensors, load_file(path))


@pytest.mark.parametrize("named", ["model.ckpt-1.index", "model.ckpt-1", "."])
def test_a_tensorflow_checkpoint_is_read_by_its_index_its_name_or_its_folder(tmp_path, named):
    write_bundle(tmp_path / "model.ckpt-1", WEIGHTS)
    published = read(tmp_path / named)
    assert published.container == "TF checkpoint"
    assert holds(published.tensors, WEIGHTS)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_tensorflow_checkpoint_is_read_out_of_its_zip(tmp_path, how):
    path = tmp_path / "ResNet50_1x.zip"
    index, data = pack(WEIGHTS)
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("ResNet50_1x/model.ckpt-1.index", index)
        archive.writestr("ResNet50_1x/model.ckpt-1.data-00000-of-00001", data)
        archive.writestr("ResNet50_1x/checkpoint", b"model_checkpoint_path: ...")
    published = read(path)
    assert published.container == "TF checkpoint in a zip"
    assert holds(published.tensors, WEIGHTS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_raw_pickles_of_arrays_are_read_in_every_protocol(tmp_path, protocol):
    path = tmp_path / "R-50.pkl"
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(4, dtype=">f4"),
        "large": np.random.default_rng(0).random(70_000, np.float32),
        "scalar": np.array(3),
        "empty": np.empty((0, 5), np.float16),
        "truth": np.array([True, False]),
    }
    with path.open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "us", "names": np.array(["a"])}, file, protocol)
    published = read(path)
    assert published.container == "pickle"
    wanted = {
        f"model.{name}": torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        for name, array in arrays.items()
    }
    assert holds(published.tensors, wanted)
    assert published.facts == {"__author__": "us"}


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("size", torch.tensor(224))


def test_a_torchscript_archive_gives_the_state_dict_of_its_module(tmp_path):
    path = tmp_path / "RN50.pt"
    with pytest.warns(match=r"torch\.jit"):
        torch.jit.script(Tower().half()).save(path)
    with pytest.warns(match=r"torch\.jit"):
        wanted = torch.jit.load(path).state_dict()
    published = read(path)
    assert published.container == "TorchScript"
    assert holds(published.tensors, wanted)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_a_real_legacy_file_is_read_as_torch_reads_it():
    path = SHARED / "weights" / "resnet20-12fca82f.th"
    published = read(path)
    assert published.container == "torch legacy"
    wanted = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert holds(published.tensors, {f"state_dict.{name}": t for name, t in wanted.items()})
    assert sha256_of(path).startswith("12fca82f")


# -- Tensors of every kind -------------------------------------------------------------------------

BASE = torch.arange(24.0).reshape(2, 3, 4)
KINDS = {
    "bfloat16": torch.rand(5).bfloat16(),
    "float16": torch.rand(5).half(),
    "float64": torch.rand(5).double(),
    "complex": torch.complex(torch.rand(2), torch.rand(2)),
    "truth": torch.tensor([True, False]),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "int16": torch.arange(5, dtype=torch.int16),
    "number": torch.tensor(3.5),
    "transposed": BASE.permute(2, 0, 1),
    "channels last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "piece": BASE[1:, :, 1:3],
    "expanded": torch.tensor([1.0, 2.0]).reshape(2, 1).expand(2, 5),
    "empty": torch.empty(0, 3),
    "parameter": nn.Parameter(torch.rand(3)),
    "frozen": nn.Parameter(torch.rand(3), requires_grad=False),
    "not a number": torch.tensor([float("nan"), float("-inf"), -0.0]),
}


@both_formats
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_is_what_torch_reads(tmp_path, kind, as_zip):
    path = save(
        {"before": torch.ones(3, dtype=torch.uint8), kind: KINDS[kind]}, tmp_path / "a", as_zip
    )
    assert holds(read(path).tensors, by_torch(path))


def test_dtypes_that_are_newer_than_their_storages_are_read(tmp_path):
    bits = torch.arange(8, dtype=torch.uint8)
    dtypes = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
    path = save({str(dtype): bits.view(dtype) for dtype in dtypes}, tmp_path / "new.pth")
    assert holds(read(path).tensors, by_torch(path))


@both_formats
def test_tensors_that_share_a_storage_are_read_each_with_its_own_part(tmp_path, as_zip):
    content = {"whole": BASE, "row": BASE[1], "column": BASE[:, 1], "again": BASE}
    path = save(content, tmp_path / "shared.pth", as_zip)
    assert holds(read(path).tensors, by_torch(path))


@both_formats
def test_a_parameter_with_attributes_of_its_own_is_read(tmp_path, as_zip):
    parameter = nn.Parameter(torch.rand(3))
    parameter.note, parameter.other = "kept by an optimiser", torch.ones(2)
    path = save({"p": parameter, "q": torch.rand(2)}, tmp_path / "a.pth", as_zip)
    assert holds(read(path).tensors, by_torch(path))


def test_writing_into_a_tensor_does_not_reach_the_file(tmp_path):
    path = save(WEIGHTS, tmp_path / "a.pth")
    before = path.read_bytes()
    read(path).tensors["conv1.weight"].fill_(9)
    assert path.read_bytes() == before


# -- What is refused -------------------------------------------------------------------------------


def test_two_tensors_of_one_name_are_refused(tmp_path):
    path = save({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, tmp_path / "two.pth")
    assert "two tensors are called 'a.b'" in refused(path)
    path = save({1: torch.ones(1), "1": torch.zeros(1)}, tmp_path / "keys.pth")
    assert "two keys that read '1'" in refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a git-lfs pointer"),
        (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "without a single tensor"),
        (b"x" * 40 + bytes.fromhex("57fb808b247547db"), "is damaged|does not end as"),
        (b"PK\x03\x04 and no more", "is a truncated or damaged zip"),
        (b"II*\x00 something else", "not a weight file"),
        ((9).to_bytes(8, "little") + b"{not json" + b" " * 9, "is a damaged safetensors file"),
        ((2**60).to_bytes(8, "little") + b"{}", "not a weight file"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, content, said):
    path = tmp_path / "resnet50.pth"
    path.write_bytes(content)
    with pytest.raises(ZooError, match=rf"^resnet50\.pth.*({said})"):
        read(path)


def test_what_is_not_there_and_what_holds_no_tensor_is_named(tmp_path):
    with pytest.raises(ZooError, match="is not a file"):
        read(tmp_path / "nothing.pth")
    with pytest.raises(ZooError, match="is a folder without exactly one"):
        read(tmp_path)
    assert "without a single tensor" in refused(save({"epoch": 3}, tmp_path / "log.pth"))


def files(folder):
    """One small file in each container, with the path that is read."""
    save({"state_dict": WEIGHTS}, folder / "zip.pth")
    save({"state_dict": WEIGHTS}, folder / "legacy.pth", as_zip=False)
    save_file(WEIGHTS, folder / "a.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    (folder / "a.pkl").write_bytes(pickle.dumps(arrays, 2))
    write_bundle(folder / "a.ckpt", WEIGHTS)
    with zipfile.ZipFile(folder / "tf.zip", "w") as archive:
        for part in ("a.ckpt.index", "a.ckpt.data-00000-of-00001"):
            archive.write(folder / part, part)


@pytest.mark.parametrize(
    "name", ["zip.pth", "legacy.pth", "a.safetensors", "a.pkl", "a.ckpt.index", "tf.zip"]
)
def test_every_truncation_is_refused_and_so_is_anything_after_the_end(tmp_path, name):
    files(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    assert len(read(path).tensors) == 2
    for length in range(0, len(whole), max(1, len(whole) // 300)):
        path.write_bytes(whole[:length])
        refused(path)
    if name != "tf.zip" and name != "zip.pth":  # a zip may have a comment
        path.write_bytes(whole + b"\0")
        refused(path)


def test_the_data_of_a_tensorflow_checkpoint_has_to_be_there_and_whole(tmp_path):
    files(tmp_path)
    data = tmp_path / "a.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    assert "ends at byte" in refused(tmp_path / "a.ckpt.index")
    data.unlink()
    assert "is not beside it" in refused(tmp_path / "a.ckpt.index")


def rezipped(path, change=None, how=zipfile.ZIP_STORED):
    """Write an archive anew; `change` gives the new content of a member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content) if change else content)
    return path


def test_a_torch_file_that_was_packed_again_is_read_unless_it_was_compressed(tmp_path):
    path = save({"state_dict": WEIGHTS}, tmp_path / "again.pth")
    assert len(read(rezipped(path)).tensors) == 2
    assert "is compressed, which torch never does" in refused(
        rezipped(path, how=zipfile.ZIP_DEFLATED)
    )


def test_big_endian_files_are_refused(tmp_path):
    path = save({"state_dict": WEIGHTS}, tmp_path / "big.pth")
    rezipped(path, lambda name, content: b"big" if name.endswith("byteorder") else content)
    assert "its bytes are in b'big' order" in refused(path)


def test_a_zip_of_something_else_is_named(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/1.jpg", b"")
    assert "is a zip of ['photos/1.jpg'], not of weights" in refused(path)


def test_a_tensor_with_another_checksum_is_named(tmp_path):
    path = save({"state_dict": {"conv1.weight": torch.full((99,), 0.7)}}, tmp_path / "flip.pth")
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<f", 0.7), struct.pack("<f", 0.8), 1))
    published = read(path)
    with pytest.raises(ZooError, match=r"flip\.pth: 'state_dict\.conv1\.weight' is damaged"):
        published.check(["state_dict.conv1.weight"])


def test_a_pickle_with_another_checksum_is_refused(tmp_path):
    path = save({"state_dict": WEIGHTS}, tmp_path / "flip.pth")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"state_dict", b"state-dict"))
    assert "the checksum of its pickle is another" in refused(path)


def test_files_that_torch_wrote_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"state_dict": WEIGHTS}, tmp_path / "fast.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    published = read(path)
    assert len(published.tensors) == 2
    published.check(published.tensors)


def test_a_tensor_in_part_of_another_storage_is_refused(tmp_path):
    # As torch 0.3 wrote views; torch itself has read them only with weights_only=False for years.
    view = b"X\1\0\0\0vK\0K\1\x87"
    path = save({"w": torch.ones(3)}, tmp_path / "old.pth", as_zip=False)
    content = path.read_bytes()
    assert content.count(b"K\x03Ntq") == 1
    path.write_bytes(content.replace(b"K\x03Ntq", b"K\x03" + view + b"tq"))
    assert "a view of another storage" in refused(path)
