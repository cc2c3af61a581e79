"""The index: a data set is looked into once, and again when a file of it is another."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from bench.data import DataError, index
from bench.data.bdd100k import read
from bench.data.probe import probe
from tests.data.test_packagings import records


@pytest.fixture
def looked(monkeypatch):
    """How often a data set was looked into."""
    times = []

    def survey(*arguments):
        times.append(arguments)
        return looking(*arguments)

    from bench.data import bdd100k

    looking = bdd100k.survey
    monkeypatch.setattr(bdd100k, "survey", survey)
    return times


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of indices, of this test alone, in which small data sets have theirs too."""
    monkeypatch.setattr(index, "MANY", 1)
    monkeypatch.setenv("BENCH_INDEX", str(tmp_path / "index"))
    return tmp_path / "index"


def test_a_second_reading_looks_into_no_file_and_finds_the_same(tree, kept, looked):
    first, digest = records(tree), read(tree).sha256
    assert len(looked) == 1
    assert (records(tree), read(tree).sha256) == (first, digest)
    assert len(looked) == 1
    (file,) = kept.iterdir()
    assert file.suffix == ".npz"


def test_the_data_folder_is_not_written_to(tree, kept):
    before = sorted(tree.rglob("*"))
    times = [file.stat().st_mtime_ns for file in before]
    read(tree)
    assert sorted(tree.rglob("*")) == before
    assert [file.stat().st_mtime_ns for file in before] == times


def touch(file):
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))


def grow(file):
    stat = file.stat()
    file.write_bytes(file.read_bytes() + b" ")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def remove(file):
    file.unlink()


def add(file):
    copy = file.with_name("0" + file.name)
    shutil.copy2(file, copy)


def rename(file):
    file.rename(file.with_name("0" + file.name))


PLACES = (
    *("images/100k/train/*.jpg", "images/10k/train/*.jpg", "images/10k/val/*.jpg"),
    *("labels/drivable/masks/train/*.png", "labels/sem_seg/masks/val/*.png"),
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [touch, grow, add])
def test_a_file_that_is_another_is_noticed(tree, kept, looked, place, change):
    read(tree)
    change(sorted(tree.glob(place))[0])
    try:
        read(tree)
    except DataError as error:  # more than a few masks have no image
        assert change is add and "have no image" in str(error)  # noqa: PT017, PT018
    assert len(looked) == 2


@pytest.mark.parametrize("change", [remove, rename])
def test_a_mask_that_is_gone_is_noticed(tree, kept, change):
    mask = sorted(tree.glob("labels/drivable/masks/train/*.png"))[0]
    assert "driv" in read(tree).train[mask.stem].tasks()
    if change is rename:
        image = tree / "images" / "100k" / "train" / f"{mask.stem}.jpg"
        shutil.copy(image, image.with_name("0" + image.name))
    change(mask)
    train = read(tree).train
    assert mask.stem not in train or "driv" not in train[mask.stem].tasks()
    assert ("0" + mask.stem in train) == (change is rename)


@pytest.mark.parametrize("change", [touch, grow])
def test_another_list_of_boxes_is_noticed(tree, kept, looked, change):
    read(tree)
    change(tree / "labels" / "det_20" / "det_val.json")
    read(tree)
    assert len(looked) == 2


def test_another_packaging_is_noticed(tree, kept, looked):
    read(tree)
    (tree / "seg").mkdir()
    (tree / "images" / "10k").rename(tree / "seg" / "images")
    assert next(iter(read(tree).val.values())).image.is_file()
    assert len(looked) == 2


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def another(file):
    np.savez(file, words=np.zeros(3, np.uint8))


def flip_bytes(file):
    held = bytearray(file.read_bytes())
    for at in range(len(held) // 3, len(held) // 3 + 64):
        held[at] ^= 0xFF
    file.write_bytes(held)


@pytest.mark.parametrize("damage", [cut, empty, another, flip_bytes])
def test_a_damaged_index_is_made_again_with_a_line(tree, kept, looked, capsys, damage):
    whole = records(tree)
    (file,) = kept.iterdir()
    damage(file)
    capsys.readouterr()
    assert records(tree) == whole
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"The index {file} is damaged: {tree} is read again.\n"
    read(tree)
    assert len(looked) == 2


def test_an_index_of_another_version_is_made_again_with_a_line(tree, kept, capsys, monkeypatch):
    read(tree)
    monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    read(tree)
    assert "is of another version" in capsys.readouterr().err
    read(tree)
    assert capsys.readouterr().err == ""


def test_where_no_index_can_be_kept_a_line_says_so(tree, kept, capsys):
    kept.touch()
    assert len(read(tree).val) == 5
    assert "Name another folder with $BENCH_INDEX." in capsys.readouterr().err


def test_a_reading_that_takes_long_is_announced(tree, kept, capsys):
    read(tree)
    assert re.match(r"Looking once into the \d+ files of ", capsys.readouterr().err)
    read(tree)
    assert capsys.readouterr().err == ""
    touch(tree / "labels" / "det_20" / "det_train.json")
    read(tree)
    assert capsys.readouterr().err == f"{tree} has changed: it is read again.\n"


def test_a_few_files_need_no_index(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BENCH_INDEX", str(tmp_path / "index"))
    read(tree)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "index").exists()


def test_two_folders_of_one_name_have_two_indices(tree, tmp_path, kept):
    other = tmp_path / "other" / tree.name
    shutil.copytree(tree, other)
    read(tree)
    read(other)
    assert len(list(kept.iterdir())) == 2
    assert next(iter(read(other).train.values())).image.is_relative_to(other)


def test_frames_are_a_mapping_of_names(tree):
    train = read(tree).train
    assert list(train) == sorted(train)
    assert len(train) == len(list(train.items()))
    assert "nothing" not in train
    with pytest.raises(KeyError):
        train["nothing"]


EXIF = Image.Exif()
EXIF[0x010E] = "x" * 3000  # a description that pushes the size out of the first bytes


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "a.jpg", {}),
        ("RGB", "a.jpg", {"progressive": True}),
        ("RGB", "a.jpg", {"exif": EXIF}),
        ("RGB", "a.jpg", {"comment": b"\xff\xc0" * 20, "optimize": True}),
        ("L", "a.jpg", {}),
        ("CMYK", "a.jpg", {}),
        ("L", "a.png", {}),
        ("L", "a.png", {"bits": 2}),
        ("1", "a.png", {}),
        ("P", "a.png", {}),
        ("LA", "a.png", {}),
        ("RGB", "a.png", {}),
        ("RGBA", "a.png", {}),
        ("I;16", "a.png", {}),
    ],
)
def test_size_and_mode_are_pillows(tmp_path, mode, name, options):
    Image.new(mode, (67, 31)).save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as image:
        assert probe(tmp_path / name)[:2] == ((image.height, image.width), image.mode)
