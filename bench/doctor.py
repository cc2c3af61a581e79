"""`bench doctor`: whether this machine has what a run needs; one finding a line, with its cure."""

import fcntl
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bench.store import DEAD_S

DISTRIBUTION = "lv-adapter-bench"
ROOM_GB = 10.0  # a cell in work keeps about 1.5 GB, one that is done 0.2 GB
SKEW_S = 5.0  # of DEAD_S after which a lock whose heart-beat is not seen is nobody's
CALL_S = 15.0
NETWORK = (
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "smbfs", "afs", "9p"),
    *("fuse.sshfs", "fuse.glusterfs", "glusterfs", "panfs", "wekafs", "orangefs", "virtiofs"),
)
TRY_LOCK = (
    "import fcntl, sys\n"
    "try: fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except BlockingIOError: sys.exit(7)"
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at, whether it is well, what was seen, and what to do where it is not."""

    name: str
    ok: bool
    seen: str
    cure: str = ""


def findings(store: Path, zoo: Path) -> Iterator[Finding]:
    """Yield what there is to say of this machine, of the store's place and of the zoo's."""
    yield _python()
    yield _packages()
    yield from _devices()
    yield from _slurm()
    yield _mlflow(store)
    yield _room("store", store)
    yield _room("zoo", zoo)
    yield from _file_system(store)


def _python() -> Finding:
    here, wanted = platform.python_version(), _metadata().get("Requires-Python", "")
    return Finding(
        name="python",
        ok=SpecifierSet(wanted).contains(here),
        seen=f"{here}, wanted is {wanted or 'any'}",
        cure="make PYTHON=python3.11 sets up .venv with another one",
    )


def _packages() -> Finding:
    wanted = map(Requirement, metadata.requires(DISTRIBUTION) or ())
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in needed:
        try:
            here = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(here, prereleases=True):
            wrong.append(f"{one.name} {here} is not {one.specifier}")
    return Finding(
        name="packages",
        ok=not wrong,
        seen=", ".join(wrong) or f"{len(needed)}, all within pyproject.toml's ranges",
        cure="pip install --constraint constraints.txt --editable .",
    )


def _metadata() -> dict[str, str]:
    return dict(metadata.metadata(DISTRIBUTION).items())  # pyright: ignore[reportAttributeAccessIssue]


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of CUDA's may be missing
        cure = "pip install --constraint constraints.txt torch torchvision"
        yield Finding(name="torch", ok=False, seen=f"cannot be imported: {error}", cure=cure)
        return
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield Finding(name="torch", ok=True, seen=f"{torch.__version__}, built {built}")
    there = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not torch.cuda.is_available():
        yield Finding(
            name="devices",
            ok=not there,
            seen=f"no GPU that torch can use, {os.cpu_count()} cores"
            + (f", though there is {there[0]}" if there else ""),
            cure="a torch built for this driver's CUDA (nvidia-smi names it), or a newer driver",
        )
        yield Finding(name="bf16", ok=True, seen="nothing needs it without a GPU")
        return
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    seen = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in gpus)
    yield Finding(name="devices", ok=True, seen=seen)
    yield Finding(
        name="bf16",
        ok=torch.cuda.is_bf16_supported(including_emulation=False),
        seen="as the GPU has it" if torch.cuda.is_bf16_supported() else "not on this GPU",
        cure="none is needed for float32, which every preset trains in",
    )


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding(name="slurm", ok=True, seen="none here; --runner local and here work")
        return
    code, words = _call("sinfo", "--noheader", "--format=%P %a %l %D nodes")
    partitions = "; ".join(" ".join(line.split()) for line in words.splitlines())
    yield Finding(
        name="slurm",
        ok=code == 0,
        seen=partitions if code == 0 else f"sbatch is here, and sinfo says: {words}",
        cure="ask on the cluster's login node; elsewhere --runner local",
    )
    if code == 0:
        code, words = _call("sacct", "--noheader", "--format=JobID", "--starttime=now")
        yield Finding(
            name="sacct",
            ok=True,
            seen="answers"
            if code == 0
            else f"does not answer ({words}); nothing here needs it, the store says how cells end",
        )


def _mlflow(store: Path) -> Finding:
    cure = "mend or remove that database, then bench track sync; or --track off"
    try:
        here = metadata.version("mlflow")
        if (store / "mlflow.db").exists():
            from bench.track import default_uri, prepare

            prepare(default_uri(store), store)
            return Finding(
                name="mlflow", ok=True, seen=f"{here}, {store / 'mlflow.db'} is in order"
            )
        with (
            tempfile.TemporaryDirectory(prefix=".doctor-", dir=_nearest(store)) as folder,
            closing(sqlite3.connect(Path(folder) / "try.db")) as database,
        ):
            database.execute("CREATE TABLE tried (value)")
    except metadata.PackageNotFoundError:
        return Finding(name="mlflow", ok=False, seen="is not installed", cure="pip install mlflow")
    except (sqlite3.Error, OSError, ValueError) as error:  # TrackError is a ValueError
        return Finding(name="mlflow", ok=False, seen=str(error), cure=cure)
    return Finding(name="mlflow", ok=True, seen=f"{here}, a database can be made in the store")


def _room(what: str, folder: Path) -> Finding:
    free_gb = shutil.disk_usage(_nearest(folder)).free / 1e9
    return Finding(
        name=f"room for the {what}",
        ok=free_gb >= ROOM_GB,
        seen=f"{free_gb:,.0f} GB free at {folder}",
        cure=f"make room, or give --{what} another place"
        if what == "store"
        else "make room, or set $BENCH_ZOO to another place",
    )


def _file_system(store: Path) -> Iterator[Finding]:
    place, kind = _nearest(store), _kind(_nearest(store))
    shared = kind in NETWORK
    alone = shutil.which("sbatch") is not None and not shared
    yield Finding(
        name="file system",
        ok=True,
        seen=f"{kind}, "
        + ("shared over a network" if shared else "of this machine")
        + ("; SLURM's nodes must see the store under the same path" if alone else ""),
    )
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as folder:
            yield _locks(Path(folder))
            yield _clock(Path(folder))
    except OSError as error:
        seen = f"{place} cannot be written to: {error.strerror}"
        yield Finding(name="locks", ok=False, seen=seen, cure="give --store another place")


def _locks(folder: Path) -> Finding:
    """Find out whether flock keeps another process out, and a rename replaces an open file."""
    file, other = folder / "file", folder / "other"
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            seen = f"flock does not work: {error.strerror}"
        else:
            tried = subprocess.run([sys.executable, "-c", TRY_LOCK, file], check=False).returncode
            seen = "" if tried == 7 else "flock does not keep another process out"
        other.write_text("new")
        os.replace(other, file)
        renamed = file.read_text() == "new"
    seen = seen or ("" if renamed else "a rename does not replace a file")
    return Finding(
        name="locks",
        ok=not seen,
        seen=seen or "flock keeps others out, a rename replaces as a whole",
        cure="mount it with locks (NFS: not nolock; Lustre: -o flock), or --store elsewhere",
    )


def _clock(folder: Path) -> Finding:
    file = folder / "beat"
    file.write_text("")
    off_s = abs(file.stat().st_mtime - time.time())
    return Finding(
        name="clock",
        ok=off_s < SKEW_S,
        seen=f"the file system's is {off_s:.0f} s off this machine's",
        cure=f"set the clocks (chrony): a heart-beat {DEAD_S:.0f} s old counts as dead",
    )


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _kind(folder: Path) -> str:
    """Return the type of the file system that a folder is on, as the kernel names it."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "of a type unknown here"
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    around = [
        (len(point), kind)
        for point, kind in found
        if folder.resolve().is_relative_to(point.replace("\\040", " "))
    ]
    return max(around, default=(0, "unknown"))[1]


def _call(*command: str) -> tuple[int, str]:
    """Return a client's exit code and what it prints; its last words where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S, check=False)
    except FileNotFoundError:
        return 1, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 1, f"{command[0]} has not answered for {CALL_S:.0f} s"
    lines = (done.stderr if done.returncode else done.stdout).strip()
    return done.returncode, lines.splitlines()[-1] if done.returncode and lines else lines
