"""TensorFlow's own checkpoints are read bit for bit, and TensorFlow reads ours."""

import json
import mmap
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.interpreter import needs_parity, run
from tests.zoo.bundles import write_bundle
from zoo.catalog import ZooError
from zoo.manifests import manifest
from zoo.tf_bundle import read_bundle

pytestmark = needs_parity

OURS = {
    "base_model/conv2d/kernel": torch.arange(7 * 7 * 3 * 64.0).reshape(7, 7, 3, 64),
    "base_model/conv2d/kernel/Momentum": torch.zeros(7, 7, 3, 64),
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "truth": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "global_step": torch.tensor(225206),
} | {f"layer_{i}/bias": torch.full((i % 5,), float(i)) for i in range(2000)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that TensorFlow wrote into."""
    folder = tmp_path_factory.mktemp("simclr_tf")
    write_bundle(folder / "ours", OURS)
    (folder / "manifest.json").write_text(json.dumps(manifest("simclr_v1_tf").tensors))
    run("write_simclr_tf.py", folder, folder / "manifest.json")
    yield folder
    shutil.rmtree(folder)  # 200 MB


def read(prefix):
    def shard(number, count):
        with Path(f"{prefix}.data-{number:05}-of-{count:05}").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    return read_bundle(Path(f"{prefix}.index").read_bytes(), shard)


def differing(tensors, archive):
    """Names whose bits are not those in the .npz, or that only one of the two has."""
    with np.load(archive) as arrays:
        names = set(arrays.files) ^ tensors.keys()
        for name in tensors.keys() & set(arrays.files):
            one, other = tensors[name].numpy(), arrays[name]
            if (one.dtype, one.shape, one.tobytes()) != (other.dtype, other.shape, other.tobytes()):
                names.add(name)
        return names


def test_simclr_as_tensorflow_writes_it_is_read_bit_for_bit(written):
    tensors = read(written / "model.ckpt-225206")
    assert differing(tensors, written / "model.ckpt-225206.npz") == set()
    assert manifest("simclr_v1_tf").tensors.keys() <= tensors.keys()
    assert "base_model/conv2d/kernel/Momentum" in tensors


def test_a_checkpoint_in_two_data_files_is_read(written):
    assert (written / "shards.data-00001-of-00002").exists()
    assert differing(read(written / "shards"), written / "shards.npz") == set()


def test_an_index_of_several_blocks_is_read(written):
    assert (written / "blocks.index").stat().st_size > 2 * 262144  # TensorFlow's block
    assert differing(read(written / "blocks"), written / "blocks.npz") == set()


def test_a_checkpoint_of_objects_is_read_with_every_dtype(written):
    tensors = read(written / "objects")
    graph = tensors.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
    assert b"VARIABLE_VALUE" in graph.numpy().tobytes()
    rounded = "bfloat16/.ATTRIBUTES/VARIABLE_VALUE"
    assert tensors[rounded].dtype == torch.bfloat16
    tensors[rounded] = tensors[rounded].float()
    assert differing(tensors, written / "objects.npz") == set()


def test_a_variable_in_slices_is_refused(written):
    with pytest.raises(ZooError, match="in slices"):
        read(written / "slices")


def test_tensorflow_reads_our_bundle_bit_for_bit(written):
    assert differing(OURS, written / "ours_read.npz") == set()
