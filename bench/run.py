"""What is done with one cell: the paper's Figure 3, on one screen.

a published weight file  ->  the ResNet-50          zoo
random neck and heads                               bench.model.build
adapt: the neck learns   ->  finetune: all learn    bench.train.engine
the last state, scored on the validation frames     bench.eval.evaluate
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.cell import Cell
from bench.data import bdd100k
from bench.data.bdd100k import Dataset, Frame
from bench.eval.evaluate import Evaluation, evaluate
from bench.model.build import build, losses
from bench.plan import weights_file
from bench.provenance import provenance
from bench.pseudo import fill_in
from bench.store import append_line, failure_kept, locked, read_json, write_json
from bench.train import state
from bench.train.engine import train


def run_cell(folder: str) -> None:
    """Train and score the cell in a folder that holds `cell.json`; leave `result.json` there.

    Starts from the newest saved state. A finished cell is left as it is; one that another process
    runs raises `BenchError`. An error is written to `error.txt` and raised again.
    """
    home = Path(folder)
    if (home / "result.json").exists():
        state.remove(home)  # what an attempt that ended right here may have left
        return
    with locked(home), failure_kept(home):
        order = read_json(home / "cell.json")
        cell = Cell.from_resolved(order["resolved"])
        protocol, tasks = cell.protocol, cell.tasks
        started = provenance()
        append_line(home / "attempts.jsonl", started)

        data = bdd100k.read(Path(order["data"]["root"]))
        frames = training_frames(data, order, tasks, store=home.parent.parent)
        model, report = build(protocol, tasks, weights_file(order), cell.seed)
        write_json(home / "load_report.json", asdict(report))

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        val = data.val.values()
        stages = train(model, losses(protocol, tasks), protocol, frames, val, cell.seed, home)
        found = evaluate(model, val, protocol.input, protocol.optim.batch)

        found.save(home / "preds")
        save_file(model.state_dict(), home / "model.safetensors")
        write_json(home / "result.json", result(order, found, stages, started))
        state.remove(home)
        (home / "error.txt").unlink(missing_ok=True)


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
    weights = {name: order["weights"][name] for name in ("name", "sha256", "stand_in")}
    return {
        "version": order["version"],
        "key": order["key"],
        "address": order["address"],
        "resolved": order["resolved"],
        **finite,
        "weights": weights,
        "data": {**order["data"], "split": order["split"]},
        "stages": stages,
        "provenance": {**started, "finished": provenance()["time"]},
    }
