"""Cells: addresses, keys, and what is in neither."""

import json

import pytest

from bench import BenchError
from bench.grids import Request, cells, table
from protocols import ProtocolError


def one(**request):
    return cells(Request(**{"zoo": ("moco_v2",), "protocols": ("paf",), **request}))[0]


def key(cell, weights="w", data="d", split="s", needs=()):
    return cell.key(weights=weights, data=data, split=split, needs=needs)


def test_the_address_says_what_was_asked_for():
    assert one().address == "moco_v2_200ep-paf-disjoint-normal-self-training-s0"
    assert one(seeds=(2,), tasks=("driv", "sem"), preset="demo").address == (
        "moco_v2_200ep-paf-disjoint-normal-self-training-sem+driv-s2-demo"
    )


def test_other_epochs_show_in_the_protocols_name():
    short = one(overrides=("stages.adapt.epochs=1", "stages.finetune.epochs=35"))
    assert short.address == "moco_v2_200ep-paf1+35-disjoint-normal-self-training-s0"


def test_other_heads_show_in_the_address_and_bring_their_own_sizes():
    conv = one(heads="conv", preset="demo")
    assert conv.address == "moco_v2_200ep-paf-disjoint-normal-self-training-conv-s0-demo"
    assert key(conv) != key(one(preset="demo"))
    assert type(conv).from_resolved(json.loads(json.dumps(conv.resolved()))) == conv
    anchors = one(heads="conv", overrides=("model.det.anchors=16,32,64,128,256",))
    assert anchors.protocol.model.det.anchors == (16, 32, 64, 128, 256)
    assert len(anchors.address) == len(one(heads="conv").address) + 7
    with pytest.raises(ProtocolError, match="there is no 'queries'"):
        one(heads="conv", overrides=("model.seg.queries=7",))


def test_any_other_value_adds_a_short_hash():
    plain, hot, hotter = (
        one(overrides=rate).address
        for rate in ((), ("stages.adapt.lr=1e-3",), ("stages.adapt.lr=2e-3",))
    )
    assert hot.startswith(plain + "-")
    assert len(hot) == len(plain) + 7
    assert hot != hotter


def test_a_cell_comes_back_from_its_resolved_values():
    cell = one(preset="demo", overrides=("model.seg.queries=7",))
    assert type(cell).from_resolved(json.loads(json.dumps(cell.resolved()))) == cell


def test_the_key_changes_with_everything_that_changes_a_number():
    keys = {
        key(one()),
        key(one(), weights="other"),
        key(one(), split="other"),
        key(one(), data="other"),
        key(one(), needs=("teacher",)),
        key(one(seeds=(1,))),
        key(one(overrides=("stages.adapt.epochs=1",))),
        key(one(overrides=("optim.batch=8",))),
        key(one(overrides=("input.contract=imagenet",))),
        key(one(overrides=("model.mask_loss=quarter",))),
        key(one(preset="demo")),
    }
    assert len(keys) == 11
    assert key(one()) == key(one())


def test_what_changes_no_number_is_not_in_the_key():
    assert key(one()) == key(one(overrides=("val_every=1",)))
    refusing = one(overrides=("cross_split_policy=error",))
    assert (one().address, key(one())) == (refusing.address, key(refusing))
    keeping = one(overrides=("cross_split_policy=keep",))
    assert keeping.address != one().address
    assert key(keeping) != key(one())
    zeroing = one(schemes=("zeroing",))
    scored = one(schemes=("zeroing",), overrides=("pseudo.det_score=0.6",))
    assert (zeroing.address, key(zeroing)) == (scored.address, key(scored))
    assert key(one()) != key(one(overrides=("pseudo.det_score=0.6",)))
    assert "mask_loss" not in one().affecting()["protocol"]["model"]  # as before there was a choice


def test_a_short_name_and_its_lineage_are_one_cell():
    assert key(one()) == key(one(zoo=("moco_v2_200ep",)))


def test_lists_are_a_cross_product():
    asked = Request(zoo=("all",), protocols=("pf", "paf"), seeds=(0, 1, 2))
    assert len(cells(asked)) == 54
    assert len({cell.address for cell in cells(asked)}) == 54


def test_an_override_of_a_stage_leaves_the_protocols_without_it_alone():
    pf, paf = cells(
        Request(zoo=("clip",), protocols=("pf", "paf"), overrides=("stages.adapt.epochs=1",))
    )
    assert pf.protocol_label == "pf"
    assert paf.protocol_label == "paf1+30"


def test_an_override_of_no_protocols_stage_is_refused():
    with pytest.raises(ProtocolError, match="Unknown stage 'adapt'"):
        one(protocols=("pf",), overrides=("stages.adapt.epochs=1",))


def test_table_2_is_nine_checkpoints_under_two_protocols():
    listed = cells(table("2", Request(zoo=("clip",), protocols=("pf",), seeds=(3,))))
    assert len(listed) == 18
    assert {cell.seed for cell in listed} == {3}
    with pytest.raises(BenchError, match="Table '7' is not known"):
        table("7", Request())


@pytest.mark.parametrize(
    "wrong",
    [{"settings": ("full-ish",)}, {"schemes": ("zero",)}, {"heads": "cnn"}, {"tasks": ("depth",)}],
)
def test_what_does_not_exist_is_refused(wrong):
    with pytest.raises(ProtocolError, match="Unknown"):
        one(**wrong)
