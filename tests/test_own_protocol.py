"""A user's own protocol from its file to the report, and afterwards without the file."""

import json
import re
import tomllib
from dataclasses import asdict

import pytest

from bench import artifacts
from bench.cell import Cell
from bench.grids import Request, cells, teachers
from bench.invocations import invocations
from protocols.own import Own, read
from tests.conftest import ROOT
from tests.saying import refused, told

THAW = """
name = "thaw"

[[stages]]
name = "heads"
epochs = 1
lr = 1e-3
learns = ["heads"]
warmup_steps = 2

[[stages]]
name = "all"
epochs = 1
lr = 5e-4
learns = ["backbone", "neck", "heads"]
warmup_steps = 2
"""


@pytest.fixture
def thaw(tmp_path):
    (tmp_path / "thaw.toml").write_text(THAW)
    return tmp_path / "thaw.toml"


@pytest.fixture
def where(streets, new_store):
    words = ("--zoo", "moco_v2", "--preset", "tiny", "--scheme", "zeroing", "--tasks", "driv")
    return (*words, "--store", new_store(), "--data", streets, "--stand-ins")


def test_it_runs_and_everything_afterwards_knows_it_without_its_file(say, thaw, where, tmp_path):
    words = (*where, "--protocol", thaw)
    code, out, err = say("run", *words, "--runner", "here", "--track", "off")
    assert code == 0, out + err
    assert "thaw" in out
    (home,) = (tmp_path / "runs" / "cells").glob("moco*")
    assert home.name.startswith("moco_v2_200ep-thaw-disjoint-normal-zeroing-driv-s0-tiny-")
    result = json.loads((home / "result.json").read_text())
    assert [(one["name"], one["steps"]) for one in result["stages"]] == [("heads", 1), ("all", 1)]
    assert told(say, "plan", *words)["cells"][0]["state"] == "done"

    thaw.write_text(THAW.replace("lr = 1e-3", "lr = 2e-3"))
    (other,) = told(say, "plan", *words)["cells"]
    assert other["state"] == "pending"
    why = told(say, "plan", *words, "--explain", other["key"])
    assert [one["field"] for one in why["differences"]] == ["stages.heads.lr"]

    thaw.unlink()
    (asked,) = invocations(tmp_path / "runs")
    written = asked.folder / "table2.md"
    before = written.read_text()
    assert "thaw" in before
    written.unlink()
    artifacts.write(asked)
    assert written.read_text() == before
    store = ("--store", tmp_path / "runs")
    for chosen in (("--protocol", "thaw"), ()):
        (one,) = told(say, "status", *chosen, *store)["cells"]
        assert (one["cell"], one["state"]) == (home.name, "done")
    assert told(say, "status", "--protocol", "paf", *store)["cells"] == []
    assert "Did you mean 'thaw'?" in refused(say, "status", "--protocol", "thawed", *store)
    assert "stages.heads.lr" in say("show", home.name, *store)[1]
    assert "thaw.toml: No such file" in refused(say, "plan", *words)


def test_its_cells_have_an_address_of_their_own_and_come_back_from_their_values(thaw):
    own = read(thaw)
    request = Request(zoo=("moco_v2",), protocols=("paf", own), preset="demo")
    paf, mine = cells(request)
    assert mine.address.startswith("moco_v2_200ep-thaw-disjoint-normal-self-training-s0-demo-")
    assert mine.protocol_label == "thaw"
    assert Cell.from_resolved(json.loads(json.dumps(mine.resolved()))) == mine
    assert teachers(mine) == teachers(paf)
    other = cells(Request(**{**vars(request), "overrides": ("stages.all.epochs=3",)}))[1]
    assert other.address != mine.address
    assert Request.from_dict(json.loads(json.dumps(asdict(request)))) == request


def test_the_readme_shows_one_in_ten_lines():
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (text,) = (block for block in blocks if "stages = [" in block)
    assert len(text.splitlines()) <= 10
    made = Own.from_dict(tomllib.loads(text)).protocol()
    assert sum(stage.epochs for stage in made.stages) == 36  # so it compares with pf and paf


def test_two_of_one_name_are_refused(say, thaw, where, tmp_path):
    (tmp_path / "copy.toml").write_text(THAW.replace("epochs = 1", "epochs = 2"))
    line = refused(say, "plan", *where, "--protocol", "thaw.toml,copy.toml")
    assert line.startswith("Two protocols are called 'thaw'.")


def test_a_mistake_in_it_is_one_line(say, thaw, where):
    thaw.write_text(THAW.replace("epochs", "epoch", 1))
    line = refused(say, "run", *where, "--protocol", "thaw.toml")
    assert line == (
        "thaw.toml: Unknown key of stages.heads 'epoch'. Did you mean 'epochs'? "
        "Known: name, epochs, lr, learns, warmup_steps, warmup_factor, decay_at, decay."
    )
