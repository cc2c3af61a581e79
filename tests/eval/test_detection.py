"""Detection scores: hand-worked cases and the numbers of COCO, Scalabel and the BDD100K toolkit."""

import itertools
import math

import numpy as np
import pytest

from bench import BenchError
from bench.data.classes import DET, DET_ALIASES, DET_CROWD
from bench.eval.detection import Detections, Truth, average_precision, det_metrics
from tests.eval.oracles import DATA, ORACLES, needs_data, read_json

EXACT = 5e-5  # four decimals
CAR, PEDESTRIAN, LIGHT = DET.index("car"), DET.index("pedestrian"), DET.index("traffic light")


def truth(name, boxes, classes, crowd=None):
    return Truth(
        name=name,
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        classes=np.array(classes, dtype=np.int64),
        crowd=np.array(crowd or [False] * len(boxes), dtype=bool),
    )


def detections(name, boxes, classes, scores):
    return Detections(
        name=name,
        boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        classes=np.array(classes, dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
    )


def scalabel_boxes(frame):
    """Edges, class and crowd of a Scalabel frame's boxes, whose x2 and y2 are inclusive."""
    labels = [label for label in frame.get("labels") or [] if "box2d" in label]
    boxes = [
        [box["x1"], box["y1"], box["x2"] + 1, box["y2"] + 1]
        for box in (label["box2d"] for label in labels)
    ]
    names = [str(DET_ALIASES.get(label["category"], label["category"])) for label in labels]
    crowd = [
        label["category"] in DET_CROWD or label.get("attributes", {}).get("crowd", False)
        for label in labels
    ]
    return labels, boxes, [DET.index(DET_CROWD.get(name, name)) for name in names], crowd


def scalabel_truth(frame):
    _, boxes, classes, crowd = scalabel_boxes(frame)
    return truth(frame["name"], boxes, classes, crowd)


def scalabel_detections(frame):
    labels, boxes, classes, _ = scalabel_boxes(frame)
    return Detections(
        name=frame["name"],
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        classes=np.array(classes, dtype=np.int64),
        scores=np.array([label["score"] for label in labels], dtype=np.float64),
    )


def frame(name, *labels):
    keys = ("x1", "y1", "x2", "y2")
    return {
        "name": name,
        "labels": [
            {"category": category, "box2d": dict(zip(keys, box, strict=True)), **rest}
            for category, box, rest in labels
        ],
    }


def test_detection_on_a_category_outside_the_ten_is_neither_right_nor_wrong():
    annotated = frame(
        "a.jpg",
        ("pedestrian", (10, 10, 59, 109), {}),
        ("other vehicle", (200, 200, 299, 299), {}),
        ("traffic light", (400, 20, 409, 39), {}),
    )
    predicted = frame(
        "a.jpg",
        ("pedestrian", (10, 10, 59, 109), {"score": 0.9}),
        ("car", (200, 200, 299, 299), {"score": 0.8}),
    )
    metrics, per_class = det_metrics([scalabel_truth(annotated)], [scalabel_detections(predicted)])
    assert per_class["pedestrian"] == pytest.approx(100.0)
    assert math.isnan(per_class["car"])
    assert per_class["traffic light"] == 0.0
    assert metrics["det/mAP"] == pytest.approx(50.0)


def test_detection_beside_a_crowd_region_does_not_lower_the_score():
    image = truth("a", [[0, 0, 50, 50], [100, 100, 300, 300]], [CAR, CAR], [False, True])
    on_crowd = detections("a", [[120, 120, 160, 160], [0, 0, 50, 50]], [CAR, CAR], [0.9, 0.8])
    assert det_metrics([image], [on_crowd])[1]["car"] == pytest.approx(100.0)
    off_crowd = detections("a", [[400, 0, 440, 40], [0, 0, 50, 50]], [CAR, CAR], [0.9, 0.8])
    assert det_metrics([image], [off_crowd])[1]["car"] == pytest.approx(50.0)


def test_overlap_of_two_thirds_is_found_up_to_iou_65():
    image = truth("a", [[0, 0, 30, 10]], [CAR])
    found = detections("a", [[0, 0, 20, 10]], [CAR], [0.5])
    metrics, per_class = det_metrics([image], [found])
    assert metrics == pytest.approx({"det/mAP": 40.0, "det/AP50": 100.0, "det/AP75": 0.0})
    assert list(per_class) == list(DET)


def test_image_without_predictions_counts_as_empty_and_strangers_are_dropped():
    images = [truth(name, [[0, 0, 10, 10]], [CAR]) for name in ("a", "b")]
    found = [
        detections("b", [[0, 0, 10, 10]], [CAR], [0.4]),
        detections("c", [[50, 50, 90, 90]], [CAR], [0.9]),
    ]
    # One of two cars: precision 1 up to recall 0.5, which is 51 of the 101 points.
    assert det_metrics(images, found)[0]["det/AP50"] == pytest.approx(100 * 51 / 101)


def test_later_prediction_for_an_image_replaces_the_earlier():
    image = truth("a", [[0, 0, 10, 10]], [CAR])
    wrong = detections("a", [[50, 50, 90, 90]], [CAR], [0.9])
    right = detections("a", [[0, 0, 10, 10]], [CAR], [0.5])
    assert det_metrics([image], [wrong, right])[0]["det/mAP"] == pytest.approx(100.0)
    assert det_metrics([image], [right, wrong])[0]["det/mAP"] == 0.0


def test_only_the_hundred_best_detections_of_an_image_count():
    image = truth("a", [[0, 0, 10, 10]], [CAR])
    noise = [[500, 500, 510, 510]] * 100
    boxes, classes = [*noise, [0, 0, 10, 10]], [CAR] * 101
    last = detections("a", boxes, classes, [0.9] * 100 + [0.1])
    assert det_metrics([image], [last])[0]["det/mAP"] == 0.0
    hundredth = detections("a", boxes[1:], classes[1:], [0.9] * 99 + [0.1])
    assert det_metrics([image], [hundredth])[0]["det/mAP"] == pytest.approx(1.0)


def test_order_of_the_images_handed_in_does_not_matter():
    images = [truth(name, [[0, 0, 10, 10]], [CAR]) for name in "abc"]
    found = [
        detections("a", [[0, 0, 10, 10]], [CAR], [0.5]),
        detections("b", [[0, 50, 10, 60]], [CAR], [0.5]),
        detections("c", [[0, 0, 10, 10]], [CAR], [0.5]),
    ]
    scores = {
        det_metrics(list(some), list(others))[0]["det/mAP"]
        for some, others in zip(
            itertools.permutations(images), itertools.permutations(found[::-1]), strict=True
        )
    }
    assert len(scores) == 1


def test_no_detections_at_all_score_zero():
    image = truth("a", [[0, 0, 10, 10]], [CAR])
    zero = {"det/mAP": 0.0, "det/AP50": 0.0, "det/AP75": 0.0}
    assert det_metrics([image], [])[0] == zero
    assert det_metrics([image], [detections("a", [], [], [])])[0] == zero


@pytest.mark.parametrize(
    "images", [[], [truth("a", [], [])], [truth("a", [[0, 0, 9, 9]], [CAR], [True])]]
)
@pytest.mark.parametrize("found", [[], [detections("a", [[0, 0, 9, 9]], [PEDESTRIAN], [0.5])]])
def test_no_ground_truth_at_all_scores_nan(images, found):
    metrics, per_class = det_metrics(images, found)
    assert all(math.isnan(score) for score in [*metrics.values(), *per_class.values()])


def test_box_without_area_matches_nothing():
    image = truth("a", [[5, 5, 5, 5], [0, 0, 10, 10]], [LIGHT, LIGHT])
    found = detections("a", [[5, 5, 5, 5], [0, 0, 10, 10]], [LIGHT, LIGHT], [0.9, 0.8])
    assert 0.0 < det_metrics([image], [found])[0]["det/mAP"] < 50.0


def test_image_named_twice_in_the_ground_truth_is_refused():
    image = truth("a", [[0, 0, 10, 10]], [CAR])
    with pytest.raises(BenchError, match="twice"):
        det_metrics([image, image], [])


def test_scoring_writes_nothing_to_the_terminal(capfd):
    det_metrics([truth("a", [[0, 0, 10, 10]], [CAR])], [])
    assert capfd.readouterr() == ("", "")


def assert_scores(metrics, expected):
    assert metrics["det/mAP"] == pytest.approx(expected["AP"], abs=EXACT)
    assert metrics["det/AP50"] == pytest.approx(expected["AP50"], abs=EXACT)
    assert metrics["det/AP75"] == pytest.approx(expected["AP75"], abs=EXACT)


def assert_classes(per_class, expected):
    scores = [math.nan if expected[name] is None else expected[name] for name in DET]
    np.testing.assert_allclose([per_class[name] for name in DET], scores, atol=EXACT)


@needs_data
def test_video_frames_score_as_scalabel_s_own_tests_say():
    folder = ORACLES / "scalabel_det"
    expected = read_json(folder / "expected.json")
    metrics, per_class = det_metrics(
        [scalabel_truth(frame) for frame in read_json(folder / "gt.json")],
        [scalabel_detections(frame) for frame in read_json(folder / "pred.json")],
    )
    assert_scores(metrics, expected["published"])
    assert_classes(per_class, expected["published_per_class_AP"])


@needs_data
def test_real_frames_score_as_the_official_toolkit():
    folder = ORACLES / "bdd_mini_open_val"
    expected = read_json(folder / "expected.json")["det"]["summary"]
    metrics, per_class = det_metrics(
        [
            scalabel_truth(frame)
            for frame in read_json(DATA / "bdd_mini/labels/det_20/det_val.json")
        ],
        [scalabel_detections(frame) for frame in read_json(folder / "det_pred.json")],
    )
    assert_scores(metrics, expected)
    assert_classes(per_class, {name: expected[f"AP/{name}"] for name in DET})


def coco_edges(annotation):
    x, y, width, height = annotation["bbox"]
    return [x, y, x + width, y + height]


@needs_data
def test_coco_s_example_results_score_as_published():
    folder = ORACLES / "coco_fakebbox100"
    gt, results = read_json(folder / "gt.json"), read_json(folder / "dt.json")
    expected = read_json(folder / "expected.json")["pycocotools"]
    index = {category["id"]: place for place, category in enumerate(gt["categories"])}
    images, found = [], []
    for number in (image["id"] for image in gt["images"]):
        name = f"{number:012d}"
        here = [one for one in gt["annotations"] if one["image_id"] == number]
        images.append(
            truth(
                name,
                [coco_edges(one) for one in here],
                [index[one["category_id"]] for one in here],
                [bool(one["iscrowd"]) for one in here],
            )
        )
        here = [one for one in results if one["image_id"] == number]
        found.append(
            Detections(
                name=name,
                boxes_xyxy=np.array([coco_edges(one) for one in here]).reshape(-1, 4),
                classes=np.array([index[one["category_id"]] for one in here], dtype=np.int64),
                scores=np.array([one["score"] for one in here], dtype=np.float64),
            )
        )
    precision = average_precision(images, found, len(index))
    stats = expected["stats"]
    assert np.nanmean(precision) == pytest.approx(100 * stats["AP"], abs=EXACT)
    assert np.nanmean(precision[:, 0]) == pytest.approx(100 * stats["AP50"], abs=EXACT)
    assert np.nanmean(precision[:, 5]) == pytest.approx(100 * stats["AP75"], abs=EXACT)
    for category in gt["categories"]:
        published = expected["per_class_AP"][category["name"]]
        score = precision[index[category["id"]]].mean()
        wanted = math.nan if published is None else 100 * published
        assert score == pytest.approx(wanted, abs=EXACT, nan_ok=True)
