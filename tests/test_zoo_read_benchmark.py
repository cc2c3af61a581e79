"""What the benchmark of reading measures: the right files, the right bytes, the right rows."""

import json
import re
import subprocess
import sys

import pytest
import torch

from benchmarks import zoo_read
from benchmarks.zoo_read import Peak, Seconds, Times, save_legacy, save_zip, table, torch_load
from tests.conftest import ROOT
from zoo.canonical import trunk_of
from zoo.read import read

WALLS = ((0.1, 0.1, 0.3), (0.2, 0.4, 0.3))


@pytest.fixture
def small(monkeypatch):
    """Every tensor is one number that is seen many times: nothing else is written."""

    def one(shape, generator):
        return torch.randn(1, generator=generator).expand(shape)

    monkeypatch.setattr(zoo_read, "numbers", one)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_the_checkpoint_is_a_training_script_s_and_both_readers_see_the_same(tmp_path, small, save):
    path = tmp_path / "checkpoint.pth"
    save(path)
    theirs, ours = torch_load(path), read(path)
    tensors, found = trunk_of(ours)
    assert (found.layout, found.prefix) == ("moco", "state_dict.module.encoder_q.")
    assert set(found.dropped) == {"queue", "projection", "momentum copy", "training state"}
    assert len(theirs["optimizer"]["state"]) == found.dropped["training state"] == 163
    for name, tensor in tensors.items():
        assert torch.equal(tensor, theirs["state_dict"][f"module.encoder_q.{name}"])


TOUCHED = """
import json, mmap, sys
from benchmarks.zoo_read import Peak

def touched():
    own = bytearray(b"x") * int(sys.argv[2])
    with open(sys.argv[1], "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return own, mapped, [mapped[at] for at in range(0, len(mapped), 4096)]

most = Peak()
kept = most.watch(touched)
print(json.dumps(vars(most)))
"""


def test_own_memory_and_pages_of_files_are_told_apart(tmp_path):
    size, file = 32 << 20, tmp_path / "zeros"
    file.write_bytes(bytes(size))
    # In a process of its own: in this one other tests' memory comes and goes.
    command = [sys.executable, "-c", TOUCHED, str(file), str(size)]
    most = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)
    assert most["own"] == pytest.approx(size, rel=0.2)
    assert most["file"] == pytest.approx(size, rel=0.2)
    assert most["both"] == pytest.approx(2 * size, rel=0.2)


def test_the_table_has_medians_and_ratios_of_turns():
    ours, theirs = ([Seconds(wall, 2 * wall) for wall in walls] for walls in WALLS)
    times = Times(theirs, ours, ours, ours, ours)
    most = Peak(own=3_000_000, file=100_000_000, both=103_000_000, kept=100_000_000)
    shown = table({"zip": (370_000_000, times, most)})
    rows = dict(re.findall(r"\| (.+?) \| (.+?) \|", shown))
    assert times.ratio == pytest.approx(1 / 3)
    assert rows["processor time of the second, ms"] == "200 (200-600)"
    assert rows["`read` and `trunk_of`, ms"] == "100 (100-300)"
    assert rows["ratio, round by round"] == "0.50 (0.25-1.00)"
    assert rows["both / kept tensors"] == "1.03"
