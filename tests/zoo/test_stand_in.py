"""Stand-ins: each of the nine goes through its published layout and comes out bit for bit."""

import gc
import re

import pytest
import torch

from zoo.canonical import convert
from zoo.catalog import CATALOG
from zoo.load import load
from zoo.manifests import manifest
from zoo.stand_in import stand_in, write_stand_in
from zoo.store import Zoo

STATISTICS = {"weight": "gamma", "bias": "beta"} | {
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def expected_from_torch(tensors, prefix):
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def expected_from_clip(tensors, prefix):
    stem = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4"}
    stem |= {"conv3": "conv1.6", "bn3": "bn1"}
    expected = {}
    for name, tensor in expected_from_torch(tensors, prefix).items():
        first, rest = name.split(".", 1)
        name = f"{stem[first]}.{rest}" if first in stem else name
        name = re.sub(r"downsample\.(\d)", lambda at: f"downsample.{int(at[1]) + 1}", name)
        expected[name] = tensor if tensor.dtype == torch.int64 else tensor.float()
    return expected


def expected_from_tensorflow(tensors, prefix):
    modules = [("conv1", "bn1")]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            modules += [(f"{at}.downsample.0", f"{at}.downsample.1")] if block == 0 else []
            modules += [(f"{at}.conv{part}", f"{at}.bn{part}") for part in (1, 2, 3)]
    expected = {}
    for index, (conv, bn) in enumerate(modules):
        number = f"_{index}" if index else ""
        kernel = tensors[f"{prefix}conv2d{number}/kernel"]
        expected[f"{conv}.weight"] = torch.from_numpy(kernel.numpy().transpose(3, 2, 0, 1))
        for ours, theirs in STATISTICS.items():
            expected[f"{bn}.{ours}"] = tensors[f"{prefix}batch_normalization{number}/{theirs}"]
    return expected


def expected_from_haiku(tensors, prefix):
    leaves = {"//scale": ".weight", "//offset": ".bias", "//w": ".weight"}
    leaves |= {"/~/mean_ema//average": ".running_mean", "/~/var_ema//average": ".running_var"}
    expected = {}
    for name, tensor in tensors.items():
        inside = re.fullmatch(
            r"online_(?:params|state)/res_net50/~/(.+?)((?:/~/\w+_ema)?//\w+)", name
        )
        if inside is None or inside[2] not in leaves:
            continue
        at = re.sub(
            r"block_group_(\d)/~/block_(\d)/~/",
            lambda m: f"layer{int(m[1]) + 1}.{m[2]}.",
            inside[1],
        )
        at = re.sub(r"batchnorm_(\d)", lambda m: f"bn{int(m[1]) + 1}", at)
        at = re.sub(r"(?<!shortcut_)conv_(\d)", lambda m: f"conv{int(m[1]) + 1}", at)
        for theirs, ours in (
            ("initial_conv", "conv1"),
            ("initial_batchnorm", "bn1"),
            ("shortcut_conv", "downsample.0"),
            ("shortcut_batchnorm", "downsample.1"),
        ):
            at = at.replace(theirs, ours)
        array = tensor.numpy()
        array = array.transpose(3, 2, 0, 1) if inside[2] == "//w" else array.squeeze()
        expected[at + leaves[inside[2]]] = torch.from_numpy(array)
    return expected


EXPECTED = {
    "clip": expected_from_clip,
    "simclr": expected_from_tensorflow,
    "byol": expected_from_haiku,
}


@pytest.fixture(scope="module", params=CATALOG, ids=lambda row: row.short)
def made(request, tmp_path_factory):
    """(row, tensors of the published file, canonical tensors, record)"""
    row = request.param
    path = tmp_path_factory.mktemp(row.short) / row.file
    write_stand_in(row, path)
    tensors = torch.load(path, weights_only=True)
    for key in manifest(row.layout).nesting:
        tensors = tensors[key]
    canonical, record = convert(path, row, stand_in_sha256="0" * 64)
    yield row, tensors, canonical, record
    path.unlink()
    gc.collect()


def test_a_stand_in_has_exactly_the_manifest_s_names_dtypes_and_shapes(made):
    row, tensors, _, _ = made
    held = {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()}
    assert held == manifest(row.layout).tensors


def test_every_trunk_tensor_arrives_bit_for_bit(made):
    row, tensors, canonical, record = made
    expected = EXPECTED.get(row.short, expected_from_torch)(tensors, record.prefix)
    assert record.required == (275 if row.short == "clip" else 265)
    compared = 0
    for name, tensor in canonical.items():
        if name in expected:
            assert torch.equal(tensor, expected[name]), name
            compared += 1
        else:
            assert name.endswith("num_batches_tracked")
            assert tensor == 0
    counters = (record.required // 5) if record.counters == "file" else 0
    assert compared == record.required + counters
    assert record.counters == ("zero" if row.short in ("simclr", "byol") else "file")


def test_canonical_tensors_are_float32_and_their_counters_int64(made):
    canonical = made[2]
    for name, tensor in canonical.items():
        counter = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if counter else torch.float32)


@pytest.fixture(scope="module")
def densecl(tmp_path_factory):
    """The canonical file of one stand-in, in a zoo of its own."""
    zoo = Zoo(tmp_path_factory.mktemp("zoo"))
    row = next(row for row in CATALOG if row.short == "densecl")
    return row, zoo, zoo.canonical(row, stand_in=True)


def test_the_zoo_keeps_only_the_canonical_file_and_makes_it_once(densecl):
    row, zoo, path = densecl
    assert [p for p in zoo.folder.rglob("*") if p.is_file()] == [path]
    before = path.stat()
    assert zoo.canonical(row, stand_in=True) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_loaded_stand_in_says_so_and_has_sane_activations(densecl):
    row, zoo, path = densecl
    net = load(path)
    assert net.report.stand_in
    assert net.report.name == "densecl_imagenet_200ep"
    assert net.report.sha256 == zoo.identity(row, stand_in=True)
    assert (net.report.matched, net.report.required) == (265, 265)
    assert all(0.3 < scale < 3 for scale in net.report.activation.values())
    assert net.report.warnings == []


def test_a_stand_in_depends_on_its_name_and_nothing_else(densecl):
    row, _, path = densecl
    again, threads = {}, torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = stand_in(row)
    finally:
        torch.set_num_threads(threads)
    weights = load(path).state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_stand_ins_of_different_names_have_different_identities(densecl):
    zoo = densecl[1]
    assert len({zoo.identity(row, stand_in=True) for row in CATALOG}) == len(CATALOG)
