"""AP on arrays against pycocotools: equal on every small case, on resamples, and as it is kept."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import BenchError
from bench.eval import ap, detection
from bench.eval.ap import Detections, Matches, Truth
from tests.eval.oracles import DATA, ORACLES, needs_data, read_json
from tests.eval.test_detection import scalabel_detections, scalabel_truth

CLASSES = 3
EXACT = {"rtol": 0, "atol": 1e-9}
AREAS = [(0.0, 1e10), (0.0, 64.0), (64.0, 256.0), (256.0, 1e10)]

# Edges on a coarse grid: overlaps of exactly .5, .6, .75, equal overlaps, areas of exactly 64.
edges = st.integers(0, 6).map(lambda step: 4.0 * step)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda e: [min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3])]
)
kinds = st.integers(0, CLASSES - 1)
true_boxes = st.lists(st.tuples(boxes, kinds, st.booleans()), max_size=6)
scores = st.sampled_from([0.1, 0.5, 0.5 + 1e-9, 0.9])
found_boxes = st.lists(st.tuples(boxes, kinds, scores), max_size=9)
images = st.lists(st.tuples(true_boxes, st.none() | found_boxes), max_size=5)


def columns(rows):
    corners, classes, last = zip(*rows, strict=True) if rows else ((), (), ())
    boxes_xyxy = np.array(corners, dtype=np.float64).reshape(-1, 4)
    return {"boxes_xyxy": boxes_xyxy, "classes": np.array(classes, dtype=np.int64)}, last


def built(pictures):
    """Truth and detections of the images of a strategy, handed in last name first."""
    truth, found = [], []
    for number, (true, predicted) in reversed(list(enumerate(pictures))):
        told, crowd = columns(true)
        truth.append(Truth(name=f"{number:04d}", crowd=np.array(crowd, dtype=bool), **told))
        if predicted is not None:
            told, score = columns(predicted)
            found.append(Detections(name=f"{number:04d}", scores=np.array(score, float), **told))
    return truth, found


def by_pycocotools(truth, found, area=ap.ANY_AREA, classes=CLASSES):
    with patch.object(detection, "ANY_AREA", area):
        return detection.average_precision(truth, found, classes)


@settings(max_examples=400)
@given(images, st.sampled_from(AREAS))
def test_ap_is_that_of_pycocotools(pictures, area):
    truth, found = built(pictures)
    ours = ap.average_precision(ap.match(truth, found, CLASSES, area))
    np.testing.assert_allclose(ours, by_pycocotools(truth, found, area), **EXACT)


def street(rng, name, *, found=40, ties=False):
    """An image with many boxes and detections that lie near them, on crowds or anywhere."""
    n = int(rng.integers(0, 12))
    corners = rng.uniform(0, 300, (n, 2))
    true = np.concatenate([corners, corners + rng.uniform(5, 120, (n, 2))], axis=1)
    kind, crowd = rng.integers(0, CLASSES, n), rng.random(n) < 0.2
    near = rng.integers(0, max(n, 1), found)
    spots = true[near] if n else np.tile([10.0, 10, 50, 60], (found, 1))
    spots = spots + rng.normal(0, 6, (found, 4))
    spots[:, 2:] = np.maximum(spots[:, 2:], spots[:, :2])
    called = np.where(rng.random(found) < 0.8, kind[near] if n else 0, 1)
    score = rng.random(found)
    truth = Truth(name=name, boxes_xyxy=true, classes=kind, crowd=crowd)
    score = np.round(score, 1) if ties else score
    return truth, Detections(name=name, boxes_xyxy=spots, classes=called, scores=score)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("area", [(0.0, 1e10), (32.0**2, 96.0**2)])
def test_crowded_images_with_more_than_a_hundred_detections_score_the_same(ties, area):
    rng = np.random.default_rng(3)
    pairs = [street(rng, f"{i}", found=int(rng.integers(0, 400)), ties=ties) for i in range(12)]
    truth, found = map(list, zip(*pairs, strict=True))
    ours = ap.average_precision(ap.match(truth, found, CLASSES, area))
    np.testing.assert_allclose(ours, by_pycocotools(truth, found, area), **EXACT)
    assert 1 < np.nanmean(ours) < 99


def test_matching_in_small_blocks_finds_the_same(monkeypatch):
    rng = np.random.default_rng(4)
    truth, found = map(list, zip(*(street(rng, f"{i}") for i in range(9)), strict=True))
    whole = ap.match(truth, found, CLASSES)
    weights = rng.integers(0, 3, (7, 9))
    at_once = ap.average_precision(whole, weights)
    monkeypatch.setattr(ap, "BLOCK", 10)
    in_parts = ap.match(truth, found, CLASSES)
    np.testing.assert_array_equal(in_parts.right, whole.right)
    np.testing.assert_array_equal(in_parts.ignored, whole.ignored)
    np.testing.assert_array_equal(ap.average_precision(whole, weights), at_once)


def resampled(truth, found, times):
    """The images so often as they are drawn, each copy as an image of its own."""
    names = {image.name: i for i, image in enumerate(sorted(truth, key=lambda image: image.name))}
    copies = [
        [
            type(image)(**{**vars(image), "name": f"{image.name}#{copy}"})
            for image in images
            for copy in range(times[names[image.name]])
        ]
        for images in (truth, found)
    ]
    return copies[0], copies[1]


def test_ap_of_resamples_is_what_pycocotools_finds_on_the_images_drawn():
    rng = np.random.default_rng(5)
    truth, found = map(list, zip(*(street(rng, f"{i:02d}") for i in range(20)), strict=True))
    del found[3:6]
    weights = rng.multinomial(20, np.full(20, 1 / 20), size=12)
    ours = ap.average_precision(ap.match(truth, found, CLASSES), weights)
    theirs = [by_pycocotools(*resampled(truth, found, times)) for times in weights]
    np.testing.assert_allclose(ours, theirs, **EXACT)
    assert np.ptp(np.nanmean(ours, axis=(1, 2))) > 1


def test_weights_of_one_are_no_weights_and_a_class_that_is_not_drawn_has_no_ap():
    rng = np.random.default_rng(6)
    truth, found = map(list, zip(*(street(rng, f"{i}") for i in range(4)), strict=True))
    matches = ap.match(truth, found, CLASSES)
    np.testing.assert_array_equal(
        ap.average_precision(matches, np.ones(4)), ap.average_precision(matches)
    )
    assert np.isnan(ap.average_precision(matches, np.zeros((2, 4)))).all()


def test_what_is_kept_of_matches_gives_them_back_in_the_order_of_names():
    rng = np.random.default_rng(7)
    truth, found = map(list, zip(*(street(rng, f"{i}") for i in range(5)), strict=True))
    matches = ap.match(truth, found, CLASSES)
    kept = {
        "names": np.array([image.name for image in truth]),
        "count": np.array([len(image.scores) for image in found]),
        "classes": matches.classes,
        "scores": matches.scores,
        **matches.columns(),
    }
    back = Matches.from_columns(kept)
    for name, value in vars(matches).items():
        np.testing.assert_array_equal(getattr(back, name), value)


def test_an_image_that_is_twice_in_the_ground_truth_is_refused():
    image, _ = street(np.random.default_rng(0), "a")
    with pytest.raises(BenchError, match="twice"):
        ap.match([image, image], [], CLASSES)


@needs_data
def test_real_frames_score_as_by_pycocotools():
    folder = ORACLES / "bdd_mini_open_val"
    frames = read_json(DATA / "bdd_mini/labels/det_20/det_val.json")
    truth = [scalabel_truth(frame) for frame in frames]
    found = [scalabel_detections(frame) for frame in read_json(folder / "det_pred.json")]
    ours = ap.average_precision(ap.match(truth, found, 10))
    np.testing.assert_allclose(ours, by_pycocotools(truth, found, classes=10), **EXACT)
