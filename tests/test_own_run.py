"""A run with a file of the user's own, from its path to the report."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torchvision.transforms.v2.functional import normalize

from bench.cell import Cell
from bench.grids import Request, cells
from bench.model.build import build
from bench.weights import weights_file
from tests.saying import refused, told
from tests.zoo.examples import LIKE_IMAGENET, changed, moco_checkpoint, trunk
from zoo.catalog import find, own_file
from zoo.store import Zoo

TINY = ("--preset", "tiny", "--tasks", "driv", "--protocol", "pf", "--scheme", "zeroing")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a MoCo training checkpoint and a bare trunk."""
    folder = tmp_path_factory.mktemp("files")
    torch.save(moco_checkpoint(), folder / "checkpoint_0199.pth.tar")
    torch.save(trunk(), folder / "bare.pth")
    return folder


@pytest.fixture
def where(streets, tmp_path):
    return (*TINY, "--data", streets, "--store", tmp_path / "runs")


def planned(say, *words):
    return told(say, "plan", *words)["cells"]


def test_a_training_checkpoint_runs_by_its_path_and_every_record_names_it(
    say, files, where, tmp_path
):
    file = files / "checkpoint_0199.pth.tar"
    code, out, err = say("run", "--zoo", file, *where, "--runner", "here")
    assert code == 0, out + err
    assert "1 done" in out
    assert "checkpoint_0199" in out
    (home,) = (tmp_path / "runs" / "cells").glob("checkpoint_0199-pf-*")
    report = json.loads((home / "load_report.json").read_text())
    assert (report["name"], report["file"]) == ("checkpoint_0199", str(file))
    assert (report["layout"], report["prefix"]) == ("moco", "module.encoder_q.")
    assert (report["matched"], report["stand_in"]) == (265, False)
    assert report["dropped"]["momentum copy"] == 322
    result = json.loads((home / "result.json").read_text())
    assert result["weights"]["name"] == "checkpoint_0199"
    assert result["weights"]["stand_in"] is False

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs'}/mlflow.db")
    experiment = client.get_experiment_by_name("lv-adapter-bench")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (run,) = (run for run in runs if "bench.cell_id" in run.data.tags)
    kept = client.download_artifacts(run.info.run_id, "load_report.json", str(tmp_path))
    assert json.loads(Path(kept).read_text()) == report

    # Its name and its path are the same cell, and the report knows both.
    for word in ("checkpoint_0199", file):
        (cell,) = planned(say, "--zoo", word, *where)
        assert (cell["state"], cell["zoo"]) == ("done", "checkpoint_0199")
    table = told_report(say, "--zoo", "checkpoint_0199", *where)
    (row,) = (row for row in table["rows"] if row["model"] == "checkpoint_0199" and scored(row))
    assert row["cells"][2]["mean"] == pytest.approx(result["metrics"]["driv/mIoU"])

    # The same weights converted are another name, and not other weights.
    assert say("zoo", "convert", file, "--out", "net.safetensors")[0] == 0
    identity = json.loads((home / "cell.json").read_text())["weights"]["sha256"]
    shelf = Zoo(own_file().parent)
    assert planned(say, "--zoo", "net.safetensors", *where)[0]["state"] == "pending"
    assert shelf.identity(find("net"), stand_in=False) == identity


def told_report(say, *words):
    code, out, _ = say("report", *words, "--format", "json")
    assert code == 0
    return json.loads(out)


def scored(row):
    return any(cell["mean"] is not None for cell in row["cells"])


