"""The tables of the paper: their rows as it prints them, the cells behind them, what is shown."""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, replace

import pytest

from bench.artifacts import write
from bench.data.classes import TASKS
from bench.grids import TABLES, Request, cells, lines, shared, table, teachers
from bench.invocations import Invocation, record
from bench.store import Store
from bench.tables import request_of, tables
from protocols import ProtocolError
from reports.render import render
from tests import stored

SINGLE = [
    ("MaskFormer", "semantic segmentation"),
    ("MaskFormer", "drivable area"),
    ("Sparse R-CNN", "object detection"),
]
# As the paper prints them, but for "LV-Adapter (Ours)".
ROWS = {
    "1": [
        ("Zeroing loss", "Supervised"),
        ("Uniform sampler", "Supervised"),
        ("Weighted sampler", "Supervised"),
        ("Round-robin", "Supervised"),
        ("Self-training", "Supervised"),
        ("LV-Adapter", "CLIP"),
    ],
    "3": [*SINGLE, ("Self-training", "all"), ("LV-Adapter", "all")] * 3,
    "4": [
        ("1", "", "", "", "pf"),
        ("2", "", "", "", "paf"),
        ("3", "yes", "", "", "prompt"),
        ("4", "yes", "yes", "", "v2l"),
        ("5", "yes", "", "yes", "lv"),
    ],
    "5": [("12", "24"), ("6", "30"), ("1", "35"), ("6", "35"), ("12", "35")],
}
METRICS = {
    "1": ["sem/mIoU", "driv/mIoU", "det/mAP", "det/AP50", "det/AP75"],
    "3": ["sem/mIoU", "driv/mIoU", "det/mAP", "det/AP50", "det/AP75"],
    "4": ["sem/mIoU", "driv/mIoU"],
    "5": ["sem/mIoU", "driv/mIoU", "det/mAP"],
}
NAMES = ("sem/mIoU", "sem/pACC", "driv/mIoU", "driv/pACC", "det/mAP", "det/AP50", "det/AP75")


def asked(number, *, preset="paper", seeds=(0,), overrides=()):
    return table(number, Request(preset=preset, seeds=seeds, overrides=overrides))


def addresses(number, **more):
    return [cell.address for cell in cells(asked(number, **more))]


def finished(root, *requests):
    """A store in which all cells of some requests are done; their values, by their addresses."""
    found = {}
    every = dict.fromkeys(cell for request in requests for cell in cells(request))
    for number, cell in enumerate(every, start=1):
        values = {name: number + i / 10 for i, name in enumerate(NAMES)}
        own = {k: v for k, v in values.items() if k.partition("/")[0] in cell.tasks}
        stored.done(root, cell, metrics={**dict.fromkeys(NAMES), **own})
        found[cell.address] = own
    return found


def shown(root, request, form="json"):
    found = tables(request, Store(root))
    assert not any(table.stale for table in found.values())
    return {name: render(table, form) for name, table in found.items()}


def test_table_1_is_every_scheme_from_imagenet_supervision_and_the_adapter_from_clip():
    assert addresses("1") == [
        "supervised_tv_v1-pf-disjoint-normal-zeroing-s0",
        "supervised_tv_v1-pf-disjoint-normal-uniform-s0",
        "supervised_tv_v1-pf-disjoint-normal-weighted-s0",
        "supervised_tv_v1-pf-disjoint-normal-round-robin-s0",
        "supervised_tv_v1-pf-disjoint-normal-self-training-s0",
        "clip_rn50-lv-disjoint-normal-self-training-s0",
    ]


def test_table_3_has_one_task_alone_and_all_together_in_each_setting():
    assert addresses("3")[:5] == [
        "supervised_tv_v1-pf-full-zeroing-sem-s0",
        "supervised_tv_v1-pf-full-zeroing-driv-s0",
        "supervised_tv_v1-pf-full-zeroing-det-s0",
        "supervised_tv_v1-pf-full-self-training-s0",
        "clip_rn50-lv-full-self-training-s0",
    ]
    settings = [cell.setting for cell in cells(asked("3"))]
    assert settings == [
        *["full"] * 5,
        *["disjoint-balance"] * 5,
        *["disjoint-normal"] * 5,
    ]


