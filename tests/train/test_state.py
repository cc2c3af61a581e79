"""Saved states: whole, in turn, and the one before where the newest is damaged."""

import errno
import os
import shutil
import signal
import threading

import pytest
import torch

from bench import BenchError
from bench.train import state
from bench.train.state import State


def point(step, model=None):
    return State(
        stage=0, step=step, model=model or {}, optimiser={}, seconds={}, rows=[], rows_s=0.0
    )


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_saving_keeps_the_state_before_and_leaves_nothing_unfinished(tmp_path):
    for step in (1, 2, 3):
        state.save(point(step), tmp_path)
    assert names(tmp_path) == ["state.prev.pt", "state.pt"]
    assert state.restore(tmp_path).step == 3
    (tmp_path / "state.pt").unlink()
    assert state.restore(tmp_path).step == 2
    shutil.rmtree(tmp_path)
    assert state.restore(tmp_path) is None


def test_every_value_comes_back_to_the_bit(tmp_path):
    model = {"weight": torch.randn(5, 3), "count": torch.tensor(7)}
    rows, optimiser = [[1 / 3, float(torch.rand(()))]], {"state": {0: {"step": torch.tensor(2.0)}}}
    saved = State(
        stage=1, step=9, model=model, optimiser=optimiser, seconds={"a": 0.1}, rows=rows, rows_s=0.2
    )
    state.save(saved, tmp_path)
    found = state.restore(tmp_path)
    assert (found.stage, found.step, found.seconds) == (1, 9, {"a": 0.1})
    assert (found.rows, found.rows_s) == (rows, 0.2)
    assert all(torch.equal(found.model[name], tensor) for name, tensor in model.items())


def cut_short(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def one_bit_of_a_weight(content):
    # torch.load would take this for a weight of another value
    place = content.index(torch.full((50,), 0.125).numpy().tobytes()) + 101
    return content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]


def zeroed(content):
    return bytes(len(content))


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_of_a_weight, zeroed])
def test_a_damaged_newest_state_gives_way_to_the_one_before_with_one_line(tmp_path, damage, capsys):
    for step in (1, 2):
        state.save(point(step, {"weight": torch.full((50,), 0.125)}), tmp_path)
    newest = tmp_path / "state.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    assert state.restore(tmp_path).step == 1
    said = capsys.readouterr().out
    assert said.startswith("state.pt is damaged (")
    assert said.count("\n") == 1
    # The damaged one is gone: the next save keeps the good one as the one before.
    state.save(point(3), tmp_path)
    newest.unlink()
    assert state.restore(tmp_path).step == 1


def test_states_that_cannot_be_read_are_not_started_over_in_silence(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(
        BenchError, match=r"Without state\.pt( and state\.prev\.pt)? it starts again"
    ):
        state.restore(tmp_path)


def test_a_full_disk_is_called_by_its_name_and_leaves_the_states_as_they_were(tmp_path):
    for step in (1, 2):
        state.save(point(step), tmp_path)
    (tmp_path / f".state.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device, while saving") as refused:
        state.save(point(3, {"weight": torch.randn(1000, 1000)}), tmp_path)
    assert refused.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["state.prev.pt", "state.pt"]
    assert state.restore(tmp_path).step == 2


def test_ctrl_c_during_a_save_stays_a_ctrl_c_and_leaves_a_state(tmp_path):
    model = {str(i): torch.randn(400, 400) for i in range(60)}

    def save_for_ever():
        while True:
            state.save(point(1, model), tmp_path)

    state.save(point(1, model), tmp_path)
    for delay_s in (0.05, 0.11, 0.17, 0.23):
        timer = threading.Timer(delay_s, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            save_for_ever()
        timer.join()
    assert state.restore(tmp_path).step == 1
