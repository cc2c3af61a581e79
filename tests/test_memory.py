"""What a process keeps of the memory that it frees."""

import ctypes
import subprocess
import sys

import pytest

from bench import memory

FAULTS = """
import resource, sys, torch
from bench import memory
if sys.argv[1] == "keep":
    memory.keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    tensors = [torch.ones(megabytes * 2**18) for megabytes in (4, 12, 36)]
    sum(tensor.mul(2).exp().sum() for tensor in tensors)
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    """How often a process gets a page that it did not have, making the same tensors again."""
    told = subprocess.run(
        [sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)
def test_what_is_freed_is_used_again_instead_of_new_pages():
    assert 3 * faults("keep") < faults("leave")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.keep()