@pytest.mark.parametrize("overrides", [(), ("pseudo.det_score=0.6",), ("optim.batch=8",)])
def test_the_teachers_of_each_setting_are_the_single_task_rows_of_table_3(overrides):
    listed = cells(asked("3", overrides=overrides))
    single = {cell for cell in listed if len(cell.tasks) == 1}
    taught = {cell.setting: {*teachers(cell)} for cell in listed if len(cell.tasks) > 1}
    assert len(taught) == 3
    assert set.union(*taught.values()) == single
    assert len(single) == 9


def test_tables_4_and_5_vary_clip_alone():
    assert addresses("4") == [
        "clip_rn50-pf-disjoint-normal-self-training-s0",
        "clip_rn50-paf1+35-disjoint-normal-self-training-s0",
        "clip_rn50-prompt-disjoint-normal-self-training-s0",
        "clip_rn50-v2l-disjoint-normal-self-training-s0",
        "clip_rn50-lv-disjoint-normal-self-training-s0",
    ]
    assert addresses("5") == [
        "clip_rn50-paf12+24-disjoint-normal-self-training-s0",
        "clip_rn50-paf-disjoint-normal-self-training-s0",
        "clip_rn50-paf1+35-disjoint-normal-self-training-s0",
        "clip_rn50-paf6+35-disjoint-normal-self-training-s0",
        "clip_rn50-paf12+35-disjoint-normal-self-training-s0",
    ]


def test_d2_is_table_2_with_the_other_heads():
    two, d2 = cells(asked("2")), cells(asked("d2"))
    assert [(cell.zoo, cell.protocol.name) for cell in two] == [
        (cell.zoo, cell.protocol.name) for cell in d2
    ]
    assert {cell.protocol.heads for cell in d2} == {"conv"}
    assert {one.protocol.heads for cell in d2 for one in teachers(cell)} == {"conv"}


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_cell_of_several_tables_is_one_cell(seeds):
    every = asked("all", seeds=seeds)
    each = [addresses(number, seeds=seeds) for number in TABLES if number != "all"]
    times = Counter(address for listed in each for address in listed)
    listed = [cell.address for cell in cells(every)]
    assert len(listed) == len(set(listed)) == 60 * len(seeds)
    assert set(listed) == set(times)
    assert shared(every) == (67, 5 * len(seeds))
    assert {address for address, count in times.items() if count == 3} == {
        f"{start}-disjoint-normal-self-training-s{seed}"
        for start in ("supervised_tv_v1-pf", "clip_rn50-lv")
        for seed in seeds
    }


def test_the_epochs_of_table_5_keep_their_relations_in_a_shorter_preset():
    epochs = [
        tuple(stage.epochs for stage in cells(one)[0].protocol.stages)
        for _, one in lines("5", asked("5", preset="demo"))
    ]
    assert epochs == [(2, 3), (1, 4), (1, 4), (1, 4), (2, 4)]
    assert len(cells(asked("5", preset="demo"))) == 3
    second = cells(lines("4", asked("4", preset="demo"))[1][1])[0]
    assert [stage.epochs for stage in second.protocol.stages] == [1, 4]


def test_an_override_is_for_the_rows_that_it_can_be_for():
    listed = cells(asked("1", overrides=("adapter.vectors=8", "stages.adapt.lr=1e-3")))
    *schemes, lv = listed
    assert lv.protocol.adapter.vectors == 8
    assert lv.protocol.stages[0].lr == 1e-3
    assert [cell.address for cell in schemes] == addresses("1")[:5]
    every = cells(asked("all", overrides=("adapter.vectors=8",)))
    assert {cell.protocol.adapter.vectors for cell in every if cell.protocol.adapter} == {8}


@pytest.mark.parametrize(
    ("number", "override", "words"),
    [
        ("5", "adapter.vectors=8", "paf have no adapter"),
        ("1", "stages.middle.epochs=2", "Unknown stage 'middle'"),
        ("all", "stages.finetnue.epochs=2", "Did you mean 'finetune'"),
    ],
)
def test_an_override_that_no_row_has_is_refused(number, override, words):
    with pytest.raises(ProtocolError, match=words):
        asked(number, overrides=(override,))


