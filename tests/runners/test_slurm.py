"""The golden script is rewritten with UPDATE_GOLDEN=1 in the environment."""

import os
import pickle
from pathlib import Path

import pytest

from runners.base import RunnerError
from runners.cluster import SlurmOptions, sbatch_text
from runners.resumable import Resumable

GOLDEN = Path(__file__).parent / "golden" / "array.sbatch"
FOLDER = Path("/cluster/runs/jobs")


def test_sbatch_text_is_the_golden_script():
    options = SlurmOptions.parse(
        "partition=gpu,time=1-02:00:30,account=vision,mem_gb=64,parallel=4"
    )
    text = sbatch_text(FOLDER, options, count=18, python="python")
    if "UPDATE_GOLDEN" in os.environ:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_one_item_is_no_array():
    assert "--array" not in sbatch_text(FOLDER, SlurmOptions(), count=1)


def test_what_the_cluster_decides_is_left_out():
    text = sbatch_text(FOLDER, SlurmOptions(gpus_per_node=0), count=2)
    for flag in ("--partition", "--account", "--qos", "--constraint", "--mem", "--gpus-per-node"):
        assert flag not in text


@pytest.mark.parametrize(
    ("time", "minutes"), [("90", 90), ("12:00:00", 720), ("2-00:30:00", 2910), ("0:01:01", 2)]
)
def test_time_is_read_as_slurm_writes_it(time, minutes):
    assert SlurmOptions.parse(f"time={time}").time_min == minutes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin=gpu", "Unknown SLURM option 'partitoin'. Did you mean 'partition'?"),
        ("gpus_per_node=two", "gpus_per_node is 'two'"),
        ("time=tomorrow", "time is 'tomorrow'"),
        ("partition", "'partition' has no value"),
    ],
)
def test_a_wrong_option_is_named_with_its_cure(text, words):
    with pytest.raises(RunnerError) as caught:
        SlurmOptions.parse(text)
    assert words in str(caught.value)


def test_a_job_holds_only_its_function_and_its_item():
    job = Resumable(print, "moco_v2-paf-s0")
    again = job.checkpoint().function
    assert (again.function, again.item) == (print, "moco_v2-paf-s0")
    assert len(pickle.dumps(again)) < 200
