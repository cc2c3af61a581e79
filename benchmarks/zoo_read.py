"""What does it cost to make a published file canonical? Against torch.load, side by side.

    python -m benchmarks.zoo_read            two cores, two minutes, 0.6 GB for temporary files

The files have the names, shapes and dtypes of real ones and random values: a MoCo-v2 checkpoint as
its training script saves it (two encoders, queue, SGD's momentum) in both of torch's formats, and
BYOL's pickle. Converting is `zoo.read.read` and `zoo.canonical.trunk_of`: finding the trunk, the
archive's checksums of its tensors, their values. It takes turns with `torch.load(weights_only)` of
the same file (for a pickle that is not torch's: `pickle.load`) in one process, the file in the page
cache; what a call returns is let go of after the clock has stopped. Torch has one thread, since its
threads wait for each other on a busy machine. Hashing, done once for each file, is left out.

Memory is that of another process, above what it held after its imports, while it reads, converts
and writes the canonical file. Pages of mapped files (RssFile) are counted apart: the kernel takes
them back when memory is needed elsewhere. Exit code 1: a bar was missed.
"""

import argparse
import gc
import json
import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.figures import Figure, figure
from zoo.canonical import record_of, trunk_of, write
from zoo.catalog import find
from zoo.manifests import manifest
from zoo.read import read

ROUNDS = 15
MOST_TIME = 0.5  # of torch.load's
MOST_MEMORY = 1.2  # of the kept tensors', where the container is torch's zip


# -- The files -------------------------------------------------------------------------------------


