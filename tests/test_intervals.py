"""Intervals of a finished cell's scores: what they are made of, and when they are made anew."""

import json

import numpy as np
import pytest

from bench import intervals
from bench.data.classes import SEM
from bench.eval.confusion import sem_metrics
from bench.intervals import FILE, resampled
from bench.results import rows
from bench.store import Store, read_result
from reports.compare import resamples
from tests import stored
from tests.scored import scored


def of(home):
    return resampled(home, read_result(home))


def test_scores_are_resampled_by_drawing_the_images_themselves(tmp_path):
    found = of(scored(tmp_path))
    with np.load(next(tmp_path.glob("cells/*/preds/sem.npz"))) as file:
        matrices = file["confusions"][np.argsort(file["names"])].astype(np.int64)
    drawn = resamples(40)[:5]
    for number, times in enumerate(drawn):
        copies = [matrices[i] for i in range(40) for _ in range(times[i])]
        assert len(copies) == 40
        assert found.values["sem/mIoU"][number] == pytest.approx(
            sem_metrics(np.sum(copies, axis=0))["sem/mIoU"]
        )


def test_every_score_has_an_interval_around_it_within_0_and_100(tmp_path):
    home = scored(tmp_path)
    found, metrics = of(home), read_result(home)["metrics"]
    assert found.unknown == {}
    assert len(metrics) == 9
    for metric, value in metrics.items():
        assert 0 <= found.low[metric] < value < found.high[metric] <= 100
    assert found.images["sem"].count == 40
    assert found.images["det"].shown["train"] == 0


def test_they_are_computed_once_and_read_afterwards(tmp_path, monkeypatch):
    home = scored(tmp_path)
    first = of(home)
    monkeypatch.setattr(intervals, "_computed", None)
    second = of(home)
    assert (first.low, first.high, first.images) == (second.low, second.high, second.images)
    for metric, values in first.values.items():
        np.testing.assert_array_equal(values, second.values[metric])


@pytest.mark.parametrize(
    "harm", [lambda file: file.write_bytes(file.read_bytes()[:99]), lambda file: file.unlink()]
)
def test_what_is_damaged_is_computed_again(tmp_path, harm):
    home = scored(tmp_path)
    first = of(home)
    harm(home / FILE)
    assert of(home).low == first.low


def test_another_result_never_gets_the_intervals_of_an_earlier_one(tmp_path):
    home, other = scored(tmp_path), scored(tmp_path, stored.cell(seed=1), better=0.3)
    first = of(home)
    result = {**read_result(other), "key": read_result(home)["key"]}
    (home / "result.json").write_text(json.dumps(result))
    for file in (other / "preds").iterdir():
        (home / "preds" / file.name).write_bytes(file.read_bytes())
    assert of(home).low != first.low
    assert of(home).low == of(other).low


def test_statistics_that_are_not_of_the_result_give_no_interval(tmp_path):
    home, other = scored(tmp_path), scored(tmp_path, stored.cell(seed=1), better=0.3)
    (home / "preds" / "sem.npz").write_bytes((other / "preds" / "sem.npz").read_bytes())
    found = of(home)
    assert found.unknown == {"sem": "preds/sem.npz does not belong to the result's scores"}
    assert "sem/mIoU" not in found.low
    assert "driv/mIoU" in found.low


def test_boxes_without_matches_as_earlier_versions_kept_them_have_no_interval(tmp_path):
    home = scored(tmp_path)
    file = home / "preds" / "det.npz"
    with np.load(file) as kept:
        old = {name: kept[name] for name in ("names", "count", "boxes_xyxy", "classes", "scores")}
    np.savez_compressed(file, **old)
    found = of(home)
    assert "kept no matches of boxes" in found.unknown["det"]
    assert "sem/mIoU" in found.low


def test_ten_images_are_too_few_for_an_interval(tmp_path):
    found = of(scored(tmp_path, images=10))
    assert found.unknown["sem"] == "10 labelled images are too few to tell"
    assert found.low == {}


def test_a_score_that_is_the_same_whatever_is_drawn_has_no_interval(tmp_path):
    found = of(scored(tmp_path, better=9.0))
    assert np.ptp(found.values["det/AP50"]) == 0
    assert "det/AP50" not in found.low
    assert found.unknown == {}


def test_without_its_statistics_a_result_is_shown_all_the_same(tmp_path):
    home = stored.done(tmp_path)
    assert "preds/sem.npz is missing or damaged" in of(home).unknown["sem"]
    assert not (home / FILE).exists()


def test_a_store_that_cannot_be_written_to_has_intervals_too(tmp_path, monkeypatch):
    def refuse(file):
        raise PermissionError(file)

    monkeypatch.setattr(intervals, "whole", refuse)
    home = scored(tmp_path)
    assert of(home).low
    assert not (home / FILE).exists()


def test_reports_get_the_ends_beside_each_score_and_nan_where_unknown(tmp_path):
    known, unknown = stored.cell(), stored.cell(seed=1)
    home = scored(tmp_path, known)
    stored.done(tmp_path, unknown)
    frame, _ = rows([known, unknown], Store(tmp_path))
    first, second = frame.iloc[0], frame.iloc[1]
    assert first["sem/mIoU low"] == of(home).low["sem/mIoU"]
    assert first["det/AP75 low"] < first["det/AP75"] < first["det/AP75 high"]
    assert frame["unknown"].isna().tolist() == [True, False]
    assert second["sem/mIoU"] == 31.25
    assert np.isnan(second["sem/mIoU low"])
    assert "sem: preds/sem.npz is missing" in second["unknown"]


def test_show_says_how_sure_a_score_is_and_what_it_rests_on(say, tmp_path):
    home = scored(tmp_path / "runs", hidden=("train",))
    shown = say("show", home.name)[1]
    found = of(home)
    low, high = found.low["sem/mIoU"], found.high["sem/mIoU"]
    assert f"95 % interval {low:.1f} to {high:.1f}" in shown
    assert "40; only few show train 3: intervals may be too narrow" in shown
    facts = json.loads(say("show", home.name, "--json")[1])
    assert facts["intervals"]["metrics"]["sem/mIoU"] == {"low": low, "high": high}
    assert facts["intervals"]["images"]["sem"]["shown"][SEM[0]] == 40


def test_show_says_why_there_is_no_interval(say, tmp_path):
    home = scored(tmp_path / "runs", images=9)
    assert "9 labelled images are too few to tell" in say("show", home.name)[1]
