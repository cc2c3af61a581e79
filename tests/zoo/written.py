"""Writers of weight files: a manifest's names, shapes, dtypes and nesting in its own container.

What real files hold beside the network goes in too: optimisers, arguments, callbacks, histories.
Classes of packages that are not installed here are stood in for by empty ones of the same name,
which are importable only while a file is written.
"""

import argparse
import math
import pickle
import sys
import warnings
from collections import OrderedDict, defaultdict, namedtuple
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tests.zoo.bundles import write_bundle

SUFFIXES = {"safetensors": ".safetensors", "pickle": ".pkl", "TorchScript": ".pt"}
SAME_AGAIN = {  # training checkpoints in which one network has two names
    "densecl_training_full": ("encoder_q.0.", "backbone."),
    "openselfsup_byol_training_full": ("online_net.0.", "backbone."),
    "openselfsup_moco_v1_training_full": ("encoder_q.0.", "backbone."),
    "openselfsup_moco_v2_training_full": ("encoder_q.0.", "backbone."),
}


def write(listed, folder, seed):
    """Write what a manifest lists; return the path and {joined name: tensor} of what went in."""
    tensors = values(listed, seed)
    path = folder / f"checkpoint{SUFFIXES.get(listed.container, '.pth')}"
    WRITERS[listed.container](listed, tensors, path)
    path = path.with_suffix(".index") if listed.container == "TF checkpoint" else path
    return path, {".".join(listed.keys(name)): tensor for name, tensor in tensors.items()}


# -- Values ----------------------------------------------------------------------------------------


def values(listed, seed):
    """A tensor for each name: a piece of one random buffer, beginning where no other one does.

    Each has a storage of its own over the buffer's memory, so nothing is copied.
    """
    largest = max(math.prod(shape) for _, shape in listed.tensors.values())
    buffers, tensors = {}, {}
    for start, (name, (dtype, shape)) in enumerate(listed.tensors.items()):
        if dtype not in buffers:
            buffers[dtype] = _random(dtype, largest + len(listed.tensors), seed)
        piece = buffers[dtype][start : start + math.prod(shape)].reshape(shape)
        if any(word in name for word in ("running_var", "moving_variance", "var_ema")):
            piece = np.asarray(abs(piece) + 1)
        tensors[name] = torch.from_numpy(piece)
    if listed.name in SAME_AGAIN:
        again, original = SAME_AGAIN[listed.name]
        for name in tensors:
            if name.startswith(again):
                tensors[name] = tensors[original + name.removeprefix(again)]
    return tensors


def _random(dtype, length, seed):
    random = np.random.default_rng(seed)
    if dtype.startswith("int"):
        return random.integers(1, 1_000_000, length, dtype)
    return (random.random(length, np.float32) - 0.5).astype(dtype)


# -- Containers ------------------------------------------------------------------------------------


def _write_zip(listed, tensors, path):
    with importable(*FOREIGN):
        torch.save(_nested(listed, tensors), path)


def _write_legacy(listed, tensors, path):
    with importable(*FOREIGN):
        torch.save(_nested(listed, tensors), path, _use_new_zipfile_serialization=False)


def _write_safetensors(listed, tensors, path):
    save_file(tensors, path, metadata={"format": "pt"})


def _write_bundle(listed, tensors, path):
    if listed.name == "simclr_v2_r50_1x_sk0_tf":
        kernels = {name: t for name, t in tensors.items() if name.startswith("base_model/conv2d/")}
        slots = {f"{name}/Momentum": tensor.flip(0) for name, tensor in kernels.items()}
        averages = {name.replace("base_", "ema_"): t.flip(0) for name, t in kernels.items()}
        tensors = tensors | slots | averages
    write_bundle(path.with_suffix(""), tensors)


def _write_torchscript(listed, tensors, path):
    tree = nn.Module()
    for name, tensor in tensors.items():
        *outer, last = name.split(".")
        node = tree
        for part in outer:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node._modules[part]
        if tensor.is_floating_point() and "running_" not in name:
            node.register_parameter(last, nn.Parameter(tensor))
        else:
            node.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        torch.jit.save(torch.jit.script(tree.eval()), path)


def _write_pickle(listed, tensors, path):
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if listed.name == "byol_deepmind_haiku":
        _write_byol(arrays, path)
        return
    content = _nested(listed, arrays)
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=PROTOCOLS.get(listed.name, 4))


WRITERS = {
    "torch zip": _write_zip,
    "torch legacy": _write_legacy,
    "safetensors": _write_safetensors,
    "TorchScript": _write_torchscript,
    "TF checkpoint": _write_bundle,
    "pickle": _write_pickle,
}
PROTOCOLS = {"detectron2_pkl_msra_caffe2": 2, "detco_pkl": 3}


