"""Pseudo labels: teachers' predictions in place of the labels that a frame lacks (paper, 3.2).

    <store>/pseudo/<key8>/
        order.json         written first: which teachers, which thresholds, which split
        sem/<name>.png     uint8 train ids, 255 where the teacher is not sure; driv/ likewise
        det/<name>.json    the boxes of one frame, while they are being made
        det.json           COCO: all boxes, with scores; an image without boxes has nothing in it
        statistics.json    written last: it alone means done

They are made once for all students of a comparison, in fixed groups of frames, so that labels made
in two goes are those made in one.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.cell import Cell
from bench.data import bdd100k
from bench.data.bdd100k import Frame
from bench.data.boxes import Boxes
from bench.data.classes import CLASSES, DET, IGNORE, TASKS
from bench.data.sample import Sample
from bench.eval.detection import Detections
from bench.eval.evaluate import predict
from bench.model.build import build
from bench.model.multitask import MultiTask
from bench.provenance import begin
from bench.store import Busy, failure_kept, locked, read_json, whole, write_json
from bench.train import stop
from bench.weights import parts_files, weights_file


def make_labels(folder: str) -> None:
    """Make the pseudo labels that `order.json` in a folder asks for; leave `statistics.json`.

    What an earlier attempt made is kept, and labels that are complete are left as they are. An
    error is written to `error.txt` and raised again; asked to stop, it raises `Stopped`.
    """
    home = Path(folder)
    if (home / "statistics.json").exists():
        with suppress(Busy), locked(home):  # what an attempt that ended right here may have left
            _tidy(home)
        return
    with stop.listening(), locked(home), failure_kept(home):
        if (home / "statistics.json").exists():  # made by whoever held the lock until now
            return
        order = read_json(home / "order.json")
        begin(home, order)
        store = home.parent.parent
        train = bdd100k.read(Path(order["data"]["root"])).train
        carried = read_json(store / "splits" / order["split"]["file"])["frames"]
        for task, teacher in order["teachers"].items():
            lacking = [train[name] for name, own in carried.items() if task not in own]
            _label(lacking, task, store / "cells" / teacher, home, order["scores"][task])
        statistics = {
            task: _write_coco(home) if task == "det" else _map_statistics(home / task, task)
            for task in order["teachers"]
        }
        write_json(home / "statistics.json", statistics)
        _tidy(home)


def fill_in(frames: Mapping[str, Frame], home: Path) -> dict[str, Frame]:
    """Return the frames with pseudo labels where they carry none of their own; those always win."""
    maps = [task for task in ("sem", "driv") if (home / task).is_dir()]
    boxes = _read_coco(home / "det.json") if (home / "det.json").exists() else {}
    filled = {}
    for name, frame in frames.items():
        lacking = set(TASKS) - set(frame.tasks())
        made: dict[str, Any] = {
            task: home / task / f"{name}.png" for task in maps if task in lacking
        }
        if boxes and "det" in lacking:
            made["det"] = boxes[name]
        filled[name] = replace(frame, **made)
    return filled


def _label(frames: list[Frame], task: str, teacher: Path, home: Path, score: float) -> None:
    """Write a teacher's labels of these frames, one file each; groups that are there are kept."""
    (home / task).mkdir(exist_ok=True)
    cell = Cell.from_resolved(read_json(teacher / "cell.json")["resolved"])
    size = cell.protocol.optim.batch
    groups = [frames[i : i + size] for i in range(0, len(frames), size)]
    todo = [g for g in groups if not all(_file(home, task, frame).exists() for frame in g)]
    if not todo:
        return
    wanted = {frame.name: (task,) for frame in frames}
    predictions = predict(
        _trained(teacher, cell), chain.from_iterable(todo), wanted, cell.protocol.input, size
    )
    for done, (stored, outputs) in enumerate(predictions, start=1):
        file, output = _file(home, task, stored), outputs[task]
        if isinstance(output, Detections):
            write_json(file, _confident(output, score, stored.size_hw))
        else:
            best, classes = output.max(0)
            label = classes.byte().masked_fill(best < score, IGNORE)
            _save_png(file, label.cpu().numpy())
        if done % size == 0:
            stop.check()


def _tidy(home: Path) -> None:
    """Remove what only unfinished labels have."""
    shutil.rmtree(home / "det", ignore_errors=True)
    (home / "error.txt").unlink(missing_ok=True)


def _file(home: Path, task: str, frame: Frame | Sample) -> Path:
    return home / task / f"{frame.name}.{'json' if task == 'det' else 'png'}"


def _trained(teacher: Path, cell: Cell) -> MultiTask:
    """Return the model that a finished cell left."""
    order = read_json(teacher / "cell.json")
    model, _ = build(cell.protocol, cell.tasks, weights_file(order), cell.seed, parts_files(order))
    model.load_state_dict(load_file(teacher / "model.safetensors"))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _confident(found: Detections, score: float, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return the boxes of one frame whose score is high enough, as plain values."""
    keep = found.scores >= score
    return {
        "size_hw": size_hw,
        "boxes_xyxy": found.boxes_xyxy[keep].round(2).tolist(),
        "classes": found.classes[keep].tolist(),
        "scores": found.scores[keep].round(4).tolist(),
    }


def _write_coco(home: Path) -> dict[str, Any]:
    """Gather the boxes of all frames into `det.json`; return what there is to say of them."""
    found = {file.stem: read_json(file) for file in sorted((home / "det").glob("*.json"))}
    images, annotations = [], []
    for number, (name, one) in enumerate(found.items(), start=1):
        height, width = one["size_hw"]
        images.append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
        for (x1, y1, x2, y2), label, score in zip(
            one["boxes_xyxy"], one["classes"], one["scores"], strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(DET, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    write_json(home / "det.json", coco)
    counts = [len(one["classes"]) for one in found.values()]
    return {
        "frames": len(counts),
        "boxes": sum(counts),
        "boxes_per_frame": round(sum(counts) / max(1, len(counts)), 3),
        "frames_without_boxes": counts.count(0),
    }


def _read_coco(file: Path) -> dict[str, Boxes]:
    coco = read_json(file)
    names = {image["id"]: Path(image["file_name"]).stem for image in coco["images"]}
    rows: dict[str, list[tuple[list[float], int]]] = {name: [] for name in names.values()}
    for one in coco["annotations"]:
        x, y, width, height = one["bbox"]
        rows[names[one["image_id"]]].append(([x, y, x + width, y + height], one["category_id"] - 1))
    return {
        name: Boxes(
            np.array([box for box, _ in found], dtype=np.float64).reshape(-1, 4),
            np.array([label for _, label in found], dtype=np.int64),
            np.zeros(len(found), dtype=bool),
        )
        for name, found in rows.items()
    }


def _map_statistics(folder: Path, task: str) -> dict[str, Any]:
    """Return how much of the maps is ignored, and each class's share of the pixels, in percent."""
    counts, frames = np.zeros(IGNORE + 1, dtype=np.int64), 0
    for file in folder.glob("*.png"):
        with Image.open(file) as image:
            counts += np.bincount(np.asarray(image).ravel(), minlength=IGNORE + 1)
        frames += 1
    shares = np.round(100 * counts / max(1, counts.sum()), 3).tolist()
    classes = {name: shares[number] for number, name in enumerate(CLASSES[task])}
    return {"frames": frames, "ignored_percent": shares[IGNORE], "class_percent": classes}


def _save_png(file: Path, label: np.ndarray) -> None:
    with whole(file) as unfinished:
        Image.fromarray(label).save(unfinished, format="PNG")
