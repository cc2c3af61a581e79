from html.parser import HTMLParser

import pandas as pd
import pytest
from example_results import REFERENCES, cell, measured

from reports.html import html
from reports.paper import beside
from reports.table2 import table2, wide


class Cells(HTMLParser):
    """What a fragment holds: its elements must close in order; each cell with its row."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1][2] += data


def values(row):
    return {attrs["data-metric"]: attrs for tag, attrs, _ in row if tag == "td"}


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_every_row_fills_the_width_of_the_table(layout):
    table = beside(table2(measured(), REFERENCES))
    table = wide(table) if layout == "wide" else table
    rows = Cells(html(table)).rows
    width = len(table.header) + len(table.columns)
    depth = len(table.columns[0].headings)
    for number, row in enumerate(rows):
        spanned = sum(int(attrs.get("colspan", 1)) for _, attrs, _ in row)
        below_header = 0 < number < depth
        assert spanned + (len(table.header) if below_header else 0) == width


def test_cells_carry_what_a_page_sorts_and_explains_by():
    rows = Cells(html(beside(table2(measured())))).rows
    named = {(row[0][2], row[1][2].split()[0]): row for row in rows if len(row) == 9}
    pf = values(named["MoCo-v2", "pf"])["sem/mIoU"]
    assert (float(pf["data-value"]), pf["data-state"]) == (10.3, "failed")
    assert pf["data-keys"] == "moco_v2-pf-s0"
    assert pf["title"].startswith("failed: Loss is nan in stage_2")
    assert "61.00, 61.40 (seeds 0, 1)" in values(named["MoCo-v2", "paf"])["sem/mIoU"]["title"]
    detco = values(named["DetCo", "pf"])["sem/mIoU"]
    assert "95 % interval over validation frames: 36.6 to 39.6" in detco["title"]
    assert "data-value" not in values(named["CLIP", "paf"])["sem/mIoU"]
    assert named["MoCo-v2", "paf"][0][1]["class"] == "repeat"
    assert named["MoCo-v2", "paf"][2][2] == "61.2 ±0.3"


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_the_papers_numbers_stand_in_a_line_of_their_own_that_says_so(layout):
    table = beside(table2(measured(), REFERENCES))
    table = wide(table) if layout == "wide" else table
    rows = Cells(html(table)).rows
    front = len(table.header)
    papers = [i for i, row in enumerate(rows) if "paper" in [text for *_, text in row[:front]]]
    assert len(papers) == sum(row.has_paper for row in table.rows)
    first = {rows[number - 1][0][2].split()[0]: rows[number][front][2] for number in papers}
    assert first["BYOL"] == ("61.7" if layout == "long" else "59.2 0.0≈")
    assert first["DenseCL"] == ("60.7" if layout == "long" else "20.0")
    for number in papers:
        assert not any("data-value" in attrs for _, attrs, _ in rows[number])
        assert len(rows[number]) == len(rows[number - 1])
    ours = [row for number, row in enumerate(rows) if number not in papers]
    assert "61.7" not in " ".join(cell for row in ours for *_, cell in row)


def test_what_a_cause_holds_is_text_and_never_markup():
    cause = "<script>alert('x')</script> & \"quotes\""
    text = html(table2(pd.DataFrame([cell("byol", "pf", 0, "failed", error=cause)])))
    assert "<script" not in text
    assert any(cause in cell for row in Cells(text).rows for _, _, cell in row)
