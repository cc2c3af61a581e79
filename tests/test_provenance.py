"""Which code made a number: hashed, recorded with every attempt, and refused where it is other."""

import shutil

import pytest

from bench import provenance
from bench.failure import CHANGED, cause
from bench.grids import Request, cells
from bench.plan import Place, plan, write_orders
from bench.provenance import CodeChanged, begin, code_hash
from bench.reasons import OTHER_CODE
from bench.store import Store, read_json, read_lines, state
from tests.conftest import ROOT

REQUEST = Request(zoo=("moco_v2",), protocols=("pf",), schemes=("zeroing",), preset="tiny")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Return a function that hashes a copy of the sources, and the copy's root."""
    root = tmp_path / "sources"
    for name in ("bench", "zoo", "protocols"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "__file__", str(root / "bench" / "provenance.py"))
    return code_hash.__wrapped__, root


def test_the_hash_is_that_of_what_can_change_a_number(sources):
    hashed, root = sources
    assert hashed() == code_hash()
    for name in ("cli.py", "plan.py", "status.py"):
        (root / "bench" / name).write_text("")
    (root / "bench" / "train" / "notes.txt").write_text("")
    (root / "zoo" / "__pycache__").mkdir()
    (root / "zoo" / "__pycache__" / "load.pyc").write_text("")
    assert hashed() == code_hash()


@pytest.mark.parametrize(
    "name",
    [
        "bench/run.py",
        "bench/pseudo.py",
        "bench/train/engine.py",
        "bench/data/sample.py",
        "zoo/catalog.toml",
        "zoo/manifests/moco_v2.json",
        "protocols/presets.py",
    ],
)
def test_one_byte_of_it_makes_another_hash(sources, name):
    hashed, root = sources
    with (root / name).open("a") as stream:
        stream.write("\n")
    assert hashed() != code_hash()


def test_a_renamed_file_makes_another_hash(sources):
    hashed, root = sources
    (root / "zoo" / "load.py").rename(root / "zoo" / "lode.py")
    assert hashed() != code_hash()


@pytest.fixture
def place(streets, new_store):
    place = Place(store=Store(new_store()), data=str(streets), stand_ins=True)
    place.store.prepare()
    return place


@pytest.fixture
def edited(monkeypatch):
    """Return a function after which the code is another one."""

    def edit():
        for module in ("bench.provenance", "bench.plan", "bench.reasons"):
            monkeypatch.setattr(f"{module}.code_hash", lambda: "e" * 64)

    return edit


def planned(place, **more):
    (one,) = plan(cells(REQUEST), Place(**{**vars(place), **more}))
    write_orders([one], place)
    return one


def test_an_attempt_records_the_code_that_it_was_made_with(place):
    one = planned(place)
    assert read_json(one.folder / "cell.json")["code"] == code_hash()
    (one.folder / "error.txt").write_text("of an earlier attempt")
    started = begin(one.folder, one.order)
    (attempt,) = read_lines(one.folder / "attempts.jsonl")
    assert attempt["sources"] == code_hash()
    assert (started["sources"], started["attempts"]) == ([code_hash()], 1)
    assert not (one.folder / "error.txt").exists()


def test_a_job_that_was_submitted_with_other_code_is_refused_and_counts_as_no_attempt(
    place, edited
):
    one = planned(place)
    edited()
    with pytest.raises(
        CodeChanged, match=f"planned with code {code_hash()[:8]}, .* eeeeeeee"
    ) as no:
        begin(one.folder, read_json(one.folder / "cell.json"))
    assert not (one.folder / "attempts.jsonl").exists()
    assert cause(f"CodeChanged: {no.value}") == CHANGED


def test_a_cell_that_was_not_begun_is_planned_anew_with_the_code_as_it_is(place, edited):
    begin(planned(place).folder, {})  # an attempt that saved nothing
    edited()
    one = planned(place)
    assert one.reason != OTHER_CODE
    begin(one.folder, read_json(one.folder / "cell.json"))
    used = [attempt["sources"] for attempt in read_lines(one.folder / "attempts.jsonl")]
    assert used == [code_hash(), "e" * 64]


def test_a_cell_that_was_begun_with_other_code_is_refused_and_the_plan_says_why(place, edited):
    one = planned(place)
    begin(one.folder, one.order)
    (one.folder / "state.pt").write_bytes(b"")
    edited()
    one = planned(place)
    assert (one.state, one.reason) == ("preempted", OTHER_CODE)
    with pytest.raises(CodeChanged, match="--allow-code-change"):
        begin(one.folder, read_json(one.folder / "cell.json"))


def test_with_leave_it_goes_on_and_the_result_says_so(place, edited):
    one = planned(place)
    begin(one.folder, one.order)
    (one.folder / "state.pt").write_bytes(b"")
    edited()
    one = planned(place, allow_code_change=True)
    order = read_json(one.folder / "cell.json")
    assert order["allow_code_change"] is True
    assert one.reason != OTHER_CODE
    assert begin(one.folder, order)["sources"] == [code_hash(), "e" * 64]
    assert planned(place).reason != OTHER_CODE  # leave was given, and is not asked for again


def test_an_order_of_before_code_was_recorded_is_run(place):
    one = planned(place)
    order = {name: value for name, value in one.order.items() if name != "code"}
    begin(one.folder, order)
    assert state(one.folder) == "preempted"
