"""What all tests share: checked shapes, a repeatable property search, required oracles."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# Shapes and dtypes in the signatures of these modules are checked whenever a test calls them.
CHECKED = ["bench.model", "bench.eval", "zoo.resnet50", "zoo.clip_text", "zoo.clip_pool"]
install_import_hook(CHECKED, "beartype.beartype")

settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")

REQUIRED = {
    "../shared/data is not here": "REQUIRE_SHARED",
    "pdflatex is not installed": "REQUIRE_TEX",
    "the parity environment is not here": "REQUIRE_PARITY",
    "SLURM is not installed": "REQUIRE_SLURM",
    "chromium is not installed": "REQUIRE_CHROMIUM",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests of a file in one process, and all that need SLURM: they share what they made.

    Those are begun first, for they mostly wait.
    """
    for item in items:
        slurm = item.path.parent.name == "slurm"
        item.add_marker(pytest.mark.xdist_group("slurm" if slurm else str(item.path)))
    items.sort(key=lambda item: item.path.parent.name != "slurm")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure where the environment promises what the test was skipped for."""
    report = (yield).get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        for reason, variable in REQUIRED.items():
            if reason in report.longrepr[2] and os.environ.get(variable):
                report.outcome = "failed"
                report.longrepr = f"{report.longrepr[2]}, though {variable} is set"


@pytest.fixture(scope="session")
def streets(tmp_path_factory) -> Path:
    """A small demo data set: 8 + 4 training frames of which 2 are shared, 3 + 2 to validate."""
    from bench.data.demo.draw import Counts, draw

    folder = tmp_path_factory.mktemp("streets") / "demo"
    draw(folder, 0, Counts(train_100k=8, train_10k=4, shared=2, val_100k=3, val_10k=2))
    return folder


@pytest.fixture
def tree(streets, tmp_path) -> Path:
    """A copy of the small data set that a test may damage."""
    return Path(shutil.copytree(streets, tmp_path / "bdd100k"))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with the canonical stand-ins of MoCo-v2, CLIP and the supervised teacher."""
    from zoo.catalog import find
    from zoo.store import Zoo

    shelf = Zoo(tmp_path_factory.mktemp("stand-ins"))
    for name in ("moco_v2", "clip", "supervised"):
        shelf.canonical(find(name), stand_in=True)
    return shelf.folder


@pytest.fixture
def new_store(tmp_path, stand_ins):
    """Return a function that makes a store in which the stand-ins are there already."""

    def make(name: str = "runs") -> Path:
        shutil.copytree(stand_ins, tmp_path / name / "stand-ins", copy_function=os.link)
        return tmp_path / name

    return make


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """Return a function that runs `bench …` and returns (exit code, standard output, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    for name in ("BENCH_DATA", "BENCH_STORE"):
        monkeypatch.delenv(name, raising=False)

    from bench.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run
