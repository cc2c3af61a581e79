"""Write a checkpoint as DeepMind's BYOL does, of haiku's own ResNet-50, and what that computes.

    python write_byol_haiku.py FOLDER

leaves in FOLDER:

- `pretrain_res50x1.pkl`  the structure of the published file (deepmind-research, byol/
  byol_experiment.py and utils/checkpointing.py) with random weights, smaller heads
- `byol_stages.npz`       for "even" and "odd": `<size>_images` (NHWC), then C2 to C5 of the online
  network in eval mode, `<size>_c2` and so on
"""

import os

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}

import sys
from collections import namedtuple
from pathlib import Path

import dill
import haiku as hk
import jax
import numpy as np
from haiku._src.data_structures import to_immutable_dict

BATCH_NORM = {"create_scale": True, "create_offset": True, "decay_rate": 0.9, "eps": 1e-5}
SIZES_HW = {"even": (64, 96), "odd": (75, 81)}
CALIBRATION = (3, 8, 64, 96, 3)  # steps, then a batch of images

# dill stores a namedtuple by its name, its fields and its module.
ExperimentState = namedtuple(
    "_ByolExperimentState",
    ["online_params", "target_params", "online_state", "target_state", "opt_state"],
    module="byol.byol_experiment",
)
LarsState = namedtuple("ScaleByLarsState", ["mu"], module="byol.utils.optimizers")


class MLP(hk.Module):
    """BYOL's projector and predictor, narrower."""

    def __call__(self, features, is_training):
        hidden = hk.Linear(64)(features)
        hidden = jax.nn.relu(hk.BatchNorm(**BATCH_NORM)(hidden, is_training))
        return hk.Linear(32, with_bias=False)(hidden)


def stages(images, is_training):
    """C2 to C5: what ResNet.__call__ does (haiku/_src/nets/resnet.py), kept stage by stage."""
    net = hk.nets.ResNet50(num_classes=1000, resnet_v2=False, bn_config=BATCH_NORM)
    out = net.initial_batchnorm(net.initial_conv(images), is_training)
    out = hk.max_pool(jax.nn.relu(out), (1, 3, 3, 1), (1, 2, 2, 1), padding="SAME")
    outs = []
    for group in net.block_groups:
        out = group(out, is_training, test_local_stats=False)
        outs.append(out)
    return outs


def forward(images, is_training):
    outs = stages(images, is_training)
    features = outs[-1].mean((1, 2))
    projection = MLP(name="projector")(features, is_training)
    MLP(name="predictor")(projection, is_training)
    hk.Linear(1000, name="classifier")(features)
    return outs


NET = hk.transform_with_state(forward)
apply = jax.jit(NET.apply, static_argnames="is_training")


def trained(seed):
    """Parameters of which every single one matters, and BatchNorm state from batches of noise."""
    random = np.random.default_rng(seed)
    batches = random.standard_normal(CALIBRATION, np.float32)
    key = jax.random.key(0)
    shapes, states = jax.eval_shape(lambda: NET.init(key, batches[0], is_training=True))
    params = {
        module: {name: drawn(random, module, name, leaf.shape) for name, leaf in leaves.items()}
        for module, leaves in shapes.items()
    }
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), states)
    for batch in batches:
        _, state = apply(params, state, None, batch, is_training=True)
    return params, jax.device_get(state)


def drawn(random, module, name, shape):
    """Values for one leaf.

    A block's last scale is small, as trained ones are: at 1 float32's errors grow with every
    block, at 0 (where haiku begins) the block's convolutions do not matter.
    """
    if name == "scale":
        low, high = (0.1, 0.5) if module.endswith("batchnorm_2") else (0.5, 1.5)
        return random.uniform(low, high, shape).astype(np.float32)
    values = random.standard_normal(shape, np.float32)
    return values * np.float32(np.sqrt(2 / np.prod(shape[:-1])) if name == "w" else 0.1)


def write(folder):
    random = np.random.default_rng(0)
    (online_params, online_state), (target_params, target_state) = trained(1), trained(2)
    outs = {}
    for size, (height, width) in SIZES_HW.items():
        images = random.standard_normal((2, height, width, 3), np.float32)
        maps, _ = apply(online_params, online_state, None, images, is_training=False)
        outs |= {f"{size}_images": images}
        outs |= {f"{size}_c{number}": np.asarray(c) for number, c in enumerate(maps, start=2)}
    np.savez(folder / "byol_stages.npz", **outs)
    mu = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), online_params)
    experiment = ExperimentState(
        online_params=to_immutable_dict(online_params),
        target_params=to_immutable_dict(target_params),
        online_state=to_immutable_dict(online_state),
        target_state=to_immutable_dict(target_state),
        opt_state=(LarsState(mu=to_immutable_dict(mu)), ()),
    )
    rng = np.asarray(jax.random.key_data(jax.random.key(0)))
    with (folder / "pretrain_res50x1.pkl").open("wb") as file:
        dill.dump({"experiment_state": experiment, "step": 300_000, "rng": rng}, file, protocol=2)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
