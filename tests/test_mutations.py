"""A tenth of the mutations of `benchmarks/mutations.py`, and that their judge can say no."""

import io
import re
from dataclasses import replace

import pytest
import torch

from benchmarks.mutations import MAY_BE_SAME, MUST_REFUSE, layout, run, verdict

CONTAINERS = {"TF checkpoint", "pickle", "safetensors", "torch legacy", "torch zip"}


def test_no_mutation_is_taken_for_what_it_is_not():
    out = io.StringIO()
    assert run(0.1, out) == []
    text = out.getvalue()
    kinds = {kind.__name__.replace("_", " ") for kind in (*MUST_REFUSE, *MAY_BE_SAME)}
    assert kinds | CONTAINERS <= set(re.findall(r"^\| ([\w ]+?) \|", text, re.M))
    structures, files = re.findall(r"^\| all \| (.*) \|$", text, re.M)
    assert sum(map(int, structures.split(" | "))) == 450
    by_hash, *otherwise = map(int, files.split(" | "))
    assert by_hash == sum(otherwise) == 50


@pytest.fixture(scope="module")
def swav():
    return layout("swav")


def test_what_is_unchanged_is_the_same_trunk(swav):
    assert (len(swav.weights), len(swav.counters), len(swav.others)) == (265, 53, 10)
    assert verdict(swav.tensors, swav) == "same trunk"


def test_a_tensor_from_elsewhere_is_seen(swav):
    twin = {"module.bn1.bias": torch.empty(64, device="meta")}
    assert verdict(swav.tensors | twin, swav) == "WRONG: another tensor"


def test_tensors_that_change_places_are_seen_even_if_they_are_alike(swav):
    one, other = "module.layer1.1.bn1.weight", "module.layer1.1.bn2.weight"
    swapped = {one: swav.tensors[other], other: swav.tensors[one]}
    assert verdict(swav.tensors | swapped, swav) == "WRONG: another tensor"


def test_counters_that_come_or_go_are_seen(swav):
    none = {name: tensor for name, tensor in swav.tensors.items() if name not in swav.counters}
    assert verdict(none, swav) == "same trunk"
    trunk = {canonical: name for canonical, name in swav.trunk.items() if name in none}
    without = replace(swav, tensors=none, trunk=trunk)
    assert verdict(swav.tensors, without) == "WRONG: another set of tensors"


def test_another_normalisation_is_seen(swav):
    told_otherwise = replace(swav, told=layout("clip_rn50_openai").told)
    assert verdict(swav.tensors, told_otherwise) == "WRONG: another normalisation"
    bare = {name: swav.tensors[name] for name in swav.trunk.values()}
    assert verdict(bare, told_otherwise) == "same trunk"  # nothing is told of it
