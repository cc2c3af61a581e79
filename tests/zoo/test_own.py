"""A user's own files: what they are taken for, what they are called, and what is refused."""

import os
import shlex
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.cli import main
from tests.zoo.examples import LIKE_IMAGENET, changed, moco_checkpoint, same, trunk, under
from zoo.canonical import write
from zoo.catalog import Checkpoint, ZooError, find, own, own_file, select
from zoo.load import load, opened
from zoo.own import Unsaid, add, adopt
from zoo.resnet50 import resnet50
from zoo.store import Zoo

HEADS = {
    "module.projection_head.0.weight": torch.ones(3),
    "module.prototypes.weight": torch.ones(3),
}
BY_HAND = '[{}]\nlabel = "a"\nmethod = "a"\nfamily = "own"\nlayout = "moco"\nfile = "/a.pth"\n'
BGR = {"order": "bgr", "mean": (0.4, 0.45, 0.5), "std": (0.2, 0.25, 0.3)}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Three files: a bare trunk, MoCo's training checkpoint, and SwAV's names."""
    folder = tmp_path_factory.mktemp("shelf")
    torch.save(trunk(), folder / "bare")
    torch.save(moco_checkpoint(), folder / "moco")
    torch.save(under("module.", trunk()) | HEADS, folder / "swav")
    return folder


@pytest.fixture
def put(shelf, tmp_path):
    """Return a function that puts one of the three under a path of the test's."""

    def link(kind: str, name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.link(shelf / kind, path)
        return path

    return link


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    return Zoo(tmp_path / "zoo")


def refused(function, *arguments, **keywords):
    with pytest.raises(ZooError) as error:
        function(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- What a name or a layout tells -----------------------------------------------------------------


def test_a_training_checkpoint_of_moco_is_adopted_as_it_is(put):
    path = put("moco", "checkpoint_0199.pth.tar")
    row = adopt(path)
    assert (row.name, row.family, row.layout) == ("checkpoint_0199", "own", "moco")
    assert {key: getattr(row, key) for key in LIKE_IMAGENET} == LIKE_IMAGENET
    assert row.file == str(path)
    assert "online network under 'state_dict.module.encoder_q.'" in row.notes
    assert "queue (2)" in row.notes
    assert own() == (row,)
    assert adopt(path) == row == find("checkpoint_0199")
    assert own_file().read_text().count("[checkpoint_0199]") == 1
    tensors, record = opened("checkpoint_0199")
    assert same(dict(tensors), trunk())  # and not the momentum copy
    assert record.role == "online"


def test_the_other_network_of_a_file_is_another_row_with_another_identity(put, zoo):
    path = put("moco", "checkpoint.pth.tar")
    query = add(path, "query", {})
    key = add(path, "key", LIKE_IMAGENET, prefix="module.encoder_k.")
    assert same(dict(opened("key")[0]), changed(1.5))
    assert same(dict(opened("query")[0]), trunk())
    identities = {zoo.identity(row, stand_in=False) for row in (query, key, find("query"))}
    assert len(identities) == 2


def test_what_is_declared_takes_the_place_of_what_the_layout_tells(put, zoo):
    path = put("swav", "net.pth")
    declared = BGR | {"padding": "same", "stride": "1x1"}
    row = add(path, "other", declared)
    assert {key: getattr(row, key) for key in declared} == declared
    plain = add(path, "plain", {})
    assert plain.std == (0.228, 0.224, 0.225)  # SwAV's own
    assert zoo.identity(row, stand_in=False) != zoo.identity(plain, stand_in=False)


def test_a_published_file_that_lies_elsewhere_is_used_as_its_row_says(put, zoo, tmp_path):
    published = find("byol_convert")
    path, here = tmp_path / "downloads" / published.file, zoo.folder / published.file
    for folder in (path.parent, here.parent):
        folder.mkdir()
    weights = {n: t for n, t in trunk().items() if not n.endswith("num_batches_tracked")}
    torch.save(weights, path)
    os.link(path, here)
    assert adopt(here) == adopt(path) == published
    assert not own_file().exists()

    here.unlink()
    row = adopt(path)
    assert (row.family, row.file, row.label) == ("own", str(path), row.name)
    assert row.semantics == published.semantics
    assert row.padding == "same"
    assert adopt(path) == row
    assert opened(row.name)[1].counters == "zero"


def test_a_published_name_tells_nothing_of_a_file_that_is_laid_out_otherwise(put):
    row = adopt(put("swav", find("byol_convert").file))
    assert (row.layout, row.padding, row.std) == ("swav", "torch", (0.228, 0.224, 0.225))


def test_a_path_is_never_answered_with_another_file_of_that_name(put, zoo):
    published = find("byol_convert")
    put("bare", f"zoo/{published.file}")
    path = put("bare", f"downloads/{published.file}")
    path.unlink()
    torch.save(changed(2.0), path)
    assert adopt(path).file == str(path)
    assert same(dict(opened(adopt(path).name)[0]), changed(2.0))


def test_a_converted_file_is_the_same_weights(put, zoo, tmp_path):
    row = add(put("bare", "bare.pth"), "odd", BGR | {"padding": "same_pool", "stride": "3x3"})
    write(tmp_path / "converted.safetensors", *opened("odd"))
    again = adopt(tmp_path / "converted.safetensors")
    assert (again.name, again.semantics) == ("converted", row.semantics)
    assert zoo.identity(again, stand_in=False) == zoo.identity(row, stand_in=False)
    assert same(dict(opened("converted")[0]), dict(opened("odd")[0]))


def test_a_stand_in_is_never_added_as_somebody_s_weights(put, tmp_path):
    add(put("bare", "bare.pth"), "real", LIKE_IMAGENET)
    tensors, record = opened("real")
    write(tmp_path / "random.safetensors", tensors, replace(record, stand_in=True))
    path, said = tmp_path / "random.safetensors", "is a stand-in: random weights"
    assert said in refused(adopt, path)
    assert said in refused(add, path, "mine", LIKE_IMAGENET)


# -- What nobody tells has to be said --------------------------------------------------------------


@pytest.mark.parametrize("name", ["bare.pth", "my files/it's «résumé» 名 $HOME.pth.tar"])
def test_a_bare_trunk_is_refused_with_the_one_line_that_makes_it_known(
    put, name, monkeypatch, capsys
):
    path = put("bare", name)
    said = refused(adopt, path)
    assert "all 265 tensors of a ResNet-50 are here" in said
    assert "(--mean, --order, --padding, --std, --stride)" in said
    assert said.count("bench zoo add") == 1
    assert not own_file().exists()

    words = shlex.split(said[said.index("bench zoo add") :])
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None), capsys.readouterr().err
    (row,) = own()
    assert adopt(path) == row
    assert row.file == str(path)
    assert {key: getattr(row, key) for key in LIKE_IMAGENET} == LIKE_IMAGENET


def test_what_is_still_unsaid_is_named_by_its_flags(put):
    path = put("bare", "bare.pth")
    said = refused(add, path, "mine", {"padding": "torch", "mean": (0.5, 0.5, 0.5)})
    assert "(--order, --std, --stride)" in said
    with pytest.raises(Unsaid) as error:
        add(path, "mine", {})
    assert error.value.found.required == 265


def test_a_deep_stem_s_trunk_asks_for_its_stem_and_neither_padding_nor_stride(tmp_path):
    net = resnet50(variant="clip", padding="torch")
    weights = {n: t * 0.5 if "running_var" in n else t for n, t in net.state_dict().items()}
    torch.save(weights, tmp_path / "deep.pth")
    said = refused(adopt, tmp_path / "deep.pth")
    assert "all 275 tensors" in said
    assert "(--mean, --order, --std, --stem)" in said
    assert said.endswith("--name deep --like clip_rn50")
    pixels = {key: LIKE_IMAGENET[key] for key in ("order", "mean", "std")}
    said = refused(add, tmp_path / "deep.pth", "d", pixels | {"variant": "plain"})
    assert said == "deep.pth holds a clip ResNet-50, not plain."
    assert add(tmp_path / "deep.pth", "d", pixels | {"variant": "clip"}).variant == "clip"


def test_a_network_under_several_names_needs_its_prefix(tmp_path):
    both = under("a.", trunk()) | under("b.", changed(1.5))
    torch.save(both, tmp_path / "two.pth")
    said = refused(add, tmp_path / "two.pth", "mine", LIKE_IMAGENET)
    assert "under ['a.', 'b.'] could all be meant" in said
    assert "--prefix" in said
    add(tmp_path / "two.pth", "mine", LIKE_IMAGENET, prefix="b.")
    assert same(dict(opened("mine")[0]), changed(1.5))
    assert load("mine", size="tiny").report.dropped == {"a": 318}


# -- Names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my net (1).pth.tar", "my_net_1"),
        ("resnet50.best.TH", "resnet50_best"),
        ("--zoo.pth", "zoo"),
        ("名.pth", "file"),
        ("clip.pt", "clip_file"),  # a short name
        ("swav_800ep.pth", "swav_800ep_file"),  # a full name
        ("everything.ckpt", "everything_file"),  # a word of --zoo
    ],
)
def test_a_row_is_called_after_its_file_as_far_as_it_can_be(put, file, name):
    row = adopt(put("swav", file))
    assert row.name == name
    assert select([name]) == (row,) == own()


