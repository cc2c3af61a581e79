"""The figures: what they show is what the DataFrames hold, and their files are repeatable."""

import io
import itertools
import re
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from reports import plots
from reports.drawing import BETTER, HUES, STAND_IN, WORSE, hues
from reports.tables import ReportError
from tests.reports.example_figures import points, results, scores, seconds

FIGURES = {
    "arrows": (plots.arrows, results),
    "curves": (plots.curves, points),
    "classes": (plots.classes, scores),
    "cost": (plots.cost, seconds),
}


def words(figure):
    root = ElementTree.fromstring(plots.save(figure, "svg"))
    return [text for element in root.iter() if (text := (element.text or "").strip())]


def of(figure, zoo, place):
    """What was drawn about a checkpoint, in order."""
    artists = figure.findobj(lambda one: (one.get_gid() or "").startswith(f"zoo.{zoo}.{place}."))
    return sorted(artists, key=lambda one: int(one.get_gid().rsplit(".", 1)[1]))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_bytes_again_in_whatever_order_its_formats_are_made(name):
    draw, frame = FIGURES[name]
    one, other = draw(frame()), draw(frame())
    files = {form: plots.save(one, form) for form in plots.FORMATS}
    assert files == {form: plots.save(other, form) for form in reversed(plots.FORMATS)}
    assert not any(re.search(rb"<dc:date|CreationDate|tEXtSoftware", f) for f in files.values())
    assert files["pdf"].startswith(b"%PDF-")
    picture = Image.open(io.BytesIO(files["png"]))
    assert picture.width == 1440
    assert len(picture.convert("RGBA").getcolors(1 << 24)) > 50


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_where_stand_ins_are_in_it_and_only_then(name):
    draw, frame = FIGURES[name]
    assert STAND_IN in words(draw(frame()))
    assert STAND_IN not in words(draw(frame().assign(stand_in=False)))


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_is_no_figure(name):
    draw, frame = FIGURES[name]
    assert draw(frame().iloc[:0]) is None


def test_arrows_go_from_the_mean_of_pf_to_that_of_paf_and_say_how_far():
    figure = plots.arrows(results())
    for zoo, way, color, said in (
        ("moco_v2", [50, 56], BETTER, "+6.0"),
        ("detco", [40, 37], WORSE, "−3.0"),
        ("clip", [60, 60], None, "0.0"),
    ):
        first, second, line, start, end, text = of(figure, zoo, "sem")
        assert (list(first.get_xdata()), list(second.get_xdata())) == (
            [way[0] - 0.5, way[0] + 0.5],
            [way[1] - 0.5, way[1] + 0.5],
        )
        assert list(line.get_xdata()) == way
        assert (list(start.get_xdata()), list(end.get_xdata())) == (way[:1], way[1:])
        assert text.get_text() == said
        if color:
            assert {line.get_color(), end.get_color(), text.get_color()} == {color}
    assert len(figure.axes) == 3


def test_a_checkpoint_with_one_protocol_alone_has_no_arrow():
    frame = results()
    alone = frame[(frame["zoo"] != "detco") | (frame["protocol"] == "pf")]
    assert "DetCo" not in words(plots.arrows(alone))
    assert plots.arrows(frame[frame["protocol"] == "pf"]) is None
    failed = frame.assign(state=["failed" if p == "paf" else "done" for p in frame["protocol"]])
    assert plots.arrows(failed) is None


def test_small_differences_do_not_look_large():
    frame = results()
    frame["sem/mIoU"] = 10 + frame["sem/mIoU"] / 1000
    left, right = plots.arrows(frame).axes[0].get_xlim()
    assert right - left == pytest.approx(1)


def test_curves_rise_with_their_values_on_one_scale_a_column():
    figure = plots.curves(points())
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Semantic loss",
        "Drivable loss",
        "Detection loss",
        "SS mIoU",
    ]
    for row, zoo in enumerate(("moco_v2", "detco", "clip")):
        lines = of(figure, zoo, "sem/mIoU")
        assert len(lines) == 2 + 2 * 2  # pf twice; paf twice with the end of its first stage
        heights = row + 0.45 - lines[0].get_ydata()
        assert list(heights) == pytest.approx([0.85 * epoch / 6 for epoch in range(1, 7)])
    assert {lines[-1].get_xdata()[0] for lines in [of(figure, "clip", "sem")]} == {1}


def test_the_classes_are_those_with_ground_truth_and_seeds_are_one_dot():
    figure = plots.classes(scores())
    said = words(figure)
    assert "road" in said
    assert "train" not in said
    pf, paf = of(figure, "moco_v2", "sem")
    assert (set(pf.get_xdata()), set(paf.get_xdata())) == ({50.0}, {56.0})


def test_costs_are_stage_behind_stage_in_a_unit_that_reads_well():
    figure = plots.cost(seconds())
    *bars, said = of(figure, "detco", "paf")
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [
        (0, pytest.approx(600 / 3600)),
        (pytest.approx(600 / 3600), pytest.approx(6000 / 3600)),
    ]
    assert said.get_text() == "1.83"
    assert "hours of training a cell, mean over seeds" in words(figure)
    short = seconds().assign(seconds=20.0)
    assert "seconds of training a cell, mean over seeds" in words(plots.cost(short))


def test_other_protocols_get_a_colour_of_their_own():
    frame = points()
    frame["protocol"] = frame["protocol"].replace({"paf": "thaw"})
    assert hues(frame) == {"pf": HUES["pf"], "thaw": HUES["paf"]}
    assert len({*hues(frame).values()}) == 2


def test_an_unknown_format_is_refused():
    with pytest.raises(ReportError, match=r"Unknown format 'jpg'\. Known: svg, pdf, png"):
        plots.save(plots.cost(seconds()), "jpg")


@pytest.mark.parametrize("counts", [(19, 3, 10), (15, 3, 8), (1, 1, 1), (2, 3, 10)])
def test_the_names_of_all_classes_and_the_titles_are_whole_however_many_there_are(counts):
    one = scores().iloc[0]
    frame = pd.DataFrame(
        [
            {**one, "task": task, "name": f"a traffic light {number}", "value": 50.0}
            for task, count in zip(("sem", "driv", "det"), counts, strict=True)
            for number in range(count)
        ]
    )
    figure = plots.classes(frame)
    drawn = [
        text.get_window_extent()
        for ax in figure.axes
        for text in (ax.title, ax.xaxis.label, *ax.get_yticklabels())
        if text.get_text()
    ]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in drawn)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(drawn, 2))
