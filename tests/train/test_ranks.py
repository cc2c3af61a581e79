"""Several ranks train as one process would, and start, stop and fail as one."""

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import BenchError, dist
from bench.data.bdd100k import read, withhold
from bench.data.loader import training_batches
from bench.failure import NODE, cause
from bench.grids import Request, cells
from bench.model.build import build, losses
from bench.model.sync_norm import synchronised
from bench.ranks import RankFailed, together
from bench.run import run_cell
from bench.selftest import compare
from bench.store import error_of, owner, read_json, read_lines, state
from bench.train import stop
from bench.train.engine import take_step
from protocols.schemes import Zeroing
from protocols.stages import PARTS
from tests.train.tiny import prepared
from zoo.catalog import find
from zoo.store import Zoo

LEARNS = tuple(part for part in PARTS if part != "adapter")
PLAIN = ("model.seg.dropout=0", "optim.batch=4")  # what is random differs from rank to rank


class InOrder(Zeroing):
    """One batch of all frames in their order, so that the halves are known."""

    def batch_at(self, step):
        """Return the names of the frames."""
        return self.frames


def one_step(shelf, data, to, frames=slice(4), accumulate=1, train_short=(90,), frozen=False):
    """Take one step of plain gradient descent on four frames or some of them; rank 0 writes it.

    Only the first two frames have boxes: of two ranks the second has none at all. All is done in
    float64, or an activation that rounding puts on the other side of 0 changes many gradients.
    """
    request = Request(zoo=("moco_v2",), protocols=("pf",), preset="tiny", overrides=PLAIN)
    protocol = cells(request)[0].protocol
    optim = replace(protocol.optim, accumulate=accumulate, clip_norm=1e9)
    tasks = ("sem", "driv", "det")
    model, _ = build(protocol, tasks, Zoo(shelf).canonical(find("moco_v2"), stand_in=True), seed=0)
    train = read(data).train
    names = sorted(train)[:4]
    carried = {
        name: tuple(t for t in train[name].tasks() if t != "det" or name in names[:2])
        for name in names
    }
    used = tuple(names[frames])
    order = InOrder(frames=used, epochs=1, batch=len(used), seed="1")
    model.learn(LEARNS)
    model.backbone.train(not frozen)
    if dist.size() > 1:
        model.backbone = synchronised(model.backbone)
    network = model.to(torch.float64, memory_format=torch.channels_last)
    if dist.size() > 1:
        network = torch.nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    sizes = replace(protocol.input, train_short=train_short, max_long=256)
    (parts,) = training_batches(order, withhold(train, carried), sizes, start=0, parts=accumulate)
    row = take_step(network, losses(protocol, tasks), optimiser, optim, parts)
    if dist.rank() == 0:
        boxes = [len(one) for part in parts for one in part.boxes_xyxy]
        seen = {"boxes": boxes, "sizes_hw": torch.cat([part.sizes_hw for part in parts])}
        torch.save({"row": row, **seen, **model.state_dict()}, to)


def after(step, shelf, data, to, *more):
    """Return what a step leaves."""
    step(shelf, data, to, *more)
    return torch.load(to)


@pytest.mark.parametrize("frozen", [True, False])
def test_two_ranks_take_the_step_of_one_process(stand_ins, streets, tmp_path, frozen):
    how = (slice(4), 1, (64, 128), frozen)  # BatchNorm with its own statistics, or over all ranks
    alone = after(one_step, stand_ins, streets, tmp_path / "alone.pt", *how)
    together(one_step, (stand_ins, streets, tmp_path / "two.pt", *how), 2)
    two = torch.load(tmp_path / "two.pt")
    assert sum(alone["boxes"][:2]) > 0
    assert alone["boxes"][2:] == [0, 0]
    assert two["boxes"] == alone["boxes"][:2]
    assert two.keys() == alone.keys()
    assert two["sizes_hw"].tolist() == alone["sizes_hw"][:2].tolist()
    assert two["sizes_hw"].amax(0).tolist() != alone["sizes_hw"].amax(0).tolist()  # padded further
    for name in alone.keys() - {"boxes", "sizes_hw"}:
        one, other = alone[name].double(), two[name].double()
        assert (one - other).abs().max() <= 1e-6 * one.abs().max(), name


