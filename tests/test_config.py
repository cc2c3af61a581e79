"""`--config FILE.toml`: the same names as on the command line, which wins."""

import json
import re

import pytest

from bench.invocations import invocations
from tests import stored
from tests.conftest import ROOT

GRID = """
[run]
zoo = ["moco_v2", "clip"]
protocol = "pf"
scheme = "zeroing"
preset = "tiny"
seeds = [0, 1]
stand-ins = true
track = "off"
set.optim.batch = 2
set.stages.finetune.decay_at = [0.5, 0.75]

[slurm]
partition = "gpu"
time = "01:00:00"
"""


@pytest.fixture
def grid(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text(GRID)
    return file


def planned(say, *words):
    code, out, err = say("plan", *words, "--json")
    assert code == 0, err
    return {(one["zoo"], one["protocol"], one["seed"]) for one in json.loads(out)["cells"]}


def test_a_plan_is_that_of_the_same_options(say, streets, new_store, grid):
    store = ("--store", new_store(), "--data", streets)
    told = ("--zoo", "moco_v2,clip", "--protocol", "pf", "--scheme", "zeroing", "--preset", "tiny")
    told = (*told, "--seeds", "0,1", "--stand-ins", "--set", "optim.batch=2")
    told = (*told, "--set", "stages.finetune.decay_at=0.5,0.75")
    by_file = say("plan", "--config", grid, *store, "--json")
    by_hand = say("plan", *told, *store, "--json")
    assert by_file == by_hand
    assert len(json.loads(by_file[1])["cells"]) == 4


def test_the_command_line_wins(say, streets, new_store, grid):
    words = ("--config", grid, "--store", new_store(), "--data", streets)
    assert planned(say, *words, "--zoo", "clip", "--seeds", "5") == {("clip_rn50", "pf", 5)}
    assert planned(say, "--seeds", "5", "--zoo", "clip", *words) == {("clip_rn50", "pf", 5)}


def test_the_table_slurm_is_what_sbatch_gets(say, streets, new_store, grid):
    words = ("plan", "--config", grid, "--store", new_store(), "--data", streets, "--show-sbatch")
    _, out, _ = say(*words)
    assert "#SBATCH --partition=gpu" in out
    assert "#SBATCH --time=60" in out
    assert "#SBATCH --array=0-3" in out
    assert "#SBATCH --partition=big" in say(*words, "--slurm", "partition=big")[1]


SWEEP = """
[run]
zoo = "moco_v2"
scheme = "zeroing"
preset = "tiny"
stand-ins = true

[[grid]]
protocol = "pf,paf"

[[grid]]
zoo = ["clip", "moco_v2"]
protocol = "pf"
seeds = [0, 1]
set.optim.batch = 4
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    return tmp_path / "sweep.toml"


def test_several_grids_are_united_and_what_they_share_is_there_once(say, streets, new_store, sweep):
    words = ("--config", sweep, "--store", new_store(), "--data", streets)
    code, out, err = say("plan", *words, "--json")
    assert code == 0, err
    listed = [(c["zoo"], c["protocol"], c["seed"]) for c in json.loads(out)["cells"]]
    assert listed == [
        ("moco_v2_200ep", "pf", 0),
        ("moco_v2_200ep", "paf", 0),
        ("moco_v2_200ep", "pf", 1),  # that of seed 0 is there already
        ("clip_rn50", "pf", 0),
        ("clip_rn50", "pf", 1),
    ]
    assert planned(say, *words, "--seeds", "7", "--zoo", "byol") == {
        ("byol_deepmind", "pf", 7),
        ("byol_deepmind", "paf", 7),
    }


def test_several_grids_run_as_one_and_have_a_table_each(say, streets, new_store, sweep, tmp_path):
    store = new_store()
    sweep.write_text(SWEEP.replace('"pf,paf"', '"paf"').replace("[0, 1]", "1"))
    words = ("--config", sweep, "--store", store, "--data", streets)
    words = (*words, "--tasks", "driv", "--zoo", "moco_v2")
    code, out, err = say("run", *words, "--runner", "here", "--track", "off")
    assert code == 0, out + err
    assert out.count("MoCo-v2") == 2
    (asked,) = invocations(store)
    assert sorted(file.name for file in asked.folder.glob("*.md")) == ["table2-1.md", "table2-2.md"]
    assert len(asked.cells) == 2
    code, out, err = say("status", "--config", sweep, "--store", store, "--json")
    assert len(json.loads(out)["cells"]) == 2
    words = ("--config", sweep, "--store", store, "--seeds", "3", "--json")
    assert json.loads(say("status", *words)[1]) == {"cells": []}


def test_a_grid_can_be_a_table_of_the_paper(say, streets, new_store, sweep):
    sweep.write_text(SWEEP + '[[grid]]\ntable = "5"\n')
    words = ("--config", sweep, "--store", new_store(), "--data", streets)
    found = planned(say, *words)
    assert {("moco_v2_200ep", "paf", 0), ("clip_rn50", "paf2+1", 0)} <= found


def test_the_readmes_grids_are_what_they_say(say, streets, new_store, tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (text,) = (block for block in blocks if "[[grid]]" in block)
    (tmp_path / "sweep.toml").write_text(text)
    words = ("--config", "sweep.toml", "--preset", "tiny", "--scheme", "zeroing")
    found = planned(say, *words, "--store", new_store(), "--data", streets, "--stand-ins")
    assert len(found) == 9 * 2 + 3
    assert {one for one in found if one[1].startswith("lv")} == {
        ("clip_rn50", "lv3+2", seed) for seed in (0, 1, 2)
    }


def test_status_and_report_read_the_same_file(say, tmp_path):
    store = tmp_path / "mine"
    wanted = stored.done(store, stored.cell(name="pf"))
    stored.done(store, stored.cell(name="paf"))
    (tmp_path / "my.toml").write_text(
        f'[run]\nstore = "{store}"\nprotocol = "pf"\nrunner = "here"\nscheme = "zeroing"\n'
    )
    code, out, _ = say("status", "--config", "my.toml", "--json")
    assert code == 0
    assert [one["cell"] for one in json.loads(out)["cells"]] == [wanted.name]
    code, out, _ = say("report", "--config", "my.toml", "--preset", "tiny", "--format", "csv")
    assert code == 0
    assert "31.25" in out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[run]\nprotcol = "pf"', "[run] has no 'protcol'. Did you mean 'protocol'?"),
        ('[slrum]\npartition = "x"', "it has no 'slrum'. Did you mean 'slurm'? Known: grid, run"),
        ('zoo = "all"', "it has no 'zoo'"),
        ('[run]\nconfig = "x"', "[run] has no 'config'"),
        ('[run]\nslurm = "x"', "[run] has no 'slurm'"),
        ("[run", "is not TOML"),
        ('[[grid]]\nprotcol = "pf"', "[[grid]] has no 'protcol'. Did you mean 'protocol'?"),
        ('[[grid]]\nstore = "x"', "[[grid]] has no 'store'"),
        ('[grid]\nzoo = "all"', "Write [[grid]] above each"),
        ('[[grid]]\nprotocol = "pfa"', "Unknown protocol 'pfa'. Did you mean 'pf'?"),
        ("[[grid]]\nseeds = [0.5]", "'0.5' is not a whole number"),
        ("[[grid]]\nset.optim.bach = 2", "Did you mean 'batch'?"),
        ("run = 1", "run is no table"),
        ('[run]\nprotocol = "pfa"', "Unknown protocol 'pfa'. Did you mean 'pf'?"),
        ("[run]\nseeds = [0.5]", "'0.5' is not a whole number"),
        ('[run]\nrunner = "slurmm"', "'slurmm' is not one of"),
        ('[slurm]\npartitoin = "gpu"', "Did you mean 'partition'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(say, streets, tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    words = ("--config", "bad.toml", "--data", streets, "--stand-ins", "--preset", "tiny")
    code, out, err = say("run", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_not_there_is_one_line(say):
    code, _, err = say("plan", "--config", "none.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "none.toml" in err
