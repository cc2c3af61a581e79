"""Finished cells with statistics of their images, as an evaluation leaves them, drawn by hand."""

import numpy as np

from bench.data.classes import CLASSES
from bench.eval.ap import Detections, Truth, average_precision, det_scores, match
from bench.eval.confusion import driv_metrics, sem_metrics
from tests import stored

METRICS = {"sem": sem_metrics, "driv": driv_metrics}


def scored(store, one=None, *, images=40, better=0.0, seed=0, hidden=(), **values):
    """A cell that is done, on streets that are the same whatever the cell.

    `better` is how much better (in logits) than another cell of the streets' `seed` it does; the
    classes `hidden` are shown in three images alone.
    """
    one = one or stored.cell()
    noise = np.random.default_rng([seed, *one.address.encode()])
    metrics, columns = {}, {}
    for task in one.tasks:
        street = np.random.default_rng([seed, len(task)])
        make = _boxes if task == "det" else _maps
        scores, columns[task] = make(task, street, noise, images, better, hidden)
        metrics |= scores
    home = stored.begun(store, one, steps=None, **values)
    (home / "preds").mkdir()
    for task, named in columns.items():
        np.savez_compressed(home / "preds" / f"{task}.npz", **named)
    stored.finish(home, metrics=metrics)
    return home


def names(images):
    """Not in order, as frames need not be."""
    return [f"{(7 * number) % 1000:04d}.jpg" for number in range(images)]


def _maps(task, street, noise, images, better, hidden):
    classes = len(CLASSES[task])
    size = np.round(1000 * np.exp(street.normal(0, 0.5, (images, classes))))
    for name in set(hidden) & set(CLASSES[task]):
        size[3:, CLASSES[task].index(name)] = 0
    ease = street.normal(0.5, 0.5, (images, 1)) + better + noise.normal(0, 0.2, (images, classes))
    right = np.round(size / (1 + np.exp(-ease)))
    matrix = np.round((size - right)[..., None] / (classes + 1)) * np.ones(classes + 1)
    matrix[:, range(classes), range(classes)] = right
    matrix = matrix.astype(np.int32)
    columns = {"names": np.array(names(images)), "confusions": matrix}
    return METRICS[task](matrix.sum(axis=0, dtype=np.int64)), columns


def _boxes(task, street, noise, images, better, hidden):
    truth, found = [], []
    for name in names(images):
        corner = street.uniform(0, 500, (6, 2))
        boxes = np.concatenate([corner, corner + street.uniform(20, 90, (6, 2))], axis=1)
        kinds = street.integers(0, 3, 6)
        truth.append(
            Truth(name=name, boxes_xyxy=boxes, classes=kinds, crowd=np.zeros(6, dtype=bool))
        )
        moved = boxes + noise.normal(0, 6 * np.exp(-better), (6, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found.append(Detections(name=name, boxes_xyxy=moved, classes=kinds, scores=noise.random(6)))
    matches = match(truth, found, len(CLASSES["det"]))
    found.sort(key=lambda image: image.name)
    fields = ("boxes_xyxy", "classes", "scores")
    columns = {
        "names": np.array([image.name for image in found]),
        "count": np.array([len(image.scores) for image in found]),
        **{f: np.concatenate([getattr(image, f) for image in found]) for f in fields},
        **matches.columns(),
    }
    scores = det_scores(average_precision(matches))
    return {name: float(score) for name, score in scores.items()}, columns
