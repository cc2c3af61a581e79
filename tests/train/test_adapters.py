"""Protocols with an adapter: what learns in which stage, whose text encoder, and whole cells."""

from dataclasses import replace

import pytest
import torch

import bench.train.engine
from bench import BenchError
from bench.data.bdd100k import read
from bench.grids import Request, cells, teachers
from bench.model.build import build, losses
from bench.plan import Place, plan, write_orders
from bench.results import rows
from bench.run import run_cell
from bench.store import Store, read_json, read_lines, write_json
from bench.train.engine import train
from bench.weights import parts_files
from protocols.presets import PROTOCOLS
from tests.train.tiny import Cut, at_call, digests, pull_the_plug
from zoo.catalog import ZooError, find
from zoo.clip_parts import PARTS, canonical
from zoo.stand_in import write_stand_in
from zoo.store import Zoo

CLIP = "clip_rn50"
ADAPTERS = ("lv", "prompt", "v2l")


@pytest.fixture(scope="module")
def shelf(stand_ins):
    """The stand-ins, with the parts of CLIP's that adapters use."""
    shelf = Zoo(stand_ins)
    for part in PARTS:
        canonical(shelf, find(CLIP), part, stand_in=True)
    return shelf


@pytest.fixture
def store(shelf, new_store):
    """A function that makes a store in which those are there already."""
    return new_store


def cell(protocol, zoo="clip", overrides=(), preset="tiny", **more):
    request = Request(
        zoo=(zoo,),
        protocols=(protocol,),
        schemes=("zeroing",),
        preset=preset,
        overrides=overrides,
        **more,
    )
    return cells(request)[0]


def network(one, shelf, seed=0):
    parts = {
        part: canonical(shelf, find(name), part, stand_in=True) for part, name in one.parts.items()
    }
    weights = shelf.canonical(find(one.zoo), stand_in=True)
    return build(one.protocol, one.tasks, weights, seed, parts)[0]


def begins(names, *prefixes):
    return {name for name in names if name.startswith(prefixes)}


