"""Hostile files: no code is run, nothing is written, nothing is endless, and every refusal is ours.

What is read from one may only be the tensor that is in it.
"""

import gc
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zlib

import pytest
import torch

from tests.conftest import ROOT
from tests.zoo.bundles import pack
from tests.zoo.hostile import (
    BOMBS,
    CANARY,
    CONTAINERS,
    PYTHON,
    RUNS,
    TENSORS,
    TOUCH,
    Member,
    W,
    as_legacy,
    as_pickle,
    deflated_zeros,
    safetensors,
    tensor,
    text,
    torch_zip,
    with_tensor,
    zip_of,
)
from zoo.canonical import trunk_of
from zoo.catalog import ZooError
from zoo.inspection import inspect
from zoo.read import read

SECONDS = 1.0  # of processor time, for reading and for looking for a ResNet-50


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """What was there before is not looked through at each `gc.collect`: half a second at times."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Commands would leave their traces in this folder, and `evil.py` could be imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "evil.py").write_text(f"{PYTHON}\nanything = None\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    yield folder
    sys.modules.pop("evil", None)


def outcome(path):
    """What becomes of a file: what is said of it, or "" if its tensors are the right ones."""
    before = files(path.parent)
    gc.collect()
    started = time.process_time()
    said = ""
    try:
        published = read(path)
        wrong = [key for key in ("w", "evil") if key in published.tensors]
        published.check(wrong)
        wrong = [key for key in wrong if not torch.equal(published.tensors[key], W)]
        with pytest.raises(ZooError) as error:
            trunk_of(published)
        assert len(str(error.value)) < 1000
        assert str(error.value).isprintable()
    except ZooError as error:
        said, wrong = str(error), []
    seconds = time.process_time() - started
    assert seconds < SECONDS
    assert wrong in ([], ["evil"])
    assert said.startswith(path.name if said else "")
    assert len(said) < 1000
    assert said.isprintable()  # and is no command to a terminal
    assert files(path.parent) == before
    return said


def files(folder):
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in str(path))


@pytest.mark.parametrize("payload", ["REDUCE", "INST", "OBJ", "STACK_GLOBAL", "eval", "an import"])
def test_the_traps_are_real(here, payload):
    # A pickle that is believed does what it says; so the tests below could fail.
    pickle.loads(b"\x80\x02" + RUNS[payload] + b".")
    assert (here / CANARY).exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", RUNS)
def test_no_code_is_run(tmp_path, here, payload, container):
    path = tmp_path / "file.pth"
    path.write_bytes(CONTAINERS[container](RUNS[payload]))
    outcome(path)
    inspect(path)
    assert not (here / CANARY).exists()
    assert "evil" not in sys.modules
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", BOMBS)
def test_no_pickle_costs_more_than_it_weighs(tmp_path, payload, container):
    path = tmp_path / "file.pth"
    path.write_bytes(CONTAINERS[container](BOMBS[payload]))
    outcome(path)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("payload", TENSORS)
def test_no_tensor_is_more_than_its_bytes(tmp_path, here, payload, container):
    path = tmp_path / "file.pth"
    path.write_bytes(CONTAINERS[container](TENSORS[payload]))
    outcome(path)
    assert not (here / CANARY).exists()


def test_a_tensor_in_a_file_that_is_not_torch_s_is_refused(tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(as_pickle(tensor()))
    assert "a torch tensor in a file that is not torch's" in outcome(path)


# -- Zips ------------------------------------------------------------------------------------------

PICKLE = with_tensor(b"N")
DATA = W.numpy().tobytes()
INDEX, SHARD = pack({"w": W})
TERABYTE = 1 << 40


def stored(path, content, **more):
    return Member(path, content, len(content), **more)


ZIPS = {
    "a pickle that unpacks to 4 GB": [
        Member("a/data.pkl", deflated_zeros(4 << 30), 4 << 30, 8),
        stored("a/data/0", DATA),
    ],
    "a pickle that is bzip2": [Member("a/data.pkl", PICKLE, 99, 12), stored("a/data/0", DATA)],
    "a storage that unpacks to 4 GB": [
        stored("a/data.pkl", PICKLE),
        Member("a/data/0", deflated_zeros(4 << 30), 4 << 30, 8),
    ],
    "a storage that is 3 GB by its directory": [
        stored("a/data.pkl", PICKLE),
        Member("a/data/0", DATA, 3 << 30),
    ],
    "a storage of less than its tensor": [
        stored("a/data.pkl", PICKLE),
        stored("a/data/0", DATA[:11]),
    ],
    "a storage that is missing": [stored("a/data.pkl", PICKLE)],
    "a storage behind the file": [
        stored("a/data.pkl", PICKLE),
        stored("a/data/0", DATA, place=1 << 31),
    ],
    "two pickles of one name": [
        stored("a/data.pkl", with_tensor(RUNS["REDUCE"])),
        stored("a/data.pkl", PICKLE),
        stored("a/data/0", DATA),
    ],
    "two storages of one name": [
        stored("a/data.pkl", PICKLE),
        stored("a/data/0", bytes(12)),
        stored("a/data/0", DATA),
    ],
    "a storage in the place of the pickle": [
        stored("a/data.pkl", PICKLE),
        stored("a/data/0", DATA, place=0),
    ],
    "members that are encrypted": [
        stored("a/data.pkl", PICKLE[::-1], flags=1, crc=zlib.crc32(PICKLE)),
        stored("a/data/0", DATA[::-1], flags=1, crc=zlib.crc32(DATA)),
    ],
    "members in an unknown way": [
        stored("a/data.pkl", PICKLE, method=99),
        stored("a/data/0", DATA, method=99),
    ],
    "names that climb": torch_zip(RUNS["REDUCE"], root="../../../../here/"),
    "names from the root": torch_zip(RUNS["REDUCE"], root="/tmp/"),
    "names that are drives": torch_zip(RUNS["REDUCE"], root="C:\\a\\..\\"),
    "names of TorchScript": [
        *torch_zip(RUNS["REDUCE"]),
        stored("archive/code/__torch__.py", b"import os; os.system('touch canary')"),
    ],
    "other byte orders": [*torch_zip(b"N"), stored("archive/byteorder", b"big" * 1000)],
    "a bundle": [stored("m.index", INDEX), stored("m.data-00000-of-00001", SHARD)],
    "a bundle that climbs": [
        stored("../../here/m.index", INDEX),
        stored("../../here/m.data-00000-of-00001", SHARD),
    ],
    "a bundle without its data": [stored("m.index", INDEX)],
    "a bundle that unpacks to 64 GB": [
        stored("m.index", INDEX),
        Member("m.data-00000-of-00001", deflated_zeros(64 << 30), 64 << 30, 8),
    ],
    "a bundle that unpacks to more than it says": [
        stored("m.index", INDEX),
        Member("m.data-00000-of-00001", deflated_zeros(4 << 30), 12, 8),
    ],
    "a bundle that unpacks to less than it says": [
        stored("m.index", INDEX),
        Member("m.data-00000-of-00001", deflated_zeros(1 << 20), 90_000, 8),
    ],
    "an index that unpacks to 64 GB": [
        Member("m.index", deflated_zeros(64 << 30), 64 << 30, 8),
        stored("m.data-00000-of-00001", SHARD),
    ],
    "a bundle that does not unpack": [
        stored("m.index", INDEX),
        Member("m.data-00000-of-00001", b"\xff" * 99, 12, 8),
    ],
}
FINE = {
    "names that climb",
    "names from the root",
    "names of TorchScript",
    "a bundle",
    "a bundle that climbs",
}


@pytest.mark.parametrize("case", ZIPS)
def test_zips_that_lie_are_refused_and_names_in_them_mean_nothing(tmp_path, here, case):
    path = tmp_path / "deep" / "er" / "file.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(zip_of(*ZIPS[case]))
    before = files(tmp_path)
    assert (outcome(path) == "") is (case in FINE)
    assert files(tmp_path) == before
    assert not (here / CANARY).exists()


def test_a_zip_of_a_terabyte_by_its_long_directory_is_refused(tmp_path):
    # zip64: the sizes are in an extra field.
    path = tmp_path / "file.pth"
    whole = zip_of(stored("a/data.pkl", PICKLE), Member("a/data/0", DATA, 0xFFFFFFFF))
    at = whole.rindex(b"PK\1\2")
    extra = struct.pack("<2HQ", 1, 8, TERABYTE)
    entry = whole[at : whole.rindex(b"PK\5\6")]
    entry = entry[:30] + struct.pack("<H", len(extra)) + entry[32:] + extra
    end = bytearray(whole[whole.rindex(b"PK\5\6") :])
    size = struct.unpack_from("<I", end, 12)[0] + len(extra)
    struct.pack_into("<I", end, 12, size)
    path.write_bytes(whole[:at] + entry + end)
    assert "ends after the file" in outcome(path)


def test_an_archive_of_20_000_names_is_refused(tmp_path):
    path = tmp_path / "file.zip"
    path.write_bytes(zip_of(*(stored(f"{i}", b"") for i in range(20_000))))
    assert "is a zip of ['0', '1', '2'], not of weights" in outcome(path)


# -- torch's old format ----------------------------------------------------------------------------

LEGACY = {
    "a hostile protocol": {"head": b"\x80\x02" + RUNS["REDUCE"] + b"."},
    "an endless protocol": {"head": b"\x80\x02" + BOMBS["100,000 tuples deep as a key"] + b"."},
    "a length of 2^62": {"length": 2**62},
    "a length of -1": {"length": -1},
    "another length": {"length": 2},
    "an order of nothing": {"order": b"]."},
    "an order of a number": {"order": b"K\3."},
    "an order of lists": {"order": b"](]]e."},
    "an order of a call": {"order": RUNS["REDUCE"] + b"."},
    "an order that repeats": {"order": b"](" + text("0") * 2 + b"e."},
    "an order of others": {"order": b"](" + text("1") + b"e."},
}


@pytest.mark.parametrize("case", LEGACY)
def test_old_files_that_lie_are_refused(tmp_path, here, case):
    path = tmp_path / "file.pth.tar"
    path.write_bytes(as_legacy(b"N", **LEGACY[case]))
    assert bool(outcome(path)) is ("protocol" not in case)
    assert not (here / CANARY).exists()


# -- safetensors -----------------------------------------------------------------------------------


def header(**more):
    return json.dumps(
        {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | more}
    ).encode()


SAFETENSORS = {
    "a header of 2^60 bytes": safetensors(b"{}", length=2**60),
    "a header of 2^64 - 1 bytes": safetensors(b"{}", length=2**64 - 1),
    "a header as long as the file": safetensors(header(), length=len(header()) + 20),
    "a header 100,000 deep": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a header that is no text": safetensors(b'{"\xff\xfe": 1}'),
    "a shape of 2^62": safetensors(header(shape=[2**62])),
    "a shape of 2^80": safetensors(header(shape=[2**40, 2**40])),
    "a shape of -1": safetensors(header(shape=[-1])),
    "an unknown dtype": safetensors(header(dtype="F31")),
    "a dtype that is code": safetensors(header(dtype=f"__import__('os').system('{TOUCH}')")),
    "a place beyond the file": safetensors(header(data_offsets=[0, 2**40])),
    "a place before the file": safetensors(header(data_offsets=[-12, 0])),
    "a place that ends before it begins": safetensors(header(data_offsets=[12, 0])),
    "a hole": safetensors(header(), data=bytes(24)),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors_that_lie_are_refused(tmp_path, case):
    path = tmp_path / "model.safetensors"
    path.write_bytes(SAFETENSORS[case])
    assert outcome(path)


# -- The worst, with little memory -----------------------------------------------------------------

# Prints, for each file, its name, the seconds and the memory in MB that it took, and what was said.
WATCHED = """
import resource, sys, time
from pathlib import Path
from zoo.catalog import ZooError
from zoo.canonical import trunk_of
from zoo.read import read
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
for path in sys.argv[1:]:
    said, before, started = "read", peak(), time.process_time()
    try:
        trunk_of(read(Path(path)))
    except ZooError as error:
        said = str(error).replace("\\n", " ")
    print(path, time.process_time() - started, peak() - before, said, sep="\\t", flush=True)
"""


def test_the_worst_of_them_stay_small_and_fast(tmp_path):
    expensive = ("20 GB", "tuples", "calls", "an array in")
    worst = {
        payload: as_pickle(fragment)
        for payload, fragment in BOMBS.items()
        if len(fragment) > 30_000 or payload.startswith(expensive)
    }
    worst |= {case: zip_of(*ZIPS[case]) for case in ZIPS if "GB" in case or "more than" in case}
    paths = {}
    for number, (case, content) in enumerate(worst.items()):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        paths[str(path)] = case
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *paths],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, (list(paths.values())[len(lines)], done.stderr[-2000:])
    for path, seconds, megabytes, said in lines:
        assert float(seconds) < 2 * SECONDS, (paths[path], said)
        assert float(megabytes) < 250, (paths[path], said)
        assert "MemoryError" not in said, paths[path]
