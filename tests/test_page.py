"""The page of a store: what is in it, and what a real browser makes of it without a network."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.again import again
from bench.cli import bench as command
from bench.data.classes import CLASSES
from bench.eval.ap import match
from bench.eval.confusion import sem_metrics
from bench.eval.detection import Detections, Truth, det_metrics
from bench.figures import curves, per_class
from bench.grids import cells
from bench.selectors import asked
from bench.store import read_json, write_json
from tests import stored
from tests.browser import Browser

ZOO = {"supervised_tv_v1": 40.0, "moco_v2_200ep": 50.0, "clip_rn50": 45.0}
REPORT = ("report", "--preset", "tiny", "--scheme", "zeroing", "--seeds", "0,1")


def scores(base):
    values = dict.fromkeys(("sem/pACC", "driv/mIoU", "driv/pACC", "det/AP50", "det/AP75"), 60.0)
    return {**values, "sem/mIoU": base, "det/mAP": base / 2}


def url(picture):
    stream = io.BytesIO()
    picture.save(stream, "png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def panels(color):
    whole = url(Image.new("RGB", (32, 18), color))
    frame = {"size_hw": [18, 32], "image": url(Image.new("RGB", (32, 18), "gray"))}
    boxes = [[2.0, 3.0, 9.0, 9.0, 2]]
    return {
        "score": 0.3,
        "panels": [
            {
                **frame,
                "name": "both",
                "truth": {"sem": whole, "det": boxes},
                "found": {"sem": whole, "driv": whole, "det": [[*boxes[0], 0.75]]},
            },
            {**frame, "name": "one", "truth": {"driv": whole}, "found": {"sem": whole, "det": []}},
        ],
    }


def predictions(home):
    """Write what a cell's scoring leaves; return the scores of the same predictions."""
    (home / "preds").mkdir()
    counts = np.eye(19, 20, dtype=np.int32)[None] * [[[9]], [[3]]]
    counts[0, 0, 1] = 6
    np.savez(home / "preds" / "sem.npz", names=["a", "b"], confusions=counts)
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    truth = [Truth(name="a", boxes_xyxy=boxes, classes=np.array([2, 9]), crowd=np.zeros(2, bool))]
    found = [
        Detections(
            name="a",
            boxes_xyxy=boxes * [[1, 1, 1, 0.8]],
            classes=np.array([2, 9]),
            scores=np.array([0.9, 0.5]),
        )
    ]
    fields = ("boxes_xyxy", "classes", "scores")
    columns = {"names": ["a"], "count": [2], **{f: getattr(found[0], f) for f in fields}}
    np.savez(home / "preds" / "det.npz", **columns, **match(truth, found, 10).columns())
    return sem_metrics(counts.sum(0).astype(np.int64)), det_metrics(truth, found)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Three checkpoints, both protocols, two seeds; one cell failed, and one was never begun."""
    root = tmp_path_factory.mktemp("page") / "runs"
    for zoo, base in ZOO.items():
        for name in ("pf", "paf"):
            for seed in (0, 1):
                one = stored.cell(zoo, name, seed=seed)
                if (zoo, name, seed) == ("clip_rn50", "paf", 1):
                    continue
                if (zoo, name, seed) == ("clip_rn50", "pf", 1):
                    stored.failed(root, one, error="BenchError: </script><b>loss</b> is nan")
                    continue
                gain = 6.0 if name == "paf" else 0.0
                home = stored.done(root, one, metrics=scores(base + gain + seed))
                write_json(home / "panels.json", panels("red" if name == "pf" else "blue"))
                scales = {"C2": 0.5, "C3": 0.25, "C4": 0.125, "C5": base / 100}
                report = {
                    **dict.fromkeys(("file", "container", "layout"), "x"),
                    "matched": 265,
                    "required": 265,
                    "dropped": {},
                    "warnings": [],
                }
                write_json(home / "load_report.json", {**report, "activation": scales})
                predictions(home)
    return root


@pytest.fixture(scope="module")
def page(store, tmp_path_factory) -> Path:
    """The page, written by the command in a process of its own, which must not import torch."""
    out = tmp_path_factory.mktemp("out")
    words = [*REPORT, "--store", str(store), "--zoo", ",".join(ZOO), "--format", "html,svg"]
    code = (
        "import sys; from bench.cli import main; sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--out", str(out), "--data", "/data/demo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ["page", "arrows", "curves", "classes", "cost"]
    assert [Path(line).stem for line in done.stdout.splitlines()] == names
    return out / "page.html"


def test_figures_without_a_folder_to_write_them_into_are_refused(say, store):
    code, out, err = say(*REPORT, "--store", store, "--format", "markdown,svg,png")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "bench: Figures are files: --format svg,png needs --out DIR."


def test_an_empty_store_has_a_page_too(say, tmp_path):
    code, out, _ = say("report", "--store", tmp_path, "--format", "html")
    assert code == 0
    assert out.startswith("<!doctype html>")
    assert "<svg" not in out


def test_the_scores_of_the_classes_are_those_that_the_means_are_of(tmp_path):
    sem, (det, by_class) = predictions(tmp_path)
    found = per_class(tmp_path)
    assert np.nanmean(list(found["sem"].values())) == pytest.approx(sem["sem/mIoU"])
    assert np.nanmean(list(found["det"].values())) == pytest.approx(det["det/mAP"])
    assert found["det"] == pytest.approx(by_class, nan_ok=True)
    assert list(found["sem"]) == list(CLASSES["sem"])


def test_statistics_that_are_damaged_are_named_once_and_cost_no_other_figure(say, tmp_path):
    store, out = tmp_path / "runs", tmp_path / "out"
    homes = [stored.done(store, stored.cell(name=name)) for name in ("pf", "paf")]
    for home in homes:
        predictions(home)
    file = homes[0] / "preds" / "det.npz"
    file.write_bytes(file.read_bytes()[:99])
    words = ("--protocol", "pf,paf", "--zoo", "moco_v2", "--format", "html,svg", "--out", out)
    code, listed, err = say(*REPORT, *words, "--store", store)
    assert code == 0, err
    assert err == f"Left out of the figures of classes: {file} is damaged.\n"
    assert {Path(line).name for line in listed.splitlines()} >= {"page.html", "classes.svg"}
    assert set(per_class(homes[0])) == {"sem"}
    assert set(per_class(homes[1])) == {"sem", "det"}


def test_curves_count_epochs_over_all_stages_and_long_ones_are_thinned(tmp_path):
    home = stored.done(tmp_path, stored.cell(name="paf"))
    found = [point for point in curves(home) if point["curve"] == "det"]
    epochs = sum(stored.cell(name="paf").protocol.stages[i].epochs for i in (0, 1))
    assert found[-1]["epoch"] == epochs
    assert {point["begins"] for point in found} == {1}
    lines = [json.loads(line) for line in (home / "progress.jsonl").read_text().splitlines()]
    assert [point["value"] for point in found] == [line["losses"]["det"] for line in lines]
    many = [{**lines[-1], "step": step, "steps": 5000} for step in range(1, 5001)]
    (home / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in many))
    thinned = [point for point in curves(home) if point["curve"] == "det"]
    assert len(thinned) == 120


@pytest.mark.parametrize(
    "words",
    [
        ("--zoo", "clip", "--protocol", "lv", "--seeds", "3"),
        ("--zoo", "swav", "--protocol", "paf", "--set", "optim.batch=8", "--preset", "demo"),
        ("--zoo", "byol", "--protocol", "paf", "--set", "stages.adapt.epochs=2", "--heads", "conv"),
        ("--zoo", "simclr", "--protocol", "pf", "--tasks", "sem", "--setting", "full"),
        ("--zoo", "clip", "--protocol", "v2l", "--set", "adapter.vectors=8", "--scheme", "zeroing"),
        ("--zoo", "moco_v1", "--protocol", "pf", "--set", "input.train_short=600,700"),
        ("--zoo", "moco_v1", "--protocol", "pf", "--set", "proportional_split=true"),
    ],
)
def test_the_command_that_makes_a_number_again_asks_for_the_same_cell(words, tmp_path):
    def meant(words):
        with command.commands["plan"].make_context("plan", list(words)) as context:
            return cells(asked({**context.params, "stand_ins": False})[0])

    where = ("--data", "/data/bdd100k", "--store", str(tmp_path))
    (one,) = meant([*words, *where])
    told = again({**stored.order(one), "data": {"drawn": False, "name": "b", "root": "/data/b"}})
    assert told.startswith("bench run --zoo ")
    first, *rest = told.split()[2:]
    assert meant([w for w in [first, *rest] if w != "--stand-ins"]) == [one]


def test_the_grid_counts_the_seeds_that_are_done_of_those_asked_for(page):
    seeds = re.findall(
        r'<td class="number" data-value="(\d)">(\d(?: of 2)?)</td>', page.read_text()
    )
    assert [said for _, said in seeds if "of" in said] == ["1 of 2", "1 of 2"]
    assert all(said.startswith(value) for value, said in seeds)


def test_the_notes_below_the_grid_say_what_bold_and_underlined_mean(page):
    below = page.read_text().partition('<table class="grid">')[2].partition("</section>")[0]
    assert 'class="number best"' in below
    assert "<li>Best in bold, second underlined.</li>" in below


def test_the_page_tells_its_preset_and_data_above_all_numbers(page):
    above = page.read_text().partition('<div class="card">')[0]
    assert "<span>Preset tiny, data demo (drawn)</span>" in above


def cards(say, store, *words):
    code, out, _ = say(*REPORT, "--store", store, *words, "--format", "html")
    assert code == 0
    return [
        " ".join(re.sub("<[^>]*>", " ", card).split())
        for card in re.findall(r'<div class="card">(.*?)</div>', out, re.DOTALL)
    ]


def test_a_card_names_all_rows_that_print_the_best_number_and_counts_the_cells(say, tmp_path):
    for zoo, base in {**ZOO, "swav_800ep": 49.98}.items():
        for seed in (0, 1):
            metrics = {**scores(base), "driv/mIoU": 60.0, "det/mAP": base / 2 + 0.3 * seed}
            stored.done(tmp_path, stored.cell(zoo, "pf", seed=seed), metrics=metrics)
    words = ("--zoo", f"{','.join(ZOO)},swav", "--data", "/data/demo", "--protocol", "pf,paf")
    sem, driv, det = cards(say, tmp_path, *words)
    assert "50.0‡ best: MoCo-v2 pf , SwAV pf (a tie) 8 of 16 cells" in sem
    assert "60.0‡ best: 4 rows tie 8 of 16 cells" in driv
    assert "best: MoCo-v2 pf , SwAV pf (a tie)" in det


def test_a_card_is_of_rows_without_missing_seeds_where_there_are_any(say, tmp_path):
    one = stored.cell("clip_rn50", "pf", seed=0)
    stored.done(tmp_path, one, metrics=scores(70.0))
    words = ("--zoo", "clip,swav", "--data", "/data/demo")
    assert "best: CLIP pf 1 of 8 cells" in cards(say, tmp_path, *words)[0]
    for seed in (0, 1):
        stored.done(tmp_path, stored.cell("swav_800ep", "pf", seed=seed), metrics=scores(40.0))
    assert "40.0‡ best: SwAV pf 3 of 8 cells" in cards(say, tmp_path, *words)[0]


def test_the_page_refers_to_nothing_outside_itself(page):
    text = page.read_text()
    outside = re.findall(r'(?:src|href|action)="(?!data:|#)([^"]*)"|url\((?!#|data:)', text)
    assert outside == []
    assert set(re.findall(r"https?://[^\"' <)]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_what_failed_is_told_as_text(page):
    text = page.read_text()
    assert "<b>loss</b>" not in text
    assert text.count("</script>") == 2


def test_the_same_store_makes_the_same_page(say, store, page):
    words = (*REPORT, "--store", store, "--zoo", ",".join(ZOO), "--data", "/data/demo")
    code, out, _ = say(*words, "--format", "html")
    assert code == 0
    assert out == page.read_text() + "\n"


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


@pytest.fixture
def seen(browser, page):
    """The page, freshly opened from the file system, in light."""
    browser.requests.clear()
    browser.errors.clear()
    browser.look(1280, 900)
    browser.open(page)
    yield browser
    assert browser.errors == []
    assert set(browser.requests) == {page.as_uri()}


def column(seen, number):
    cells = f"[...r.cells][{number}].textContent.trim()"
    return seen.run(
        f"[...document.querySelectorAll('.grid tbody tr:not([hidden])')].map(r => {cells})"
    )


def test_it_opens_from_the_file_system_without_network_and_without_errors(seen):
    assert seen.run("document.title") == "bench · drawn demo data"
    assert seen.run("document.querySelectorAll('.plot svg').length") == 4
    assert len(column(seen, 0)) == 2 * len(ZOO)
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert seen.run(loaded)


def test_a_column_sorts_both_ways_and_then_as_it_was_and_what_is_missing_is_last(seen):
    asked = column(seen, 0)
    header = ".grid thead tr:nth-child(2) th"  # SS mIoU is the first of them
    for state in ("descending", "ascending"):
        seen.click(f"{header} button")
        assert seen.run(f"document.querySelector('{header}').getAttribute('aria-sort')") == state
        numbers = [float(re.match(r"[\d.]+", text)[0]) for text in column(seen, 3)]
        assert numbers == sorted(numbers, reverse=state == "descending")
        assert len(set(numbers)) == 6
    seen.click(f"{header} button")
    assert seen.run(f"document.querySelector('{header}').getAttribute('aria-sort')") is None
    assert column(seen, 0) == asked
    seen.click(".controls [name=seeds]")
    seen.click(f"{header} button")
    assert sorted(column(seen, 3)[-2:]) == ["·", "✗¹"]


def test_words_families_and_protocols_filter_rows_and_figures(seen):
    seen.run("document.querySelector('.controls [name=words]').focus()")
    seen.type("moco paf")
    assert column(seen, 1) == ["paf‡"]
    assert seen.run("document.querySelector('.controls output').textContent") == "1 of 6 rows"
    dimmed = "document.querySelectorAll('.arrows [data-zoo=\"{}\"].dim').length"
    assert seen.run(dimmed.format("clip_rn50")) > 0
    assert seen.run(dimmed.format("moco_v2_200ep")) == 0
    seen.click(".controls [type=reset]")
    assert len(column(seen, 0)) == 6
    seen.click(".controls [name=protocol]")
    assert {text[:3] for text in column(seen, 1)} == {"paf"}
    family = "document.querySelector('.controls [name=family]')"
    seen.run(f"{family}.value = 'vision-language'")
    seen.run(f"{family}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    assert len(column(seen, 0)) == 1
    seen.click(".controls [name=seeds]")
    assert column(seen, 2) == ["0", "1"]


def test_the_theme_follows_the_system_until_the_button_says_otherwise(seen, page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = seen.run(ground)
    seen.look(1280, 900, dark=True)
    dark = seen.run(ground)
    assert dark != light
    seen.click("#theme")
    assert seen.run(ground) == light
    seen.open(page)
    assert seen.run(ground) == light  # kept
    seen.look(1280, 900)
    seen.click("#theme")
    assert seen.run(ground) == dark
    ink = "[...document.querySelectorAll('.plot svg text')].map(t => getComputedStyle(t).fill)"
    assert set(seen.run(ink)) >= {"rgb(230, 237, 243)", "rgb(154, 164, 174)"}
    assert "rgb(31, 35, 40)" not in seen.run(ink)
    seen.run("localStorage.clear()")


def test_a_number_opens_where_it_is_from_by_the_keyboard_alone(seen, store):
    number = ".grid tbody tr:not([hidden]) .origin"
    seen.run(f"document.querySelector('{number}').focus()")
    seen.press("Enter", "\r")
    assert seen.run("document.getElementById('about').open")
    said = seen.run("document.getElementById('about').textContent")
    home = next((store / "cells").glob("supervised_tv_v1-pf-*-s0-*"))
    told = read_json(home / "result.json")
    for fact in (
        "Supervised · pf · sem/mIoU · 40.5",
        told["weights"]["sha256"],
        told["data"]["sha256"],
        f"splits/s.json, sha256 {'s' * 64}",
        told["key"],
        told["provenance"]["code"],
        told["provenance"]["command"],
        "bench run --zoo supervised_tv_v1 --protocol pf",
        "C2 0.5, C3 0.25, C4 0.125, C5 0.4",
        "IoU of semantic classes",
        "seed 1",
    ):
        assert fact in said
    inside = "document.getElementById('about').contains(document.activeElement)"
    assert seen.run(inside)
    seen.press("Escape")
    assert not seen.run("document.getElementById('about').open")
    assert seen.run(f"document.activeElement === document.querySelector('{number}')")


def test_the_numbers_of_the_papers_table_open_too_and_a_failure_says_why(seen):
    seen.click(".results td .origin")
    assert seen.run("document.getElementById('about-title').textContent").startswith("Supervised")
    seen.click("#about .close")
    assert not seen.run("document.getElementById('about').open")
    seen.click(".grid .state.failed")
    said = seen.run("document.getElementById('about').textContent")
    assert "</script><b>loss</b> is nan" in said


def test_everything_that_acts_is_reached_by_tab_and_has_a_name(seen):
    names = set()
    for _ in range(30):
        seen.press("Tab")
        names.add(
            seen.run(
                "(e => e.tagName + ' ' + (e.ariaLabel ?? (e.textContent.trim() || e.name)))"
                "(document.activeElement)"
            )
        )
    assert "A Skip to the results" in names
    assert {"BUTTON ☾ Dark", "INPUT words", "INPUT seeds", "BUTTON SS mIoU"} <= names
    unnamed = "[...document.querySelectorAll('button')].filter(b => !b.textContent.trim()).length"
    assert seen.run(unnamed) == 0


def test_pictures_show_the_frame_its_ground_truth_and_what_each_protocol_found(seen):
    heads = "[...document.querySelectorAll('.frames .head')].map(e => e.textContent)"
    assert seen.run(heads) == ["Frame", "Ground truth", "pf", "paf"]
    assert seen.run("document.querySelectorAll('.frames figure').length") == 2 * 4
    assert seen.run("document.querySelectorAll('.frames .layer.sem').length") == 1 + 2 * 2
    assert seen.run("document.querySelector('.frames rect title').textContent") == "car"
    captions = "[...document.querySelectorAll('.frames figcaption')].map(e => e.textContent)"
    assert seen.run(captions) == ["both", "one", "no label for sem, det"]
    seen.click(".panels [name=driv]")
    seen.click(".panels [name=sem]")
    assert seen.run("document.querySelectorAll('.frames .layer.sem').length") == 0
    assert seen.run("document.querySelectorAll('.frames .layer.driv').length") == 1 + 2


def luminance(color):
    levels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_stand_out_from_the_paper_in_both_themes():
    style = (Path(__file__).parents[1] / "reports/templates/page.css").read_text()
    themes = re.findall(r":root[^{]*\{([^}]*--ink[^}]*)\}", style)
    assert len(themes) == 3
    assert themes[1].split() == themes[2].split()  # the system's dark and the button's
    for theme in themes:
        colors = dict(re.findall(r"--(\w[\w-]*): (#\w{6});", theme))
        for name, least in {
            **dict.fromkeys(("ink", "muted", "better", "worse"), 4.5),
            **dict.fromkeys(("pf", "paf", "lv", "prompt", "v2l", "focus"), 3.0),
        }.items():
            one, other = sorted([luminance(colors[name]), luminance(colors["paper"])])
            assert (other + 0.05) / (one + 0.05) >= least, name
