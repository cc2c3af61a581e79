"""Write checkpoints with TensorFlow, and read one of ours with it.

    python write_simclr_tf.py FOLDER MANIFEST

MANIFEST is a JSON of name -> [dtype, shape]. In FOLDER there is a bundle `ours` of which the
tensors come back as `ours_read.npz`; the script leaves these bundles there, each with what is in
it as an .npz of the same name:

- `model.ckpt-225206`  the manifest's variables and a few `/Momentum` slots
- `shards`             two data files
- `blocks`             so many variables that the index needs several blocks
- `objects`            a tf.train.Checkpoint: dtypes, an empty tensor, a graph of strings
- `slices`             a variable saved in two slices (no .npz)
"""

import os

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

WITH_MOMENTUM = ("base_model/conv2d/kernel", "base_model/batch_normalization_52/gamma")


def save(prefix, arrays, slices=""):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[slices] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )


def seeded(manifest):
    random = np.random.default_rng(0)
    arrays = {
        name: (100 * random.standard_normal(shape, np.float32)).astype(dtype)
        for name, (dtype, shape) in manifest.items()
    }
    slots = {f"{name}/Momentum": -arrays[name] for name in WITH_MOMENTUM}
    return arrays | slots


def write_simclr(folder, manifest):
    arrays = seeded(manifest)
    save(folder / "model.ckpt-225206", arrays)
    np.savez(folder / "model.ckpt-225206.npz", **arrays)


def write_shards(folder):
    arrays = {f"layer_{i}/kernel": np.full((3, i), i, np.float32) for i in range(1, 9)}
    parts = [dict(list(arrays.items())[i::2]) for i in range(2)]
    for i, part in enumerate(parts):
        save(folder / f"part_{i}", part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(folder / f"part_{i}") for i in range(2)],
        destination_prefix=str(folder / "shards"),
    )
    np.savez(folder / "shards.npz", **arrays)


def write_blocks(folder):
    arrays = {f"{i}{'/inside' * 30}": np.int16(i) for i in range(3000)}
    save(folder / "blocks", arrays)
    np.savez(folder / "blocks.npz", **arrays)


def write_objects(folder):
    dtypes = ["float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool"]
    arrays = {dtype: np.arange(-3, 4).astype(dtype) for dtype in dtypes}
    arrays["empty"] = np.zeros((0, 4), np.float32)
    variables = {name: tf.Variable(array) for name, array in arrays.items()}
    rounded = tf.cast(tf.constant([1.0, 1 / 3, -2e30]), tf.bfloat16)
    variables["bfloat16"] = tf.Variable(rounded)
    arrays["bfloat16"] = tf.cast(rounded, tf.float32).numpy()  # numpy has no such dtype
    tf.train.Checkpoint(**variables).write(str(folder / "objects"))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    np.savez(folder / "objects.npz", **{name + suffix: array for name, array in arrays.items()})


def write_slices(folder):
    for i, part in enumerate((np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32))):
        save(folder / f"slice_{i}", {"kernel": part}, slices=f"4 3 {2 * i},2:-")
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(folder / f"slice_{i}") for i in range(2)],
        destination_prefix=str(folder / "slices"),
    )


def read_ours(folder):
    reader = tf.train.load_checkpoint(str(folder / "ours"))
    np.savez(
        folder / "ours_read.npz",
        **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()},
    )


def main(folder, manifest):
    write_simclr(folder, json.loads(Path(manifest).read_text()))
    write_shards(folder)
    write_blocks(folder)
    write_objects(folder)
    write_slices(folder)
    read_ours(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
