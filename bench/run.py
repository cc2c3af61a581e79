"""What is done with one cell: the paper's Figure 3, on one screen.

a published weight file  ->  the ResNet-50          zoo
random neck and heads                               bench.model.build
adapt: the neck learns   ->  finetune: all learn    bench.train.engine
the last state, scored on the validation frames     bench.eval.evaluate
"""

import logging
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench import dist
from bench.cell import Cell
from bench.data import bdd100k
from bench.data.bdd100k import Dataset, Frame
from bench.eval import panels
from bench.eval.evaluate import Evaluation, evaluate
from bench.intervals import resampled
from bench.model.build import build, losses
from bench.model.sync_norm import synchronised
from bench.provenance import begin, now
from bench.pseudo import fill_in
from bench.ranks import together
from bench.store import Busy, failure_kept, locked, read_json, whole, write_json
from bench.train import state, stop
from bench.train.engine import train
from bench.weights import parts_files, weights_file
from runners.base import WORKER


def run_cell(folder: str) -> None:
    """Train and score the cell in a folder that holds `cell.json`; leave `result.json` there.

    Starts from what an earlier attempt saved. A finished cell is left as it is; one that another
    process runs raises `Busy`. An error is written to `error.txt` and raised again; asked to stop,
    it saves and raises `Stopped`.
    """
    home = Path(folder)
    if (home / "result.json").exists():
        with suppress(Busy), locked(home):  # what an attempt that ended right here may have left
            state.remove(home)
        return
    with stop.listening(), locked(home), failure_kept(home):
        if (home / "result.json").exists():  # made by whoever held the lock until now
            return
        order = read_json(home / "cell.json")
        work = (home, order, begin(home, order))
        ranks = order.get("ranks", 1)
        together(train_and_score, work, ranks) if ranks > 1 else train_and_score(*work)
        state.remove(home)


def train_and_score(home: Path, order: dict[str, Any], started: dict[str, Any]) -> None:
    """Make a cell's result, as one process or as one of several ranks; rank 0 alone writes it."""
    if WORKER in os.environ:  # nobody watches but its log
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    cell = Cell.from_resolved(order["resolved"])
    protocol, tasks = cell.protocol, cell.tasks
    data = bdd100k.read(Path(order["data"]["root"]))
    frames = training_frames(data, order, tasks, store=home.parent.parent)
    model, report = build(protocol, tasks, weights_file(order), cell.seed, parts_files(order))
    if dist.rank() == 0:
        write_json(home / "load_report.json", asdict(report))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).to(memory_format=torch.channels_last)  # as batches are
    if dist.size() > 1:
        model.backbone = synchronised(model.backbone)
    val = data.val.values()
    stages = train(model, losses(protocol, tasks), protocol, frames, val, cell.seed, home)
    if dist.rank() > 0:
        return
    found = evaluate(model, val, protocol.input, protocol.optim.batch, home / state.SCORED)

    found.save(home / "preds")
    panels.keep(model, val, protocol.input, protocol.optim.batch, home)
    with whole(home / "model.safetensors") as unfinished:
        state_dict = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state_dict, unfinished)
    record = result(order, found, stages, started)
    resampled(home, record)
    write_json(home / "result.json", record)


def training_frames(
    data: Dataset, order: dict[str, Any], tasks: tuple[str, ...], store: Path
) -> dict[str, Frame]:
    """Return the frames to train on, by name, with the labels of the tasks that they carry.

    Those are what the split lets them carry, and with self-training pseudo labels beside them.
    """
    split = read_json(store / "splits" / order["split"]["file"])["frames"]
    carried = {name: tuple(t for t in labels if t in tasks) for name, labels in split.items()}
    frames = bdd100k.withhold(data.train, carried)
    if order["pseudo"] is None:
        return frames
    return fill_in(frames, store / "pseudo" / order["pseudo"])


def result(order: dict, found: Evaluation, stages: list[dict], started: dict) -> dict:
    """Return the one record that a finished cell leaves; scores that do not exist are None."""
    scores = {"metrics": found.metrics(), "constant": found.constant()}
    finite = {
        kind: {name: value if value == value else None for name, value in values.items()}
        for kind, values in scores.items()
    }
    said = ("name", "sha256", "stand_in")
    weights: dict[str, Any] = {name: order["weights"][name] for name in said}
    for part, used in order.get("parts", {}).items():
        weights[part] = {name: used[name] for name in said}
        weights["stand_in"] |= used["stand_in"]  # one random part makes the number random
    return {
        "version": order["version"],
        "key": order["key"],
        "address": order["address"],
        "resolved": order["resolved"],
        **finite,
        "weights": weights,
        "data": {**order["data"], "split": order["split"]},
        "stages": stages,
        "provenance": {**started, "finished": now()},
    }