def _nested(listed, tensors):
    """The dictionaries of the file: torch's own kind around the tensors, with its version notes."""
    kind = dict if listed.container == "pickle" else _state_dict
    content = {} if listed.nesting or listed.name in SIBLINGS else kind()
    for name, tensor in tensors.items():
        *outer, last = listed.keys(name)
        inner = content
        for key in outer:
            inner = inner.setdefault(key, kind() if key == outer[-1] else {})
        inner[last] = tensor
    for path, make in SIBLINGS.get(listed.name, {}).items():
        *outer, last = path.split(" > ")
        inner = content
        for key in outer:
            inner = inner[key]
        inner[last] = make() if callable(make) else make
    return content


def _state_dict():
    state = OrderedDict()
    state._metadata = OrderedDict({"": {"version": 1}, "module.bn1": {"version": 2}})
    return state


# -- Beside the network ----------------------------------------------------------------------------


class AttributeDict(dict):
    __module__ = "lightning_fabric.utilities.data"


class DictConfig:
    """omegaconf's dictionary: whoever holds its values is known to them, in a circle."""

    __module__ = "omegaconf.dictconfig"

    def __init__(self, parent=None, **values):
        self._parent = parent
        self._content = {
            key: DictConfig(self, **value) if isinstance(value, dict) else value
            for key, value in values.items()
        }


class ConfigDict(dict):
    __module__ = "mmengine.config.config"


class HistoryBuffer:
    __module__ = "mmengine.logging.history_buffer"

    def __init__(self, log, texts):
        self._log_history = np.array(log)
        self._count_history = np.array([1] * len(log))
        self.names = np.array(texts)
        self._statistics_methods = {"mean": HistoryBuffer.mean}

    def mean(self):
        pass


FOREIGN = (AttributeDict, DictConfig, ConfigDict, HistoryBuffer)


@contextmanager
def importable(*things):
    """Let pickle find these classes and functions under the modules that they say they are from."""
    modules = {}
    for thing in things:
        parts = thing.__module__.split(".")
        for end in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        setattr(modules[thing.__module__], thing.__qualname__, thing)
    modules = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules |= modules
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def optimizer():
    """Return what SGD's `state_dict` holds after a step over a convolution and a bias."""
    momentum = [torch.full((64, 3, 7, 7), 0.5), torch.full((128,), -0.25)]
    group = {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4, "params": [0, 1]}
    state = {i: {"momentum_buffer": buffer} for i, buffer in enumerate(momentum)}
    return {"state": state, "param_groups": [group]}


def arguments():
    """Return a script's arguments as argparse leaves them, with a path and an inner record."""
    inner = argparse.Namespace(betas=(0.9, 0.999), device=torch.device("cpu"))
    return argparse.Namespace(lr=0.03, arch="resnet50", output=PurePosixPath("/out"), optim=inner)


def scaler():
    return {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7}


def callbacks():
    best = {"best_model_score": torch.tensor(0.71), "current": np.float32(0.7), "path": "a.ckpt"}
    return {"ModelCheckpoint{'monitor': 'val.top1', 'mode': 'max'}": best}


def hyper_parameters():
    values = {"lr": np.float64(0.3), "epochs": np.int64(100), "dir": PurePosixPath("/data")}
    return AttributeDict(values, optim=DictConfig(name="lars", steps={"at": [60, 80]}))


def message_hub():
    scalars = OrderedDict(loss=HistoryBuffer([0.5, 0.25], ["a", "bc"]))
    return {"log_scalars": scalars, "runtime_info": OrderedDict(epoch=3, config=ConfigDict(a=1))}


def meters():
    found = defaultdict(list)
    found["top1"].append(np.float64(0.6))
    return found


