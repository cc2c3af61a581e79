import tomllib
from dataclasses import replace

import pandas as pd
import pytest
from example_results import cell, results

from reports.expected import check_rows, expected, misses, read
from reports.table2 import table2
from reports.tables import ReportError, columns_of


def rows(text):
    return [*expected(tomllib.loads(text))]


def missed(text, tol=0.1):
    return misses("table2", table2(results()), rows(text), tol)


def test_values_within_the_tolerance_are_no_misses():
    assert missed('BYOL.pf = {"sem/mIoU" = 59.2, "det/mAP" = 26.0}') == []
    assert missed('"Classification-oriented".BYOL.pf = {"sem/mIoU" = 59.1}') == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('BYOL.pf = {"sem/mIoU" = 58.0}', "BYOL pf, sem/mIoU: 59.20, expected 58 ± 0.1"),
        ('DetCo.paf = {"sem/mIoU" = 61}', "DetCo paf, sem/mIoU: pending, expected 61 ± 0.1"),
        ('CLIP.paf = {"sem/mIoU" = 61}', "CLIP paf, sem/mIoU: running, expected 61 ± 0.1"),
        ('BYOL.paf = {"sem/mIoU" = 61}', "BYOL paf, sem/mIoU: failed, expected 61 ± 0.1"),
        (
            'MoCo-v2.pf = {"sem/mIoU" = 10.3}',
            "MoCo-v2 pf, sem/mIoU: failed (1 of its seeds done), expected 10.3 ± 0.1",
        ),
        (
            'DenseCL.paf = {"sem/mIoU" = 61}',
            "DenseCL paf, sem/mIoU: does not apply, expected 61 ± 0.1",
        ),
    ],
)
def test_a_miss_says_what_is_there_and_what_was_expected(text, line):
    assert missed(text) == [f"table2 {line}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'MoCo-v9.pf = {"sem/mIoU" = 61}',
            "table2.MoCo-v9.pf: there is no row of that name. Rows are: MoCo-v2 pf, MoCo-v2 paf, ",
        ),
        (
            'BYOL = {"sem/mIoU" = 61}',
            "table2.BYOL: there are 2 rows of that name. Name one of: BYOL pf, BYOL paf.",
        ),
    ],
)
def test_what_names_no_row_or_several_is_refused_with_those_that_there_are(text, words):
    with pytest.raises(ReportError) as caught:
        check_rows("table2", table2(results()), rows(text))
    assert str(caught.value).startswith(words)


def test_a_metric_that_a_table_has_no_column_of_is_missed():
    table = table2(pd.DataFrame([cell("byol", "pf", values=(59.2,) * 7)]))
    short = replace(
        table,
        columns=columns_of(["sem/mIoU"]),
        rows=tuple(replace(row, entries=row.entries[:1]) for row in table.rows),
    )
    (line,) = misses("table2", short, rows('BYOL.pf = {"det/mAP" = 1}'), 0.1)
    assert line == "table2 BYOL pf, det/mAP: the table has no such column, expected 1 ± 0.1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('BYOL.pf = {"sem/IoU" = 1}', "BYOL.pf: 'sem/IoU'. Metrics are: sem/mIoU,"),
        ('BYOL.pf = {"sem/mIoU" = nan}', "BYOL.pf: 'nan' is no number"),
        ('BYOL.pf = {"sem/mIoU" = "1"}', "BYOL.pf: '1' is no number"),
        ('BYOL = 3\nCLIP.pf = {"sem/mIoU" = 1}', "BYOL is 3; it must be a table of metrics"),
        ("BYOL.pf = 3", """BYOL.pf is 3; it must be a table of metrics: {"sem/mIoU" = 61.2}"""),
    ],
)
def test_what_is_no_row_of_values_is_refused(text, words):
    with pytest.raises(ReportError) as caught:
        rows(text)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_or_not_toml_is_refused(tmp_path):
    with pytest.raises(ReportError, match="There is no file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[table2\n")
    with pytest.raises(ReportError, match=r"bad\.toml is not TOML"):
        read(tmp_path / "bad.toml")
