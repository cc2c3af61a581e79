"""`--config FILE.toml`: the same names as on the command line, which wins."""

import json

import pytest

from tests import stored

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
        ('[slrum]\npartition = "x"', "it has no 'slrum'. Did you mean 'slurm'? Known: run, slurm."),
        ('zoo = "all"', "it has no 'zoo'"),
        ('[run]\nconfig = "x"', "[run] has no 'config'"),
        ('[run]\nslurm = "x"', "[run] has no 'slurm'"),
        ("[run", "is not TOML"),
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
