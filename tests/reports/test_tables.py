import csv
import io
import math
import statistics
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from example_results import REFERENCES, cell, results

from reports.data import to_json
from reports.render import render
from reports.table2 import table2, wide
from reports.tables import METRICS, Reference, ReportError

SEVEN = (59.2, 90.2, 75.6, 93.9, 25.9, 49.8, 23.4)


def entries(table, model, protocol):
    (row,) = [row for row in table.rows if row.header == (model, protocol)]
    return {entry.metric: entry for entry in row.entries}


def test_families_come_in_the_papers_order_and_pf_above_paf():
    rows = table2(results()).rows
    assert [row.header for row in rows[:4]] == [
        ("MoCo-v2", "pf"),
        ("MoCo-v2", "paf"),
        ("BYOL", "pf"),
        ("BYOL", "paf"),
    ]
    assert list(dict.fromkeys(row.group for row in rows)) == [
        "Classification-oriented",
        "Detection-oriented",
        "Segmentation-oriented",
        "Vision-language",
    ]


def test_seeds_become_mean_and_sample_deviation():
    entry = entries(table2(results()), "MoCo-v2", "paf")["sem/mIoU"]
    frame = results()
    values = frame[(frame.zoo == "moco_v2") & (frame.protocol == "paf")]["sem/mIoU"]
    assert entry.mean == pytest.approx(values.mean())
    assert entry.std == pytest.approx(values.std(ddof=1))
    assert entry.n == 2
    assert entry.keys == ("moco_v2-paf-s0", "moco_v2-paf-s1")


@pytest.mark.parametrize(
    ("model", "protocol", "metric", "mark"),
    [
        ("MoCo-v2", "paf", "sem/mIoU", ""),
        ("BYOL", "pf", "sem/mIoU", "†"),
        ("DetCo", "pf", "det/mAP", "†‡"),
        ("DetCo", "paf", "det/mAP", "·"),
        ("DenseCL", "pf", "det/mAP", "·"),  # no cell at all
        ("CLIP", "paf", "det/mAP", "…"),
        ("DenseCL", "paf", "sem/mIoU", "–"),  # done, without this task
        ("MoCo-v2", "pf", "sem/mIoU", "✗¹†"),  # one of two seeds failed
        ("BYOL", "paf", "sem/mIoU", "✗²"),
    ],
)
def test_every_state_has_its_mark(model, protocol, metric, mark):
    assert entries(table2(results()), model, protocol)[metric].mark == mark


def test_pf_and_paf_are_side_by_side_where_no_other_protocol_was_asked_for():
    def shown(*names):
        rows = table2(pd.DataFrame([cell("byol", name, values=SEVEN) for name in names])).rows
        return [row.header[1] for row in rows]

    assert shown("paf") == shown("pf") == ["pf", "paf"]
    assert shown("lv", "pf") == ["pf", "lv"]
    assert shown("lv", "pf", "paf") == ["pf", "paf", "lv"]


def test_a_users_own_protocol_has_rows_below_the_papers():
    byol = [cell("byol", name, values=SEVEN) for name in ("thaw", "paf")]
    table = table2(pd.DataFrame(byol))
    assert [row.header[1] for row in table.rows] == ["paf", "thaw"]
    alone = table2(pd.DataFrame(byol[:1]))
    assert [row.header for row in alone.rows] == [("BYOL", "thaw")]
    assert [note[0] for note in alone.notes] == ["†"]


def test_notes_explain_each_mark_that_is_used_and_no_other():
    notes = "\n".join(table2(results()).notes)
    for mark in "±†‡·…–":
        assert f"{mark} " in notes
    assert "✗¹ failed: Loss is nan in stage_2 (sem nan, det 3.1)" in notes
    assert "✗² failed: Out of memory" in notes
    done = pd.DataFrame([cell("byol", protocol, values=SEVEN) for protocol in ("pf", "paf")])
    assert [note[0] for note in table2(done).notes] == ["p", "†"]


def test_a_number_that_a_finished_cell_lacks_has_failed_and_is_not_ranked():
    lacking = (math.nan, *SEVEN[1:])
    frame = pd.DataFrame(
        [
            cell("byol", "pf", 0, values=(99.0, *SEVEN[1:])),
            cell("byol", "pf", 1, values=lacking),
            cell("detco", "pf", values=lacking),
            cell("moco_v2", "pf", values=(40.0, *SEVEN[1:])),
            cell("clip", "pf", values=(30.0, *SEVEN[1:])),
        ]
    )
    table = table2(frame)
    byol, detco, moco, clip = (
        entries(table, model, "pf")["sem/mIoU"] for model in ("BYOL", "DetCo", "MoCo-v2", "CLIP")
    )
    assert (byol.state, byol.n, byol.mark) == ("failed", 1, "✗¹†")
    assert (detco.state, detco.mean, detco.mark) == ("failed", None, "✗¹")
    assert [e.best for e in (byol, moco, clip)] == [False, True, False]
    assert "✗¹ failed: finished, but its result has no sem/mIoU" in table.notes
    assert entries(table, "BYOL", "pf")["sem/pACC"].n == 2


