"""Cells with the convolutional heads: they train, resume, teach and are scored like all others."""

import math

import pytest
import torch
from safetensors.torch import load_file

import bench.train.engine
from bench.data.bdd100k import read
from bench.data.loader import training_batches
from bench.grids import Request, cells, teachers
from bench.model.build import build, losses
from bench.plan import Place, plan, write_orders
from bench.pseudo import make_labels
from bench.run import run_cell
from bench.store import Store, read_json, read_lines
from bench.train.engine import train
from protocols.schemes import Zeroing
from tests.train.tiny import Cut, at_call, digests, pull_the_plug
from zoo.catalog import find
from zoo.store import Zoo


def request(**changes):
    asked = {"zoo": ("moco_v2",), "protocols": ("paf",), "heads": "conv", "preset": "tiny"}
    return Request(**(asked | {"schemes": ("zeroing",)} | changes))


def prepared(store, data, **changes):
    """Write the orders of a tiny cell and of all it needs; return their plan."""
    place = Place(store=Store(store), data=str(data), stand_ins=True)
    place.store.prepare()
    planned = plan(cells(request(**changes)), place)
    write_orders(planned, place)
    return planned


@pytest.fixture
def model(stand_ins):
    weights = Zoo(stand_ins).canonical(find("moco_v2"), stand_in=True)
    (cell,) = cells(request())
    return build(cell.protocol, cell.tasks, weights, seed=0)[0]


def test_adapt_leaves_the_heads_as_they_were_and_finetune_changes_all(model, streets, tmp_path):
    (cell,) = cells(request())
    data = read(streets)
    for number, expected in ((0, {"neck"}), (1, {"backbone", "neck", "heads"})):
        stage = cell.protocol.stages[number]
        protocol = cell.protocol.__class__(**{**vars(cell.protocol), "stages": (stage,)})
        before = digests(model)
        home = tmp_path / stage.name
        home.mkdir()
        train(model, losses(protocol, cell.tasks), protocol, data.train, [], 0, home)
        after = digests(model)
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {name for name in before if name.partition(".")[0] in expected}


@pytest.mark.parametrize("reports", [1, 2])
def test_a_run_cut_off_anywhere_ends_as_the_undisturbed_one(
    streets, new_store, monkeypatch, reports
):
    whole, broken = (prepared(new_store(name), streets)[0].folder for name in ("whole", "broken"))
    run_cell(str(whole))
    with monkeypatch.context() as patch:
        at_call(patch, bench.train.engine, "append_line", reports + 1, pull_the_plug)
        with pytest.raises(Cut):
            run_cell(str(broken))
    run_cell(str(broken))
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    first, second = (read_json(home / "result.json")["metrics"] for home in (whole, broken))
    assert first == second
    assert first.keys() >= {"sem/mIoU", "driv/mIoU", "det/mAP"}
    assert any("roi_heads" in name for name in load_file(whole / "model.safetensors"))
    lines = read_lines(whole / "progress.jsonl")
    assert all(math.isfinite(x) and x > 0 for line in lines for x in line["losses"].values())


def test_teachers_have_the_heads_of_their_students_and_label_for_them(streets, new_store):
    planned = prepared(
        new_store(), streets, protocols=("pf",), schemes=("self-training",), zoo=("clip",)
    )
    (student,) = (one for one in planned if one.labels)
    assert [cell.address for cell in teachers(student.cell)] == [
        f"supervised_tv_v1-pf-disjoint-normal-zeroing-conv-{task}-s0-tiny"
        for task in ("sem", "driv", "det")
    ]
    assert student.cell.address == "clip_rn50-pf-disjoint-normal-self-training-conv-s0-tiny"
    for one in planned:
        if one.labels is None:
            run_cell(str(one.folder))
    make_labels(str(student.labels.folder))
    statistics = read_json(student.labels.folder / "statistics.json")
    assert all(0 <= statistics[task]["ignored_percent"] < 100 for task in ("sem", "driv"))
    run_cell(str(student.folder))
    assert (student.folder / "result.json").exists()


def test_a_batch_of_the_demo_is_learned(model, streets):
    (cell,) = cells(request())
    frames = read(streets).train
    order = Zeroing(frames=tuple(frames)[:2], epochs=1, batch=2, seed="0")
    ((batch,),) = training_batches(order, frames, cell.protocol.input, start=0)
    optimiser = torch.optim.AdamW(model.learn(("backbone", "neck", "heads")), lr=1e-3)
    loss, seen = losses(cell.protocol, cell.tasks), []
    for step in range(30):
        torch.manual_seed(step)
        terms = loss(model(batch.images, batch.sizes_hw, batch.boxes_xyxy), batch)
        seen.append({task: term.item() for task, term in terms.items()})
        sum(terms.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
    for task in ("driv", "det"):
        assert 0 < seen[-1][task] < 0.6 * seen[0][task], (task, seen[0], seen[-1])
