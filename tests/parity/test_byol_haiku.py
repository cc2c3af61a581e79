"""BYOL's network in our hands computes what haiku's ResNet-50 computes."""

import shutil

import numpy as np
import pytest
import torch

from tests.parity.interpreter import needs_parity, run
from zoo.load import load
from zoo.manifests import manifest
from zoo.read import read

pytestmark = needs_parity


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that haiku wrote into."""
    folder = tmp_path_factory.mktemp("byol_haiku")
    run("write_byol_haiku.py", folder)
    yield folder
    shutil.rmtree(folder)  # 470 MB


@pytest.fixture(scope="module")
def net(written):
    return load(written / "pretrain_res50x1.pkl")


def test_haiku_names_its_tensors_as_the_manifest_says(written):
    listed = manifest("byol_deepmind_haiku")
    paths = read(written / "pretrain_res50x1.pkl").keys.values()
    assert {listed.keys(name) for name in listed.tensors} == {
        path for path in paths if path[0] == "experiment_state" and path[1] != "opt_state"
    }


@pytest.mark.parametrize("size", ["even", "odd"])
def test_every_stage_is_that_of_haiku(written, net, size):
    with np.load(written / "byol_stages.npz") as stages:
        images = torch.from_numpy(stages[f"{size}_images"]).permute(0, 3, 1, 2)
        expected = [torch.from_numpy(stages[f"{size}_c{number}"]) for number in (2, 3, 4, 5)]
    with torch.inference_mode():
        ours = net(images)
    for c, theirs in zip(ours, expected, strict=True):
        assert theirs.std() > 0.5
        torch.testing.assert_close(c.permute(0, 2, 3, 1), theirs, rtol=0, atol=1e-4)