def test_a_task_that_no_cell_of_a_row_has_does_not_apply_before_it_is_run_either():
    table = table2(pd.DataFrame([cell("byol", "pf", state="pending", tasks=("sem",))]))
    marks = [entry.mark for entry in table.rows[0].entries]
    assert marks == ["·", "·", *["–"] * 5]


def test_equal_causes_share_a_footnote():
    frame = pd.DataFrame(
        [cell(zoo, "pf", 0, "failed", error="Disk full") for zoo in ("byol", "detco")]
    )
    failures = [note for note in table2(frame).notes if "failed" in note]
    assert failures == ["✗¹ failed: Disk full"]


def test_best_and_second_are_judged_as_printed_among_complete_entries():
    frame = pd.DataFrame(
        [
            cell("moco_v2", "pf", values=(61.21, *SEVEN[1:])),
            cell("byol", "pf", values=(61.19, *SEVEN[1:])),
            cell("detco", "pf", values=(60.0, *SEVEN[1:])),
            cell("densecl", "pf", 0, values=(70.0, *SEVEN[1:])),
            cell("densecl", "pf", 1, "running"),
        ]
    )
    table = table2(frame, {"Best constant prediction": Reference(values={"sem/mIoU": 99.0})})
    ranks = {
        row.header[0]: (row.entries[0].best, row.entries[0].second)
        for row in table.rows
        if row.header[1] == "pf"
    }
    assert ranks["MoCo-v2"] == ranks["BYOL"] == (True, False)
    assert ranks["DetCo"] == (False, True)
    assert ranks["DenseCL"] == (False, False)
    assert not table.references[0].entries[0].best


def test_reference_rows_stand_apart_with_gaps_where_they_have_no_value():
    (row,) = table2(results(), REFERENCES).references
    assert [entry.mean for entry in row.entries] == [3.1, None, 24.0, None, None, None, None]
    assert [entry.mark for entry in row.entries] == ["", "–", "", "–", "–", "–", "–"]


def test_rows_of_fewer_seeds_than_were_asked_for_say_of_how_many():
    frame = pd.DataFrame(
        [
            *(cell("byol", "pf", seed, values=SEVEN) for seed in (0, 1, 2)),
            *(cell("detco", "pf", seed, values=SEVEN) for seed in (0, 1)),
            cell("detco", "pf", 2, "running"),
        ]
    )
    table = table2(frame)
    assert [row.mark for row in table.rows if row.protocol == "pf"] == ["", "n=2"]
    assert "± sample standard deviation over 3 seeds" in table.notes
    assert "n=2 over 2 of the 3 seeds that were asked for" in table.notes
    for form in ("markdown", "console", "latex"):
        assert "pf n=2" in render(table, form)


def test_side_by_side_every_column_has_its_own_best_and_second():
    values = {"byol": (50, 60), "detco": (40, 70), "clip": (30, 80)}
    frame = pd.DataFrame(
        [
            cell(zoo, protocol, values=(score, *SEVEN[1:]))
            for zoo, scores in values.items()
            for protocol, score in zip(("pf", "paf"), scores, strict=True)
        ]
    )
    rows = {row.header[0]: row.entries for row in wide(table2(frame)).rows}
    best = {name: [entry.best for entry in row[:3]] for name, row in rows.items()}
    second = {name: [entry.second for entry in row[:3]] for name, row in rows.items()}
    assert best == {
        "BYOL": [True, False, False],
        "DetCo": [False, False, False],
        "CLIP": [False, True, False],
    }
    assert [name for name, (pf, paf, _) in second.items() if pf and paf] == ["DetCo"]


def test_a_column_of_equal_values_has_no_best():
    frame = pd.DataFrame([cell(zoo, "pf", values=SEVEN) for zoo in ("byol", "detco")])
    table = table2(frame)
    assert not any(entry.best or entry.second for row in table.rows for entry in row.entries)
    assert "Best in bold" not in render(table, "markdown")


def test_a_reference_of_demo_data_says_so_and_tells_the_cell_that_it_is_known_from():
    of = replace(REFERENCES["Best constant prediction"], stand_in=True)
    table = table2(results(), {"Best constant prediction": of})
    (row,) = table.references
    assert row.mark == "‡"
    found = to_json(table)["rows"][-1]["cells"][0]
    assert (found["n"], found["key"], found["mark"]) == (1, ["byol-pf-s0"], "‡")
    assert "Best constant prediction | ‡ |" in render(table, "markdown")


def test_results_come_in_any_order():
    frame = results()
    shuffled = frame.sample(frac=1, random_state=0)
    values = {row.header: [e.mean for e in row.entries] for row in table2(shuffled).rows}
    assert values == {row.header: [e.mean for e in row.entries] for row in table2(frame).rows}


