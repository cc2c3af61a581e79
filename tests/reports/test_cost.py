import pandas as pd
import pytest
from example_results import cell, measured

from reports.cost import with_cost
from reports.data import to_json
from reports.render import render
from reports.table2 import table2

VALUES = (59.2, 90.2, 75.6, 93.9, 25.9, 49.8, 23.4)


def trained(zoo, protocol, hours, device="NVIDIA H200", **more):
    return {
        **cell(zoo, protocol, values=VALUES, **more),
        "hours": hours,
        "device": device,
        "gpus": 1,
    }


PAIR = [
    trained("byol", "pf", {"finetune": 8.0}),
    trained("byol", "paf", {"adapt": 0.5, "finetune": 6.5}),
]


def shown(rows):
    """The values of the columns of cost, by the headings, for each row."""
    table = with_cost(table2(pd.DataFrame(rows)))
    names = [column.headings[-1] for column in table.columns]
    return [
        dict(zip(names[7:], [e.mean for e in row.entries[7:]], strict=True)) for row in table.rows
    ]


def test_hours_of_each_stage_and_in_all_stand_behind_the_metrics_and_paf_beside_pf():
    assert shown(PAIR) == [
        {"adapt": None, "finetune": 8.0, "all": 8.0, "to pf": None},
        {"adapt": 0.5, "finetune": 6.5, "all": 7.0, "to pf": 7 / 8},
    ]


def test_hours_are_means_over_seeds():
    rows = [*PAIR, trained("byol", "paf", {"adapt": 1.5, "finetune": 8.5}, seed=1)]
    assert shown(rows)[1] == {"adapt": 1.0, "finetune": 7.5, "all": 8.5, "to pf": 8.5 / 8}


def test_hours_of_two_devices_are_not_compared():
    rows = [PAIR[0], trained("byol", "paf", {"adapt": 0.5, "finetune": 90.0}, device="cpu")]
    assert shown(rows)[1]["to pf"] is None
    notes = "\n".join(with_cost(table2(pd.DataFrame(rows))).notes)
    assert "GPU-hours and process-hours of training on NVIDIA H200; cpu" in notes


def test_where_not_all_seeds_tell_their_hours_a_row_has_none():
    rows = [PAIR[0], trained("byol", "pf", None, seed=1)]
    assert shown(rows)[0]["all"] is None


def test_a_cell_that_is_not_done_costs_nothing_yet():
    table = with_cost(table2(measured()))
    marks = {row.header: row.entries[-2].mark for row in table.rows}
    assert marks["DetCo", "paf"] == "·"
    assert marks["CLIP", "paf"] == "…"
    assert marks["BYOL", "paf"] == "✗"
    assert marks["MoCo-v2", "pf"] == ""


def test_what_pf_takes_of_pf_is_called_a_ratio_and_no_hours():
    table = with_cost(table2(pd.DataFrame(PAIR)))
    assert table.columns[-1].headings == ("Ratio", "to pf")
    assert any(note.startswith("Ratio to pf: all hours over those of pf") for note in table.notes)


@pytest.mark.parametrize("state", ["pending", "running", "failed"])
def test_the_adapt_stage_does_not_apply_to_pf_whatever_became_of_it(state):
    frame = pd.DataFrame([cell("byol", "pf", 0, state, error="Disk full"), PAIR[1]])
    frame["hours"] = frame["hours"].astype(object).where(frame["hours"].notna(), None)
    table = with_cost(table2(frame))
    names = [column.headings[-1] for column in table.columns]
    marks = dict(zip(names, [e.state for e in table.rows[0].entries], strict=True))
    assert (marks["adapt"], marks["to pf"]) == ("na", "na")
    assert (marks["finetune"], marks["all"]) == (state, state)


def test_json_has_the_cost_whatever_is_shown():
    (pf, paf) = to_json(table2(pd.DataFrame(PAIR)))["rows"]
    assert pf["cost"]["of_pf"] is None
    assert paf["cost"] == {
        "unit": "GPU-hours",
        "devices": ["NVIDIA H200"],
        "per_cell": [1],
        "stages": {"adapt": 0.5, "finetune": 6.5},
        "all": 7.0,
        "of_pf": pytest.approx(0.875),
        "n": 1,
    }
    assert (
        to_json(table2(pd.DataFrame([cell("byol", "pf", values=VALUES)])))["rows"][0]["cost"]
        is None
    )


def test_csv_has_a_line_for_each_cost_where_they_are_asked_for():
    table = table2(pd.DataFrame(PAIR))
    assert "hours/" not in render(table, "csv")
    assert "BYOL,paf,hours/all,7.0," in render(with_cost(table), "csv")
