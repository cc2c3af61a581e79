"""Measure what needs no GPU and write it into BENCHMARKS.md, between its two marks.

python -m benchmarks.table [--data FOLDER]        under ten minutes
"""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from benchmarks import ap, confusion, counts, loader, overhead, step, zoo_read
from benchmarks.figures import HEADER

T = TypeVar("T")

BENCHMARKS = Path(__file__).parents[1] / "BENCHMARKS.md"
MARKS = re.compile(r"(<!-- made by `make bench` -->\n).*?(<!-- /made -->)", re.DOTALL)


def main() -> int:
    """Measure, write, and say whether all bars are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of BDD100K for the loader")
    data = parser.parse_args().data
    load = os.getloadavg()[0]
    found = [
        *alone(step.figures),
        *alone(loader.figures, data),
        *alone(ap.figures),
        *alone(confusion.figures),
        *alone(zoo_read.figures),
    ]
    costs, cheap = alone(overhead.rows)
    lines = [
        where(load),
        "",
        HEADER,
        *(one.row() for one in found),
        "",
        *alone(counts.rows),
        "",
        "| | measured | at most |",
        "| --- | ---: | ---: |",
        *costs,
        "",
    ]
    text, count = MARKS.subn(
        lambda match: match[1] + "\n".join(lines) + match[2], BENCHMARKS.read_text()
    )
    assert count == 1, "BENCHMARKS.md has lost its marks"
    BENCHMARKS.write_text(text)
    print(*lines, sep="\n")
    return int(not (cheap and all(one.met for one in found)))


def alone(measure: Callable[..., T], *args: Path | None) -> T:
    """Measure in a new process: how memory comes back depends on what was freed before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *args).result()


def where(load: float) -> str:
    """Return when and on what this was measured."""
    names = ("torch", "torchvision", "timm", "numpy", "Pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    cores = f"{os.cpu_count()} cores ({model()}), load {load:.1f} before"
    return f"{date.today()}, {cores}, Python {platform.python_version()}, {versions}."


def model() -> str:
    """Return what the processor calls itself."""
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
