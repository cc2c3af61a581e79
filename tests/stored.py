"""Cells of a store as runs leave them, written by hand: what a tiny real run left, in few lines."""

import json
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path

from bench.cell import Cell, hashed
from bench.data.classes import TASKS
from bench.store import write_failure, write_json
from protocols import VERSION
from protocols.presets import protocol
from protocols.schemes import steps as steps_of
from zoo.catalog import find

BEGUN, ENDED = "2024-05-06T07:08:01+00:00", "2024-05-06T07:08:09+00:00"
FRAMES = 10
SCORES = {"sem/mIoU": 31.25, "driv/mIoU": 62.5, "det/mAP": None}


def cell(zoo="moco_v2_200ep", name="paf", tasks=TASKS, seed=0, scheme="zeroing"):
    value = replace(protocol(name, "tiny"), scheme=scheme)
    return Cell(zoo=zoo, protocol=value, setting="disjoint-normal", tasks=tasks, seed=seed)


def order(one, *, weights="c" * 64, needs=(), version=VERSION):
    """What `cell.json` holds."""
    return {
        "version": version,
        "key": hashed([one.address, weights, list(needs), version]),
        "address": one.address,
        "resolved": one.resolved(),
        "needs": list(needs),
        "pseudo": "labels" if needs else None,
        "weights": {
            "name": one.zoo,
            "sha256": weights,
            "stand_in": True,
            "folder": "/zoo",
            "row": asdict(find(one.zoo)),
        },
        "data": {"name": "demo", "drawn": True, "root": "/data/demo", "sha256": "d" * 64},
        "split": {"file": "s.json", "sha256": "s" * 64, "counts": {"sem": 10}, "frames": FRAMES},
    }


def planned(store, one=None, **values) -> Path:
    """A cell that was planned, and never begun."""
    one = one or cell()
    told = order(one, **values)
    home = Path(store) / "cells" / f"{one.address}-{told['key'][:8]}"
    home.mkdir(parents=True)
    write_json(home / "cell.json", told)
    return home


def begun(store, one=None, *, steps=3, **values) -> Path:
    """A cell that was cut off after some steps of its first stage."""
    home = planned(store, one, **values)
    attempt(home)
    progress(home, steps)
    return home


def attempt(home, time=BEGUN, command="bench run --zoo moco_v2"):
    facts = {
        "code": "0123456789ab+",
        "branch": "main",
        "host": "here",
        "device": "cpu",
        "job": None,
    }
    line = {**facts, "command": command, "time": time}
    with (home / "attempts.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    return line


def progress(home, steps=None, *, speed=12.5):
    """Write the lines of the first `steps` steps over all stages, or of all: one line a step."""
    names = [(name, step) for name, n in lengths(home).items() for step in range(1, n + 1)]
    lines = [
        {
            "kind": "train",
            "stage": stage,
            "step": step,
            "steps": lengths(home)[stage],
            "epoch": 1,
            "losses": {"det": step / 10, "sem": 0.5, "driv": 0.25},
            "images_per_s": speed,
            "lr": 1e-3,
            "seconds": 1.0,
        }
        for stage, step in names[:steps]
    ]
    (home / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def lengths(home):
    """How many steps each stage of a cell has, by its name."""
    protocol = json.loads((home / "cell.json").read_text())["resolved"]["protocol"]
    batch = protocol["optim"]["batch"]
    return {one["name"]: steps_of(FRAMES, one["epochs"], batch) for one in protocol["stages"]}


def done(store, one=None, *, metrics=SCORES, **values) -> Path:
    """A cell that is done."""
    home = begun(store, one, steps=None, **values)
    finish(home, metrics=metrics)
    return home


def finish(home, *, metrics=SCORES, speed=12.5):
    """Have a cell that was begun be done."""
    told = json.loads((home / "cell.json").read_text())
    started = json.loads((home / "attempts.jsonl").read_text().splitlines()[-1])
    progress(home, speed=speed)
    (home / "load_report.json").write_text("{}")
    result = {
        **{name: told[name] for name in ("version", "key", "address", "resolved")},
        "metrics": metrics,
        "constant": {"sem/mIoU": 2.5},
        "weights": {name: told["weights"][name] for name in ("name", "sha256", "stand_in")},
        "data": told["data"],
        "stages": [
            {"name": name, "epochs": 1, "steps": n, "seconds": 1.0 * n, "images": 4 * n}
            for name, n in lengths(home).items()
        ],
        "provenance": {**started, "finished": ENDED},
    }
    # Not through `write_json`: tests want results that no run would write.
    (home / "result.json.tmp").write_text(json.dumps(result))
    os.replace(home / "result.json.tmp", home / "result.json")


def failed(store, one=None, error="ZooError: the file is damaged", **values) -> Path:
    """A cell that was begun and has failed."""
    home = begun(store, one, **values)
    write_failure(home, error, "Traceback (most recent call last): ...")
    return home


def lock(home, pid=None, host=None, job=None):
    """Have somebody hold the lock of a cell; by default it is this process."""
    holder = {"host": host or socket.gethostname(), "pid": pid or os.getpid(), "job": job}
    (home / "lock").write_text(json.dumps(holder))