def test_json_holds_what_other_programs_rely_on():
    answer = to_json(table2(results(), REFERENCES))
    assert answer["table"] == "2"
    assert answer["columns"] == list(METRICS)
    (row,) = [
        row for row in answer["rows"] if (row["model"], row["protocol"]) == ("MoCo-v2", "paf")
    ]
    assert row["cells"][0] == {
        "metric": "sem/mIoU",
        "mean": statistics.fmean([61.0, 61.4]),
        "std": statistics.stdev([61.0, 61.4]),
        "n": 2,
        "asked": 2,
        "seeds": [0, 1],
        "values": [61.0, 61.4],
        "interval": None,
        "state": "done",
        "failures": [],
        "mark": "",
        "stand_in": False,
        "key": ["moco_v2-paf-s0", "moco_v2-paf-s1"],
        "paper": None,
        "difference": None,
        "within": None,
    }


def test_json_tells_of_every_cell_its_seed_state_key_and_cause_whatever_became_of_it():
    frame = results()
    frame.loc[0, "key"] = None
    rows = to_json(table2(frame))["rows"]
    found = {(row["model"], row["protocol"]): row["runs"] for row in rows}
    first, second = found["MoCo-v2", "pf"]
    facts = {"stand_in": False, "cause": None}
    assert first == {"seed": 0, "state": "done", "key": "moco_v2-pf-s0", **facts}
    assert (second["seed"], second["state"], second["key"]) == (1, "failed", "moco_v2-pf-s1")
    assert second["cause"] == "Loss is nan in stage_2\n(sem nan, det 3.1)"
    assert found["CLIP", "paf"] == [{"seed": 0, "state": "running", "key": None, **facts}]
    assert [run["state"] for run in found["DetCo", "paf"]] == ["pending"]
    assert found["DetCo", "pf"][0]["stand_in"] is True
    assert found["CLIP", "pf"] == []  # no cell at all


def test_csv_tells_seeds_causes_and_stand_ins_and_which_table_a_line_is_of():
    table = table2(results(), title="Every checkpoint", number="d2")
    lines = [*csv.DictReader(io.StringIO(render(table, "csv")))]
    assert {(line["table"], line["title"]) for line in lines} == {
        ("d2", "Every checkpoint (disjoint-normal, self-training)")
    }
    of = {(line["model"], line["protocol"]): line for line in lines}
    pf = of["MoCo-v2", "pf"]
    assert (pf["n"], pf["asked"], pf["seeds"], pf["state"]) == ("1", "2", "0", "failed")
    assert pf["cause"] == "Loss is nan in stage_2 (sem nan, det 3.1)"
    assert [of[name, "pf"]["stand_in"] for name in ("DetCo", "BYOL")] == ["True", "False"]


def test_a_long_cause_loses_the_middle_of_its_paths_and_keeps_what_to_do():
    path = "/data/" + "a-long-folder/" * 20 + "weights.pth"
    cure = "Give the folder with --data, or fetch it: bench zoo fetch moco_v2."
    cause = f"There is no file {path}. {cure}"
    table = table2(pd.DataFrame([cell("byol", "pf", 0, "failed", error=cause)]))
    (note,) = [note for note in table.notes if "failed" in note]
    assert note.endswith(f"weights.pth. {cure}")
    assert "/data/" in note
    assert len(note) < 200
    (row, *_) = to_json(table)["rows"]
    assert row["cells"][0]["failures"] == [cause]
    endless = table2(pd.DataFrame([cell("byol", "pf", 0, "failed", error=f"{'no ' * 999}{cure}")]))
    assert endless.notes[-1].endswith(cure)
    assert len(endless.notes[-1]) < 420


def with_value(column, value):
    frame = results()
    frame.loc[0, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (results().drop(columns=["error", "det/mAP"]), "no column error, det/mAP"),
        (results().iloc[:0], "no cells"),
        (with_value("state", "lost"), "no state 'lost'"),
        (with_value("family", "audio"), "no family 'audio'"),
        (with_value("setting", "full"), "one setting, the results have 'full', 'disjoint-normal'"),
        (with_value("scheme", "zeroing"), "one scheme"),
        (pd.concat([results(), results().iloc[[5]]]), "Two cells are byol, pf, seed 0"),
    ],
)
def test_results_that_no_table_can_show_are_refused(frame, words):
    with pytest.raises(ReportError) as caught:
        table2(frame)
    assert words in str(caught.value)


def test_a_reference_with_an_unknown_metric_is_refused():
    with pytest.raises(ReportError, match="'sem/IoU'"):
        table2(results(), {"Best constant prediction": Reference(values={"sem/IoU": 3.1})})


def test_a_failure_without_a_cause_says_so():
    frame = pd.DataFrame([cell("byol", "pf", 0, "failed", error=math.nan)])
    assert "✗¹ failed: no cause was recorded" in table2(frame).notes


def test_importing_the_tables_needs_neither_pandas_nor_torch():
    code = (
        "import sys, reports.table2; sys.exit(bool({'pandas', 'torch', 'rich'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
