import csv
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from example_results import cell, measured, results
from scipy.stats import t as student

from reports import paper
from reports.data import to_json
from reports.expected import expected
from reports.render import render
from reports.table2 import table2, wide
from reports.tables import Entry

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "tables"
COLUMNS = {
    "ss_miou": "sem/mIoU",
    "ss_pacc": "sem/pACC",
    "da_miou": "driv/mIoU",
    "da_pacc": "driv/pACC",
    "det_map": "det/mAP",
    "det_ap50": "det/AP50",
    "det_ap75": "det/AP75",
}
NAMES = {  # of a row, by the number of its table
    1: lambda row: (row["method"].removesuffix(" (Ours)"),),
    2: lambda row: (row["model"], "pf" if row["adapt_epochs"] == "0" else "paf"),
    3: lambda row: (row["setting"], row["method"].removesuffix(" (Ours)"), row["trained_task"]),
    4: lambda row: (row["row"],),
    5: lambda row: (row["adapt_epochs"], row["finetune_epochs"]),
}
PF = (10.3, 19.8, 73.4, 93.5, 26.0, 50.1, 23.2)  # MoCo-v2, as published


def published(number):
    return {one.path: dict(one.values) for one in expected(paper._file()[f"table{number}"])}


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_the_published_numbers_are_those_of_the_paper(number):
    file = SPEC / f"table{number}.csv"
    if not file.exists():
        pytest.skip("../shared/spec is not here")
    with file.open() as stream:
        said = {
            NAMES[number](row): {m: float(row[c]) for c, m in COLUMNS.items() if row.get(c)}
            for row in csv.DictReader(stream)
        }
    assert published(number) == said


def test_the_published_numbers_agree_with_the_text_of_the_paper():
    two = published(2)
    for model, gain in (("MoCo-v1", 41.4), ("MoCo-v2", 50.9), ("DenseCL", 40.7)):
        difference = two[model, "paf"]["sem/mIoU"] - two[model, "pf"]["sem/mIoU"]
        assert difference == pytest.approx(gain)
    lv, normal = published(1)[("LV-Adapter",)], published(3)["Disjoint-normal", "LV-Adapter", "all"]
    assert lv == normal
    assert published(5)["6", "30"].items() <= two["CLIP", "paf"].items()


def test_the_supervised_row_that_the_paper_lacks_is_that_of_table_1_and_is_marked():
    frame = pd.DataFrame([{**cell("byol", "pf", values=PF), "label": "Supervised"}])
    table = paper.beside(table2(frame))
    pf, paf = table.rows
    assert (pf.derived, paf.derived, paf.has_paper) == (True, False, False)
    values = {entry.metric: entry.paper for entry in pf.entries if entry.paper is not None}
    assert values == published(1)[("Self-training",)]
    assert any(note.startswith("§ not printed in the paper") for note in table.notes)
    assert [row["derived"] for row in to_json(table)["rows"]] == [True, False]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_difference_is_within_the_spread_of_one_more_run(n):
    half = float(student.ppf(0.975, n - 1)) * 0.4 * math.sqrt(1 + 1 / n)
    ours = Entry(metric="sem/mIoU", mean=60.0, std=0.4, n=n)
    for off, inside in ((half, True), (half + 0.06, False), (-half - 0.06, False), (0.0, True)):
        assert paper.within(replace(ours, paper=60.0 + off)) is inside


def test_of_one_seed_the_spread_is_unknown_unless_frames_tell_it():
    one = Entry(metric="sem/mIoU", mean=60.0, n=1, paper=60.0)
    assert paper.within(one) is None
    assert paper.within(replace(one, interval=(59.0, 61.0))) is True
    assert paper.within(replace(one, interval=(60.2, 61.0))) is False
    assert paper.within(replace(one, mean=None)) is None
    notes = "\n".join(paper.beside(table2(measured())).notes)
    assert "without either mark: one seed, the spread is unknown" in notes
    assert "or of one run over validation frames (95 %)" in notes


def test_stand_ins_and_other_presets_are_never_said_to_agree_with_the_paper():
    two = [
        cell("moco_v2", name, seed, values=(50.0 + seed, *PF[1:]), stand_in=True)
        for name in ("pf", "paf")
        for seed in (0, 1)
    ]
    real = pd.DataFrame([{**one, "stand_in": False} for one in two])
    agreeing = paper.beside(table2(real))
    assert {e.within for row in wide(agreeing).rows for e in row.entries} == {True, False}
    for table in (
        paper.beside(table2(pd.DataFrame(two))),
        paper.beside(table2(real), comparable=False),
    ):
        for shown in (table, wide(table)):
            entries = [e for row in shown.rows for e in row.entries]
            assert {e.within for e in entries} == {None}
            assert all(e.difference is not None for e in entries)
            assert not {*"≈≠"} & {*render(shown, "console")}
            assert not any("without either mark" in note for note in shown.notes)


def test_an_interval_is_of_a_single_cell_alone():
    frame = measured()
    for end in ("low", "high"):
        frame[f"sem/mIoU {end}"] = 1.0
    entries = {row.header: row.entries[0] for row in table2(frame).rows}
    assert entries["MoCo-v2", "paf"].interval is None  # two seeds
    assert entries["DetCo", "pf"].interval == (1.0, 1.0)
    assert entries["DetCo", "paf"].interval is None  # pending
    assert table2(results()).rows[0].entries[0].interval is None  # no such column


def test_what_the_paper_contradicts_itself_in_stands_below_its_table_alone():
    beside = "\n".join(paper.beside(table2(results())).notes)
    assert "Paper: the introduction has 12.5 for SS mIoU of MoCo-v2" in beside
    assert "1 and 5 epochs" not in beside  # of Table 4
    assert "Paper:" not in "\n".join(table2(results()).notes)


def test_a_remark_stands_before_them():
    table = paper.beside(table2(results()), ("not comparable",))
    first = next(note for note in table.notes if note.startswith("Paper: "))
    assert first == "Paper: not comparable"


def test_rows_that_the_paper_does_not_have_get_no_value():
    frame = pd.DataFrame([{**cell("byol", "pf", values=PF), "label": "My own"}])
    table = paper.beside(table2(frame))
    assert not any(row.has_paper for row in table.rows)
    assert "The paper has no values for these rows" in table.notes


def test_the_gain_of_paf_is_beside_the_papers_gain():
    two = [cell("moco_v2", "pf", seed, values=PF) for seed in (0, 1)]
    better = [cell("moco_v2", "paf", s, values=(61.3 + s, *PF[1:])) for s in (0, 1)]
    (row,) = wide(paper.beside(table2(pd.DataFrame(two + better)))).rows
    gain = row.entries[2]
    assert (gain.paper, gain.mean) == (pytest.approx(50.9), pytest.approx(51.5))
    assert gain.std == pytest.approx(pd.Series([51.0, 52.0]).std())
    assert gain.within is True
