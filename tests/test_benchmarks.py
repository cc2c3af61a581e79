"""What the benchmarks say, where no figure is needed to know it."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu, grid, table
from benchmarks.figures import figure
from benchmarks.grid import Took


def test_a_figure_is_the_median_of_the_rounds_ratios_and_says_what_it_misses():
    one = figure("a / b", [1.0, 2.0, 9.0], [2.0, 2.0, 3.0], 0.5)
    assert (one.ratio, one.low, one.high, one.met) == (1.0, 0.5, 3.0, False)
    assert one.row() == "| a / b | 1 (0.5-3) | ≤ 0.5, missed | 1 | 2 |"
    assert figure("a / b", [4.0], [2.0], -2).met
    reported = figure("a / b", [4.0], [2.0], None)
    assert reported.met
    assert reported.row() == "| a / b | 2 (2-2) |  | 4 | 2 |"


def test_the_best_schedule_takes_the_longest_first_and_makes_students_wait_for_labels():
    def job(turn, seconds):
        return Took("", turn, 0.0, seconds)

    students = [job(2, seconds) for seconds in (5, 4, 3, 3, 3)]
    assert grid.best(students, 2) == 10.0
    assert grid.best([job(0, 7), job(0, 2), job(1, 1), *students], 2) == 7 + 1 + 10


def test_the_gpu_s_table_has_a_row_for_each_stage_and_for_predicting(monkeypatch):
    monkeypatch.setattr(gpu, "WARM", 1)
    monkeypatch.setattr(gpu, "STEPS", 1)
    eager = {"losses at a quarter": gpu.VARIANTS["losses at a quarter"]}
    rows = list(gpu.rows("tiny", torch.device("cpu"), eager, ((64, 96),), (2,)))
    assert len(rows) == 3
    assert all(row.count("|") == gpu.HEADER.split("\n")[0].count("|") for row in rows)
    assert all("unknown" in row for row in rows)  # no peak is known of a CPU


@pytest.mark.parametrize("mark", ["<!-- made by `make bench` -->", "<!-- /made -->"])
def test_the_table_has_its_place_between_two_marks(mark):
    assert Path(table.BENCHMARKS).read_text().count(mark) == 1
