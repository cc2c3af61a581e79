"""The protocols with an adapter: values, refusals, addresses and keys, without torch."""

import json
from dataclasses import asdict, replace

import pytest

from bench.cell import Cell
from bench.grids import Request, cells, shown
from protocols import ProtocolError
from protocols.override import override
from protocols.presets import PRESETS, PROTOCOLS, protocol, teacher
from protocols.stages import ADAPTERS, Adapter, Protocol

ADDRESS = "clip_rn50-{}-disjoint-normal-self-training-s0"


def cell(name, *overrides, zoo="clip"):
    return cells(Request(zoo=(zoo,), protocols=(name,), overrides=overrides))[0]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_they_adapt_for_one_epoch_and_last_as_long_as_the_others(name, preset):
    value, paf = protocol(name, preset), protocol("paf", preset)
    adapt, finetune = value.stages
    assert (adapt.epochs, finetune.epochs) == (1, sum(s.epochs for s in paf.stages) - 1)
    assert adapt.learns == ("neck", "adapter")
    assert finetune.learns == ("backbone", "neck", "adapter", "heads")
    assert [(s.lr, s.warmup_steps, s.decay_at) for s in value.stages] == [
        (s.lr, s.warmup_steps, s.decay_at) for s in paf.stages
    ]
    assert value.adapter.name == value.name == name
    assert (value.model, value.input, value.optim) == (paf.model, paf.input, paf.optim)


def test_the_papers_values():
    lv = protocol("lv")
    assert [(stage.name, stage.epochs, stage.lr) for stage in lv.stages] == [
        ("adapt", 1, 2.5e-4),
        ("finetune", 35, 2.5e-5),
    ]
    assert lv.stages[0].decay_at == ()
    assert lv.stages[1].decay_at == (0.7778, 0.9259)
    adapter = lv.adapter
    assert (adapter.vectors, adapter.layers, adapter.heads, adapter.dropout) == (16, 3, 4, 0.1)
    assert adapter.driv_names == (
        "directly drivable area",
        "alternatively drivable area",
        "background",
    )


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_comes_back_from_json_as_it_was(name):
    value = protocol(name, "tiny")
    assert Protocol.from_dict(json.loads(json.dumps(asdict(value)))) == value
    one = cell(name, "adapter.layers=2")
    assert Cell.from_resolved(one.resolved()) == one


def test_values_from_before_there_were_adapters_are_read():
    values = asdict(protocol("paf"))
    del values["adapter"]
    assert Protocol.from_dict(values) == protocol("paf")


def test_teachers_have_none():
    assert teacher(protocol("lv")) == teacher(protocol("paf"))


def test_values_are_overridden_with_their_own_types():
    lv = protocol("lv")
    assert override(lv, "adapter.text=clip_rn50").adapter.text == "clip_rn50"
    assert override(lv, "adapter.vectors=8").adapter.vectors == 8
    named = override(lv, "adapter.driv_names=my lane,other lane,rest").adapter.driv_names
    assert named == ("my lane", "other lane", "rest")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("adapter.name=v2l", "there is no 'name'"),
        ("adapter.vectors=0", "adapter.vectors is 0; right would be from 1 to 50"),
        ("adapter.heads=3", "adapter.heads is 3; right would be a divisor of 256"),
        ("adapter.dropout=1", "from 0 to below 1"),
        ("adapter.layers=0", "1 or more"),
        ("adapter.text=", "a checkpoint's name, or own"),
        ("adapter.driv_names=a,b", "three names"),
        ("adapter=lv", "--set adapter names a group: text"),
    ],
)
def test_what_cannot_be_is_refused(assignment, says):
    with pytest.raises(ProtocolError, match=says):
        override(protocol("lv"), assignment)


def test_a_protocol_without_adapter_cannot_learn_one():
    with pytest.raises(ProtocolError, match="without adapter: paf has none"):
        override(protocol("paf"), "stages.adapt.learns=neck,adapter")
    with pytest.raises(ProtocolError, match="Unknown adapter 'lw'"):
        Adapter(name="lw")


def test_an_override_of_the_adapter_goes_to_the_protocols_that_have_one():
    request = Request(
        zoo=("clip",), protocols=("paf", "lv", "prompt"), overrides=("adapter.vectors=8",)
    )
    adapters = [one.protocol.adapter for one in cells(request)]
    assert adapters[0] is None
    assert [one.vectors for one in adapters[1:]] == [8, 8]
    with pytest.raises(ProtocolError, match="pf, paf have no adapter; lv, prompt, v2l have"):
        cells(Request(zoo=("clip",), overrides=("adapter.vectors=8",)))


def test_addresses_say_the_protocol_its_other_epochs_and_by_a_hash_other_values():
    assert [cell(name).address for name in ADAPTERS] == [ADDRESS.format(n) for n in ADAPTERS]
    longer = cell("lv", "stages.adapt.epochs=6", "stages.finetune.epochs=30")
    assert longer.address == ADDRESS.format("lv6+30")
    assert cell("lv", "adapter.layers=2").address.startswith(ADDRESS.format("lv") + "-")
    assert cell("lv", "adapter.text=own").address == ADDRESS.format("lv")
    assert cell("lv", "adapter.text=clip").address == ADDRESS.format("lv")


def test_all_five_are_there_and_two_are_asked_for_by_default():
    assert PROTOCOLS == ("pf", "paf", "lv", "prompt", "v2l")
    assert Request().protocols == ("pf", "paf")


def test_keys_of_the_other_protocols_do_not_know_of_adapters():
    paf = cell("paf")
    given = {"weights": "w", "data": "d", "split": "s"}
    assert paf.key(**given) == paf.key(**given, parts={})
    without = replace(paf, protocol=replace(paf.protocol, adapter=None))
    assert paf.key(**given) == without.key(**given)
    lv = cell("lv")
    keys = {lv.key(**given, parts={"text": text}) for text in ("a", "b")}
    keys |= {cell("lv", "adapter.vectors=8").key(**given, parts={"text": "a"})}
    keys |= {cell("prompt").key(**given, parts={"text": "a"})}
    assert len(keys) == 4


def test_a_table_shows_what_was_asked_for_and_of_pf_or_paf_alone_both():
    def of(*protocols):
        return shown(Request(protocols=protocols))

    assert of("paf") == of("pf") == ("pf", "paf")
    assert of("lv") == ("lv",)
    assert of("lv", "paf") == ("lv", "paf")