def test_two_files_of_one_name_are_two_rows_and_a_copy_is_not(put, tmp_path):
    first = adopt(put("swav", "a/net.pth"))
    other = tmp_path / "b" / "net.pth"
    other.parent.mkdir()
    torch.save(under("module.", changed(2.0)) | HEADS, other)
    second = adopt(other)
    assert (first.name, second.name) == ("net", "net_file")
    assert adopt(put("swav", "c/net.pth")) == first
    assert own() == (first, second)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip", "--name clip is RN50.pt in the catalogue"),
        ("vicreg", "in the catalogue. Choose another name"),
        ("mine", "in {own_file}. Choose another name"),
        ("all", "'all' cannot be a name"),
        ("own", "'own' cannot be a name"),
        ("detection", "'detection' cannot be a name"),
        ("my net", "letters, digits, _ and - make one"),
        ("../net", "letters, digits, _ and - make one"),
        ("-net", "cannot be a name"),
        ("", "cannot be a name"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused_before_anything_is_read(put, name, said):
    own_file().parent.mkdir()
    own_file().write_text(BY_HAND.format("mine"))
    assert said.format(own_file=own_file()) in refused(add, Path("nowhere.pth"), name, {})


# -- Files that change and move --------------------------------------------------------------------


def test_a_file_that_changed_after_it_was_added_is_refused_in_words(put):
    path = put("swav", "net.pth")
    adopt(path)
    path.unlink()
    torch.save(under("module.", changed(2.0)) | HEADS, path)
    assert refused(adopt, path) == (
        f"{path} has changed since it was added as net. Add it by another name (bench zoo add), "
        f"or remove [net] from {own_file()}."
    )
    said = refused(load, "net")
    assert "net.pth has SHA-256" in said
    assert said.endswith("Add it again: bench zoo add.")
    row = add(path, "net2", {})
    assert adopt(path) == row
    assert same(dict(opened("net2")[0]), changed(2.0))


def test_a_file_that_moved_is_missing_in_words(put, zoo, tmp_path):
    path = put("swav", "net.pth")
    row = adopt(path)
    path.rename(tmp_path / "moved.pth")
    assert zoo.missing([row, find("clip")]) == [row, find("clip")]
    with pytest.raises(ZooError) as error:
        load("net")
    assert str(error.value).splitlines() == [
        "Missing weights:",
        f"  net: {path}, which was there when it was added",
        "Put it back, or add it again from where it is now: bench zoo add FILE.",
    ]
    said = refused(adopt, tmp_path / "moved.pth")
    assert f"was added as net from {path}, where it is not any more" in said
    text = own_file().read_text().replace(str(path), str(tmp_path / "moved.pth"))
    own_file().write_text(text)
    assert adopt(tmp_path / "moved.pth").name == "net"


# -- The TOML --------------------------------------------------------------------------------------


def test_any_path_that_is_text_comes_back_from_the_toml(put):
    path = put("swav", 'we"ird\\ \x7f {x} [y] #z\n名 é.pth')
    row = adopt(path)
    assert row.file == str(path)
    assert own() == (row,)
    assert adopt(path) == row
    assert tomllib.loads(own_file().read_text("utf-8"))[row.name]["file"] == str(path)


def test_a_path_that_is_no_text_is_refused(put):
    path = put("swav", os.fsdecode(b"caf\xe9.pth"))
    assert "has a name that is no UTF-8. Rename it." in refused(adopt, path)


def test_what_a_person_wrote_into_the_toml_stays_as_it_is(put):
    by_hand = "# mine\n\n" + BY_HAND.format("by-hand") + "# ours"
    own_file().parent.mkdir()
    own_file().write_text(by_hand + "\n\n\n")
    row = adopt(put("swav", "net.pth"))
    assert own_file().read_text().startswith(by_hand + "\n\n[net]\n")
    assert [one.name for one in own()] == ["by-hand", row.name]


@pytest.fixture
def slowly(monkeypatch):
    """Between reading the TOML and putting it back there is time for others."""
    rename = os.replace

    def late(source, target):
        time.sleep(0.05)
        rename(source, target)

    monkeypatch.setattr(os, "replace", late)


def test_many_at_once_lose_nothing(put, slowly):
    path = put("swav", "net.pth")
    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(lambda n: add(path, f"net{n}", {}), range(6)))
    assert sorted(own(), key=lambda row: row.name) == added
    assert {p.name for p in own_file().parent.iterdir()} == {"zoo.toml", ".zoo.toml.lock", "notes"}


