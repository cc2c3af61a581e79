"""A few validation frames kept as small pictures: the frame, its ground truth, what was predicted.

`panels.json` has all that a page needs to show them, so that it needs neither data set nor torch:
a JPEG of each frame, a palette PNG of each map and the boxes, all in one reduced size. They are the
same frames for every cell on the same data, whatever its tasks. No score is made of them.
"""

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data.bdd100k import Frame
from bench.data.classes import COLORS, DRIV, IGNORE, TASKS
from bench.data.sample import Sample
from bench.data.transforms import resize
from bench.eval.detection import Detections
from bench.eval.evaluate import predict
from bench.model.multitask import MultiTask
from bench.store import write_json
from protocols.stages import Input

FILE = "panels.json"
FRAMES = 4
WIDTH = 320  # pixels
SCORE = 0.3  # boxes below it are not shown
JPEG_QUALITY = 70


def shown(frames: Iterable[Frame]) -> list[Frame]:
    """Return the few frames to show, a function of names and labels alone.

    They are taken in the order of their hashed names, those with most labels first, and each for
    the task that is shown least by then: all tasks are seen even where no frame has all labels.
    """
    waiting = sorted(frames, key=lambda frame: (-len(frame.tasks()), _hash(frame.name)))
    times: Counter[str] = Counter()
    taken: list[Frame] = []
    while waiting and len(taken) < FRAMES:
        carried = {task for frame in waiting for task in frame.tasks()}
        least = min((task for task in TASKS if task in carried), key=lambda task: times[task])
        one = next(frame for frame in waiting if least in frame.tasks())
        waiting.remove(one)
        taken.append(one)
        times.update(one.tasks())
    return taken


def keep(model: MultiTask, frames: Iterable[Frame], sizes: Input, batch: int, home: Path) -> None:
    """Predict the frames that are shown, and write `panels.json` into the cell's folder."""
    few = shown(frames)
    wanted = {frame.name: TASKS for frame in few}
    predictions = predict(model, few, wanted, sizes, batch, labels=TASKS)
    panels = [_panel(stored, outputs) for stored, outputs in predictions]
    write_json(home / FILE, {"score": SCORE, "panels": panels})


def _panel(stored: Sample, outputs: dict[str, Tensor | Detections]) -> dict[str, Any]:
    """Return one frame with its ground truth and its predictions, each task that there is."""
    small = resize(stored, _small(stored.size_hw))
    truth: dict[str, Any] = {
        task: _png(label, task)
        for task in ("sem", "driv")
        if (label := getattr(small, task)) is not None
    }
    if small.boxes_xyxy is not None and small.classes is not None:
        truth["det"] = _boxes(small.boxes_xyxy.tolist(), small.classes.tolist())
    found = {
        task: _found_boxes(output, small.size_hw, stored.size_hw)
        if isinstance(output, Detections)
        else _png(_map(output, small.size_hw), task)
        for task, output in outputs.items()
    }
    picture = Image.fromarray(small.image.permute(1, 2, 0).numpy())
    return {
        "name": stored.name,
        "size_hw": list(small.size_hw),
        "image": _data_url(picture, "jpeg", quality=JPEG_QUALITY),
        "truth": truth,
        "found": found,
    }


def _small(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which a frame is `WIDTH` wide; no frame is enlarged."""
    height, width = size_hw
    return (round(height * WIDTH / width), WIDTH) if width > WIDTH else size_hw


def _map(scores: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return the best class of every pixel of the small picture, uint8 [H, W]."""
    best = scores.max(0).indices.byte().cpu()[None, None]
    return torch.nn.functional.interpolate(best, size_hw, mode="nearest-exact")[0, 0]


def _found_boxes(
    found: Detections, size_hw: tuple[int, int], stored_hw: tuple[int, int]
) -> list[list[Any]]:
    sure = found.scores >= SCORE
    y, x = (small / stored for small, stored in zip(size_hw, stored_hw, strict=True))
    boxes = found.boxes_xyxy[sure] * np.array([x, y, x, y])
    return _boxes(boxes.tolist(), found.classes[sure].tolist(), found.scores[sure].tolist())


def _boxes(
    boxes: list[list[float]], classes: list[int], scores: list[float] | None = None
) -> list[list[Any]]:
    """Return x1, y1, x2, y2, class and, of predictions, score of each box."""
    lines = [
        [*(round(side, 1) for side in box), kind] for box, kind in zip(boxes, classes, strict=True)
    ]
    if scores is None:
        return lines
    return [[*line, round(score, 2)] for line, score in zip(lines, scores, strict=True)]


def _png(label: Tensor, task: str) -> str:
    """Return a map of classes as a PNG in their colours; background and void are transparent."""
    void = len(COLORS[task])  # as the next class: a palette ends with the last value that occurs
    picture = Image.fromarray(label.where(label != IGNORE, void).numpy(), mode="P")
    picture.putpalette([level for color in (*COLORS[task], (0, 0, 0)) for level in color])
    clear = (void, DRIV.index("background")) if task == "driv" else (void,)
    opaque = bytes(0 if value in clear else 255 for value in range(void + 1))
    return _data_url(picture, "png", transparency=opaque, optimize=True)


def _data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