def test_the_input_contract_is_in_the_key_and_changes_the_normalisation(
    say, files, where, tmp_path
):
    assert say("zoo", "add", files / "bare.pth", "--name", "mine", "--like", "simclr")[0] == 0
    native = ("--zoo", "mine", *where)
    imagenet = (*native, "--set", "input.contract=imagenet")
    keys = {cell["key"] for words in (native, imagenet) for cell in planned(say, *words)}
    assert len(keys) == 2
    models = {}
    for words in (native, imagenet):
        assert say("run", *words, "--runner", "here", "--track", "off")[0] == 0
    for home in (tmp_path / "runs" / "cells").glob("mine-*"):
        order = json.loads((home / "cell.json").read_text())
        cell = Cell.from_resolved(order["resolved"])
        model, report = build(cell.protocol, cell.tasks, weights_file(order), cell.seed)
        models[cell.protocol.input.contract] = model
        assert report.mean == (0.0, 0.0, 0.0)  # the file's own, whatever is used
    pixels = torch.tensor([0.0, 127.5, 255.0]).expand(3, 3)
    for contract, (mean, std) in {
        "native": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "imagenet": (LIKE_IMAGENET["mean"], LIKE_IMAGENET["std"]),
    }.items():
        ours = pixels * models[contract].scale[:, :, 0] + models[contract].shift[:, :, 0]
        theirs = (pixels / 255 - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]
        torch.testing.assert_close(ours, theirs)


def seen_by_the_trunk(model, images):
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.eval()(images, torch.tensor([images.shape[-2:]]))
    return seen[0]


@torch.no_grad()
def test_a_network_of_bgr_sees_blue_first_under_either_contract(say, files, where):
    flags = ("--order", "bgr", "--range", "1", "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6")
    flags = (*flags, "--padding", "torch", "--stride", "3x3")
    assert say("zoo", "add", files / "bare.pth", "--name", "mine", *flags)[0] == 0
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    file = Zoo(own_file().parent).canonical(find("mine"), stand_in=False)
    for contract, mean, std in (
        ("native", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ("imagenet", (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
    ):
        request = Request(
            zoo=("mine",),
            protocols=("pf",),
            tasks=("driv",),
            preset="tiny",
            overrides=(f"input.contract={contract}",),
        )
        (cell,) = cells(request)
        model, _ = build(cell.protocol, cell.tasks, file, 0)
        expected = normalize(images[:, [2, 1, 0]] / 255, list(mean), list(std))
        torch.testing.assert_close(seen_by_the_trunk(model, images), expected)


def test_a_bare_trunk_does_not_run_until_it_is_added_by_the_line_that_is_printed(say, files, where):
    said = refused(say, "run", "--zoo", files / "bare.pth", *where)
    assert f"bench zoo add {files / 'bare.pth'} --name bare --like supervised_tv_v1" in said
    assert not Path("runs").exists()
    assert say("zoo", "add", files / "bare.pth", "--name", "bare", "--like", "supervised")[0] == 0
    for word in ("bare", files / "bare.pth"):
        (cell,) = planned(say, "--zoo", word, *where)
        assert (cell["zoo"], cell["state"]) == ("bare", "pending")


def test_a_file_of_one_s_own_that_moved_is_never_replaced_by_a_stand_in(say, files, where):
    shutil.copy(files / "bare.pth", "bare.pth")
    assert say("zoo", "add", "bare.pth", "--name", "mine", "--like", "supervised")[0] == 0
    Path("bare.pth").rename("moved.pth")
    code, out, err = say("plan", "--zoo", "mine,clip", *where, "--stand-ins")
    assert (code, out) == (2, "")
    assert f"mine: {Path.cwd() / 'bare.pth'}, which was there when it was added" in err
    assert "clip" not in err
    assert "was added as mine from" in refused(say, "plan", "--zoo", "moved.pth", *where)


def test_a_file_that_changed_is_refused_before_anything_runs(say, where):
    torch.save(trunk(), "bare.pth")
    assert say("zoo", "add", "bare.pth", "--name", "mine", "--like", "supervised")[0] == 0
    torch.save(changed(2.0), "bare.pth")
    assert "Add it again: bench zoo add" in refused(say, "plan", "--zoo", "mine", *where)
    assert "has changed since it was added as mine" in refused(
        say, "plan", "--zoo", "bare.pth", *where
    )
