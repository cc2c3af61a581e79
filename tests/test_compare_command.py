"""`bench compare`: which cells it pairs, what it says, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocols import VERSION
from tests import stored
from tests.scored import scored

STAND_IN = "‡ stand-in weights or demo data: says nothing about the published checkpoint."


@pytest.fixture
def store(tmp_path):
    return tmp_path / "runs"


def grid(store, better=1.0, zoos=("moco_v2_200ep", "clip_rn50"), seeds=(0,), **values):
    """Two protocols of some checkpoints; paf is better."""
    for zoo in zoos:
        for seed in seeds:
            scored(store, stored.cell(zoo=zoo, name="pf", seed=seed), **values)
            scored(store, stored.cell(zoo=zoo, name="paf", seed=seed), better=better, **values)


def compared(say, *words):
    code, out, err = say("compare", *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)  # no NaN: that is not JSON


def test_two_protocols_are_compared_in_all_that_is_equal_but_for_them(say, store):
    grid(store)
    scored(store, stored.cell(zoo="byol_deepmind", name="pf"))
    told = compared(say, "pf", "paf")
    places = [(one["where"], one["metric"]) for one in told["comparisons"]]
    assert places == [
        (zoo, metric)
        for zoo in ("clip_rn50", "moco_v2_200ep")
        for metric in ("sem/mIoU", "driv/mIoU", "det/mAP")
    ]
    for one in told["comparisons"]:
        assert one["better"] == "paf"
        assert 0 < one["low"] < one["difference"] < one["high"]
        assert one["difference"] == one["second"]["score"] - one["first"]["score"]
        assert one["p"] <= one["p_holm"] < 0.05
    assert "Left out, for want of a partner that is done: byol_deepmind-pf" in told["notes"][-1]


def test_the_table_and_the_sentences_say_the_same(say, store):
    grid(store, zoos=("clip_rn50",))
    one = compared(say, "pf", "paf")["comparisons"][0]
    code, out, _ = say("compare", "pf", "paf")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("clip_rn50  sem/mIoU"))
    ends = f"{one['low']:.1f} to {one['high']:.1f}"
    assert f"+{one['difference']:.1f}" in row
    assert ends in row
    assert row.split()[-1] == "paf"
    assert (
        f"clip_rn50, sem/mIoU: paf is better by {one['difference']:.1f} points, "
        f"95 % interval {ends}, from 40 images."
    ) in out
    assert "One seed each" in out
    assert STAND_IN in out


def test_turned_round_the_same_is_said_with_the_other_sign(say, store):
    grid(store, zoos=("clip_rn50",))
    one, other = (
        compared(say, *names)["comparisons"][0] for names in (("pf", "paf"), ("paf", "pf"))
    )
    assert other["difference"] == -one["difference"]
    assert (other["low"], other["high"]) == (-one["high"], -one["low"])
    assert (other["p"], other["better"]) == (one["p"], "paf")


def test_two_checkpoints_are_compared_under_each_protocol(say, store):
    grid(store, better=0.0)
    told = compared(say, "moco_v2", "clip", "--protocol", "paf")
    assert {one["where"] for one in told["comparisons"]} == {"paf"}
    told = compared(say, "moco_v2", "clip")
    assert {one["where"] for one in told["comparisons"]} == {"pf", "paf"}


def test_two_cells_are_named_by_what_is_different_in_them(say, store):
    grid(store, zoos=("clip_rn50",))
    homes = sorted((store / "cells").iterdir())
    keys = [json.loads((home / "cell.json").read_text())["key"] for home in homes]
    told = compared(say, keys[0][:6], homes[1].name)
    assert [told["comparisons"][0][side]["name"] for side in ("first", "second")] == ["paf", "pf"]
    assert [told["comparisons"][0][side]["keys"] for side in ("first", "second")] == [
        [keys[0]],
        [keys[1]],
    ]


def test_seeds_are_paired_and_told_together(say, store):
    grid(store, zoos=("clip_rn50",), seeds=(0, 1, 2))
    told = compared(say, "pf", "paf")
    assert len(told["comparisons"]) == 3
    for one in told["comparisons"]:
        alone = [seed["difference"] for seed in one["seeds"]]
        assert [seed["seed"] for seed in one["seeds"]] == [0, 1, 2]
        assert one["difference"] == pytest.approx(sum(alone) / 3)
        assert one["better"] == "paf"
        assert "40 images and 3 seeds" in one["text"]
    assert not any("One seed" in note for note in told["notes"])
    assert "by seed" in say("compare", "pf", "paf")[1]


def test_networks_that_are_equal_are_not_told_apart(say, store):
    grid(store, better=0.0)
    for one in compared(say, "pf", "paf")["comparisons"]:
        assert one["better"] is None
        assert "no difference can be told" in one["text"]
        assert "often goes unseen" in one["text"]


def test_too_few_images_and_rare_classes_are_said(say, store):
    grid(store, zoos=("clip_rn50",), images=8)
    told = compared(say, "pf", "paf")
    for one in told["comparisons"]:
        assert (one["low"], one["p"], one["p_holm"], one["better"]) == (None, None, None, None)
        assert "nothing can be told from 8 images" in one["text"]
    assert any("8 labelled images are too few to tell" in note for note in told["notes"])
    out = say("compare", "pf", "paf")[1]
    assert "unknown" in out


def test_classes_that_few_images_show_are_named(say, store):
    grid(store, zoos=("clip_rn50",), hidden=("train", "bicycle"))
    assert (
        "sem: few of 40 images show some classes (train 3, bicycle 3): intervals of scores that "
        "rest on so few may be too narrow."
    ) in compared(say, "pf", "paf")["notes"]


def refused(say, *words):
    code, out, err = say("compare", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


def test_other_data_other_images_and_other_versions_are_refused(say, store):
    def paired(**values):
        first = scored(store, stored.cell(name="pf"))
        return first, scored(store, stored.cell(name="paf"), **values)

    first, second = paired()
    order = json.loads((second / "cell.json").read_text())
    order["data"]["sha256"] = "e" * 64
    (second / "cell.json").write_text(json.dumps(order))
    assert "were scored on different data" in refused(say, "pf", "paf")
    order["data"]["sha256"], order["version"] = "d" * 64, VERSION + 1
    (second / "cell.json").write_text(json.dumps(order))
    err = refused(say, first.name, second.name)
    assert f"are of the protocol versions {VERSION} and {VERSION + 1}" in err


def test_other_images_are_refused(say, store):
    scored(store, stored.cell(name="pf"))
    scored(store, stored.cell(name="paf"), images=39)
    assert "different images of sem (40, 39)" in refused(say, "pf", "paf")


def test_mistakes_are_one_line_that_says_what_would_be_right(say, store):
    grid(store, zoos=("clip_rn50",))
    home = next((store / "cells").iterdir())
    begun = stored.begun(store, stored.cell(zoo="byol_deepmind"))
    assert "compared with itself" in refused(say, home.name, home.name)
    assert "compared with itself" in refused(say, "clip", "clip_rn50")
    assert "Give two cells, two protocols or two checkpoints" in refused(say, "pf", "clip")
    assert "Protocols and checkpoints there: byol_deepmind, clip_rn50" in refused(say, "x", "y")
    assert "'paff' is neither" in refused(say, "pf", "paff")
    assert "it has no scores to compare" in refused(say, home.name, begun.name)
    assert "No cell of lv is done" in refused(say, "pf", "lv")
    assert "No cell of pf is done" in refused(say, "pf", "paf", "--seeds", "7")


def rewritten(home, **metrics):
    """Give a cell other scores; what is None is taken out."""
    result = json.loads((home / "result.json").read_text())
    result["metrics"] |= metrics
    result["metrics"] = {k: v for k, v in result["metrics"].items() if v is not None}
    (home / "result.json").write_text(json.dumps(result))


def test_a_score_that_one_of_two_does_not_have_is_said(say, store):
    grid(store, zoos=("clip_rn50",))
    home = next((store / "cells").glob("*-pf-*"))
    rewritten(home, **{"driv/mIoU": None})
    told = compared(say, "pf", "paf")
    assert {one["metric"] for one in told["comparisons"]} == {"sem/mIoU", "det/mAP"}
    assert f"driv/mIoU is not compared: it is no score of {home.name}." in told["notes"]
    assert "driv/mIoU is not compared" in say("compare", "pf", "paf")[1]


def test_a_score_that_does_not_exist_is_never_shown_as_nan(say, store):
    grid(store, zoos=("clip_rn50",))
    rewritten(next((store / "cells").glob("*-pf-*")), **{"driv/mIoU": float("nan")})
    told = compared(say, "pf", "paf")  # which takes no NaN
    assert {one["metric"] for one in told["comparisons"]} == {"sem/mIoU", "det/mAP"}
    assert any(note.startswith("driv/mIoU does not exist") for note in told["notes"])
    code, out, err = say("compare", "pf", "paf")
    assert (code, err) == (0, "")
    assert "nan" not in out.lower().split()


def test_one_test_is_not_all_tests(say, store):
    for name in ("pf", "paf"):
        scored(store, stored.cell(name=name, tasks=("sem",)))
    (note,) = [one for one in compared(say, "pf", "paf")["notes"] if "Holm" in one]
    assert "p is corrected for the one test shown (Holm)" in note
    assert not any("driv" in one for one in compared(say, "pf", "paf")["notes"])


def test_the_same_on_both_sides_is_said_to_be_the_same(say, store):
    grid(store, zoos=("clip_rn50",))
    for words, kind in (
        (("pf", "pf"), "protocol"),
        (("clip", "clip_rn50"), "checkpoint"),
    ):
        assert refused(say, *words) == (
            f"bench: {words[1]} is compared with itself: both sides are the same {kind}. "
            "Give two that differ.\n"
        )


def test_help_shows_defaults_only_where_there_are_some(say):
    for verb in ("compare", "status", "logs", "retry", "cancel"):
        text = say(verb, "--help")[1]
        for shown in ("[0]", "[pf,paf]", "[all]", "[paper", "[disjoint-normal]"):
            assert shown not in text
    text = " ".join(say("run", "--help")[1].split())
    for shown in ("[0]", "[pf,paf]", "[all]", "[paper; with the demo data, demo]"):
        assert shown in text


def test_teachers_and_students_are_not_paired(say, store):
    scored(store, stored.cell(name="pf", tasks=("sem",)))
    scored(store, stored.cell(name="paf"))
    assert "is equal to one of paf but for the protocol" in refused(say, "pf", "paf")


def test_cells_without_a_task_in_common_have_nothing_to_compare(say, store):
    homes = [scored(store, stored.cell(tasks=(task,))) for task in ("sem", "driv")]
    assert "no score in common" in refused(say, homes[0].name, homes[1].name)


def test_torch_is_not_needed(store):
    grid(store, zoos=("clip_rn50",))
    code = (
        "import sys; from bench.cli import main; sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'mlflow', 'pandas') if name in sys.modules])"
    )
    words = ["compare", "pf", "paf", "--store", str(store)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.splitlines()[-1] == "[]"