def prepared_for_two(store, data):
    """Return the folder of a tiny cell that two ranks train."""
    return prepared(store, data, overrides=("optim.batch=2",), ranks=2)


def test_a_cell_of_two_ranks_is_stopped_and_ends_as_the_one_left_in_peace(streets, new_store):
    whole, home = (prepared_for_two(new_store(name), streets) for name in ("whole", "home"))
    run_cell(str(whole))
    assert read_json(whole / "result.json")["provenance"]["ranks"] == [2]
    stopping = threading.Thread(target=stop_when_it_trains, args=(home,))
    stopping.start()
    with pytest.raises(stop.Stopped):
        run_cell(str(home))
    stopping.join()
    assert state(home) == "preempted"
    assert owner(home) is None
    run_cell(str(home))
    assert compare(whole, home) == []


def stop_when_it_trains(home: Path) -> None:
    while not read_lines(home / "progress.jsonl"):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_rank_that_dies_takes_the_others_with_it_and_the_cell_fails(streets, new_store):
    home = prepared_for_two(new_store(), streets)
    killing = threading.Thread(target=kill_the_second, args=(home,))
    killing.start()
    with pytest.raises(RankFailed, match="rank 1: died of SIGKILL"):
        run_cell(str(home))
    killing.join()
    assert error_of(home) == "RankFailed: rank 1: died of SIGKILL"
    assert cause(error_of(home)) is NODE
    assert owner(home) is None
    assert multiprocessing.active_children() == []


def kill_the_second(home: Path) -> None:
    while not read_lines(home / "progress.jsonl"):
        time.sleep(0.02)
    _, second = sorted(multiprocessing.active_children(), key=lambda rank: rank.pid)
    second.kill()


def fail_on_the_second(folder):
    if dist.rank() == 1:
        raise ValueError("no luck")
    dist.over_all(torch.ones(1))


def test_the_first_error_is_the_one_that_is_told(tmp_path):
    with pytest.raises(RankFailed, match=r"^rank 1: ValueError: no luck$"):
        together(fail_on_the_second, (tmp_path,), 2)


def test_accumulated_parts_take_the_mean_of_their_own_steps(stand_ins, streets, tmp_path):
    both, first, second = (
        after(one_step, stand_ins, streets, tmp_path / f"{number}.pt", frames, accumulate)
        for number, (frames, accumulate) in enumerate(
            [(slice(4), 2), (slice(2), 1), (slice(2, 4), 1)]
        )
    )
    assert both.pop("boxes") == first.pop("boxes") + second.pop("boxes")
    assert (
        both.pop("sizes_hw").tolist()
        == torch.cat([one.pop("sizes_hw") for one in (first, second)]).tolist()
    )
    rows = [one.pop("row")[:-1] for one in (both, first, second)]  # without the gradient's norm
    assert torch.allclose(rows[0], (rows[1] + rows[2]) / 2)
    learned = {name for name in both if not torch.equal(first[name], second[name])}
    assert {name.split(".")[0] for name in learned} >= {"backbone", "neck", "heads"}
    for name in learned - {name for name in learned if "running" in name}:
        mean = (first[name].double() + second[name].double()) / 2
        assert (mean - both[name]).abs().max() <= 1e-6 * mean.abs().max(), name


def test_what_batchnorm_sees_is_in_the_key():
    def key(*overrides):
        request = Request(zoo=("moco_v2",), protocols=("pf",), preset="tiny", overrides=overrides)
        return cells(request)[0].key(weights="w", data="d", split="s")

    assert len({key(), key("optim.accumulate=2"), key("optim.accumulate=4")}) == 3


@pytest.mark.parametrize(("ranks", "overrides"), [(3, ()), (2, ("optim.accumulate=4",))])
def test_a_batch_that_cannot_be_shared_out_is_refused(streets, new_store, ranks, overrides):
    with pytest.raises(BenchError, match=rf"A batch of 4 images .* \({ranks} GPUs a cell"):
        prepared(new_store(), streets, overrides=overrides, ranks=ranks)
