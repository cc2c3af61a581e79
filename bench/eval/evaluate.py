"""A trained model scored on the validation frames, each task on the frames that carry its label.

Predictions are brought to the size in which a frame is stored and compared there. What is kept for
each image (its confusion matrix, its detections) is enough to compute every score again.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from bench.data.bdd100k import Frame
from bench.data.classes import CLASSES
from bench.data.loader import test_batches
from bench.data.sample import Sample
from bench.eval.confusion import best_constant, driv_metrics, sem_metrics
from bench.eval.detection import Detections, Truth, det_metrics
from bench.eval.segmentation import confusion
from bench.model.multitask import MultiTask
from protocols.stages import Input

SEG_METRICS = {"sem": sem_metrics, "driv": driv_metrics}


@dataclass
class Evaluation:
    """What was found on each image: a confusion matrix for each map, the boxes with their scores.

    `confusions` holds for sem and driv the names and int64 [K, K+1] matrices of the images.
    """

    confusions: dict[str, dict[str, np.ndarray]]
    truth: list[Truth] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Return the scores of all tasks, in percent."""
        scores: dict[str, float] = {}
        for task, matrices in self.confusions.items():
            scores |= SEG_METRICS[task](np.sum(list(matrices.values()), axis=0))
        if self.truth:
            scores |= det_metrics(self.truth, self.detections)[0]
        return scores

    def constant(self) -> dict[str, float]:
        """Return the scores of the best constant prediction of each map, on the same images."""
        scores: dict[str, float] = {}
        for task, matrices in self.confusions.items():
            scores |= best_constant(np.sum(list(matrices.values()), axis=0), SEG_METRICS[task])[1]
        return scores

    def save(self, folder: Path) -> None:
        """Write `sem.npz`, `driv.npz` (names, confusions) and `det.npz` (boxes by image)."""
        folder.mkdir(exist_ok=True)
        for task, matrices in self.confusions.items():
            stacked = np.stack(list(matrices.values())).astype(np.int32)
            _save(folder / f"{task}.npz", names=list(matrices), confusions=stacked)
        if self.truth:
            _save(
                folder / "det.npz",
                names=[found.name for found in self.detections],
                count=[len(found.scores) for found in self.detections],
                boxes_xyxy=np.concatenate([found.boxes_xyxy for found in self.detections]),
                classes=np.concatenate([found.classes for found in self.detections]),
                scores=np.concatenate([found.scores for found in self.detections]),
            )


def evaluate(model: MultiTask, frames: Iterable[Frame], sizes: Input, batch: int) -> Evaluation:
    """Score the model on every frame that carries a label of one of its tasks."""
    tasks = tuple(model.heads)
    scored = [frame for frame in frames if set(tasks) & set(frame.tasks())]
    found = Evaluation({task: {} for task in tasks if task != "det"})
    wanted = {frame.name: frame.tasks() for frame in scored}
    for stored, outputs in predict(model, scored, wanted, sizes, batch, labels=tasks):
        for task, output in outputs.items():
            if isinstance(output, Detections):
                found.detections.append(output)
            else:
                label = getattr(stored, task).to(output.device)
                counts = confusion(output.argmax(0), label, len(CLASSES[task]))
                found.confusions[task][stored.name] = counts.cpu().numpy()
    if "det" in tasks:
        found.truth = [
            Truth(name=f.name, boxes_xyxy=b.boxes_xyxy, classes=b.classes, crowd=b.crowd)
            for f in scored
            if (b := f.det) is not None
        ]
    return found


def predict(
    model: MultiTask,
    frames: Iterable[Frame],
    wanted: Mapping[str, tuple[str, ...]],
    sizes: Input,
    batch: int,
    labels: tuple[str, ...] = (),
) -> Iterator[tuple[Sample, dict[str, Tensor | Detections]]]:
    """Yield each frame as stored, with the model's predictions in the stored size.

    `wanted` says for each frame's name which tasks to predict; those without a head are passed
    over. A map is the score of each class, [K, H, W]; boxes are `Detections`. The stored frames
    carry the labels of the tasks in `labels`. The model is put into testing mode.
    """
    heads = cast(dict[str, Any], model.heads)
    device = next(model.parameters()).device
    model.eval()
    for images, stored in test_batches(frames, labels, sizes, batch=batch):
        images = images.to(device)
        with torch.inference_mode():
            outputs = model(images.images, images.sizes_hw)
            padded = images.images.shape[-2:]
            maps = {t: h.segment(outputs[t], padded) for t, h in heads.items() if t != "det"}
            boxes = heads["det"].detect(outputs["det"]) if "det" in heads else []
        for i, (sample, size_hw) in enumerate(zip(stored, images.sizes_hw.tolist(), strict=True)):
            tasks = [task for task in wanted[sample.name] if task in heads]
            yield (
                sample,
                {
                    task: _boxes_as_stored(boxes[i], size_hw, sample)
                    if task == "det"
                    else _map_as_stored(maps[task][i], size_hw, sample)
                    for task in tasks
                },
            )


def _map_as_stored(scores: Tensor, size_hw: list[int], sample: Sample) -> Tensor:
    """Cut off the padding and resize the scores of a map to the stored image."""
    inside = scores[None, :, : size_hw[0], : size_hw[1]]
    return functional.interpolate(inside, sample.size_hw, mode="bilinear")[0]


def _boxes_as_stored(
    found: tuple[Tensor, Tensor, Tensor], size_hw: list[int], sample: Sample
) -> Detections:
    """Scale boxes from the network's input to the stored image, clip them, drop empty ones."""
    boxes, scores, classes = found
    y, x = (stored / seen for stored, seen in zip(sample.size_hw, size_hw, strict=True))
    height, width = sample.size_hw
    scaled = boxes.double() * boxes.new_tensor([x, y, x, y], dtype=torch.float64)
    scaled = scaled.clamp(min=0).minimum(scaled.new_tensor([width, height, width, height]))
    keep = (scaled[:, 2:] > scaled[:, :2]).all(1)
    return Detections(
        name=sample.name,
        boxes_xyxy=scaled[keep].cpu().numpy(),
        classes=classes[keep].cpu().numpy(),
        scores=scores[keep].double().cpu().numpy(),
    )


def _save(file: Path, **arrays: ArrayLike) -> None:
    unfinished = file.with_suffix(".tmp")
    with unfinished.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    os.replace(unfinished, file)
