"""A trained model scored on the validation frames, each task on the frames that carry its label.

Predictions are brought to the size in which a frame is stored and compared there. What is kept for
each image (its confusion matrix, its detections) is enough to compute every score again, and to go
on with an evaluation that was cut off.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.data.bdd100k import Frame
from bench.data.classes import CLASSES
from bench.data.loader import test_batches
from bench.data.sample import Sample
from bench.eval.ap import average_precision, det_scores, match
from bench.eval.confusion import best_constant, driv_metrics, sem_metrics
from bench.eval.detection import Detections, Truth, det_metrics
from bench.eval.segmentation import confusion
from bench.model.multitask import MultiTask
from bench.store import whole
from bench.train import stop
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

    def metrics(self, *, judge: bool = True) -> dict[str, float]:
        """Return the scores of all tasks, in percent.

        Boxes are judged by pycocotools, or in a thirtieth of its time by `ap`, which agrees but for
        rounding.
        """
        scores: dict[str, float] = {}
        for task, matrices in self.confusions.items():
            scores |= SEG_METRICS[task](np.sum(list(matrices.values()), axis=0))
        if self.truth and judge:
            scores |= det_metrics(self.truth, self.detections)[0]
        elif self.truth:
            matches = match(self.truth, self.detections, len(CLASSES["det"]))
            found = det_scores(average_precision(matches))
            scores |= {name: float(score) for name, score in found.items()}
        return scores

    def constant(self) -> dict[str, float]:
        """Return the scores of the best constant prediction of each map, on the same images."""
        scores: dict[str, float] = {}
        for task, matrices in self.confusions.items():
            scores |= best_constant(np.sum(list(matrices.values()), axis=0), SEG_METRICS[task])[1]
        return scores

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Return what was found as arrays: names and confusions, or boxes by image, by task.

        Images with boxes come in the order of their names, others in that of the frames.
        """
        arrays = {
            task: {
                "names": np.array(list(matrices), dtype=np.str_),
                "confusions": np.array(list(matrices.values()), dtype=np.int32),
            }
            for task, matrices in self.confusions.items()
        }
        if not self.detections:
            return arrays
        fields = ("boxes_xyxy", "classes", "scores")
        images = sorted(self.detections, key=lambda image: image.name)
        arrays["det"] = {
            "names": np.array([image.name for image in images], dtype=np.str_),
            "count": np.array([len(image.scores) for image in images]),
            **{f: np.concatenate([getattr(image, f) for image in images]) for f in fields},
        }
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> "Evaluation":
        """Return what `arrays` was made of, without the ground truth of boxes."""
        found = cls({})
        for task, columns in arrays.items():
            names = columns["names"].tolist()
            if task != "det":
                matrices = columns["confusions"].astype(np.int64)
                found.confusions[task] = dict(zip(names, matrices, strict=True))
                continue
            bounds = pairwise([0, *np.cumsum(columns["count"]).tolist()])
            found.detections = [
                Detections(
                    name=name,
                    boxes_xyxy=columns["boxes_xyxy"][first:last],
                    classes=columns["classes"][first:last],
                    scores=columns["scores"][first:last],
                )
                for name, (first, last) in zip(names, bounds, strict=True)
            ]
        return found

    def save(self, folder: Path) -> None:
        """Write `sem.npz`, `driv.npz` (names, confusions) and `det.npz` (boxes by image).

        Beside the boxes is what became of each, so that AP can be computed without the data.
        """
        folder.mkdir(exist_ok=True)
        arrays = self.arrays()
        if self.truth:
            arrays["det"] |= match(self.truth, self.detections, len(CLASSES["det"])).columns()
        for task, columns in arrays.items():
            with whole(folder / f"{task}.npz") as unfinished, unfinished.open("wb") as stream:
                np.savez_compressed(stream, allow_pickle=False, **columns)


def evaluate(
    model: MultiTask,
    frames: Iterable[Frame],
    sizes: Input,
    batch: int,
    kept: Path | None = None,
) -> Evaluation:
    """Score the model on every frame that carries a label of one of its tasks.

    What is found is saved to the file `kept` every few minutes, at the end, and when the run is
    asked to stop, which raises `Stopped`. Frames that are scored there already, with the same
    weights, are not scored again: a validation after the last step is the final evaluation.
    """
    tasks = tuple(model.heads)
    scored = [frame for frame in frames if set(tasks) & set(frame.tasks())]
    wanted = {frame.name: frame.tasks() for frame in scored}
    weights = _digest(model) if kept else ""
    found, start = _taken_up(kept, weights, tasks)
    clock = stop.Clock()
    predictions = predict(model, scored[start:], wanted, sizes, batch, labels=tasks)
    for done, (stored, outputs) in enumerate(predictions, start + 1):
        for task, output in outputs.items():
            if isinstance(output, Detections):
                found.detections.append(output)
            else:
                label = getattr(stored, task).to(output.device)
                best = output.max(0).indices  # on a CPU in a fraction of argmax's time
                counts = confusion(best, label, len(CLASSES[task]))
                found.confusions[task][stored.name] = counts.cpu().numpy()
        if kept and done % batch == 0 and clock.due():  # a batch is padded to its largest frame
            _keep(found, kept, weights, done)
            clock.saved()
            stop.check()
    if kept and start < len(scored):
        _keep(found, kept, weights, len(scored))
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


def _digest(model: MultiTask) -> str:
    """Return the SHA-256 of all weights and statistics, names included."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()


def _keep(found: Evaluation, kept: Path, weights: str, done: int) -> None:
    """Write what was found on the first `done` frames with these weights."""
    named = {
        f"{task}.{name}": column
        for task, columns in found.arrays().items()
        for name, column in columns.items()
    }
    with whole(kept) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, allow_pickle=False, weights=weights, done=done, **named)


def _taken_up(kept: Path | None, weights: str, tasks: tuple[str, ...]) -> tuple[Evaluation, int]:
    """Return what `_keep` wrote, and on how many frames; nothing where the weights are others."""
    nothing = Evaluation({task: {} for task in tasks if task != "det"}), 0
    if kept is None or not kept.exists():
        return nothing
    try:
        with kept.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            columns = dict(file.items())
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError, KeyError) as error:
        print(f"{kept.name} is damaged ({type(error).__name__}): scoring starts again.")
        return nothing
    if str(columns.pop("weights")) != weights:
        return nothing
    done, by_task = int(columns.pop("done")), {}
    for name, column in columns.items():
        task, _, field_name = name.partition(".")
        by_task.setdefault(task, {})[field_name] = column
    return Evaluation.from_arrays(by_task), done
