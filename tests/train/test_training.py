"""Stages change exactly their parts, and a run that was cut off ends as if it had not been."""

import json

import pytest
import torch

from bench import BenchError
from bench.data.bdd100k import read
from bench.grids import Request, cells
from bench.model.build import build, losses
from bench.plan import Place, plan, write_orders
from bench.run import run_cell
from bench.store import Store, read_json, read_lines
from bench.train.engine import train
from tests.train.tiny import digests, prepared
from zoo.catalog import find
from zoo.store import Zoo


@pytest.fixture
def parts(streets, stand_ins, tmp_path):
    """A model on the small data set and a function that trains it by some protocol."""
    cell = cells(Request(zoo=("moco_v2",), protocols=("paf",), preset="tiny"))[0]
    weights = Zoo(stand_ins).canonical(find("moco_v2"), stand_in=True)
    model, _ = build(cell.protocol, cell.tasks, weights, seed=0)
    data = read(streets)

    def run(stages):
        protocol = cell.protocol.__class__(**{**vars(cell.protocol), "stages": stages})
        frames, val = data.train, data.val.values()
        return train(model, losses(protocol, cell.tasks), protocol, frames, val, 0, tmp_path)

    return model, cell.protocol.stages, run


def test_adapt_changes_the_neck_and_nothing_else(parts):
    model, (adapt, _), run = parts
    before = digests(model)
    run((adapt,))
    after = digests(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.startswith("neck.")}


def test_finetune_changes_every_parameter_and_every_statistic(parts):
    model, (_, finetune), run = parts
    before = digests(model)
    run((finetune,))
    after = digests(model)
    same = {name for name in before if before[name] == after[name]}
    assert same == {"scale", "shift"}  # how pixels are normalised, no statistic of the network's


def test_in_adapt_the_backbone_builds_no_graph_and_heads_get_no_gradients(parts):
    model, (adapt, _), _ = parts
    learning = model.learn(adapt.learns)
    assert {id(p) for p in learning} == {id(p) for p in model.neck.parameters()}
    assert not model.backbone.training
    assert model.heads["sem"].training
    seen = []
    model.neck.register_forward_pre_hook(lambda _, maps: seen.extend(maps[0]))
    images = torch.zeros(1, 3, 96, 160, dtype=torch.uint8)
    outputs = model(images, torch.tensor([[90, 160]]))
    assert not any(one.requires_grad for one in seen)
    sum(value.sum() for head in outputs.values() for value in head.values()).backward()
    assert all(p.grad is None for p in [*model.backbone.parameters(), *model.heads.parameters()])
    assert all(p.grad is not None for p in model.neck.parameters())


def test_every_checkpoint_starts_with_the_same_random_neck_and_heads(stand_ins):
    def start(zoo, seed):
        cell = cells(Request(zoo=(zoo,), protocols=("paf",), preset="tiny"))[0]
        weights = Zoo(stand_ins).canonical(find(zoo), stand_in=True)
        model = build(cell.protocol, cell.tasks, weights, seed)[0]
        return {**digests(model.neck), **digests(model.heads)}, digests(model.backbone)

    moco, moco_trunk = start("moco_v2", 0)
    clip, clip_trunk = start("clip", 0)
    other, _ = start("moco_v2", 1)
    assert moco == clip
    assert moco_trunk != clip_trunk
    assert moco != other