def test_of_two_that_adopt_the_same_file_at_once_none_fails_and_one_row_is_written(put, slowly):
    path = put("swav", "net.pth")
    with ThreadPoolExecutor(3) as pool:
        rows = set(pool.map(adopt, [path] * 3))
    assert rows == set(own())
    assert len(own()) == 1


def test_of_two_that_want_one_name_at_once_one_is_told(put, slowly):
    path = put("swav", "net.pth")

    def attempt(padding: str) -> Checkpoint | str:
        try:
            return add(path, "net", {"padding": padding})
        except ZooError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(attempt, ["torch", "same"]))
    (row,) = own()
    assert row in results
    (said,) = (result for result in results if isinstance(result, str))
    assert said.endswith("Choose another name.")


# -- Folders that cannot be written ----------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_one_line(put, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "file"))
    path = put("swav", "net.pth")
    for said in (refused(adopt, path), refused(add, path, "mine", {})):
        assert said.startswith(f"Cannot make {tmp_path / 'file' / 'notes'}: Not a directory.")
        assert "$BENCH_ZOO" in said


def test_a_toml_that_cannot_be_written_is_one_line_and_stays_as_it_was(put, monkeypatch):
    adopt(put("swav", "net.pth"))
    before = own_file().read_text()
    rename = os.replace

    def full(source, target):
        if Path(target) == own_file():
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    said = refused(add, put("swav", "net.pth"), "again", {})
    assert said == f"Cannot write {own_file()}: No space left on device. Set $BENCH_ZOO."
    assert own_file().read_text() == before