@pytest.mark.parametrize("number", ["1", "3", "4", "5"])
def test_a_table_has_the_papers_rows_and_columns_and_each_row_its_own_cell(number, tmp_path):
    # In the paper's preset: its epochs are what Table 5 is about.
    request = asked(number)
    scores = finished(tmp_path, request)
    ((name, text),) = shown(tmp_path, request).items()
    answer = json.loads(text)
    *rows, constant = answer["rows"]
    assert (name, answer["table"], answer["columns"]) == (f"table{number}", number, METRICS[number])
    beside = ("group", "zoo", "cost", "derived", "cells", "runs")
    fields = [key for key in rows[0] if key not in beside]
    assert [tuple(row[key] for key in fields) for row in rows] == ROWS[number]
    assert constant[fields[0]] == "Best constant prediction"
    for row, (_, one) in zip(rows, lines(number, request), strict=True):
        (cell,) = cells(one)
        for found in row["cells"]:
            assert found["mean"] == scores[cell.address].get(found["metric"])
            alone = found["metric"].partition("/")[0] not in cell.tasks
            assert found["mark"] == ("–" if alone else "†‡")
    if number == "3":
        groups = [row["group"] for row in rows]
        assert list(dict.fromkeys(groups)) == ["Full", "Disjoint-balance", "Disjoint-normal"]


def test_before_anything_is_run_a_single_task_still_has_no_numbers_of_others(tmp_path):
    text = shown(tmp_path, asked("3", preset="tiny"), "csv")["table3"]
    marks = {
        (line["task"], line["metric"].partition("/")[0]): line["mark"]
        for line in csv.DictReader(io.StringIO(text))
    }
    assert marks["semantic segmentation", "sem"] == "·"
    assert marks["semantic segmentation", "det"] == "–"
    assert marks["object detection", "det"] == marks["all", "driv"] == "·"


def test_the_best_of_each_setting_is_marked(tmp_path):
    request = asked("3", preset="tiny")
    finished(tmp_path, request)
    text = shown(tmp_path, request, "markdown")["table3"]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| LV-Adapter")]
    assert [row[2] for row in rows] == ["**5.0**", "**10.0**", "**15.0**"]  # each its last cell


def test_the_constant_prediction_is_known_of_all_tasks_though_cells_have_one_each(tmp_path):
    request = asked("3", preset="tiny")
    finished(tmp_path, request)
    for home in (tmp_path / "cells").iterdir():
        result = json.loads((home / "result.json").read_text())
        own = result["resolved"]["tasks"]
        result["constant"] = {"sem/mIoU": 2.5} if "sem" in own else {"driv/mIoU": 24.0}
        (home / "result.json").write_text(json.dumps(result))
    (row,) = [
        row
        for row in json.loads(shown(tmp_path, request)["table3"])["rows"]
        if row["method"] == "Best constant prediction"
    ]
    assert [found["mean"] for found in row["cells"]] == [2.5, 24.0, None, None, None]
    assert [found["mark"] for found in row["cells"]] == ["‡", "‡", "–", "–", "–"]
    assert [len(found["key"]) for found in row["cells"]] == [1, 1, 0, 0, 0]


def test_d2_says_that_the_papers_values_are_not_available(tmp_path):
    text = shown(tmp_path, asked("d2", preset="tiny"), "console")["tabled2"]
    assert text.startswith("Table d2.")
    assert "which is not available: there are none to compare with" in text
    two = shown(tmp_path, asked("2", preset="tiny"), "csv")["table2"]
    d2 = shown(tmp_path, asked("d2", preset="tiny"), "csv")["tabled2"]
    two, d2 = (
        [{**line, "table": "", "title": ""} for line in csv.DictReader(io.StringIO(text))]
        for text in (two, d2)
    )
    assert two == d2  # nothing is done yet: the same rows, all pending


@pytest.mark.parametrize("form", ["console", "markdown", "latex", "csv", "json"])
def test_all_tables_are_written_in_every_format(form, tmp_path):
    found = shown(tmp_path, asked("all", preset="tiny"), form)
    assert list(found) == ["table1", "table2", "table3", "table4", "table5", "tabled2"]
    assert all(found.values())