# What no stage may touch: the text encoder, how pixels are normalised, how class names are said.
FIXED = ("text.", "scale", "shift", *(f"adapter.prompts.{x}" for x in ("first", "rest_", "mask")))
FIXED += ("adapter.prompts.positions", "adapter.prompts.ends")
LEARNS = {"adapt": ("neck.", "adapter."), "finetune": ("backbone.", "neck.", "adapter.", "heads.")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_stage_changes_exactly_its_parts(protocol, shelf, streets, tmp_path):
    one = cell(protocol)
    model, data = network(one, shelf), read(streets)
    names = set(digests(model))
    assert bool(begins(names, "adapter.")) == (protocol in ADAPTERS)
    assert bool(begins(names, "backbone.pool.")) == (protocol == "v2l")
    for stage in one.protocol.stages:
        # At this rate every tensor that an optimiser has is another one after the first step.
        fast = replace(stage, epochs=1, lr=1e-2, warmup_steps=0, decay_at=())
        alone = replace(one.protocol, stages=(fast,))
        home = tmp_path / stage.name
        home.mkdir()
        before = digests(model)
        train(model, losses(alone, one.tasks), alone, data.train, [], 0, home)
        after = digests(model)
        changed = {name for name in names if before[name] != after[name]}
        assert changed == begins(names, *LEARNS[stage.name]) - begins(names, *FIXED), stage.name


def test_what_learns_in_adapt_is_neck_prompts_projection_and_decoder(shelf):
    one = cell("lv")
    model = network(one, shelf)
    learning = {id(parameter) for parameter in model.learn(one.protocol.stages[0].learns)}
    named = {n.rpartition(".")[0] for n, p in model.named_parameters() if id(p) in learning}
    tops = {".".join(name.split(".")[:2]) for name in named}
    assert tops == {
        "neck.laterals",
        "neck.outputs",
        "adapter.prompts",
        "adapter.project",
        "adapter.layers",
    }
    assert not any(parameter.requires_grad for parameter in model.text.parameters())
    assert not model.backbone.training


@pytest.mark.parametrize(
    ("preset", "width", "features"),
    [("tiny", 64, 128), ("demo", 512, 1024), ("paper", 512, 1024)],
)
def test_every_preset_has_its_sizes(preset, width, features, shelf):
    one = cell("lv", preset=preset)
    model, sizes = network(one, shelf), one.protocol.adapter
    c = one.protocol.model.channels
    # Two attentions, an MLP four times as wide and three norms; the projection; the prompts.
    layers = sizes.layers * (2 * (4 * c * c + 4 * c) + (8 * c * c + 5 * c) + 6 * c)
    learned = layers + features * c + c + 3 * sizes.vectors * width
    assert sum(parameter.numel() for parameter in model.adapter.parameters()) == learned
    assert preset != "paper" or learned == 3_160_320 + 262_400 + 3 * 8_192
    assert (model.text.width, model.text.features) == (width, features)


def test_p5_is_replaced_behind_the_neck_and_the_finer_maps_stay(shelf):
    with_adapter, without = (network(cell(protocol), shelf) for protocol in ("lv", "paf"))
    seen = []
    for model in (with_adapter.eval(), without.eval()):
        model.heads["sem"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.inference_mode():
            model(torch.full((1, 3, 96, 160), 90).byte(), torch.tensor([[90, 160]]))
    assert [torch.equal(a, b) for a, b in zip(*seen, strict=True)] == [True, True, True, False]


def test_convolutional_heads_take_the_adapter_too(shelf):
    one = cell("lv", heads="conv")
    assert one.address == "clip_rn50-lv-disjoint-normal-zeroing-conv-s0-tiny"
    model = network(one, shelf)
    model.learn(one.protocol.stages[0].learns)
    model(torch.full((1, 3, 96, 160), 90).byte(), torch.tensor([[90, 160]]), [torch.zeros(0, 4)])


def test_beginnings_depend_on_the_seed_and_on_names_alone(shelf):
    def begin(protocol, seed=0, tasks=("sem", "driv", "det")):
        model = network(cell(protocol, tasks=tasks), shelf, seed)
        return digests(model)

    lv, other = begin("lv"), begin("lv", seed=1)
    driv = "adapter.prompts.vectors.driv"
    assert lv[driv] == begin("prompt")[driv] == begin("lv", tasks=("driv",))[driv]
    assert lv[driv] != other[driv]
    assert lv[driv] != lv["adapter.prompts.vectors.sem"]
    paf = begin("paf")
    assert all(lv[name] == paf[name] for name in paf)


# -- Whose text encoder --------------------------------------------------------------------------


def test_another_backbone_needs_a_text_encoder_that_is_named():
    with pytest.raises(ZooError, match=r"moco_v2_200ep is no CLIP.*--set adapter\.text=clip_rn50"):
        cell("lv", zoo="moco_v2")
    named = cell("lv", zoo="moco_v2", overrides=("adapter.text=clip",))
    assert named.parts == {"text": CLIP}
    assert named == cell("lv", zoo="moco_v2", overrides=("adapter.text=clip_rn50",))
    with pytest.raises(ZooError, match="moco_v2_200ep is no CLIP checkpoint: it has no attention"):
        cell("v2l", zoo="moco_v2", overrides=("adapter.text=clip_rn50",))
    with pytest.raises(ZooError, match="clip_rn50_timm is CLIP's image tower alone"):
        cell("lv", zoo="clip_rn50_timm")


@pytest.mark.parametrize(
    "name", ["clip_rn50", "clip_rn50_openclip_yfcc15m", "clip_rn50_openclip_cc12m"]
)
def test_clip_checkpoints_bring_their_own(name):
    assert cell("lv", zoo=name).parts == {"text": name}
    assert cell("v2l", zoo=name).parts == {"text": name, "pool": name}
    own = cell("lv", zoo=name, overrides=(f"adapter.text={name}",))
    assert own.address == cell("lv", zoo=name).address


def test_timms_image_tower_has_a_pool_and_takes_its_text_from_elsewhere():
    one = cell("v2l", zoo="clip_rn50_timm", overrides=("adapter.text=clip",))
    assert one.parts == {"text": CLIP, "pool": "clip_rn50_timm"}


def test_teachers_have_no_adapter_and_are_those_of_every_other_student():
    student, plain = (
        cells(Request(zoo=("clip",), protocols=(protocol,), preset="tiny"))[0]
        for protocol in ("lv", "pf")
    )
    assert teachers(student) == teachers(plain)
    assert {teacher.protocol.adapter for teacher in teachers(student)} == {None}


# -- Cells ---------------------------------------------------------------------------------------


def planned(root, data, *given, stand_ins=True, **more):
    place = Place(store=Store(root), data=str(data), stand_ins=stand_ins)
    place.store.prepare()
    (one,) = plan([cell(*given, **more)], place)
    write_orders([one], place)
    return one


def test_the_hash_of_the_text_weights_is_in_the_key(store, streets, tmp_path, monkeypatch):
    moco = {"zoo": "moco_v2", "overrides": ("adapter.text=clip",)}
    one = planned(store("one"), streets, "lv", **moco).order
    assert one["resolved"]["protocol"]["adapter"]["text"] == CLIP
    assert one["parts"]["text"]["name"] == CLIP
    assert one["parts"]["text"]["stand_in"]
    # A file of its own in the place of the stand-in: nothing else is another.
    row = replace(find(CLIP), sha256="")
    (tmp_path / "zoo").mkdir()
    write_stand_in(row, tmp_path / "zoo" / row.file)
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setattr("bench.weights.find", lambda name: replace(find(name), sha256=""))
    other = planned(store("other"), streets, "lv", **moco).order
    assert not other["parts"]["text"]["stand_in"]
    assert other["weights"]["sha256"] == one["weights"]["sha256"]
    assert other["address"] == one["address"]
    assert other["key"] != one["key"]


def test_another_text_encoder_makes_a_finished_cell_stale(store, streets, monkeypatch):
    root = store()
    home = planned(root, streets, "lv").folder
    order = read_json(home / "cell.json")
    order["parts"]["text"]["sha256"], order["key"] = "0" * 64, "1" * 64
    old = home.with_name(home.name[:-8] + "1" * 8)
    home.rename(old)
    write_json(old / "cell.json", order)
    write_json(old / "result.json", {})
    assert planned(root, streets, "lv").reason == "stale: text weights changed since 11111111"


def test_a_text_encoder_that_is_not_here_is_asked_for_before_anything_starts(store, streets):
    with pytest.raises(BenchError, match=r"clip: RN50\.pt from https://"):
        planned(
            store(),
            streets,
            "lv",
            zoo="moco_v2",
            overrides=("adapter.text=clip",),
            stand_ins=False,
        )


@pytest.mark.parametrize(
    ("protocol", "zoo", "overrides"),
    [
        ("lv", "clip", ()),
        ("prompt", "clip", ()),
        ("v2l", "clip", ()),
        ("lv", "moco_v2", ("adapter.text=clip_rn50",)),
    ],
)
def test_a_cell_trains_and_is_scored(protocol, zoo, overrides, store, streets):
    one = planned(store(), streets, protocol, zoo=zoo, overrides=overrides)
    run_cell(str(one.folder))
    result = read_json(one.folder / "result.json")
    assert {name.partition("/")[0] for name in result["metrics"]} == {"sem", "driv", "det"}
    assert [stage["name"] for stage in result["stages"]] == ["adapt", "finetune"]
    assert result["weights"]["text"] == {
        "name": CLIP,
        "sha256": one.order["parts"]["text"]["sha256"],
        "stand_in": True,
    }
    assert set(parts_files(one.order)) == ({"text", "pool"} if protocol == "v2l" else {"text"})
    frame, _ = rows([one.cell], Store(one.folder.parent.parent))
    assert frame["state"].tolist() == ["done"]
    assert frame["stand_in"].tolist() == [True]


def test_a_run_cut_off_in_either_stage_ends_as_the_undisturbed_one(store, streets, monkeypatch):
    whole = planned(store("whole"), streets, "lv").folder
    run_cell(str(whole))
    for reports in (1, 2):
        broken = planned(store(f"broken{reports}"), streets, "lv").folder
        with monkeypatch.context() as patch:
            at_call(patch, bench.train.engine, "append_line", reports + 1, pull_the_plug)
            with pytest.raises(Cut):
                run_cell(str(broken))
        assert (broken / "state.pt").exists()
        run_cell(str(broken))
        results = [read_json(home / "result.json") for home in (whole, broken)]
        assert results[0]["metrics"] == results[1]["metrics"]
        assert (whole / "model.safetensors").read_bytes() == (
            broken / "model.safetensors"
        ).read_bytes()
        lines = [read_lines(home / "progress.jsonl") for home in (whole, broken)]
        steps = [[(line["stage"], line["step"], line["losses"]) for line in file] for file in lines]
        assert steps[0] == steps[1]
