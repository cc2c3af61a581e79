"""Protocols, settings and schemes: values, orders and refusals, without torch."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest

from protocols import ProtocolError
from protocols.override import override
from protocols.presets import protocol
from protocols.schemes import Zeroing
from protocols.settings import SETTINGS, split
from protocols.stages import Protocol


def test_protocols_need_no_torch():
    code = (
        "import protocols.presets, protocols.override, protocols.settings, protocols.schemes, sys"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules or 'numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "False"


def test_the_paper_preset_has_the_papers_values():
    paf = protocol("paf")
    adapt, finetune = paf.stages
    assert (adapt.epochs, adapt.lr, adapt.learns) == (6, 2.5e-4, ("neck",))
    assert (finetune.epochs, finetune.lr) == (30, 2.5e-5)
    assert finetune.learns == ("backbone", "neck", "heads")
    assert (paf.loss.det, paf.loss.sem, paf.loss.driv) == (1.0, 0.7, 0.7)
    assert (paf.optim.batch, paf.optim.weight_decay, paf.optim.clip_norm) == (16, 1e-4, 1.0)
    assert (paf.model.det.proposals, paf.model.seg.queries) == (300, 100)


@pytest.mark.parametrize("preset", ["paper", "demo", "tiny"])
def test_pf_spends_the_epochs_of_paf_on_finetuning_alone(preset):
    pf, paf = protocol("pf", preset), protocol("paf", preset)
    assert [stage.name for stage in pf.stages] == ["finetune"]
    assert pf.stages[0].epochs == sum(stage.epochs for stage in paf.stages)


def test_the_rate_warms_up_linearly_and_decays_where_detectron2_does():
    finetune = protocol("pf").stages[0]
    steps = 83_250
    assert finetune.rate(0, steps) == pytest.approx(2.5e-5 * 0.01)
    assert finetune.rate(500, steps) == pytest.approx(2.5e-5 * 0.505)
    assert finetune.rate(1000, steps) == pytest.approx(2.5e-5)
    assert finetune.rate(round(0.7778 * steps) - 1, steps) == pytest.approx(2.5e-5)
    assert finetune.rate(round(0.7778 * steps), steps) == pytest.approx(2.5e-6)
    assert finetune.rate(steps - 1, steps) == pytest.approx(2.5e-7)


def test_a_protocol_comes_back_from_json_as_it_was():
    for name, heads in (("pf", "transformer"), ("paf", "transformer"), ("paf", "conv")):
        value = protocol(name, "demo", heads)
        assert Protocol.from_dict(json.loads(json.dumps(asdict(value)))) == value


def test_anchors_have_one_size_for_each_level():
    with pytest.raises(ProtocolError, match=r"model.det.anchors is \(8, 16\); right would be five"):
        override(protocol("pf", heads="conv"), "model.det.anchors=8,16")


def test_an_override_replaces_one_value_with_its_own_type():
    paf = protocol("paf")
    assert override(paf, "stages.adapt.epochs=1").stages[0].epochs == 1
    assert override(paf, "stages.adapt.epochs=1").stages[1] == paf.stages[1]
    assert override(paf, "input.train_short=600,720").input.train_short == (600, 720)
    assert override(paf, "proportional_split=true").proportional_split is True
    assert override(paf, "optim.weight_decay=0").optim.weight_decay == 0.0


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("stages.adpt.epochs=1", "Did you mean 'adapt'?"),
        ("model.seg.querys=3", "Did you mean 'queries'?"),
        ("optim.batch=many", "a whole number is needed"),
        ("optim.batch=0", "1 or more"),
        ("optim.clip_norm=nan", "a positive number"),
        ("stages.finetune.lr=nan", "a positive number"),
        ("stages.finetune.learns=", "one part or more"),
        ("stages.finetune.epochs=-1", "0 or more"),
        ("input.train_short=", "one size or more"),
        ("input.pad_to=0", "a multiple of 32"),
        ("pseudo.seg_score=30", "from 0 to 1"),
        ("model.seg=3", "names a group"),
        ("epochs", "is not KEY=VALUE"),
        ("input.contract=imgnet", "Did you mean 'imagenet'?"),
        ("scheme=zeroing", "there is no 'scheme'"),
        ("proportional_split=maybe", "true or false"),
        ("cross_split_policy=drp", "Did you mean 'drop'?"),
    ],
)
def test_an_override_that_cannot_be_says_what_would_be_right(assignment, says):
    with pytest.raises(ProtocolError, match=None) as refusal:
        override(protocol("paf"), assignment)
    assert says in str(refusal.value)


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(ProtocolError, match="Did you mean 'paf'"):
        protocol("pafs")


def labels(sem, both, boxes_only=0, masks_only=0):
    names = iter(f"{i:08x}" for i in range(10**6))
    take = lambda n: {next(names) for _ in range(n)}  # noqa: E731
    sem, both, boxes, masks = take(sem), take(both), take(boxes_only), take(masks_only)
    return {"sem": sem, "driv": both | masks, "det": both | boxes}


def test_disjoint_normal_deals_the_papers_numbers_disjointly():
    pool = labels(sem=7_000, both=63_000)
    shared = set(sorted(pool["driv"])[:3_000])
    pool["sem"] = set(sorted(pool["sem"])[:4_000]) | shared
    dealt = split(SETTINGS["disjoint-normal"], pool, {"sem": set(), "driv": set(), "det": set()})
    assert dealt.counts() == {"sem": 7_000, "driv": 20_000, "det": 10_000}
    assert all(len(tasks) == 1 for tasks in dealt.frames.values())
    assert len(dealt.frames) == 37_000


def test_the_full_setting_keeps_every_label():
    pool = labels(sem=5, both=20, boxes_only=2)
    pool["sem"] |= set(sorted(pool["driv"])[:3])
    dealt = split(SETTINGS["full"], pool, {})
    assert dealt.counts() == {"sem": 8, "driv": 20, "det": 22}
    assert sum(len(tasks) == 3 for tasks in dealt.frames.values()) == 3


def test_a_data_set_too_small_is_refused_unless_proportions_are_asked_for():
    pool = labels(sem=20, both=90)
    with pytest.raises(ProtocolError, match=r"needs 10,000 images with boxes, this folder has 90"):
        split(SETTINGS["disjoint-normal"], pool, {})
    dealt = split(SETTINGS["disjoint-normal"], pool, {}, proportional=True)
    assert dealt.counts() == {"sem": 20, "driv": 60, "det": 30}


def test_a_proportional_split_uses_every_labelled_frame_once():
    pool = labels(sem=20, both=40, boxes_only=9, masks_only=21)
    dealt = split(SETTINGS["disjoint-normal"], pool, {}, proportional=True)
    assert set(dealt.frames) == pool["sem"] | pool["driv"] | pool["det"]
    assert sum(map(len, dealt.frames.values())) == len(dealt.frames)


def test_no_validation_frame_is_trained_on_and_the_leak_is_counted():
    pool = labels(sem=20, both=90)
    leak = set(sorted(pool["sem"])[:3]) | set(sorted(pool["driv"])[:2])
    dealt = split(
        SETTINGS["full"], pool, {"sem": set(), "driv": leak, "det": set()}, proportional=True
    )
    assert not leak & set(dealt.frames)
    assert dealt.leaks == 5


def test_a_leak_can_be_kept_or_refused_and_only_a_kept_one_changes_the_manifest():
    pool = labels(sem=20, both=90)
    leak = set(sorted(pool["driv"])[:2])
    scored = {"sem": set(), "driv": leak, "det": set()}
    deal = lambda val, policy: split(  # noqa: E731
        SETTINGS["full"], pool, val, cross_split_policy=policy
    )
    kept, dropped = deal(scored, "keep"), deal(scored, "drop")
    assert leak <= set(kept.frames)
    assert kept.leaks == dropped.leaks == 2
    assert kept.sha256 != dropped.sha256
    assert "2 that are validation frames too kept" in kept.summary()
    with pytest.raises(ProtocolError, match="2 training frames are validation frames too"):
        deal(scored, "error")
    clean = {task: set() for task in pool}
    assert len({deal(clean, policy).sha256 for policy in ("drop", "keep", "error")}) == 1


def test_disjoint_balance_deals_7000_to_each_task():
    pool = labels(sem=7_000, both=20_000)
    dealt = split(SETTINGS["disjoint-balance"], pool, {})
    assert dealt.counts() == {"sem": 7_000, "driv": 7_000, "det": 7_000}
    assert len(dealt.frames) == 21_000


def test_a_split_depends_on_its_seed_and_on_nothing_else():
    pool = labels(sem=20, both=90)
    first, again, other = (
        split(SETTINGS["disjoint-normal"], pool, {}, seed=seed, proportional=True)
        for seed in (0, 0, 1)
    )
    assert first.to_json() == again.to_json()
    assert first.sha256 == again.sha256 != other.sha256


def order(frames=10, epochs=3, batch=4, seed="0/finetune"):
    return Zeroing(
        frames=tuple(f"f{i}" for i in range(frames)), epochs=epochs, batch=batch, seed=seed
    )


def test_the_papers_run_has_83_250_steps():
    assert order(frames=37_000, epochs=36, batch=16).steps == 83_250


def test_every_epoch_goes_through_every_frame_once():
    zeroing = order(frames=12, epochs=3, batch=4)
    names = [name for step in range(zeroing.steps) for name in zeroing.batch_at(step)]
    epochs = [names[i : i + 12] for i in range(0, 36, 12)]
    assert all(sorted(epoch) == sorted(zeroing.frames) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_are_always_full_and_the_last_epoch_is_completed():
    zeroing = order(frames=10, epochs=3, batch=4)
    batches = [zeroing.batch_at(step) for step in range(zeroing.steps)]
    assert [len(batch) for batch in batches] == [4] * 8
    seen = Counter(name for batch in batches for name in batch)
    assert min(seen.values()) >= 3


def test_a_step_is_the_same_whether_or_not_the_steps_before_were_asked_for():
    whole = [order().batch_at(step) for step in range(order().steps)]
    assert [order().batch_at(step) for step in (5, 2)] == [whole[5], whole[2]]
    assert order(seed="1/finetune").batch_at(0) != whole[0]
