"""The house itself: who may import whom, what is light, and that the README tells the truth."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bench.cli import bench as command
from tests.conftest import ROOT

FOLDERS = ("bench", "zoo", "protocols", "runners", "reports")

# Inside bench, each layer imports only itself and the layers before it.
LAYERS = (
    ("bench.dist", "bench.memory", "bench.records"),
    ("bench.store", "bench.failure", "bench.invocations", "bench.tracked", "bench.track"),
    ("bench.provenance", "bench.train.stop"),
    ("bench.reasons",),
    ("bench.data",),
    ("bench.model",),
    ("bench.eval",),
    ("bench.intervals",),
    ("bench.train",),
    ("bench.cell", "bench.paper_tables", "bench.grids"),
    ("bench.weights",),
    ("bench.plan", "bench.status", "bench.results"),
    ("bench.measured", "bench.estimate", "bench.explain"),
    ("bench.again", "bench.display", "bench.show", "bench.pairs", "bench.compare"),
    ("bench.tables", "bench.mirror", "bench.figures", "bench.page"),
    ("bench.artifacts",),
    ("bench.pseudo", "bench.ranks"),
    ("bench.run",),
    ("bench.work",),
    ("bench.sweep",),
    ("bench.launch", "bench.selectors", "bench.config", "bench.doctor"),
    ("bench.zoo_commands", "bench.data_commands"),
    ("bench.probe", "bench.forecast"),
    ("bench.worker", "bench.jobs", "bench.selftest"),
    ("bench.reconcile", "bench.report"),
    ("bench.retry",),
    ("bench.store_commands",),
    ("bench.cli", "bench.__main__"),
)


def modules(folder):
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), file


def imports(file):
    """Yield every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_the_rooms_around_bench_know_nothing_of_each_other(folder):
    foreign = {name for name in FOLDERS if name != folder}
    for _, file in modules(folder):
        assert not {name.partition(".")[0] for name in imports(file)} & foreign, file


def layer(module):
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    raise AssertionError(f"{module} is in no layer: give it one")


def test_inside_bench_imports_go_one_way():
    for module, file in modules("bench"):
        if module == "bench":
            continue
        for name in imports(file):
            if (
                name.startswith("bench.")
                and (ROOT / Path(*name.split("."))).with_suffix(".py").exists()
            ):
                assert layer(name) <= layer(module), f"{module} imports {name}"


@pytest.mark.parametrize("folder", ["data", "model", "eval", "train"])
def test_training_and_scoring_import_neither_mlflow_nor_submitit(folder):
    for _, file in modules(f"bench/{folder}"):
        assert not {name.partition(".")[0] for name in imports(file)} & {"mlflow", "submitit"}


def test_the_five_names_are_ours():
    for folder in FOLDERS:
        spec = importlib.util.find_spec(folder)
        assert spec is not None
        assert Path(spec.origin).parent == ROOT / folder


def test_no_file_is_longer_than_400_lines():
    files = [file for folder in FOLDERS for _, file in modules(folder)]
    assert {file.name: n for file in files if (n := len(file.read_text().splitlines())) > 400} == {}


def test_every_room_has_a_map():
    for folder in (*FOLDERS, "bench/data", "bench/model", "bench/train", "bench/eval"):
        text = (ROOT / folder / "__init__.py").read_text()
        listed = [
            f.stem for f in (ROOT / folder).glob("*.py") if f.stem not in ("__init__", "__main__")
        ]
        assert [name for name in listed if f"`{name}`" not in text] == [], folder


HEAVY = ("torch", "numpy", "pandas", "mlflow", "matplotlib", "rich", "submitit", "scipy")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["zoo", "ls", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from bench.cli import main; sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert "Usage: bench" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", [["status"], ["report"]])
def test_the_store_is_read_without_torch(verb, tmp_path):
    code = (
        "import sys; from bench.cli import main; sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *verb, "--store", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"


def commands(group=command, path=()):
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one


def test_the_help_of_every_verb_has_an_example():
    for path, one in commands():
        assert f"Example: bench {' '.join(path)}" in (one.help or ""), path


def readme_lines():
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("line", [line for line in readme_lines() if line.startswith("bench ")])
def test_every_bench_line_of_the_readme_is_understood(line):
    words = shlex.split(line)[1:]
    group = command
    while isinstance(group, click.Group):
        group = group.commands[words.pop(0)]
    group.make_context("bench", words, resilient_parsing=False)


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = [line.split()[1] for line in readme_lines() if line.startswith("make ")]
    assert named
    assert set(named) <= targets