ENDS = {"epoch": 200, "optimizer": optimizer}
MOCO = {"epoch": 200, "arch": "resnet50"}
MMCV = {"meta": {"epoch": 200, "mmcv_version": "1.0.3"}, "optimizer": optimizer}
MMENGINE = {"meta": {"epoch": 200}, "message_hub": message_hub, "param_schedulers": [{"step": 3}]}
DETECTRON2 = {"__author__": "torchvision", "matching_heuristics": True}
LIGHTNING = {
    "epoch": 99,
    "global_step": 500_400,
    "pytorch-lightning_version": "2.1.0",
    "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 100}}}},
    "callbacks": callbacks,
    "optimizer_states": lambda: [optimizer()],
    "lr_schedulers": [{"last_epoch": 100}],
    "hparams_name": "kwargs",
    "hyper_parameters": hyper_parameters,
}
SIBLINGS = {
    "barlowtwins_full": ENDS,
    "vicreg_full": ENDS,
    "moco_v1": MOCO,
    "moco_v2": MOCO,
    "moco_v1_training_full": MOCO | ENDS,
    "moco_v2_training_full": MOCO | ENDS,
    "moco_v3_r50": MOCO | ENDS | {"scaler": scaler},
    "simsiam": MOCO | ENDS,
    "pixpro": ENDS | {"opt": arguments, "scheduler": lambda: {"after": vars(arguments())}},
    "dino_resnet50_full": ENDS
    | {"args": arguments, "dino_loss": lambda: {"center": torch.ones(1, 7)}, "fp16_scaler": scaler},
    "densecl": {"author": "DenseCL"},
    "mmselfsup_0x_backbone": {"author": "MMSelfSup"},
    "densecl_training_full": MMCV,
    "vissl_simclr_rn50": {
        "phase_idx": 999,
        "iteration": 5_000_000,
        "loss": {"name": "simclr_info_nce_loss"},
        "classy_state_dict > optimizer": optimizer,
        "classy_state_dict > loss": lambda: {"info_average": torch.ones(3)},
        "classy_state_dict > meters": meters,
        "classy_state_dict > hooks": {"LogLossLrEtaHook": None},
    },
    "detectron2_pkl_torchvision": DETECTRON2,
    "detectron2_pkl_moco_v2": DETECTRON2 | {"__author__": "MOCO"},
    "detco_pkl": DETECTRON2 | {"__author__": "OpenSelfSup"},
}
SIBLINGS |= dict.fromkeys(
    [f"openselfsup_{name}_training_full" for name in ("byol", "simclr", "moco_v1", "moco_v2")], MMCV
)
SIBLINGS |= dict.fromkeys(
    [
        f"mmpretrain_{name}"
        for name in ("barlowtwins", "byol", "densecl", "mocov2", "mocov3", "simclr", "swav")
    ],
    MMENGINE,
)
SIBLINGS |= dict.fromkeys(
    [
        *(
            f"lightly_{name}"
            for name in ("simclr", "byol", "mocov2", "swav", "dino", "barlowtwins", "vicreg")
        ),
        "bolts_simclr",
        "sololearn_byol_r50",
        "sololearn_old_encoder",
    ],
    LIGHTNING,
)


# -- BYOL, as dill writes it -----------------------------------------------------------------------


def _create_namedtuple(name, fields, module):
    pass


def _create_array(rebuild, arguments, state, attributes):
    pass


_create_namedtuple.__module__ = _create_array.__module__ = "dill._dill"


class FlatMapping:
    """haiku's read-only dictionary: pickled as itself, called on a plain one."""

    __module__ = "haiku._src.data_structures"

    def __init__(self, mapping):
        self.mapping = mapping

    def __reduce__(self):
        return FlatMapping, (self.mapping,)


ExperimentState = namedtuple(
    "_ByolExperimentState",
    ["online_params", "target_params", "online_state", "target_state", "opt_state"],
    module="byol.byol_experiment",
)
LarsState = namedtuple("ScaleByLarsState", ["mu"], module="byol.utils.optimizers")


class Dill(pickle.Pickler):
    """Like dill: the class of a named tuple is stored by its name, fields and module.

    It has its own way with arrays too, which not all of its versions take for all arrays.
    """

    def reducer_override(self, thing):
        if thing is ExperimentState or thing is LarsState:
            return _create_namedtuple, (thing.__name__, thing._fields, thing.__module__)
        if isinstance(thing, np.ndarray) and thing.ndim == 4:
            return _create_array, (*thing.__reduce__(), None)
        return NotImplemented


def _write_byol(arrays, path):
    trees = {field: {} for field in ExperimentState._fields}
    for name, array in arrays.items():
        tree, module, leaf = name.split(" > ")
        trees[tree].setdefault(module, {})[leaf] = array
    mu = {"res_net50/~/initial_conv": {"w": np.ones((7, 7, 3, 64), np.float32)}}
    trees["opt_state"] = mu
    frozen = {
        field: FlatMapping({module: FlatMapping(leaves) for module, leaves in tree.items()})
        for field, tree in trees.items()
    }
    frozen["opt_state"] = (LarsState(mu=frozen["opt_state"]), ())
    content = {
        "experiment_state": ExperimentState(**frozen),
        "step": 300_000,
        "rng": np.zeros(2, np.uint32),
    }
    with importable(_create_namedtuple, _create_array, FlatMapping), path.open("wb") as file:
        Dill(file, protocol=2).dump(content)
