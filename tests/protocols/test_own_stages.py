"""A protocol of a user's own: what its file says, and every mistake in it."""

import json
import tomllib
from dataclasses import asdict, replace

import pytest

from protocols import ProtocolError
from protocols.own import Own, base_of, read
from protocols.presets import PROTOCOLS, protocol
from protocols.stages import Stage

THAW = """
name = "thaw"

[[stages]]
name = "heads"
epochs = 2
lr = 2.5e-4
learns = ["neck", "heads"]

[[stages]]
name = "all"
epochs = 34
lr = 1
learns = ["backbone", "neck", "heads"]
warmup_steps = 500
decay_at = [0.75, 1]
"""


@pytest.fixture
def thaw(tmp_path):
    def write(text=THAW):
        (tmp_path / "thaw.toml").write_text(text)
        return tmp_path / "thaw.toml"

    return write


def test_its_stages_are_as_written_and_all_else_is_the_presets(thaw):
    own = read(thaw())
    for preset in ("paper", "demo"):
        made = own.protocol(preset)
        assert made.stages == (
            Stage(name="heads", epochs=2, lr=2.5e-4, learns=("neck", "heads")),
            Stage(
                name="all",
                epochs=34,
                lr=1.0,
                learns=("backbone", "neck", "heads"),
                warmup_steps=500,
                decay_at=(0.75, 1.0),
            ),
        )
        paf = protocol("paf", preset)
        assert replace(made, name="paf", stages=paf.stages) == paf


def test_it_can_have_the_adapter_of_another(thaw):
    text = THAW.replace("[[stages]]", 'base = "lv"\n\n[[stages]]', 1)
    made = read(thaw(text.replace('["neck", "heads"]', '["adapter"]'))).protocol()
    assert made.adapter == protocol("lv").adapter
    assert made.stages[0].learns == ("adapter",)
    assert base_of(made) == "lv"
    assert [base_of(protocol(name)) for name in PROTOCOLS] == list(PROTOCOLS)


def test_it_comes_back_from_its_plain_values(thaw):
    own = read(thaw())
    assert Own.from_dict(json.loads(json.dumps(asdict(own)))) == own


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "thaw"', "", "name is None; right would be"),
        ('name = "thaw"', 'name = "pf"', "one that is not taken"),
        ('name = "thaw"', 'name = "a b"', "name is 'a b'"),
        ('name = "thaw"', 'name = "thaw"\nbass = "pf"', "Unknown key 'bass'. Did you mean 'base'?"),
        ('name = "thaw"', 'name = "thaw"\nbase = "pfa"', "Unknown base 'pfa'. Did you mean"),
        ("epochs = 2\n", "epoch = 2\n", "key of stages.heads 'epoch'. Did you mean 'epochs'?"),
        ("epochs = 2\n", "", "stages.heads has no epochs"),
        ("epochs = 2\n", "epochs = 2.5\n", "stages.heads.epochs is 2.5; right would be a whole"),
        ("epochs = 2\n", "epochs = true\n", "stages.heads.epochs is True"),
        ("epochs = 2\n", "epochs = -1\n", "stages.heads.epochs is -1; right would be 0 or more"),
        ("lr = 2.5e-4", "lr = 0", "stages.heads.lr is 0.0; right would be a positive number"),
        ("lr = 2.5e-4", "lr = nan", "stages.heads.lr is nan"),
        ("lr = 2.5e-4", 'lr = "1e-3"', "stages.heads.lr is '1e-3'; right would be a number"),
        ('["neck", "heads"]', '["nek"]', "Unknown part 'nek'. Did you mean 'neck'?"),
        ('["neck", "heads"]', '"neck"', "stages.heads.learns is 'neck'; right would be a list"),
        ('["neck", "heads"]', "[]", "stages.heads.learns is (); right would be one part or more"),
        ('["neck", "heads"]', '["adapter"]', "without adapter: thaw has none"),
        ("[0.75, 1]", "[7]", "stages.all.decay_at is (7.0,); right would be fractions"),
        ('name = "all"', 'name = "heads"', "names that differ"),
        ('name = "all"', 'name = "a.b"', "the name of stage 2 is 'a.b'"),
        ("epochs = 34", "epochs = 34\nwarmup_factor = 2", "stages.all.warmup_factor is 2.0"),
        ("epochs = 34", "epochs = 34\ndecay = 0", "stages.all.decay is 0.0"),
        ("[[stages]]", "[stages]", "not TOML"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(thaw, old, new, says):
    assert old in THAW
    with pytest.raises(ProtocolError) as refusal:
        read(thaw(THAW.replace(old, new, 1)))
    assert "thaw.toml" in str(refusal.value)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ['name = "x"', 'name = "x"\nstages = []', 'name="x"\n[stages]'])
def test_no_stages_are_refused(thaw, text):
    with pytest.raises(ProtocolError, match=r"There are no stages. Write a table \[\[stages\]\]"):
        read(thaw(text))


def test_stages_without_an_epoch_are_refused(thaw):
    text = THAW.replace("epochs = 2\n", "epochs = 0\n").replace("epochs = 34", "epochs = 0")
    with pytest.raises(ProtocolError, match="1 epoch or more"):
        read(thaw(text))


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ProtocolError, match=r"none.toml: No such file"):
        read(tmp_path / "none.toml")


def test_every_stage_of_ours_can_be_written_as_a_file():
    for name in PROTOCOLS:
        ours = protocol(name)
        text = "".join(
            "[[stages]]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(stage).items())
            for stage in ours.stages
        )
        values = tomllib.loads(f'name = "mine"\nbase = "{name}"\n{text}')
        assert replace(Own.from_dict(values).protocol(), name=name) == ours
