"""The whole grid through SLURM: submitted at once and left alone, and mirrored at the end."""

import json

from tests.slurm.conftest import SLURM, until


def test_the_grid_completes_detached_and_nothing_is_submitted_twice(runs, slurm, undisturbed):
    words = ("--runner", "slurm", "--slurm", SLURM)
    code, out = runs.run(*words, "--detach", seconds=60)
    assert code == 0, out
    jobs = {file.parent.name: runs.job(file.parent) for file in runs.store.glob("*/*/job.json")}
    assert len(jobs) == len(set(jobs.values())) == 11  # cells, labels, and the last job
    assert len({job.partition("_")[0] for job in jobs.values()}) == 5  # of six students two arrays

    code, out = runs.run(*words, seconds=400)
    assert code == 0, out
    assert "submitted" not in out
    assert "9 done" in out
    assert len(runs.metrics()) == 9
    assert runs.same_as(undisturbed)
    assert {runs.attempts(home) for home in runs.store.glob("cells/*-*")} == {1}

    until(lambda: not slurm.ask("squeue", "--noheader"))
    (invocation,) = runs.store.glob("invocations/*")
    assert "MoCo-v2" in (invocation / "table2.md").read_text()

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs.store}/mlflow.db")
    experiment = client.get_experiment_by_name("lv-adapter-bench")
    shown = [one.data.tags for one in client.search_runs([experiment.experiment_id])]
    cells = [tags["bench.cell_id"] for tags in shown if tags.get("bench.state") == "done"]
    results = runs.store.glob("cells/*/result.json")
    assert sorted(cells) == sorted(json.loads(file.read_text())["key"] for file in results)
