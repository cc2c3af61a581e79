"""The few validation frames that a cell keeps as pictures."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import bdd100k
from bench.data.classes import CLASSES, COLORS, TASKS
from bench.data.sample import decode
from bench.eval import panels
from bench.eval.detection import Detections
from bench.model.multitask import MultiTask
from protocols.presets import protocol

NO_MODEL, SIZES = MultiTask.__new__(MultiTask), protocol("pf", "tiny").input


def frame(name, *tasks):
    labels = {task: object() for task in tasks}
    return bdd100k.Frame(name=name, image=None, size_hw=(720, 1280), **labels)


def test_all_tasks_are_seen_even_where_no_frame_has_all_labels():
    frames = [frame(f"box-{i}", "driv", "det") for i in range(50)]
    frames += [frame(f"map-{i}", "sem") for i in range(5)]
    tasks = [task for one in panels.shown(frames) for task in one.tasks()]
    assert sorted(tasks) == ["det", "det", "driv", "driv", "sem", "sem"]


def test_the_same_frames_are_shown_whatever_their_order_and_how_many_others_there_are():
    frames = [frame(f"{i}", *TASKS) for i in range(40)]
    names = [one.name for one in panels.shown(frames)]
    assert len(set(names)) == panels.FRAMES
    assert names == [one.name for one in panels.shown(reversed(frames))]
    others = [frame(f"x{i}", "det") for i in range(100)]
    assert names == [one.name for one in panels.shown([*others, *frames])]
    assert panels.shown([]) == []


@pytest.fixture
def oracle(monkeypatch):
    """Predictions that are the ground truth, and beside every box one of a low score."""

    def predict(model, frames, wanted, sizes, batch, labels):
        for one in frames:
            stored = decode(one, labels)
            outputs = {}
            for task in set(wanted[one.name]) & set(one.tasks()) - {"det"}:
                ids = getattr(stored, task).long().clamp(max=len(CLASSES[task]) - 1)
                outputs[task] = torch.nn.functional.one_hot(ids).permute(2, 0, 1).float()
            if one.det is not None:
                boxes, classes = stored.boxes_xyxy.numpy(), stored.classes.numpy()
                outputs["det"] = Detections(
                    name=one.name,
                    boxes_xyxy=np.concatenate([boxes, boxes]),
                    classes=np.concatenate([classes, classes]),
                    scores=np.repeat([0.9, panels.SCORE / 2], len(boxes)),
                )
            yield stored, outputs

    monkeypatch.setattr(panels, "predict", predict)


def picture(url):
    kind, _, content = url.partition(";base64,")
    assert kind.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_pictures_hold_the_labels_in_their_colours_and_boxes_where_they_are(
    oracle, streets, tmp_path
):
    val = bdd100k.read(streets).val
    panels.keep(NO_MODEL, val.values(), SIZES, 2, tmp_path)
    told = json.loads((tmp_path / panels.FILE).read_text())
    assert {task for one in told["panels"] for task in one["truth"]} == set(TASKS)
    for one in told["panels"]:
        stored = decode(val[one["name"]], TASKS)
        size_wh = tuple(reversed(one["size_hw"]))
        assert one["size_hw"] == [180, 320]
        assert picture(one["image"]).size == size_wh
        for task in {"sem", "driv"} & set(one["truth"]):
            drawn = np.asarray(picture(one["truth"][task]).convert("RGBA"))
            whole = Image.fromarray(getattr(stored, task).numpy())
            ids = np.asarray(whole.resize(size_wh, Image.Resampling.NEAREST))
            seen = (ids != 255) & ((task != "driv") | (ids != 2))
            assert ((drawn[..., 3] == 255) == seen).mean() > 0.99
            colors = np.array(COLORS[task])[np.where(seen, ids, 0)]
            assert (drawn[seen][:, :3] == colors[seen]).all(1).mean() > 0.99
            again = np.asarray(picture(one["found"][task]).convert("RGBA"))
            assert (again[seen] == drawn[seen]).all()
        if stored.boxes_xyxy is not None:
            boxes = np.array(one["truth"]["det"]).reshape(-1, 5)
            scale = 320 / 1280
            assert boxes[:, :4] == pytest.approx(stored.boxes_xyxy.numpy() * scale, abs=0.06)
            assert boxes[:, 4].tolist() == stored.classes.tolist()
            assert one["found"]["det"] == [[*box, 0.9] for box in one["truth"]["det"]]


def test_a_frame_without_a_label_says_so_and_small_frames_are_not_enlarged(
    oracle, streets, tmp_path
):
    val = list(bdd100k.read(streets).val.values())
    alone = replace(next(one for one in val if one.det is not None), sem=None, driv=None)
    panels.keep(NO_MODEL, [alone], SIZES, 2, tmp_path)
    (one,) = json.loads((tmp_path / panels.FILE).read_text())["panels"]
    assert list(one["truth"]) == ["det"]
    assert panels._small((96, 160)) == (96, 160)


def test_a_cells_panels_take_little_room_and_are_the_same_again(oracle, streets, tmp_path):
    val, texts = bdd100k.read(streets).val, []
    for _ in range(2):
        panels.keep(NO_MODEL, val.values(), SIZES, 2, tmp_path)
        texts.append((tmp_path / panels.FILE).read_bytes())
    assert texts[0] == texts[1]
    assert len(texts[0]) < 200_000
