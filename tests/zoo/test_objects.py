"""What scripts save beside their tensors: read without its classes, and not in the way."""

import argparse
from collections import Counter, OrderedDict, defaultdict, deque
from enum import Enum
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from torch import nn

from tests.zoo.test_read import WEIGHTS, Tower, both_formats, by_torch, holds, save
from tests.zoo.written import AttributeDict, HistoryBuffer
from zoo.read import read


class Stage(Enum):
    FIT = "fit"


class Linked:
    """An object that its own parts know."""

    def __init__(self):
        self.part, self.weight = {"owner": self}, torch.ones(2)


class Slotted:
    __slots__ = ("weight",)

    def __init__(self):
        self.weight = torch.ones(2)


def history():
    return HistoryBuffer([0.5, 0.25], ["a", "bc"])


OBJECTS = {  # what is saved, and the tensors in it by name
    "arguments": (argparse.Namespace(lr=0.03, device=torch.device("cpu")), {}),
    "arguments with tensors": (argparse.Namespace(w=torch.ones(2)), {"w": torch.ones(2)}),
    "numpy scalars": ([np.float64(0.5), np.int64(3), np.bool_(True), np.str_("a")], {}),
    "numpy dtype": (np.dtype("float32"), {}),
    "numpy records": (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), {}),
    "numpy times": (np.array(["2020-01-01"], "M8[D]"), {}),
    "paths": (PurePosixPath("/data/x"), {}),
    "default dictionary": (defaultdict(list, {"w": torch.ones(2)}), {"w": torch.ones(2)}),
    "counter": (Counter("aab"), {}),
    "queue": (deque([torch.ones(2)], maxlen=3), {"0": torch.ones(2)}),
    "sets": ([{1, 2}, frozenset({"a"}), {frozenset({1}): 2}], {}),
    "odd keys": ({(1, (2, 3)): 0, b"x": 1, 2**70: 2, 0.5: torch.ones(2)}, {"0.5": torch.ones(2)}),
    "Lightning's dictionary": (AttributeDict(lr=0.1, w=torch.ones(2)), {"w": torch.ones(2)}),
    "an enum as a key": ({Stage.FIT: {"w": torch.ones(2)}}, {"key 0.w": torch.ones(2)}),
    "functions and classes": ([torch.nn.functional.relu, dict, Stage.FIT, slice(3), 1j], {}),
    "a circle": (Linked(), {"weight": torch.ones(2)}),
    "slots": (Slotted(), {"state.1.weight": torch.ones(2)}),
    "a generator": (torch.Generator().get_state(), {"": torch.Generator().get_state()}),
    "bytes": ([b"", b"ab", bytearray(b"x"), bytearray()], {}),
    "a size": ({"size": torch.Size([2, 3]), "layout": torch.strided}, {}),
}


@both_formats
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_read_without_their_classes(tmp_path, name, as_zip):
    thing, inside = OBJECTS[name]
    path = save({"state_dict": WEIGHTS, "other": thing}, tmp_path / "a.ckpt", as_zip)
    wanted = {f"state_dict.{key}": tensor for key, tensor in WEIGHTS.items()}
    wanted |= {f"other.{key}".rstrip("."): tensor for key, tensor in inside.items()}
    tensors = read(path).tensors
    assert holds({key: tensors[key] for key in tensors if "_history" not in key}, wanted)


def test_a_history_gives_its_numbers_and_not_its_texts(tmp_path):
    path = save({"message_hub": {"loss": history()}}, tmp_path / "epoch_1.pth")
    tensors = read(path).tensors
    assert tensors.keys() == {f"message_hub.loss._{n}_history" for n in ("log", "count")}
    assert tensors["message_hub.loss._log_history"].tolist() == [0.5, 0.25]


@both_formats
def test_a_whole_module_gives_the_names_of_its_state_dict(tmp_path, as_zip):
    net = nn.Sequential(OrderedDict(tower=Tower(), head=nn.Linear(2, 2)))
    path = save({"model": net}, tmp_path / "whole.pth", as_zip)
    wanted = by_torch(path)["model"].state_dict()
    assert holds(read(path).tensors, {f"model.{name}": t for name, t in wanted.items()})


def test_version_notes_on_a_state_dict_are_no_tensors(tmp_path):
    state = nn.BatchNorm2d(2).state_dict()
    assert state._metadata
    path = save(state, tmp_path / "bn.pth")
    assert holds(read(path).tensors, by_torch(path))
