"""The golden files are rewritten with UPDATE_GOLDEN=1 in the environment."""

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from example_results import REFERENCES, cell, measured, results
from markdown_it import MarkdownIt

from reports.latex import latex
from reports.paper import beside
from reports.render import FORMATS, Look, render
from reports.table2 import table2
from reports.tables import ReportError

GOLDEN = Path(__file__).parent / "golden"
ENDINGS = {
    "console": "txt",
    "markdown": "md",
    "latex": "tex",
    "csv": "csv",
    "json": "json",
    "html": "html",
}


TABLES = {
    "table2": (lambda: table2(results(), REFERENCES), Look()),
    "table2-paper": (lambda: beside(table2(measured(), REFERENCES)), Look(cost=True)),
    "table2-wide": (
        lambda: beside(table2(measured(), REFERENCES)),
        Look(cost=True, layout="wide"),
    ),
}


def shown(name, format):
    made, look = TABLES[name]
    return look.of(made(), format)


@pytest.fixture
def table():
    return shown("table2", "console")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", TABLES)
def test_each_format_is_its_golden_file(name, format):
    text = render(shown(name, format), format)
    if name == "table2-wide" and format in ("csv", "json"):
        assert text == render(shown("table2-paper", format), format)
        return
    path = GOLDEN / f"{name}.{ENDINGS[format]}"
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_console_never_cuts_a_number_off(table, width):
    text = render(table, "console", width=width)
    for value in ("10.3", "23.7", "61.2", "±0.3", "✗¹", "24.0"):
        assert value in text


def test_a_console_of_80_columns_holds_the_table_of_one_seed():
    frame = results()
    frame = frame[(frame.seed == 0) & (frame.zoo != "moco_v2")]
    text = render(table2(frame), "console", width=80)
    assert max(map(len, text.splitlines())) <= 80


def test_color_changes_the_style_and_not_the_text(table):
    plain = render(table, "console", width=120)
    colored = render(table, "console", width=120, color=True)
    assert "\x1b" not in plain
    assert "\x1b[1m61.2\x1b[0m" in colored


def test_csv_gives_the_values_back(table):
    frame = pd.read_csv(io.StringIO(render(table, "csv")), keep_default_na=True)
    row = frame[
        (frame.model == "MoCo-v2") & (frame.protocol == "paf") & (frame.metric == "sem/mIoU")
    ].iloc[0]
    assert (row["mean"], row["n"]) == (pytest.approx(61.2), 2)
    assert row["keys"].split() == ["moco_v2-paf-s0", "moco_v2-paf-s1"]


def test_json_is_strict(table):
    json.loads(render(table, "json"), parse_constant=pytest.fail)


def test_markdown_rows_have_equal_numbers_of_cells(table):
    rows = [line for line in render(table, "markdown").splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("name", TABLES)
def test_markdown_is_a_table_to_a_parser_of_githubs_tables(name):
    table = shown(name, "markdown")
    tokens = MarkdownIt("commonmark").enable("table").parse(render(table, "markdown"))
    kinds = [token.type for token in tokens]
    papers = sum(row.has_paper for row in table.rows)
    groups = len({row.group for row in (*table.rows, *table.references)})
    lines = len(table.rows) + len(table.references) + papers + groups
    width = len(table.header) + len(table.columns)
    assert kinds.count("table_open") == 1
    assert kinds.count("th_open") == width
    assert kinds.count("td_open") == lines * width
    texts = [token.content for token in tokens if token.type == "inline"]
    assert "<u>26.2</u> ±0.1" in texts


def test_markdown_and_latex_escape_what_a_cause_holds():
    cause = "a|b_c <x> 50 % of {24} GiB \\ ~ ^ & $ # → 日"
    table = table2(pd.DataFrame([cell("byol", "pf", 0, "failed", error=cause)]))
    assert r"a\|b\_c \<x\>" in render(table, "markdown")
    assert (
        r"a\textbar{}b\_c \textless{}x\textgreater{} 50 \% of \{24\} GiB \textbackslash{} "
        r"\textasciitilde{} \textasciicircum{} \& \$ \# ? ?"
    ) in render(table, "latex")


def test_a_failure_in_latex_cannot_be_read_as_a_product(table):
    text = render(table, "latex")
    assert r"10.3\,$\boxtimes$\textsuperscript{1}" in text
    assert r"\times$" not in text.replace(r"$\boxtimes$", "")


def test_an_unknown_format_is_refused(table):
    with pytest.raises(ReportError, match="Unknown format 'pdf'"):
        render(table, "pdf")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("way", ["standalone", "input"])
def test_latex_compiles(name, tmp_path, way):
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip("pdflatex is not installed")
    table = shown(name, "latex")
    document = latex(table, standalone=True)
    if way == "input":  # into a text of one column, with the packages that the file names
        (tmp_path / "table2.tex").write_text(latex(table), encoding="utf-8")
        needs = " ".join(
            re.findall(r"\\usepackage(?:\[\w+\])?\{.*?\}", latex(table).split("\n")[0])
        )
        document = rf"\documentclass{{article}} {needs} \begin{{document}} \input{{table2}} Text."
        document += r" \end{document}"
    (tmp_path / "document.tex").write_text(document, encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert not re.findall("Overfull.*|.*Warning.*too large.*|Missing character.*", done.stdout)
    assert (tmp_path / "document.pdf").exists()
