"""Loading and the store with a file as its publisher would give it."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.canonical import check_values, read_canonical, tensors_sha256
from zoo.catalog import ZooError, find
from zoo.load import load
from zoo.resnet50 import Normalisation
from zoo.stand_in import write_stand_in
from zoo.store import Zoo, default_folder

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A zoo that has MoCo-v2's file, which nothing tells from a real one."""
    zoo = Zoo(tmp_path_factory.mktemp("zoo"))
    row = find("moco_v2")
    write_stand_in(row, zoo.folder / row.file)
    return zoo


@pytest.fixture(scope="module")
def net(zoo):
    return load("moco_v2", folder=zoo.folder)


def test_a_name_loads_the_published_file(net):
    assert not net.training
    assert net.input == Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    report = json.loads(json.dumps(asdict(net.report)))
    assert report["stand_in"] is False
    assert report["prefix"] == "module.encoder_q."
    assert report["dropped"] == {"projection": 4}
    assert (report["required"], report["matched"], report["renamed"]) == (265, 265, 265)
    assert report["activation"].keys() == {"C2", "C3", "C4", "C5"}


def test_a_published_file_gives_the_same_weights_as_its_name(zoo, net):
    direct = load(zoo.folder / find("moco_v2").file).state_dict()
    assert all(torch.equal(direct[name], tensor) for name, tensor in net.state_dict().items())


def test_tiny_is_the_same_path_with_less_of_the_weights(zoo, net):
    tiny = load("moco_v2", size="tiny", folder=zoo.folder)
    assert tiny.channels == (64, 128, 256, 512)
    full = net.state_dict()["layer2.0.conv3.weight"]
    assert torch.equal(tiny.state_dict()["layer2.0.conv3.weight"], full[:128, :32])


def test_the_canonical_file_carries_its_history(zoo):
    row = find("moco_v2")
    opened = read_canonical(zoo.canonical(row, stand_in=False))
    assert opened is not None
    tensors, record = opened
    assert record.checkpoint == row
    assert record.nesting == ("state_dict",)
    assert (record.container, record.role, record.counters) == ("torch zip", "only", "file")
    assert len(tensors) == 318
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def test_an_identity_is_that_of_the_tensors_and_of_what_is_declared(zoo, net):
    row = find("moco_v2")
    identity = zoo.identity(row, stand_in=False)
    assert zoo.identity(replace(row, padding="same"), stand_in=False) != identity
    assert zoo.identity(row, stand_in=True) != identity
    renamed = {name: tensor for name, tensor in net.state_dict().items() if "num_b" not in name}
    assert tensors_sha256(renamed) == tensors_sha256(net.state_dict())
    renamed["bn1.bias"] = renamed["bn1.bias"] + 1e-7
    assert tensors_sha256(renamed) != tensors_sha256(net.state_dict())


def test_an_identity_is_remembered_until_the_file_changes(zoo):
    row = find("moco_v2")
    identity = zoo.identity(row, stand_in=False)
    code = (
        "import sys; from pathlib import Path; from zoo.catalog import find; "
        "from zoo.store import Zoo; zoo = Zoo(Path(sys.argv[1])); "
        "print(zoo.identity(find('moco_v2'), stand_in=False), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(zoo.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [identity, "False"]
    source = zoo.source(row)
    whole = source.read_bytes()
    source.write_bytes(whole[:1000])
    try:
        with pytest.raises(ZooError, match="truncated"):
            zoo.identity(row, stand_in=False)
    finally:
        source.write_bytes(whole)
    assert zoo.identity(row, stand_in=False) == identity


def test_missing_files_are_listed_with_where_to_get_them(zoo):
    missing = zoo.missing([find("byol"), find("moco_v2"), find("clip")])
    assert [row.short for row in missing] == ["byol", "clip"]
    text = zoo.how_to_get(missing)
    for row in missing:
        assert row.file in text
        assert row.url in text
    assert str(zoo.folder) in text
    with pytest.raises(ZooError, match=r"Missing weights:\n  byol: pretrain_res50x1\.pkl"):
        load("byol", folder=zoo.folder)


def test_a_file_with_another_hash_than_the_published_one_is_refused(tmp_path):
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"something else")
    with pytest.raises(ZooError, match="the published one begins 0676ba61"):
        load("supervised", folder=tmp_path)


def test_a_file_of_unknown_name_is_refused_although_its_trunk_is_found(zoo, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.symlink_to(zoo.source(find("moco_v2")))
    with pytest.raises(ZooError) as error:
        load(path)
    assert "ResNet-50 with torchvision names under 'module.encoder_q.'" in str(error.value)
    assert "only the file's name can say" in str(error.value)


def test_safetensors_of_somebody_else_are_no_canonical_file(tmp_path):
    save_file({"conv1.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(ZooError, match="a 3x3 stem"):
        load(tmp_path / "model.safetensors")


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_a_real_resnet_for_cifar_is_refused_for_its_stem():
    with pytest.raises(ZooError, match="a 3x3 stem, as in ResNets for CIFAR"):
        load(DATA / "weights" / "resnet20-12fca82f.th")


def test_the_folder_is_the_one_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("BENCH_ZOO")
    assert default_folder().name == "zoo"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ZooError, match=r"Cannot make .*\$BENCH_ZOO"):
        Zoo(tmp_path / "file").canonical(find("moco_v2"), stand_in=True)


# -- Values that no trained network has -----------------------------------------------------------


def trained():
    return {
        "conv1.weight": torch.randn(4, 3, 7, 7),
        "bn1.running_mean": torch.randn(4),
        "bn1.running_var": torch.rand(4) + 0.1,
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conv1.weight": torch.full((4, 3, 7, 7), torch.nan)}, "'conv1.weight' .* not finite"),
        ({"bn1.running_var": torch.tensor([1.0, 0.0])}, "'bn1.running_var' .* variance of 0"),
        ({"conv1.weight": torch.zeros(4, 3, 7, 7)}, "every convolution is zero"),
        (
            {"bn1.running_mean": torch.zeros(4), "bn1.running_var": torch.ones(4)},
            "untrained weights",
        ),
    ],
)
def test_values_of_no_trained_network_are_refused(changed, said):
    check_values(trained(), "x.pth")
    with pytest.raises(ZooError, match=said):
        check_values(trained() | changed, "x.pth")