def numbers(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random weights of this shape, around 0."""
    return torch.randn(shape, generator=generator).mul_(0.05)


def filled(name: str, generator: torch.Generator) -> dict[str, Any]:
    """Return the tensors of a manifest in nested dictionaries, as its file holds them."""
    content: dict[str, Any] = {}
    listed = manifest(name)
    for tensor, (dtype, shape) in listed.tensors.items():
        *outer, last = listed.keys(tensor)
        inner = content
        for key in outer:
            inner = inner.setdefault(key, {})
        values = torch.full(shape, 7.0) if dtype[0] == "i" else numbers(shape, generator)
        inner[last] = (values.abs() + 0.5 if "var" in tensor else values).to(getattr(torch, dtype))
    return content


def moco() -> dict[str, Any]:
    """Return what MoCo's `main_moco.py` saves: the network's state and its optimiser's."""
    generator = torch.Generator().manual_seed(0)
    content = filled("moco_v2_training_full", generator)
    trained = [
        tensor.shape
        for name, tensor in content["state_dict"].items()
        if "encoder_q." in name and name.endswith((".weight", ".bias"))
    ]
    state = {n: {"momentum_buffer": numbers(shape, generator)} for n, shape in enumerate(trained)}
    groups = [{"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4, "params": [*state]}]
    optimizer = {"state": state, "param_groups": groups}
    return content | {"epoch": 200, "arch": "resnet50", "optimizer": optimizer}


def arrays(value: Any) -> Any:
    """Return nested dictionaries of tensors as the same of numpy arrays."""
    if isinstance(value, dict):
        return {key: arrays(child) for key, child in value.items()}
    return value.numpy()


def save_zip(path: Path) -> None:
    """Write the MoCo-v2 checkpoint as torch does since 1.6."""
    torch.save(moco(), path)


def save_legacy(path: Path) -> None:
    """Write the same as torch did before."""
    torch.save(moco(), path, _use_new_zipfile_serialization=False)


def save_pickle(path: Path) -> None:
    """Write BYOL's tensors by protocol 2, which spells bytes as text."""
    content = arrays(filled("byol_deepmind_haiku", torch.Generator().manual_seed(0)))
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)


def torch_load(path: Path) -> Any:
    """Read all of a torch file, as whoever checks it for code does."""
    return torch.load(path, weights_only=True)


def pickle_load(path: Path) -> Any:
    """Read all of a pickle that this script wrote."""
    with path.open("rb") as file:
        return pickle.load(file)


# -- Time ------------------------------------------------------------------------------------------


class Seconds(NamedTuple):
    """How long a call took by the clock, and what all its threads took of processors."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Times:
    """What each round took: the other reader, ours altogether, and ours by parts."""

    other: list[Seconds] = field(default_factory=list)
    ours: list[Seconds] = field(default_factory=list)
    reading: list[Seconds] = field(default_factory=list)
    checksums: list[Seconds] = field(default_factory=list)
    writing: list[Seconds] = field(default_factory=list)

    def of(self, part: str, clock: str = "wall") -> list[float]:
        """Every round's seconds of one part."""
        return [getattr(taken, clock) for taken in getattr(self, part)]

    def ratios(self, clock: str = "wall") -> list[float]:
        """Ours to the other's, round by round."""
        pairs = zip(self.of("ours", clock), self.of("other", clock), strict=True)
        return [ours / other for ours, other in pairs]

    @property
    def ratio(self) -> float:
        """Median to median, by the clock."""
        return median(self.of("ours")) / median(self.of("other"))


def timed(path: Path, other: Callable[[Path], Any], rounds: int = ROUNDS) -> Times:
    """Measure both in turns; a first round is thrown away."""
    times = Times()
    published = read(path)
    tensors, found = trunk_of(published)
    record = record_of(published, found, find(found.like), sha256="", stand_in=False)
    names = [link.at(found.prefix) for link in found.links]
    for round_ in range(rounds + 1):
        fresh = read(path)
        calls: dict[str, Callable[[], Any]] = {
            "other": lambda: other(path),
            "ours": lambda: trunk_of(read(path)),
            "reading": lambda: read(path),
            "checksums": lambda fresh=fresh: fresh.check(names),
            "writing": lambda: write(path.with_suffix(".safetensors"), tensors, record),
        }
        taken = {part: seconds(call) for part, call in calls.items()}
        if round_:
            for part, one in taken.items():
                getattr(times, part).append(one)
    return times


def seconds(call: Callable[[], Any]) -> Seconds:
    """Return how long a call takes, without letting go of what it returns."""
    gc.collect()
    start = perf_counter(), process_time()
    returned = call()
    taken = Seconds(perf_counter() - start[0], process_time() - start[1])
    del returned
    return taken


# -- Memory ----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Peak:
    """Bytes above the start: memory of the process's own, pages of files, and both at once.

    `own` and `file` are sampled every millisecond; `both` is kept by the kernel.
    """

    own: int = 0
    file: int = 0
    both: int = 0
    kept: int = 0

    def watch(self, call: Callable[[], Any]) -> Any:
        """Return what a call returns, and know its peak."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
        start, done = _status(), Event()

        def sample() -> None:
            now = _status()
            self.own = max(self.own, now["RssAnon"] - start["RssAnon"])
            self.file = max(self.file, now["RssFile"] - start["RssFile"])

        def sample_on() -> None:
            while not done.wait(0.001):
                sample()

        sampler = Thread(target=sample_on)
        sampler.start()
        try:
            returned = call()
        finally:
            done.set()
            sampler.join()
        sample()
        self.both = _status()["VmHWM"] - start["VmRSS"]
        return returned


def _status() -> dict[str, int]:
    """Return this process's memory as the kernel counts it, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")
    }


def peak(path: Path) -> Peak:
    """Return the peak of a new process that converts a file and writes it."""
    command = [sys.executable, "-m", "benchmarks.zoo_read", "--peak", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Peak(**json.loads(done.stdout))


def converted(path: Path) -> dict[str, Tensor]:
    """Read, convert and write one file."""
    published = read(path)
    tensors, found = trunk_of(published)
    record = record_of(published, found, find(found.like), sha256="", stand_in=False)
    write(path.with_suffix(".safetensors"), tensors, record)
    return tensors


# -- What is printed -------------------------------------------------------------------------------


def table(columns: dict[str, tuple[int, Times, Peak]]) -> str:
    """Return the Markdown table of what was measured, one file a column."""
    rows = [["", *columns], ["---", *["---:"] * len(columns)]]
    cells = columns.values()
    rows.append(["size, MB", *[f"{size / 1e6:.0f}" for size, _, _ in cells]])
    for title, part, clock in (
        ("`torch.load(weights_only=True)`, for the pickle `pickle.load`, ms", "other", "wall"),
        ("`read` and `trunk_of`, ms", "ours", "wall"),
        ("… of it `read`, ms", "reading", "wall"),
        ("… of it checksums of the kept tensors, ms", "checksums", "wall"),
        ("writing the canonical file, ms", "writing", "wall"),
        ("processor time of the first, ms", "other", "processor"),
        ("processor time of the second, ms", "ours", "processor"),
    ):
        shown = [spread(times.of(part, clock), 1e3, 0) for _, times, _ in cells]
        rows.append([title, *shown])
    for title, clock in (("ratio", "wall"), ("ratio of processor time", "processor")):
        shown = [spread(times.ratios(clock), 1, 2) for _, times, _ in cells]
        rows.append([f"{title}, round by round", *shown])
    for title, part in (
        ("peak of the process's own memory, MB", "own"),
        ("peak of mapped file pages, MB", "file"),
        ("peak of both together, MB", "both"),
    ):
        rows.append([title, *[f"{getattr(most, part) / 1e6:.0f}" for _, _, most in cells]])
    rows.append(["both / kept tensors", *[f"{most.both / most.kept:.2f}" for _, _, most in cells]])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(values: list[float], scale: float, digits: int) -> str:
    """Return the median of some values, and the smallest and the largest."""
    middle, low, high = (f(values) * scale for f in (median, min, max))
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def machine() -> str:
    """Return the date, the machine and the versions that the times belong to."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in info if line.startswith("model name")), "")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "safetensors"))
    return (
        f"{date.today()}, {os.cpu_count()} vCPU ({model}), load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {versions}; median of {ROUNDS} rounds (range)."
    )


FILES: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "MoCo-v2 checkpoint, zip": (save_zip, torch_load),
    "the same, legacy": (save_legacy, torch_load),
    "BYOL's pickle": (save_pickle, pickle_load),
}


def figures() -> list[Figure]:
    """Measure the first of the files."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="zoo-") as folder:
        path = Path(folder) / "checkpoint.pth"
        save_zip(path)
        times = timed(path, torch_load)
    torch.set_num_threads(threads)
    name = "reading and converting a MoCo-v2 checkpoint of 370 MB / `torch.load`, by the clock"
    return [figure(name, times.of("ours"), times.of("other"), MOST_TIME)]


def main() -> int:
    """Write the files, measure, print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.peak:
        most = Peak()
        tensors = most.watch(lambda: converted(asked.peak))
        most.kept = sum(tensor.nbytes for tensor in tensors.values())
        print(json.dumps(vars(most)))
        return 0
    columns = {}
    with TemporaryDirectory() as folder:
        for title, (save, other) in FILES.items():
            path = Path(folder) / "checkpoint.pth"
            save(path)
            columns[title] = path.stat().st_size, timed(path, other), peak(path)
    print(f"{machine()}\n\n{table(columns)}")
    _, times, most = columns["MoCo-v2 checkpoint, zip"]
    return 0 if times.ratio <= MOST_TIME and most.both <= MOST_MEMORY * most.kept else 1


if __name__ == "__main__":
    sys.exit(main())
