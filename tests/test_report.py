"""`bench report` beside the layout of tables: the paper's values, costs, expectations."""

import csv
import io
import json
import re
import subprocess
import sys
import tomllib

import pytest

from bench.grids import Request, cells, table
from bench.store import Store
from bench.tables import tables
from reports import paper
from reports.expected import expected
from reports.tables import METRICS
from tests import stored
from tests.conftest import ROOT
from tests.saying import refused, told

TINY = ("--preset", "tiny", "--data", "/data/demo")


@pytest.fixture
def store(tmp_path):
    """Table 4 of the tiny preset, each row scored with its number, and the third not there."""
    for number, one in enumerate(cells(table("4", Request(preset="tiny"))), start=1):
        if number != 3:
            stored.done(tmp_path / "runs", one, metrics={"sem/mIoU": number, "driv/mIoU": number})
    return tmp_path / "runs"


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "5"])
def test_on_an_empty_store_every_published_value_stands_in_its_row_and_ours_is_pending(
    number, tmp_path
):
    ((name, found),) = tables(table(number, Request()), Store(tmp_path), paper=True).items()
    said = paper._file()
    rows = [
        *expected(said[name]),
        *expected(said["derived"].get(name, {})),
    ]
    values = {}
    for one in rows:
        (row,) = [row for row in found.rows if one.names(row)]
        for entry in row.entries:
            if entry.metric in one.values:
                assert (entry.paper, entry.mark) == (one.values[entry.metric], "·")
                values[row.group, row.header, entry.metric] = entry.paper
    shown = [e for row in found.rows for e in row.entries if e.paper is not None]
    assert len(shown) == len(values) == sum(len(one.values) for one in rows)
    assert not any("do not compare" in note for note in found.notes)


def test_report_prints_the_papers_table_beside_an_empty_store(say, tmp_path):
    words = ("--table", "2", "--paper", "--preset", "paper", "--store", tmp_path)
    code, out, _ = say("report", *words, "--data", tmp_path, "--format", "json")
    rows = json.loads(out)["rows"]
    every = [one for row in rows for one in row["cells"]]
    assert code == 0
    assert {one["state"] for one in every} == {"pending"}
    assert sum(one["paper"] is not None for one in every) == 16 * 7 + 5
    assert {one["difference"] for one in every} == {None}


REPORT = ("report", "--preset", "tiny", "--table", "4", "--format", "json")


def states(out):
    return {one["state"] for row in json.loads(out)["rows"] for one in row["cells"]}


def test_an_empty_store_is_said_to_be_empty_and_one_that_is_named_and_missing_is_a_mistake(
    say, tmp_path
):
    line = f"The store {tmp_path / 'runs'} has no finished cell.\n"
    code, out, err = say(*REPORT)  # ./runs, which is not there
    assert (code, err, states(out)) == (0, line, {"pending"})
    (tmp_path / "runs").mkdir()
    code, out, err = say(*REPORT, "--store", tmp_path / "runs")
    assert (code, err, states(out)) == (0, line, {"pending"})
    assert say("status", "--store", tmp_path / "runs")[0] == 0
    for verb in (REPORT, ("status",), ("show", "3f"), ("compare", "pf", "paf")):
        said = "is no store: it has no cells. Give --store the folder of a bench run."
        assert refused(say, *verb, "--store", tmp_path / "no") == f"{tmp_path / 'no'} {said}"