def test_the_normalisation_is_that_of_the_checkpoint_unless_asked_otherwise(stand_ins):
    def first_pixel(zoo, overrides=()):
        request = Request(zoo=(zoo,), protocols=("pf",), preset="tiny", overrides=overrides)
        cell = cells(request)[0]
        weights = Zoo(stand_ins).canonical(find(zoo), stand_in=True)
        model = build(cell.protocol, cell.tasks, weights, 0)[0]
        seen = []
        model.backbone.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
        images = torch.full((1, 3, 96, 160), 255, dtype=torch.uint8)
        model(images, torch.tensor([[90, 160]]))
        assert (seen[0][0, :, 90:] == 0).all()
        return seen[0][0, :, 0, 0].tolist()

    imagenet = [(1 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    clip = [
        (1 - m) / s
        for m, s in (
            (0.48145466, 0.26862954),
            (0.4578275, 0.26130258),
            (0.40821073, 0.27577711),
        )
    ]
    assert first_pixel("moco_v2") == pytest.approx(imagenet)
    assert first_pixel("clip") == pytest.approx(clip)
    assert first_pixel("clip", ("input.contract=imagenet",)) == pytest.approx(imagenet)


def test_two_runs_of_one_cell_in_two_stores_are_equal_bit_for_bit(streets, new_store):
    homes = [prepared(new_store(name), streets) for name in ("first", "second")]
    for home in homes:
        run_cell(str(home))
    first, second = (read_json(home / "result.json") for home in homes)
    assert first["metrics"] == second["metrics"]
    assert first["key"] == second["key"]
    weights = [(home / "model.safetensors").read_bytes() for home in homes]
    assert weights[0] == weights[1]
    assert not (homes[0] / "state.pt").exists()
    assert sorted(p.name for p in (homes[0] / "preds").iterdir()) == [
        "det.npz",
        "driv.npz",
        "sem.npz",
    ]


def test_a_loss_that_is_not_finite_stops_the_cell_before_its_state_is_saved(streets, new_store):
    home = prepared(new_store(), streets, overrides=("stages.adapt.lr=1e30",))
    with pytest.raises(BenchError, match=r"Loss is not finite .* stage \w+, step \d+ \(sem"):
        run_cell(str(home))
    for name in ("state.pt", "state.prev.pt"):
        if (home / name).exists():
            saved = torch.load(home / name, weights_only=True)["model"]
            assert all(tensor.isfinite().all() for tensor in saved.values())
    assert (home / "error.txt").read_text().startswith("BenchError: Loss is not finite")


def test_an_update_that_ruins_the_weights_is_never_scored(streets, new_store):
    ruin = ("stages.finetune.epochs=1", "stages.finetune.lr=1e38", "optim.batch=12")
    more = ("stages.finetune.warmup_steps=0", "optim.weight_decay=1e6")
    home = prepared(new_store(), streets, protocol="pf", overrides=(*ruin, *more))
    with pytest.raises(BenchError, match="Weights are not finite after stage finetune, step 1"):
        run_cell(str(home))
    assert not (home / "state.pt").exists()
    assert not (home / "result.json").exists()


def test_a_finished_cell_is_left_as_it_is(streets, new_store):
    home = prepared(new_store(), streets)
    (home / "result.json").write_text("{}")
    run_cell(str(home))
    assert json.loads((home / "result.json").read_text()) == {}
    assert not (home / "attempts.jsonl").exists()


def test_validation_within_a_stage_changes_no_number(streets, new_store):
    plain = prepared(new_store("plain"), streets)
    curves = prepared(new_store("curves"), streets, overrides=("val_every=1",))
    for home in (plain, curves):
        run_cell(str(home))
    assert (
        read_json(plain / "result.json")["metrics"] == read_json(curves / "result.json")["metrics"]
    )
    kinds = [line["kind"] for line in read_lines(curves / "progress.jsonl")]
    assert kinds.count("val") == 3


def test_a_single_task_cell_trains_and_scores_that_task_alone(streets, new_store):
    store = new_store()
    request = Request(zoo=("clip",), protocols=("pf",), preset="tiny", tasks=("driv",))
    place = Place(store=Store(store), data=str(streets), stand_ins=True)
    place.store.prepare()
    planned = plan(cells(request), place)
    write_orders(planned, place)
    run_cell(str(planned[0].folder))
    metrics = read_json(planned[0].folder / "result.json")["metrics"]
    assert {name.partition("/")[0] for name in metrics} == {"driv"}
