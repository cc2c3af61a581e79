"""A cell that is compiled is the cell that is not, but for rounding, and nothing compiles twice."""

import logging
import re
import subprocess
import sys

import torch
from safetensors.torch import load_file

from bench.run import run_cell
from bench.store import read_lines
from bench.train import engine
from benchmarks.cases import make_model
from protocols.presets import protocol
from protocols.stages import Optim
from tests.train.tiny import prepared

SIZES = ("input.train_short=45,90", "optim.batch=1")  # one image a step: both sizes come

# Apart from the tests' process, where types are checked in ways that cannot be compiled.
# What torch.compile would compile is found out, and run as it is: no compiler is needed.
TRACED = """
import logging, sys
from functools import partialmethod
from torch import nn
from bench.run import run_cell

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
nn.Module.compile = partialmethod(nn.Module.compile, backend="eager")
run_cell(sys.argv[1])
"""

# The real compiler, on the real neck.
COMPILED = """
import torch
from bench.model.fpn import FPN

torch.manual_seed(0)
neck = FPN((8, 16, 32, 64), 8)
maps = [torch.randn(1, c, 32 // s, 48 // s) for c, s in ((8, 1), (16, 2), (32, 4), (64, 8))]
found = []
for compiled in (False, True):
    if compiled:
        neck.compile(dynamic=False, fullgraph=True)
    neck.zero_grad()
    pyramid = neck(maps)
    torch.stack([level.square().sum() for level in pyramid]).sum().backward()
    found.append((pyramid, [weight.grad for weight in neck.parameters()]))
torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
"""


def run(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_training_goes_as_it_does_uncompiled_and_each_size_is_compiled_once_a_stage(
    streets, new_store
):
    store = new_store()
    plain = prepared(store, streets, overrides=SIZES)
    run_cell(str(plain))
    compiled = prepared(store, streets, overrides=(*SIZES, "optim.compile=true"))
    assert compiled != plain
    said = run(TRACED, compiled)
    ends = [
        (
            [line["losses"] for line in read_lines(home / "progress.jsonl")],
            load_file(home / "model.safetensors"),
        )
        for home in (compiled, plain)
    ]
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)
    # Two sizes; backbone, neck, and the pixel decoder that both segmentations have.
    counts = re.findall(r"stage (\w+): (\d+) graphs compiled in all", said)
    assert counts == [("adapt", "6"), ("finetune", "12")]


def test_several_gpus_ignore_it_with_a_line(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "bench")
    monkeypatch.setattr(engine.dist, "size", lambda: 2)
    model = make_model(protocol("paf", "tiny"))
    assert not engine._compiles(model, Optim(batch=2, compile=True))
    assert "optim.compile is ignored" in caplog.text


def test_the_real_compiler_gives_the_same_maps_and_gradients():
    run(COMPILED)
