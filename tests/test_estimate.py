"""What a plan costs, by hand: tiny cells on ten frames, scored on five, at known speeds."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from bench import BenchError
from bench.estimate import Span, check_hours, estimate
from bench.grids import Request, cells
from bench.measured import SCORING, Measured, kinds, measured
from bench.plan import Place, plan, write_orders
from bench.store import Store, write_json
from bench.sweep import nodes
from tests.saying import refused, told

REQUEST = Request(zoo=("moco_v2",), protocols=("pf",), preset="tiny", schemes=("zeroing",))
IMAGES = 8 * 4  # three epochs of ten frames in batches of four
GPU = "A GPU"


@pytest.fixture
def place(streets, new_store):
    place = Place(store=Store(new_store()), data=str(streets), stand_ins=True)
    place.store.prepare()
    return place


def todo(place, **request):
    return [one for one in nodes(plan(cells(replace(REQUEST, **request)), place)) if one.to_run]


def speeds(nodes, learning=10.0, scoring=5.0):
    """Measurements in which everything that these cells do has one of two speeds."""
    every = [kinds(one.cell, one.order) for one in nodes if hasattr(one, "cell")]
    return {
        kind: [scoring if name == SCORING else learning]
        for one in every
        for name, kind in one.items()
    }


def seen(speeds, device=GPU, time="2026-01-01", finished=True, sizes=None):
    known = sizes or {}
    return Measured(
        finished=finished,
        device=device,
        time=time,
        speeds=speeds,
        model_bytes=known,
        image_bytes=dict.fromkeys(known, 1000.0),
    )


def test_a_cell_costs_its_images_over_their_speeds(place):
    one = todo(place)
    cost = estimate(one, [seen(speeds(one))], jobs=1)
    seconds = IMAGES / 10 + 5 / 5
    assert cost.hours is not None
    assert (cost.unknown, cost.device) == ((), GPU)
    assert cost.hours.expected == pytest.approx(seconds / 3600)
    assert cost.hours.low < cost.hours.expected < cost.hours.high
    assert cost.wall is not None
    assert cost.wall.expected == pytest.approx(seconds)


def test_low_and_high_are_the_fastest_and_the_slowest_of_several_finished_cells(place):
    one = todo(place)
    told = [seen(speeds(one, rate, 2 * rate)) for rate in (8.0, 10.0, 16.0)]
    hours = estimate(one, told, jobs=1).hours
    work = IMAGES + 5 / 2
    assert hours is not None
    assert vars(hours) == pytest.approx(
        {name: work / rate / 3600 for name, rate in (("low", 16), ("expected", 10), ("high", 8))}
    )


def test_what_was_never_measured_stays_unknown_and_is_counted(place):
    one, other = todo(place, protocols=("pf", "paf"))
    known = speeds([one])  # paf learns the neck alone first: nobody has measured that
    cost = estimate([one, other], [seen(known)], jobs=1)
    assert cost.unknown == (other.folder.name,)
    assert cost.hours is None
    assert cost.wall is None
    assert cost.known.expected == pytest.approx(4.2 / 3600)
    told = cost.to_json()
    assert told["gpu_hours"] == {"low": None, "expected": None, "high": None}
    assert told["unknown"] == [other.folder.name]
    assert "unknown for 1 of 2" in cost.lines()[0]
    assert cost.lines()[1] == f"Unknown: {other.folder.name}."


@pytest.mark.parametrize(
    "other",
    [
        {"overrides": ("optim.batch=2",)},
        {"overrides": ("optim.precision=bf16",)},
        {"overrides": ("input.train_short=45",)},
        {"heads": "conv"},
        {"tasks": ("driv",)},
        {"zoo": ("clip",)},
    ],
)
def test_another_kind_of_work_has_another_speed(place, other):
    known = [seen(speeds(todo(place)))]
    assert estimate(todo(place, **other), known, jobs=1).hours is None


def test_what_changes_no_speed_needs_no_measurement_of_its_own(place):
    known = [seen(speeds(todo(place)))]
    other = todo(place, zoo=("byol",), seeds=(7,), overrides=("stages.finetune.lr=1e-5",))
    assert estimate(other, known, jobs=1).hours is not None


def test_the_newest_device_counts_and_others_are_counted(place):
    one = todo(place)
    told = [seen(speeds(one, 99.0), "Old", "2025"), seen(speeds(one), GPU, "2026")]
    cost = estimate(one, told, jobs=1)
    assert (cost.device, cost.others) == (GPU, 1)
    assert cost.known.expected == pytest.approx(4.2 / 3600)
    assert "Left out: 1" in "\n".join(cost.lines())


def test_finished_cells_are_believed_before_a_probe(place):
    one = todo(place)
    told = [seen(speeds(one)), seen(speeds(one, 1.0, 1.0), time="2027", finished=False)]
    assert estimate(one, told, jobs=1).known.expected == pytest.approx(4.2 / 3600)


def test_several_ranks_are_paid_for_each(place):
    two = replace(place, ranks=2)
    one = todo(two)
    cost = estimate(one, [seen(speeds(one))], jobs=1, ranks=2)
    assert cost.known.expected == pytest.approx(2 * 4.2 / 3600)
    assert cost.wall is not None
    assert cost.wall.expected == pytest.approx(4.2)


def test_only_the_rest_of_a_cell_that_was_begun_counts(place):
    (one,) = todo(place)
    write_orders([one], place)
    (one.folder / "state.pt").write_bytes(b"")
    line = {"kind": "train", "stage": "finetune", "step": 6}
    (one.folder / "progress.jsonl").write_text(json.dumps(line) + "\n")
    cost = estimate([one], [seen(speeds([one]))], jobs=1)
    assert cost.known.expected == pytest.approx((2 * 4 / 10 + 1) / 3600)


def test_validations_on_the_way_are_counted(place):
    one = todo(place, overrides=("val_every=1",))  # after each of three epochs, the last at the end
    cost = estimate(one, [seen(speeds(one))], jobs=1)
    assert cost.known.expected == pytest.approx((IMAGES / 10 + 3 * 5 / 5) / 3600)


@pytest.mark.parametrize(("jobs", "rounds"), [(1, 5), (2, 3), (4, 2), (9, 1)])
def test_wall_time_fills_so_many_places(place, jobs, rounds):
    five = todo(place, seeds=(0, 1, 2, 3, 4))
    cost = estimate(five, [seen(speeds(five))], jobs=jobs)
    assert cost.wall is not None
    assert cost.wall.expected == pytest.approx(rounds * 4.2)


def test_students_wait_for_their_teachers_and_the_labels(place):
    graph = todo(place, schemes=("self-training",), tasks=("sem", "driv"))
    sem, driv, labels, student = graph
    cost = estimate(graph, [seen(speeds(graph))], jobs=9)
    at = {node.folder: cost.seconds[node.folder].expected for node in graph}
    counts = sem.split.counts()
    assert counts == {"sem": 4, "driv": 4, "det": 2}  # of ten frames; so each teacher labels six
    assert at[labels.folder] == pytest.approx(2 * 6 / 5)
    assert cost.wall is not None
    longest = max(at[sem.folder], at[driv.folder]) + at[labels.folder] + at[student.folder]
    assert cost.wall.expected == pytest.approx(longest)


def test_disk_is_models_scores_and_the_states_of_those_at_once(place):
    two = todo(place, seeds=(0, 1))
    sizes = {kinds(one.cell, one.order)[SCORING]: 10**6 for one in two}
    cost = estimate(two, [seen(speeds(two), sizes=sizes)], jobs=1)
    assert cost.disk_bytes == pytest.approx(2 * (10**6 + 5 * 1000) + 6 * 10**6)
    assert estimate(two, [seen(speeds(two))], jobs=1).disk_bytes is None


def test_a_finished_cell_tells_its_speeds(place):
    (one,) = todo(place)
    write_orders([one], place)
    finish(one)
    (found,) = measured(place.store)
    kind_of = kinds(one.cell, one.order)
    assert found.device == "cpu, 2 threads"
    assert found.speeds == {kind_of["finetune"]: [32 / 16], kind_of[SCORING]: [5 / 4]}
    again = todo(place, seeds=(1,))
    assert estimate(again, [found], jobs=1).known.expected == pytest.approx(20 / 3600)


def finish(one):
    """Write what a cell leaves that took 20 seconds, 16 of them for its training."""
    told = {"device": "cpu", "threads": 2, "attempts": 1}
    times = {"time": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:20+00:00"}
    stage = {"name": "finetune", "images": 32, "seconds": 16.0}
    result = {"stages": [stage], "provenance": {**told, **times}}
    write_json(one.folder / "result.json", result)


def test_nothing_is_known_of_the_scoring_of_a_cell_that_was_cut_off(place):
    (one,) = todo(place)
    write_orders([one], place)
    finish(one)
    result = json.loads((one.folder / "result.json").read_text())
    result["provenance"]["attempts"] = 2
    write_json(one.folder / "result.json", result)
    (found,) = measured(place.store)
    assert found.speeds.keys() == {kinds(one.cell, one.order)["finetune"]}


def test_a_limit_refuses_what_is_larger_and_what_is_unknown(place):
    one = todo(place)
    cost = estimate(one, [seen(speeds(one, 0.001))], jobs=1)  # nine hours, perhaps eleven
    check_hours(cost, 12)
    for limit in (1, 10):
        with pytest.raises(BenchError, match="the plan takes"):
            check_hours(cost, limit)
    with pytest.raises(BenchError, match="is unknown"):
        check_hours(estimate(one, [], jobs=1), 12)
    check_hours(estimate([], [], jobs=1), 0)
    assert Span().hours() == Span()


def test_run_refuses_a_plan_that_is_too_large_and_leaves_nothing(say, place, streets):
    (one,) = todo(place)
    write_orders([one], place)
    finish(one)
    words = ("--zoo", "moco_v2", "--protocol", "pf", "--preset", "tiny", "--scheme", "zeroing")
    words = (*words, "--store", place.store.root, "--data", streets, "--stand-ins")
    told_ = told(say, "plan", *words, "--seeds", "1,2", "--jobs", "1")
    assert told_["gpu_hours"]["expected"] == pytest.approx(40 / 3600, rel=1e-3)
    assert told_["wall_hours"]["expected"] == pytest.approx(40 / 3600, rel=1e-3)
    assert told_["device"] == "cpu, 2 threads"
    before = sorted(place.store.root.rglob("*"))
    line = refused(say, "run", *words, "--seeds", "1,2", "--max-gpu-hours", "0.01")
    assert line.startswith("--max-gpu-hours 0.01: the plan takes 0.0111 ")
    line = refused(say, "run", *words, "--set", "optim.batch=2", "--max-gpu-hours", "9")
    assert "is unknown" in line
    assert sorted(place.store.root.rglob("*")) == before


def test_a_plan_for_other_machines_needs_no_gpus_here(say, place, streets, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    words = ("--zoo", "moco_v2", "--protocol", "pf", "--preset", "tiny", "--scheme", "zeroing")
    words = (*words, "--store", place.store.root, "--data", streets, "--stand-ins")
    assert told(say, "plan", *words, "--gpus-per-cell", "2", "--jobs", "54")["jobs"] == 54
    assert "there are 1 GPUs" in refused_last(say, "run", *words, "--gpus-per-cell", "2")


def refused_last(say, *words):
    code, _, err = say(*words)
    assert code == 2
    return err


def test_a_probe_measures_what_is_unknown_once_and_only_then_is_torch_imported(place, streets):
    words = ("--zoo", "moco_v2", "--protocol", "pf,paf", "--preset", "tiny", "--tasks", "driv")
    words = (*words, "--scheme", "zeroing", "--store", str(place.store.root), "--stand-ins")
    words = ("plan", *words, "--data", str(streets), "--json")
    heavy, out, _ = in_a_process(*words)
    assert not heavy
    assert json.loads(out)["gpu_hours"]["expected"] is None
    heavy, out, err = in_a_process(*words, "--probe")
    assert heavy
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        "moco_v2_200ep pf driv s0",
        "moco_v2_200ep paf driv s0",
    ]
    hours = json.loads(out)["gpu_hours"]
    assert 0 < hours["low"] < hours["expected"] < hours["high"] < 1
    assert json.loads(out)["disk_gb"] > 0
    heavy, out, err = in_a_process(*words)
    assert (heavy, err, json.loads(out)["gpu_hours"]) == (False, "", hours)


def in_a_process(*words):
    """Run `bench …`; return whether torch was imported, and what was printed."""
    code = (
        "import sys; from bench.cli import main; sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    out, _, heavy = done.stdout.rstrip().rpartition("\n")
    return heavy == "True", out, done.stderr
