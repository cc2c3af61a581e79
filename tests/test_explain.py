"""`plan --explain`: the field in which a planned cell differs from the nearest stored one."""

import pytest
import torch

from bench.grids import Request, cells
from bench.plan import Place, plan, write_orders
from bench.store import Store
from tests.saying import refused, told
from tests.zoo.examples import changed
from zoo.own import own_file

STUDENT = ("--zoo", "moco_v2", "--protocol", "paf", "--preset", "tiny", "--tasks", "sem,driv")
REQUEST = Request(
    zoo=("moco_v2",), protocols=("paf",), preset="tiny", tasks=("sem", "driv"), seeds=(0, 5)
)


@pytest.fixture
def where(say, streets, new_store):
    """The options of a store in which the cells of REQUEST were planned, and never run."""
    store = new_store()
    keep(REQUEST, store, streets)
    return (*STUDENT, "--store", store, "--data", streets, "--stand-ins")


def keep(request, store, data):
    place = Place(store=Store(store), data=str(data), stand_ins=True)
    place.store.prepare()
    write_orders(plan(cells(request), place), place)


def explained(say, *words):
    """What is said of the last of the cells that are planned."""
    key = told(say, "plan", *words)["cells"][-1]["key"]
    return told(say, "plan", *words, "--explain", key[:12])


def fields(found):
    return [one["field"] for one in found["differences"]]


@pytest.mark.parametrize(
    ("words", "field", "stored", "planned"),
    [
        (("--seeds", "1"), "seed", 0, 1),
        (("--set", "stages.adapt.lr=1e-4"), "stages.adapt.lr", 1e-3, 1e-4),
        (("--set", "stages.finetune.epochs=9"), "stages.finetune.epochs", 2, 9),
        (("--set", "input.contract=imagenet"), "input.contract", "native", "imagenet"),
        (("--set", "loss.driv=0.5"), "loss.driv", 0.7, 0.5),
        (("--zoo", "clip"), "zoo", "moco_v2_200ep", "clip_rn50"),
    ],
)
def test_one_other_value_is_named_by_its_option(say, where, words, field, stored, planned):
    found = explained(say, *where, *words)
    (one, *teachers) = found["differences"]
    assert (one["field"], one["planned"]) == (field, planned)
    if field != "seed":  # of the seeds 0 and 5 either is as near
        assert one["stored"] == stored
    for teacher in teachers:  # that of a value which teachers have too
        assert [because["field"] for because in teacher["because"]] == [field]


def test_another_split_is_named_in_the_cell_and_in_each_of_its_teachers(say, where):
    found = explained(say, *where, "--set", "split_seed=3")
    assert fields(found) == ["split_seed", "split", "teacher of sem", "teacher of driv"]
    for teacher in found["differences"][2:]:
        assert [one["field"] for one in teacher["because"]] == ["split_seed", "split"]
    found = explained(say, *where, "--setting", "full")
    assert fields(found)[:2] == ["setting", "split"]
    assert "(10 frames: 4 sem, 8 driv)" in found["differences"][1]["planned"]  # two are shared


def test_another_teacher_is_named_with_what_makes_it_another(say, where):
    found = explained(say, *where, "--set", "pseudo.teacher=clip")
    assert fields(found) == ["pseudo.teacher", "teacher of sem", "teacher of driv"]
    (because,) = found["differences"][1]["because"]
    assert (because["field"], because["stored"], because["planned"]) == (
        "zoo",
        "supervised_tv_v1",
        "clip_rn50",
    )


def test_other_weights_of_one_name_are_named_in_the_cell_and_in_its_students(say, streets, store):
    student = (*STUDENT, "--set", "pseudo.teacher=mine", "--zoo", "moco_v2,mine")
    where = (*student, "--store", store, "--data", streets, "--stand-ins")
    add(say, times=1.0)
    wanted = Request(**{**vars(REQUEST), "zoo": ("moco_v2", "mine"), "seeds": (0,)})
    wanted = Request(**{**vars(wanted), "overrides": ("pseudo.teacher=mine",)})
    keep(wanted, store, streets)
    assert told(say, "plan", *where)["cells"][-1]["key"][:8] in {
        home.name[-8:] for home in (store / "cells").iterdir()
    }
    own_file().unlink()
    add(say, times=1.01)
    found = explained(say, *where)  # the cell that starts from mine
    assert found["nearest"].rpartition("-")[0] == found["cell"].rpartition("-")[0]  # its address
    assert fields(found) == ["weights", "teacher of sem", "teacher of driv"]
    (because,) = found["differences"][1]["because"]
    assert because["field"] == "weights"
    assert because["stored"] != because["planned"]
    key = next(c["key"] for c in told(say, "plan", *where)["cells"] if c["zoo"] == "moco_v2_200ep")
    assert fields(told(say, "plan", *where, "--explain", key)) == [
        "teacher of sem",
        "teacher of driv",
    ]


@pytest.fixture
def store(new_store):
    return new_store()


def add(say, times):
    """Make the file of the checkpoint `mine`, or make it anew with other values."""
    torch.save(changed(times), "mine.pth")
    words = ("--name", "mine", "--like", "supervised_tv_v1")
    code, out, err = say("zoo", "add", "mine.pth", *words)
    assert code == 0, out + err


def test_a_person_reads_a_line_for_each_field(say, where):
    key = told(say, "plan", *where, "--set", "optim.batch=2")["cells"][-1]["key"]
    code, out, err = say("plan", *where, "--set", "optim.batch=2", "--explain", key)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "missing" in lines[0]
    assert "stored -> planned" in lines[1]
    assert lines[2] == "  optim.batch: 4 -> 2"
    assert lines[4] == "    optim.batch: 4 -> 2"  # of the first teacher


def test_an_empty_store_has_nothing_to_compare_with(say, streets, new_store):
    where = (*STUDENT, "--store", new_store(), "--data", streets, "--stand-ins")
    assert explained(say, *where)["nearest"] is None


def test_a_cell_that_is_not_planned_is_one_line(say, where):
    for text in ("zzz", ""):
        assert "neither the name nor" in refused(say, "plan", *where, "--explain", text)
