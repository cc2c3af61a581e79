"""Where a number comes from: code, versions, machine, command; and whether the code is the same.

A cell records the hash of the sources that can change its numbers when it is planned. What was
submitted or begun with other sources is not run: half of its numbers would be of each.
"""

import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.store import append_line, job, read_lines

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pycocotools")
AFFECTING = (
    *("bench/data", "bench/model", "bench/train", "bench/eval", "zoo", "protocols"),
    *(f"bench/{name}.py" for name in ("dist", "pseudo", "ranks", "run", "weights")),
)
SOURCES = (".py", ".toml", ".json")


class CodeChanged(BenchError):
    """The code is not that with which a cell was submitted or begun."""


def begin(home: Path, order: dict[str, Any]) -> dict[str, Any]:
    """Record the attempt at an order that starts now; return where its numbers will come from.

    Raises `CodeChanged` where the order was written for other code and does not allow for that. An
    earlier attempt's `error.txt` is removed: it says nothing about this one.
    """
    planned, here = order.get("code"), code_hash()
    if planned not in (None, here) and not order.get("allow_code_change"):
        raise CodeChanged(
            f"{home.name} was planned with code {planned[:8]}, and this is {here[:8]}. "
            "The same bench run plans it again, and where training has begun, needs "
            "--allow-code-change to go on; removing the folder starts it again."
        )
    (home / "error.txt").unlink(missing_ok=True)
    started = provenance()
    append_line(home / "attempts.jsonl", {**started, "ranks": order.get("ranks", 1)})
    attempts = read_lines(home / "attempts.jsonl")
    used = dict.fromkeys(one["sources"] for one in attempts if "sources" in one)
    ranks = dict.fromkeys(one["ranks"] for one in attempts if "ranks" in one)
    lists = {"ranks": list(ranks), "sources": list(used)}
    return {**started, **lists, "attempts": len(attempts)}


def provenance() -> dict[str, Any]:
    """Return code revision, package versions, machine, device, threads, command and time (UTC)."""
    import torch  # not at the top: a plan needs the code's hash, and no torch

    return {
        "code": _revision(),
        "branch": _git("branch", "--show-current"),
        "sources": code_hash(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "job": job(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "command": os.environ.get("BENCH_COMMAND", shlex.join(sys.argv)),
        "time": now(),
    }


def device(provenance: dict[str, Any]) -> str:
    """Return what a cell ran on: a GPU's name, or the processor with its number of threads."""
    if provenance["device"] != "cpu":
        return provenance["device"]
    threads = provenance.get("threads", 1)
    return f"cpu, {threads} thread{'s' * (threads > 1)}"


def now() -> str:
    """Return the time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache  # what is imported stays what it was when the process began
def code_hash() -> str:
    """Return the SHA-256 of the names and the bytes of all sources that can change a number."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in AFFECTING:
        place = root / name
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            if file.suffix in SOURCES:
                content = file.read_bytes()
                digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()


def _revision() -> str | None:
    """Return the commit of this code, `+` where it was changed since; None outside a repository."""
    return _git("describe", "--always", "--dirty=+", "--abbrev=12")


def _git(*words: str) -> str | None:
    ask = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() or None
