"""Where a number comes from: code, versions, machine, command."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pycocotools")


def provenance() -> dict[str, object]:
    """Return code revision, package versions, machine, device, threads, command and time (UTC)."""
    return {
        "code": _revision(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "command": os.environ.get("BENCH_COMMAND", shlex.join(sys.argv)),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _revision() -> str | None:
    """Return the commit of this code, `+` where it was changed since; None outside a repository."""
    ask = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
    ]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() or None
