"""`bench zoo` as a person uses it."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2.functional import normalize

from tests.saying import refused, told
from tests.zoo.examples import moco_checkpoint, network, trunk
from tests.zoo.site import PAGE, Site, serving
from zoo.catalog import catalog, find, own, own_file
from zoo.load import opened
from zoo.resnet50 import Normalisation

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# `inspect --json` for other programs: what the command's contract names, and what we add to it.
CONTRACT = {
    *("ok", "file", "sha256", "container", "layout", "variant", "role", "prefix", "required"),
    *("matched", "counters", "dropped", "warnings", "error"),
}
MORE = {"name", "nesting", "semantics", "activation"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a MoCo training checkpoint, a bare trunk and a supervised network."""
    folder = tmp_path_factory.mktemp("files")
    torch.save(moco_checkpoint(), folder / "checkpoint_0199.pth.tar")
    torch.save(trunk(), folder / "bare.pth")
    torch.save(network().state_dict(), folder / "model.pth", _use_new_zipfile_serialization=False)
    return folder


# -- ls, show --------------------------------------------------------------------------------------


def test_ls_lists_the_catalogue_then_the_user_s_own_and_what_is_here(say, files):
    rows = told(say, "zoo", "ls")
    assert [row["name"] for row in rows] == [row.name for row in catalog()]
    keys = ["name", "short", "family", "method", "licence", "here", "lineage"]
    assert all(list(row) == keys for row in rows)
    assert not any(row["here"] for row in rows)
    assert say("zoo", "add", files / "checkpoint_0199.pth.tar", "--name", "mine")[0] == 0
    *others, mine = told(say, "zoo", "ls")
    assert others == rows
    assert (mine["name"], mine["family"], mine["here"]) == ("mine", "own", True)
    code, out, _ = say("zoo", "ls")
    assert code == 0
    for shown in ("name", "lineage", "byol_deepmind", "CC-BY-NC-4.0", "mine"):
        assert shown in out


def test_show_tells_the_row_where_the_file_is_and_that_the_choice_is_ours(say):
    facts = told(say, "zoo", "show", "simclr")
    assert facts["name"] == "simclr_v1_tf"
    assert (facts["padding"], facts["mean"], facts["std"]) == ("same_pool", [0, 0, 0], [1, 1, 1])
    assert (facts["path"], facts["file_sha256"]) == (None, None)
    code, out, _ = say("zoo", "show", "simclr")
    assert code == 0
    assert "same_pool" in out
    assert "The paper names no files" in out
    assert "try bench zoo fetch NAME" in out
    assert "The paper names no files" not in say("zoo", "show", "vicreg")[1]
    assert "Did you mean 'vicreg'?" in refused(say, "zoo", "show", "vicregg")


# -- inspect ---------------------------------------------------------------------------------------


def test_inspect_tells_what_a_training_checkpoint_is(say, files):
    found = told(say, "zoo", "inspect", files / "checkpoint_0199.pth.tar")
    assert set(found) == CONTRACT | MORE
    activation = found.pop("activation")
    assert activation.keys() == {"C2", "C3", "C4", "C5"}
    path = files / "checkpoint_0199.pth.tar"
    assert found == {
        "ok": True,
        "file": str(path),
        "sha256": found["sha256"],
        "container": "torch zip",
        "name": "checkpoint_0199",
        "layout": "moco",
        "variant": "plain",
        "role": "online",
        "nesting": ["state_dict"],
        "prefix": "module.encoder_q.",
        "required": 265,
        "matched": 265,
        "counters": "file",
        "dropped": {"projection": 4, "momentum copy": 322, "queue": 2, "training state": 3},
        "semantics": {
            "variant": "plain",
            "padding": "torch",
            "stride": "3x3",
            "order": "rgb",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "warnings": [],
        "error": None,
    }
    assert not own_file().exists()  # looking changes nothing


def test_inspect_of_a_bare_trunk_fills_in_what_was_found_and_prints_the_line_to_run(say, files):
    found = told(say, "zoo", "inspect", files / "bare.pth", code=2)
    assert set(found) == CONTRACT | MORE
    assert found["ok"] is False
    assert (found["required"], found["matched"]) == (265, 265)
    assert (found["layout"], found["container"], found["prefix"]) == (
        "torchvision",
        "torch zip",
        "",
    )
    assert (found["name"], found["semantics"], found["activation"]) == (None, {}, {})
    line = f"bench zoo add {files / 'bare.pth'} --name bare --like supervised_tv_v1"
    assert found["error"].endswith(line)
    code, out, err = say("zoo", "inspect", files / "bare.pth")
    assert code == 2
    assert "layout  torchvision" in out
    assert err == f"bench: {found['error']}\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not a file"),
        (b"", "is empty"),
        (PAGE, "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer"),
        (b"\x80\x02}q\x00.", "without a single tensor"),
    ],
)
def test_inspect_of_what_is_no_weight_file_says_so_and_exits_2(say, tmp_path, content, said):
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    found = told(say, "zoo", "inspect", "x.pth", code=2)
    assert set(found) == CONTRACT | MORE
    assert (found["ok"], found["matched"], found["required"]) == (False, 0, 265)
    assert said in found["error"]
    assert "\n" not in found["error"]


