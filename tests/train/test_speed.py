"""Where a step's time goes is logged, and MFU where a device's peak is known."""

import time

import pytest
import torch

from bench.train import speed
from bench.train.speed import PARTS, Arithmetic, Stopwatch
from benchmarks.cases import make_batch

CPU = torch.device("cpu")


def test_time_goes_to_the_part_that_is_named_after_it():
    watch = Stopwatch(CPU)
    for _ in range(2):
        time.sleep(0.02)
        watch.mark("data")
        watch.mark("forward")
        time.sleep(0.04)
        watch.mark("backward")
    found = watch.read()
    assert tuple(found) == PARTS
    assert 0.04 <= found["data"] < found["backward"]
    assert found["forward"] < 0.02
    assert watch.read() == dict.fromkeys(PARTS, 0)


def test_what_is_skipped_goes_to_no_part():
    watch = Stopwatch(CPU)
    time.sleep(0.05)
    watch.skip()
    watch.mark("data")
    assert watch.read()["data"] < 0.02


def test_a_device_whose_peak_nobody_knows_has_no_mfu():
    arithmetic = Arithmetic(CPU, "bf16")
    with arithmetic.of_step([make_batch(1, (32, 32))]):
        torch.ones(8, 8) @ torch.ones(8, 8)
    assert arithmetic.used(1, 1.0) is None


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H200", "fp32", None),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
    ],
)
def test_mfu_is_the_share_of_the_peak(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    arithmetic = Arithmetic(torch.device("cuda"), precision)
    assert arithmetic.peak == peak
    for size in (64, 64, 32):  # the second is not counted again, but taken for the first
        with arithmetic.of_step([make_batch(1, (32, size))]):
            torch.ones(size, 8) @ torch.ones(8, 10)
    done = 2 * 8 * 10 * (64 + 64 + 32)
    used = arithmetic.used(6, 0.5)  # six steps like these three
    assert used == (None if peak is None else pytest.approx(2 * done / 0.5 / peak))
    assert speed.PEAKS.keys() >= {"H200", "A100"}