def test_what_was_asked_for_is_the_same_when_it_is_read_again(tmp_path):
    request = asked("all", preset="tiny", seeds=(0, 1), overrides=("adapter.vectors=2",))
    written = json.loads(json.dumps(asdict(request)))
    facts = dict.fromkeys(("id", "command", "cwd", "begun", "last", "data"), "")
    again = Invocation(folder=tmp_path, cells=[], request=written, stand_ins=True, how={}, **facts)
    assert request_of(again) == request
    assert cells(request_of(again)) == cells(request)
    old = replace(again, request={k: v for k, v in written.items() if k != "table"})
    assert request_of(old).table == ""  # written before there were tables


def test_every_row_has_numbers_for_the_tasks_of_its_cells():
    for number in TABLES:
        if number != "all":
            for line, one in lines(number, asked(number)):
                assert {cell.tasks for cell in cells(one)} == {line.tasks}
                assert set(line.tasks) <= set(TASKS)


def test_an_invocation_writes_its_tables_beside_it(tmp_path):
    request = asked("1", preset="tiny")
    finished(tmp_path, request)
    homes = sorted(home.name for home in (tmp_path / "cells").iterdir())
    facts = {"command": "bench run --table 1", "cwd": "/", "data": "/data/demo", "how": {}}
    invocation = record(tmp_path, homes, request=asdict(request), stand_ins=True, **facts)
    write(invocation)
    written = {file.name: file.read_text() for file in invocation.folder.glob("table*")}
    assert sorted(written) == ["table1.csv", "table1.md", "table1.tex"]
    assert "| Round-robin | Supervised †‡ | 4.0 | 4.2 |" in written["table1.md"]


def test_the_plan_ends_with_rows_cells_and_how_many_are_shared(say, streets, new_store):
    where = ("--data", streets, "--stand-ins", "--store", new_store(), "--preset", "tiny")
    code, out, err = say("plan", "--table", "5", *where)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "5 rows, 6 cells, 1 shared."  # three teachers among them
    code, out, err = say("plan", "--table", "1", "--zoo", "clip", "--scheme", "zeroing", *where)
    assert (code, err) == (0, "--table 1 says which cells: --zoo, --scheme left out.\n")
    assert out.splitlines()[-1] == "6 rows, 9 cells, 0 shared."


def test_the_store_is_looked_through_by_table(say, tmp_path):
    finished(tmp_path, asked("1", preset="tiny"), asked("4", preset="tiny"))

    def names(*words):
        code, out, _ = say("status", *words, "--store", tmp_path, "--json")
        assert code == 0
        return {cell["cell"].rsplit("-", 1)[0] for cell in json.loads(out)["cells"]}

    assert names("--table", "1") == set(addresses("1", preset="tiny"))
    assert names("--table", "4") == set(addresses("4", preset="tiny"))
    assert names("--table", "all") == names()
    assert names("--table", "4", "--protocol", "lv") == {
        "clip_rn50-lv-disjoint-normal-self-training-s0-tiny"
    }
    code, _, err = say("status", "--table", "6", "--store", tmp_path)
    assert (code, err.startswith("bench: Table '6' is not known. Known: 1, 2, 3, 4")) == (2, True)


def test_report_writes_each_table_into_a_file_of_its_own(say, tmp_path):
    store = tmp_path / "runs"
    finished(store, asked("4", preset="tiny"))
    out = tmp_path / "tables"
    words = ("--table", "all", "--store", store, "--format", "csv,markdown", "--out", out)
    assert say("report", *words)[0] == 0
    assert sorted(file.name for file in out.iterdir()) == [
        f"table{number}.{suffix}"
        for number in ("1", "2", "3", "4", "5", "d2")
        for suffix in ("csv", "md")
    ]
    best = "| 5 | yes |  | yes | lv †‡ | **5.0** | **5.2** |"
    assert best in (out / "table4.md").read_text()
    assert say("report", "--table", "4", "--store", store, "--strict")[0] == 0
    assert say("report", "--table", "5", "--store", store, "--strict")[0] == 1
