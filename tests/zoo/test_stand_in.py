"""Stand-ins go through their published layout and come out bit for bit.

The paper's nine, and three that are written or nested otherwise.
"""

import gc
import re

import pytest
import torch

from zoo.canonical import convert, read_canonical
from zoo.catalog import catalog, find, select
from zoo.load import load
from zoo.manifests import manifest
from zoo.stand_in import stand_in, write_stand_in
from zoo.store import Zoo

ROWS = [*select(["all"]), *map(find, ("simclr_v2_separius", "clip_rn50_timm", "dino_full"))]

STATISTICS = {"weight": "gamma", "bias": "beta"} | {
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


# -- What comes out, by the original converters' own rules -----------------------------------------


def from_torch(tensors, prefix):
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def renamed(tensors, prefix, *rules):
    """torchvision's names after each (pattern, replacement) was applied in turn."""
    expected = {}
    for name, tensor in from_torch(tensors, prefix).items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        expected[name] = tensor
    return expected


def from_clip(tensors, prefix):
    expected = renamed(
        tensors,
        prefix,
        (r"^conv3", "conv1.6"),
        (r"^bn2", "conv1.4"),
        (r"^conv2", "conv1.3"),
        (r"^bn1", "conv1.1"),
        (r"^bn3", "bn1"),
        (r"^conv1\.weight", "conv1.0.weight"),
        (r"downsample\.1", "downsample.2"),
        (r"downsample\.0", "downsample.1"),
    )
    return {n: t if t.dtype == torch.int64 else t.float() for n, t in expected.items()}


def from_timm_clip(tensors, prefix):
    return renamed(
        tensors,
        prefix,
        (r"^stem\.conv1\.conv", "conv1.0"),
        (r"^stem\.conv1\.bn", "conv1.1"),
        (r"^stem\.conv2\.conv", "conv1.3"),
        (r"^stem\.conv2\.bn", "conv1.4"),
        (r"^stem\.conv3\.conv", "conv1.6"),
        (r"^stem\.conv3\.bn", "bn1"),
        (r"^stages\.(\d)", lambda at: f"layer{int(at[1]) + 1}"),
        (r"conv(\d)_...\.conv", r"conv\1"),
        (r"conv(\d)_...\.bn", r"bn\1"),
        (r"shortcut\.conv\.conv", "downsample.1"),
        (r"shortcut\.conv\.bn", "downsample.2"),
    )


def from_separius(tensors, prefix):
    return renamed(
        tensors,
        prefix,
        (r"^net\.0\.0\.", "conv1."),
        (r"^net\.0\.1\.0\.", "bn1."),
        (r"^net\.(\d)\.blocks\.", r"layer\1."),
        (r"projection\.shortcut\.", "downsample.0."),
        (r"projection\.bn\.0\.", "downsample.1."),
        (r"\.net\.(\d)\.weight", lambda at: f".conv{int(at[1]) // 2 + 1}.weight"),
        (r"\.net\.(\d)\.0\.", lambda at: f".bn{int(at[1]) // 2 + 1}."),
    )


def from_tensorflow(tensors, prefix):
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


def from_haiku(tensors, prefix):
    leaves = {".scale": ".weight", ".offset": ".bias", ".w": ".weight"}
    leaves |= {"/~/mean_ema.average": ".running_mean", "/~/var_ema.average": ".running_var"}
    expected = {}
    for name, tensor in tensors.items():
        inside = re.fullmatch(
            r"experiment_state\.online_(?:params|state)\.res_net50/~/(.+?)((?:/~/\w+_ema)?\.\w+)",
            name,
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
        array = array.transpose(3, 2, 0, 1) if inside[2] == ".w" else array.squeeze()
        expected[at + leaves[inside[2]]] = torch.from_numpy(array)
    return expected


EXPECTED = {
    "clip": from_clip,
    "timm_clip": from_timm_clip,
    "separius": from_separius,
    "simclr_tf": from_tensorflow,
    "byol_haiku": from_haiku,
}


# -- One body over the rows ------------------------------------------------------------------------


def flat(value, at=()):
    """Every tensor of nested dictionaries under its joined keys."""
    if isinstance(value, torch.Tensor):
        return {".".join(at): value}
    return {name: t for key, child in value.items() for name, t in flat(child, (*at, key)).items()}


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def made(request, tmp_path_factory):
    """(row, tensors of the published file, canonical tensors, record)"""
    row = request.param
    path = tmp_path_factory.mktemp(row.name) / "published"
    write_stand_in(row, path)
    tensors = flat(torch.load(path, weights_only=True, mmap=True))
    yield row, tensors, *convert(path, row, sha256="0" * 64, stand_in=True)
    path.unlink()
    gc.collect()


def test_a_stand_in_has_exactly_the_manifest_s_names_dtypes_and_shapes(made):
    row, tensors, _, _ = made
    listed = manifest(row.manifest)
    held = {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()}
    assert held == {".".join(listed.keys(name)): kind for name, kind in listed.tensors.items()}


def test_every_trunk_tensor_arrives_bit_for_bit(made):
    row, tensors, canonical, record = made
    prefix = ".".join((*record.nesting, record.prefix))
    assert prefix == manifest(row.manifest).trunk
    expected = EXPECTED.get(row.layout, from_torch)(tensors, prefix)
    assert record.required == (275 if row.variant == "clip" else 265)
    compared = 0
    for name, tensor in canonical.items():
        if name in expected:
            assert torch.equal(tensor, expected[name]), name
            compared += 1
        else:
            assert name.endswith("num_batches_tracked")
            assert tensor == 0
    counted = row.layout not in ("simclr_tf", "byol_haiku")
    assert record.counters == ("file" if counted else "zero")
    assert compared == record.required // 5 * (6 if counted else 5)


def test_canonical_tensors_are_float32_and_their_counters_int64(made):
    for name, tensor in made[2].items():
        counter = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if counter else torch.float32)
        assert tensor.shape == () or not counter


@pytest.fixture(scope="module")
def densecl(tmp_path_factory):
    """The canonical file of one stand-in, in a zoo of its own."""
    zoo = Zoo(tmp_path_factory.mktemp("zoo"))
    row = find("densecl")
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
    weights = read_canonical(path)[0]
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def test_stand_ins_of_different_names_have_different_identities(densecl):
    zoo = densecl[1]
    rows = catalog()
    assert len({zoo.identity(row, stand_in=True) for row in rows}) == len(rows)
