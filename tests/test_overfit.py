"""The proof that the networks learn: the frames and boxes that it is about."""

import pytest

from bench.data import bdd100k
from bench.data.transforms import fit
from benchmarks.overfit import COPIES, FRAMES, SMALLEST_BOX, chosen, lay_out, rising, small
from protocols.settings import SETTINGS, split
from tests.conftest import SHARED

SIZES = small().protocol.input


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The laid-out folder of the frames of bdd_mini, read as any other."""
    if not (SHARED / "bdd_mini").is_dir():
        pytest.skip("../shared/data is not here")
    root = tmp_path_factory.mktemp("eight")
    lay_out(chosen(SHARED / "bdd_mini", SIZES), root)
    return bdd100k.read(root)


def test_eight_frames_with_all_labels_are_trained_on_and_scored(eight):
    dealt = split(SETTINGS["full"], eight.labelled("train"), eight.labelled("val"))
    assert dealt.leaks == 0
    assert set(dealt.frames.values()) == {("sem", "driv", "det")}
    images = {frame.image.resolve() for frame in eight.train.values()}
    assert images == {frame.image.resolve() for frame in eight.val.values()}
    assert (len(images), len(dealt.frames), len(dealt.val)) == (FRAMES, FRAMES * COPIES, FRAMES)


def test_only_boxes_that_the_network_can_see_are_left_and_none_is_moved(eight):
    original = bdd100k.read(SHARED / "bdd_mini")
    whole = {frame.image.resolve(): frame for frame in {**original.train, **original.val}.values()}
    for frame in eight.val.values():
        size_hw = fit(frame.size_hw, SIZES.test_short, SIZES.max_long)
        given = whole[frame.image.resolve()].det.boxes_xyxy
        sides = (given[:, 2:] - given[:, :2]) * [
            new / old for new, old in zip(size_hw[::-1], frame.size_hw[::-1], strict=True)
        ]
        expected = given[sides.min(axis=1) >= SMALLEST_BOX]
        assert frame.det.boxes_xyxy == pytest.approx(expected)
        assert len(expected)


@pytest.mark.parametrize(
    ("scores", "answer"),
    [([0, 1, 5, 9, 8, 12], True), ([0, 9, 30, 30, 30, 29], False), ([40], False)],
)
def test_a_score_rises_while_its_last_third_beats_the_one_before(tmp_path, scores, answer):
    lines = [f'{{"kind": "val", "metrics": {{"det/AP50": {score}}}}}\n' for score in scores]
    (tmp_path / "progress.jsonl").write_text("".join(lines))
    assert rising(tmp_path, "det/AP50") is answer