def test_inspect_of_a_truncated_file_says_so(say, files, tmp_path):
    whole = (files / "bare.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    found = told(say, "zoo", "inspect", "cut.pth", code=2)
    assert "truncated or damaged" in found["error"]


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_inspect_of_a_real_resnet_for_cifar_says_what_it_is(say):
    found = told(say, "zoo", "inspect", DATA / "weights" / "resnet20-12fca82f.th", code=2)
    assert found["sha256"].startswith("12fca82f")
    assert found["container"] == "torch legacy"
    assert "a ResNet for CIFAR" in found["error"]
    assert (found["matched"], found["required"]) == (0, 265)


# -- convert ---------------------------------------------------------------------------------------


def test_convert_writes_a_file_that_is_the_same_weights_wherever_it_is_used(say, files, tmp_path):
    source = files / "checkpoint_0199.pth.tar"
    facts = told(say, "zoo", "convert", source, "--out", "net.safetensors")
    assert facts["tensors"] == 318
    assert (facts["layout"], facts["out"]) == ("moco", "net.safetensors")
    tensors, record = opened(tmp_path / "net.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in trunk().items())
    assert record.sha256 == facts["file_sha256"]
    again = told(say, "zoo", "convert", "net.safetensors", "--out", "again.safetensors")
    assert again == facts | {"out": "again.safetensors"}
    assert Path("again.safetensors").read_bytes() == Path("net.safetensors").read_bytes()
    found = told(say, "zoo", "inspect", "net.safetensors")
    assert (found["ok"], found["layout"], found["role"]) == (True, "moco", "online")
    code, out, _ = say("zoo", "convert", source, "--out", "third.safetensors")
    assert code == 0
    assert "265 tensors and 53 step counters, from moco names" in out
    assert "queue 2" in out


def test_convert_refuses_what_cannot_be_used_or_written(say, files):
    assert "bench zoo add" in refused(
        say, "zoo", "convert", files / "bare.pth", "--out", "x.safetensors"
    )
    assert "Missing weights" in say("zoo", "convert", "byol", "--out", "x.safetensors")[2]
    source = files / "checkpoint_0199.pth.tar"
    before = source.read_bytes()
    assert "is there already" in refused(say, "zoo", "convert", source, "--out", source)
    assert "not called .safetensors" in refused(say, "zoo", "convert", source, "--out", "x.pth")
    assert source.read_bytes() == before
    said = refused(say, "zoo", "convert", source, "--out", "/dev/null/x.safetensors")
    assert "Not a directory" in said
    assert not Path("x.safetensors").exists()


# -- add -------------------------------------------------------------------------------------------


def test_add_needs_a_name_alone_where_the_layout_tells(say, files):
    code, out, err = say("zoo", "add", files / "checkpoint_0199.pth.tar", "--name", "my_moco")
    assert (code, err) == (0, "")
    assert out.startswith("my_moco: moco layout, added by its user; online network under")
    assert f"Written into {own_file()}. Use it as: bench run --zoo my_moco" in out
    assert tomllib.loads(own_file().read_text())["my_moco"]["layout"] == "moco"
    assert "Choose another name" in refused(
        say, "zoo", "add", files / "bare.pth", "--name", "my_moco"
    )


def test_add_takes_pixels_up_to_255_and_the_channels_the_other_way_round(say, files):
    """As Detectron's configurations write them."""
    row = told(
        say,
        *("zoo", "add", files / "bare.pth", "--name", "caffe", "--stem", "7x7"),
        *("--padding", "torch", "--stride", "1x1", "--order", "bgr", "--range", "255"),
        *("--mean", "103.53,116.28,123.675", "--std", "57.375,57.12,58.395"),
    )
    assert row["mean"] == [0.406, 0.456, 0.485]
    assert row["std"] == [0.225, 0.224, 0.229]
    assert (row["order"], row["stride"]) == ("bgr", "1x1")
    images = torch.rand(2, 3, 4, 5)
    (mine,) = own()
    bgr = (images * 255)[:, [2, 1, 0]]
    expected = normalize(bgr, [103.53, 116.28, 123.675], [57.375, 57.12, 58.395])
    torch.testing.assert_close(Normalisation(mine.mean, mine.std, mine.order)(images), expected)


def test_add_like_another_checkpoint_takes_all_it_declares_and_flags_win(say, files):
    row = told(
        say,
        *("zoo", "add", files / "bare.pth", "--name", "mine", "--like", "simclr"),
        *("--order", "bgr"),
    )
    simclr = find("simclr").semantics
    assert {key: row[key] for key in simclr} == simclr | {"order": "bgr"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing option '--name'"),
        (("--name", "x", "--like", "nothing"), "Unknown checkpoint 'nothing'"),
        (("--name", "x", "--mean", "0,0,0", "--std", "1,1,1"), "--range goes with --mean"),
        (("--name", "x", "--range", "255"), "--range goes with --mean"),
        (("--name", "x", "--range", "1", "--mean", "0,0"), "0,0 is not three numbers"),
        (("--name", "x", "--range", "1", "--std", "a,b,c"), "a,b,c is not three numbers"),
        (("--name", "x", "--range", "2", "--std", "1,1,1"), "'2' is not one of '1', '255'"),
        (("--name", "x", "--padding", "valid"), "'valid' is not one of"),
        (("--name", "x", "--like", "clip"), "bare.pth holds a plain ResNet-50, not clip"),
        (
            ("--name", "x", "--like", "simclr", "--range", "1", "--std", "58,57,57"),
            "one for pixels up to 255 is to be divided by 255",
        ),
        (("--name", "x", "--like", "simclr", "--prefix", "a."), "No ResNet-50 is under 'a.'"),
        (("--name", "everything", "--like", "simclr"), "'everything' cannot be a name"),
    ],
)
def test_add_refuses_what_it_cannot_take_in_one_line(say, files, words, said):
    assert said in refused(say, "zoo", "add", files / "bare.pth", *words)
    assert not own_file().exists()


# -- verify ----------------------------------------------------------------------------------------


def test_verify_knows_a_file_again_and_sees_one_changed_byte(say, files):
    shutil.copy(files / "model.pth", "model.pth")
    assert say("zoo", "add", "model.pth", "--name", "mine", "--like", "supervised")[0] == 0
    code, out, err = say("zoo", "verify", "mine")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["ok"] * 7

    again = told(say, "zoo", "verify", "model.pth")
    assert (again["ok"], again["name"], again["stand_in"]) == (True, "mine", False)
    words = {check["what"]: check["words"] for check in again["checks"]}
    assert list(words) == [
        "published checksum",
        "remembered checksum",
        "coverage",
        "shapes",
        "values",
        "fingerprint",
        "distance from random initialisation",
    ]
    assert words["remembered checksum"].endswith("as before")
    assert words["coverage"] == "265 of the 265 tensors of the trunk"
    assert words["fingerprint"] == "as before"

    before = Path("model.pth").stat()
    with Path("model.pth").open("r+b") as file:  # a bit of the classifier, and the time put back
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime("model.pth", ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out, err = say("zoo", "verify", "mine")
    assert (code, err) == (1, "")
    (wrong,) = (line for line in out.splitlines() if line.startswith("WRONG"))
    assert "remembered checksum: SHA-256 is" in wrong
    assert "the file changed: fetch it again" in wrong


def test_verify_names_the_tensor_that_a_zip_s_own_checksum_finds_damaged(say, files):
    content = bytearray((files / "bare.pth").read_bytes())
    value = trunk()["layer3.0.conv2.weight"].numpy().tobytes()
    at = content.index(value[:64])
    content[at + 100] ^= 4
    Path("bare.pth").write_bytes(content)
    said = refused(say, "zoo", "verify", "bare.pth")
    assert "bare.pth: 'layer3.0.conv2.weight' is damaged" in said


def test_verify_of_what_is_not_here_says_where_to_get_it(say):
    code, out, err = say("zoo", "verify", "moco_v2")
    assert (code, out) == (2, "")
    assert "moco_v2_200ep_pretrain.pth.tar from https://dl.fbaipublicfiles.com" in err
    assert "is not a file" in refused(say, "zoo", "verify", "nowhere.pth")


# -- fetch -----------------------------------------------------------------------------------------


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(Site()) as server:
        yield server
        server.gate.set()


def publish(url, sha256=""):
    """A row of the user's own TOML whose file is published there."""
    own_file().parent.mkdir(exist_ok=True)
    own_file().write_text(
        '[ours]\nlabel = "Ours"\nmethod = "Supervised"\nfamily = "own"\nlayout = "torchvision"\n'
        f'file = "ours.pth"\nurl = "{url}"\nsha256 = "{sha256}"\n'
    )


def told_quietly(say, *words):
    """The same where a progress bar may go to standard error."""
    code, out, err = say(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_fetch_gets_a_file_that_is_then_there_to_be_used(say, site, files):
    content = (files / "model.pth").read_bytes()
    site.content, site.cuts = content, [30_000_000]  # it breaks off once
    publish(site.url)
    (fetched,) = told_quietly(say, "zoo", "fetch", "ours")
    path = own_file().parent / "ours.pth"
    assert fetched["path"] == str(path)
    assert (fetched["name"], fetched["already_here"]) == ("ours", False)
    assert path.read_bytes() == content
    assert len(site.asked) == 2
    assert told_quietly(say, "zoo", "fetch", "ours") == [fetched | {"already_here": True}]
    code, out, _ = say("zoo", "fetch", "ours")
    assert code == 0
    assert f"ours: ours.pth is here already (SHA-256 {fetched['sha256']})" in out
    assert len(site.asked) == 2
    tensors, record = opened("ours")
    assert torch.equal(tensors["conv1.weight"], trunk()["conv1.weight"])
    assert record.sha256 == fetched["sha256"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"content": PAGE}, "page"),
        ({"status": 404}, "404"),
        ({"length": 2_000_000}, "of 2,000,000 bytes"),
    ],
)
def test_fetch_of_what_is_not_the_file_says_so_and_where_it_is_published(say, site, fault, said):
    for name, value in fault.items():
        setattr(site, name, value)
    publish(site.url)
    code, out, err = say("zoo", "fetch", "ours")
    assert (code, out) == (2, "")
    assert said in err
    assert f"  ours: ours.pth from {site.url}" in err
    assert f"Put them into {own_file().parent} ($BENCH_ZOO)" in err
    assert not (own_file().parent / "ours.pth").exists()


def test_fetch_refuses_a_file_with_another_checksum(say, site):
    publish(site.url, sha256="0" * 64)
    code, _, err = say("zoo", "fetch", "ours")
    assert code == 2
    assert "0" * 64 in err
    assert not (own_file().parent / "ours.pth").exists()


def test_fetch_offline_says_where_it_is_published(say, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    publish("http://127.0.0.1:1/weights.pth")
    code, _, err = say("zoo", "fetch", "ours")
    assert code == 2
    assert "ours.pth from http://127.0.0.1:1/weights.pth" in err
