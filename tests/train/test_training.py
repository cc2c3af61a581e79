"""Stages change exactly their parts, and a run that was cut off ends as if it had not been."""

import hashlib
import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

import bench.train.engine
from bench import BenchError
from bench.data.bdd100k import read
from bench.grids import Request, cells
from bench.model.build import build, losses
from bench.plan import Place, plan, write_orders
from bench.run import run_cell
from bench.store import Store, read_json, read_lines
from bench.train import state
from bench.train.engine import train
from zoo.catalog import find
from zoo.store import Zoo


def digests(module):
    """Return a hash of every parameter and buffer by name."""
    return {
        name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
        for name, tensor in module.state_dict().items()
    }


def prepared(store, data, protocol="paf", zoo="moco_v2", overrides=()):
    """Write the orders of one tiny cell and return its folder."""
    request = Request(
        zoo=(zoo,),
        protocols=(protocol,),
        schemes=("zeroing",),
        preset="tiny",
        overrides=overrides,
    )
    place = Place(store=Store(store), data=str(data), stand_ins=True)
    place.store.prepare()
    planned = plan(cells(request), place)
    write_orders(planned, place)
    return planned[0].folder


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
    assert [name for name in before if before[name] == after[name]] == []


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


class Cut(Exception):
    """Stands for the plug being pulled."""


def cut_after(monkeypatch, lines):
    """Make the next run stop after it has reported so often."""
    left = iter(range(lines))
    append = bench.train.engine.append_line

    def append_or_stop(file: Path, value: dict) -> None:
        if next(left, None) is None:
            raise Cut
        append(file, value)

    monkeypatch.setattr(bench.train.engine, "append_line", append_or_stop)


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


@pytest.mark.parametrize("reports", [1, 2])
def test_a_run_cut_off_anywhere_ends_as_the_undisturbed_one(
    streets, new_store, monkeypatch, reports
):
    whole, broken = (prepared(new_store(name), streets) for name in ("whole", "broken"))
    run_cell(str(whole))
    with monkeypatch.context() as patch:
        cut_after(patch, reports)
        with pytest.raises(Cut):
            run_cell(str(broken))
    assert (broken / "state.pt").exists()
    assert "Cut" in (broken / "error.txt").read_text()
    run_cell(str(broken))
    results = [read_json(home / "result.json") for home in (whole, broken)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert not (broken / "error.txt").exists()
    lines = [read_lines(home / "progress.jsonl") for home in (whole, broken)]
    steps = [[(line["stage"], line["step"], line["losses"]) for line in file] for file in lines]
    assert steps[0] == steps[1]


def test_a_damaged_state_falls_back_to_the_one_before(streets, new_store, monkeypatch, capsys):
    whole, broken = (prepared(new_store(name), streets) for name in ("whole", "broken"))
    run_cell(str(whole))
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        with pytest.raises(Cut):
            run_cell(str(broken))
    damaged = (broken / "state.pt").read_bytes()
    (broken / "state.pt").write_bytes(damaged[: len(damaged) // 2])
    run_cell(str(broken))
    assert "state.pt is damaged" in capsys.readouterr().out
    results = [read_json(home / "result.json") for home in (whole, broken)]
    assert results[0]["metrics"] == results[1]["metrics"]


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


def test_states_that_cannot_be_read_are_not_started_over_in_silence(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(BenchError, match="Remove it to start that cell again"):
        state.restore(tmp_path)


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


def test_saving_keeps_the_state_before_and_leaves_nothing_unfinished(tmp_path):
    for step in (1, 2, 3):
        point = state.State(stage=0, step=step, model={}, optimiser={}, seconds={})
        state.save(point, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.prev.pt", "state.pt"]
    assert state.restore(tmp_path).step == 3
    (tmp_path / "state.pt").unlink()
    assert state.restore(tmp_path).step == 2
    shutil.rmtree(tmp_path)
    assert state.restore(tmp_path) is None


def test_ctrl_c_during_a_save_stays_a_ctrl_c_and_leaves_a_state(tmp_path):
    model = {str(i): torch.randn(400, 400) for i in range(60)}

    def save_for_ever():
        while True:
            point = state.State(stage=0, step=1, model=model, optimiser={}, seconds={})
            state.save(point, tmp_path)

    for delay_s in (0.05, 0.11, 0.17, 0.23):
        timer = threading.Timer(delay_s, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            save_for_ever()
        timer.join()
    assert state.restore(tmp_path).step == 1