def test_a_file_is_no_store(say, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    line = f"{file} is a file, no store. Give --store the folder of a bench run."
    for verb in (REPORT, ("status",), ("show", "3f"), ("compare", "pf", "paf")):
        assert refused(say, *verb, "--store", file) == line
    monkeypatch.setenv("BENCH_STORE", str(file))
    assert refused(say, *REPORT) == line


def test_where_all_that_is_finished_is_of_other_data_a_line_says_how_much_of_which(
    say, store, monkeypatch
):
    for more in (("--data", "/data/other"), ()):
        if not more:
            monkeypatch.setenv("BENCH_DATA", "/data/other")
        code, out, err = say(*REPORT, "--store", store, *more)
        assert (code, states(out)) == (0, {"pending"})
        assert err == (
            "No cell of this report is finished on the data /data/other. "
            "Finished on other data: 4 of /data/demo.\n"
        )
    code, out, err = say(*REPORT, "--store", store, "--data", "/data/demo")
    assert (code, err, states(out)) == (0, "", {"done", "pending", "na"})


def test_without_a_word_about_data_all_are_meant_and_nothing_else_is_said(say, store):
    code, out, err = say(*REPORT, "--store", store)
    assert (code, err, states(out)) == (0, "", {"done", "pending", "na"})


def test_a_store_that_was_moved_has_its_demo_data_still(say, tmp_path):
    store = tmp_path / "moved"
    every = cells(table("4", Request(preset="tiny")))
    homes = [stored.done(store, one) for one in every[:2]]

    def ran_on(home, **data):
        order = json.loads((home / "cell.json").read_text())
        order["data"] |= data
        (home / "cell.json").write_text(json.dumps(order))

    def done(*words):
        code, out, err = say(*REPORT, "--store", store, "--data", *words)
        assert code == 0
        found = [one for row in json.loads(out)["rows"] for one in row["cells"] if one["key"]]
        return len({one["key"][0] for one in found}), err

    for home in homes:
        ran_on(home, root="/elsewhere/runs/demo-data")
    assert done("demo") == (2, "")
    ran_on(homes[0], root=str(store / "demo-data"))  # the same frames, where they are now
    assert done("demo") == (2, "")
    ran_on(homes[0], sha256="e" * 64)  # other frames
    assert done("demo")[0] == 1
    for home in homes:
        ran_on(home, root="/elsewhere/bdd100k", drawn=False)
    count, err = done("demo")
    assert (count, "2 of /elsewhere/bdd100k" in err) == (0, True)


def test_what_is_wrong_with_out_is_said_by_the_names_that_a_person_knows(
    say, store, tmp_path, monkeypatch
):
    words = ("report", "--table", "4", "--preset", "tiny", "--store", store, "--format")
    file, folder = tmp_path / "file", tmp_path / "tables"
    file.write_text("mine")
    (folder / "table4.md").mkdir(parents=True)
    for out in (file, file / "inside"):
        said = refused(say, *words, "markdown", "--out", out)
        assert said == f"{file} is a file, not a folder to write into. Give --out another folder."
    assert file.read_text() == "mine"
    said = refused(say, *words, "markdown", "--out", folder)
    assert said == (
        f"{folder / 'table4.md'} is a folder, and a file of that name is to be written. "
        "Give --out another folder."
    )

    def may_not(*_):
        raise PermissionError(13, "Permission denied", ".table4.csv.1.tmp")

    monkeypatch.setattr("pathlib.Path.write_bytes", may_not)
    said = refused(say, *words, "csv", "--out", folder)
    assert said == (
        f"{folder / 'table4.csv'} cannot be written: Permission denied. Give --out another folder."
    )


def test_a_damaged_cell_has_failed_with_its_cause_and_the_line_comes_once(say, store, tmp_path):
    home = next((store / "cells").iterdir())
    (home / "cell.json").write_text("{")
    line = f"{home / 'cell.json'} is damaged. Remove {home} to have it made again."
    for form in (("--format", "html"), ("--format", "json")):
        code, out, err = say(*REPORT[:-2], "--store", store, *form, "--data", "/data/demo")
        assert (code, err) == (0, f"Left out: {line}\n")
        assert line[:150] in out  # a footnote is short
    assert "failed" in states(out)


def test_a_result_whose_cell_json_is_gone_is_named_everywhere(say, store):
    home = next((store / "cells").iterdir())
    (home / "cell.json").unlink()
    (found,) = [
        one
        for one in told(say, "status", "--store", store)["cells"]
        if one["state"] == "unreadable"
    ]
    assert found["cell"] == home.name
    assert found["error"].startswith(f"{home / 'cell.json'} is missing")
    assert "is missing" in " ".join(say("status", "--store", store)[1].split())
    code, out, err = say(*REPORT, "--store", store)
    assert (code, err.count("\n")) == (0, 1)
    assert "failed" in states(out)


def test_other_values_than_the_papers_are_said_not_to_compare(tmp_path):
    def notes(**more):
        request = table("2", Request(**more))
        (found,) = tables(request, Store(tmp_path), paper=True).values()
        return "\n".join(found.notes)

    assert "preset tiny is not the paper's: its values do not compare" in notes(preset="tiny")
    assert "--set optim.batch=8 is not the paper's value" in notes(overrides=("optim.batch=8",))
    stored.done(tmp_path, cells(table("2", Request()))[0])
    assert "its values do not compare with rows that have ‡" in notes()


@pytest.mark.parametrize("form", ["console", "markdown", "latex", "csv", "html"])
def test_every_format_tells_what_is_not_the_papers_and_the_data(form, say, tmp_path):
    request = Request(zoo=("clip",), preset="tiny", heads="conv", overrides=("optim.batch=8",))
    stored.done(tmp_path, cells(request)[0])
    words = ("report", "--zoo", "clip", "--heads", "conv", "--set", "optim.batch=8", *TINY)
    _, out, _ = say(*words, "--store", tmp_path, "--format", form)
    told = "; preset tiny, --set optim.batch=8, conv heads, data demo (drawn)"
    assert told in " ".join(out.replace("-{}-", "--").split())


def test_the_csv_files_of_several_tables_say_which_is_which(say, tmp_path):
    words = ("--zoo", "clip", "--scheme", "zeroing,uniform", *TINY, "--store", tmp_path)
    assert say("report", *words, "--format", "csv", "--out", tmp_path / "out")[0] == 0
    titles = {}
    for file in sorted((tmp_path / "out").iterdir()):
        lines = [*csv.DictReader(io.StringIO(file.read_text()))]
        ((number, titles[file.name]),) = {(line["table"], line["title"]) for line in lines}
        assert number == "2"
    assert titles == {
        f"table2-{n}.csv": "Every checkpoint under both protocols "
        f"(disjoint-normal, {scheme}); preset tiny"
        for n, scheme in ((1, "zeroing"), (2, "uniform"))
    }


def test_json_tells_preset_overrides_heads_and_data(say, tmp_path):
    keys = ("preset", "overrides", "heads", "data", "drawn")

    def told(*words):
        _, out, _ = say("report", *words, "--store", tmp_path, "--format", "json")
        return [json.loads(out)[key] for key in keys]

    stored.done(tmp_path, cells(Request(zoo=("clip",)))[0])
    assert told("--zoo", "clip", "--preset", "paper") == ["paper", [], "transformer", "demo", True]
    words = ("--table", "d2", "--set", "optim.batch=8", *TINY)
    assert told(*words) == ["tiny", ["optim.batch=8"], "conv", None, False]
    found = tables(Request(zoo=("clip",)), Store(tmp_path / "none"))["table2"]
    assert found.title == "Every checkpoint under both protocols (disjoint-normal, self-training)"


def test_the_demo_s_rows_are_not_marked_as_agreeing_with_the_paper_or_not(say, tmp_path):
    for seed in (0, 1):
        request = table("4", Request(preset="tiny", seeds=(seed,)))
        for one in cells(request):
            scores = {"sem/mIoU": 60.0 + seed, "driv/mIoU": 80.0 + seed}
            stored.done(tmp_path / "runs", one, metrics=scores)
    words = ("report", "--table", "4", "--seeds", "0,1", "--store", tmp_path / "runs", *TINY)
    _, out, _ = say(*words, "--paper", "--format", "json")
    entries = [one for row in json.loads(out)["rows"] for one in row["cells"]]
    assert sum(one["difference"] is not None for one in entries) == 10
    assert {one["within"] for one in entries} == {None}


def test_settings_and_heads_that_the_paper_does_not_have_get_none_of_its_values(tmp_path):
    for more in ({"settings": ("full",)}, {"heads": "conv"}, {"tasks": ("sem",)}):
        (found,) = tables(Request(**more), Store(tmp_path), paper=True).values()
        assert not any(row.has_paper for row in found.rows)
        assert "Paper: it has no values for this setting, scheme, heads and tasks" in found.notes
    (found,) = tables(Request(zoo=("clip",)), Store(tmp_path), paper=True).values()
    assert all(row.has_paper for row in found.rows)
    (d2,) = tables(table("d2", Request()), Store(tmp_path), paper=True).values()
    assert not any(row.has_paper for row in d2.rows)


def test_what_is_stale_is_named_below_the_table_and_never_in_it(say, store):
    old = cells(table("4", Request(preset="tiny")))[0]
    home = stored.done(store, old, version=-1, metrics={"sem/mIoU": 99.0})
    newest = stored.done(store, old, weights="e" * 64, metrics={"sem/mIoU": 7.0})
    code, out, err = say("report", "--table", "4", "--store", store, "--format", "json")
    answer = json.loads(out)
    assert code == 0
    assert answer["rows"][0]["cells"][0]["mean"] == 7.0
    assert home.name in answer["stale"]
    assert newest.name not in answer["stale"]
    assert f"stale, left out: {home.name}" in err
    (note,) = [note for note in answer["notes"] if note.startswith("Left out")]
    assert home.name in note


def test_the_hours_of_a_cell_are_those_of_its_stages_times_its_gpus(say, tmp_path):
    (one,) = cells(Request(zoo=("clip",), protocols=("paf",), preset="tiny"))
    home = stored.done(tmp_path, one)
    result = json.loads((home / "result.json").read_text())
    result["stages"] = [{"name": "adapt", "seconds": 360.0}, {"name": "finetune", "seconds": 720.0}]
    result["provenance"] |= {"device": "NVIDIA H200", "ranks": [4]}
    (home / "result.json").write_text(json.dumps(result))
    words = ("report", "--zoo", "clip", "--store", tmp_path, "--format")
    rows = json.loads(say(*words, "json")[1])["rows"]
    (cost,) = [row["cost"] for row in rows if row["cost"]]
    assert cost["stages"] == {"adapt": pytest.approx(0.4), "finetune": pytest.approx(0.8)}
    assert (cost["unit"], cost["per_cell"]) == ("GPU-hours", [4])
    assert "0.400" in say(*words, "console", "--cost")[1]
    result["provenance"]["ranks"] = [4, 2]  # nobody knows which steps were whose
    (home / "result.json").write_text(json.dumps(result))
    assert not any(row["cost"] for row in json.loads(say(*words, "json")[1])["rows"])


def test_the_wide_layout_is_of_table_2_and_changes_no_record(say, store):
    where = ("--store", store, *TINY)
    words = ("report", *where, "--layout", "wide", "--table")
    assert "Δ" in say(*words, "2")[1]
    code, _, err = say(*words, "4")
    assert (code, err) == (2, "bench: --layout wide is of Tables 2 and d2.\n")
    csv = ("report", *where, "--table", "2", "--format", "csv")
    assert say(*csv)[1] == say(*csv, "--layout", "wide")[1]


def test_a_number_that_a_finished_cell_lacks_fails_a_strict_report(say, tmp_path):
    (one,) = cells(Request(zoo=("clip",), protocols=("pf",), preset="tiny"))
    words = ("report", "--zoo", "clip", "--protocol", "pf", *TINY, "--strict", "--store")
    stored.done(tmp_path / "whole", one, metrics=dict.fromkeys(METRICS, 50.0))
    stored.done(tmp_path / "lacking", one, metrics=dict.fromkeys(METRICS, 50.0) | {"det/mAP": None})
    assert say(*words, tmp_path / "whole")[0] == 0
    code, out, _ = say(*words, tmp_path / "lacking")
    assert code == 1
    assert "✗¹ failed: finished, but its result has no det/mAP" in out


def test_side_by_side_there_are_the_protocols_that_were_asked_for_and_no_other(say, tmp_path):
    for one in cells(Request(zoo=("clip",), protocols=("lv", "pf"), preset="tiny")):
        stored.done(tmp_path, one)
    words = ("report", "--zoo", "clip", "--protocol", "lv,pf", "--store", tmp_path, *TINY)
    code, out, _ = say(*words, "--layout", "wide", "--cost", "--format", "markdown")
    header = next(line for line in out.splitlines() if line.startswith("| Model"))
    assert code == 0
    assert "SS mIoU pf | SS mIoU lv" in header
    assert "Ratio to pf lv" in header
    assert "paf" not in header


EXPECTED = """
[table4]
1 = {"sem/mIoU" = 1.2, "driv/mIoU" = 1.0}
3 = {"sem/mIoU" = 3.0}
5 = {"sem/mIoU" = 5.0}
"""


def test_what_misses_its_expectation_is_said_line_by_line_with_exit_code_4(say, store, tmp_path):
    file = tmp_path / "expected.toml"
    file.write_text(EXPECTED)
    words = ("report", "--table", "4", "--store", store, "--expect", file)
    code, out, err = say(*words, "--tol", "0.1")
    assert (code, err.splitlines()) == (
        4,
        [
            "table4 1, sem/mIoU: 1.00, expected 1.2 ± 0.1",
            "table4 3, sem/mIoU: pending, expected 3 ± 0.1",
            "4 values expected within 0.1, 2 missed.",
        ],
    )
    assert out.startswith("Table 4.")
    file.write_text(EXPECTED.replace("3 = ", "4 = ").replace("3.0", "4"))
    assert say(*words)[0] == 0  # within half a point


def test_the_papers_values_can_be_what_is_expected(say, store):
    code, _, err = say("report", "--table", "4", "--store", store, "--expect", "paper")
    assert (code, err.splitlines()[-1]) == (4, "10 values expected within 0.5, 10 missed.")
    assert "table4 CLIP 5 yes yes lv, sem/mIoU: 5.00, expected 62.2 ± 0.5" in err
    code, _, err = say("report", "--table", "d2", "--store", store, "--expect", "paper")
    assert (code, err) == (2, "bench: The paper has no values for tabled2.\n")


def test_expectations_that_cannot_be_checked_are_said(say, store, tmp_path):
    file = tmp_path / "expected.toml"
    words = ("report", "--table", "4", "--store", store, "--expect", file)
    assert "There is no file" in say(*words)[2]
    file.write_text('[table3.Full]\nall = {"sem/mIoU" = 1}\n')
    code, _, err = say(*words)
    assert (code, err) == (2, f"bench: {file}, with table3 in it, has no values for table4.\n")
    file.write_text(EXPECTED + '[table3.Full]\nall = {"sem/mIoU" = 1}\n')
    assert "table3 is not checked: it is not in this report." in say(*words)[2]
    file.write_text(EXPECTED.replace("3 = ", "6 = "))
    code, out, err = say(*words)
    assert (code, out) == (2, "")
    assert err.startswith("bench: table4.6: there is no row of that name. Rows are: 1 pf, 2 paf,")
    for far in ("nan", "inf"):
        code, out, err = say(*words, "--tol", far)
        assert (code, out) == (2, "")
        assert err == f"bench: --tol is {far}: give a number of points, such as 0.5.\n"
    words = ("--preset", "tiny", "--data", "/data/demo", "--expect", "paper", "--store", store)
    _, _, err = say("report", "--table", "all", *words)
    assert "table5 is not checked: there are no values for its rows." in err
    assert "tabled2 is not checked: there are no values for its rows." in err
    code, _, err = say("report", "--table", "4", "--store", store, "--tol", "1")
    assert (code, err) == (2, "bench: --tol is about what is expected: it needs --expect.\n")


def test_every_table_in_every_format_takes_no_torch_and_less_than_ten_seconds(tmp_path):
    for one in cells(table("all", Request(preset="tiny", seeds=(0, 1)))):
        stored.done(tmp_path / "runs", one)
    code = (
        "import sys, time; from bench.cli import main; sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules, time.process_time())"
    )
    which = ["--table", "all", "--seeds", "0,1", "--store", tmp_path / "runs", *TINY]
    how = ["--format", "console,markdown,latex,csv,json", "--out", tmp_path / "tables"]
    words = ["report", *which, *how, "--paper", "--cost"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    torch, seconds = done.stdout.splitlines()[-1].split()
    assert torch == "False"
    assert float(seconds) < 10  # of a processor: what else the machine does is no matter
    assert len([*(tmp_path / "tables").iterdir()]) == 6 * 6  # LaTeX twice


def test_the_readme_shows_what_can_be_expected(tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "[table2.MoCo-v2]" in block]
    for name, said in tomllib.loads(text).items():
        request = table(name.removeprefix("table"), Request())
        (found,) = tables(request, Store(tmp_path)).values()
        for one in expected(said):
            assert [row for row in found.rows if one.names(row)]
            (published,) = [each for each in expected(paper._file()[name]) if each.path == one.path]
            assert one.values.items() <= published.values.items()
