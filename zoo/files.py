"""Files on disk: which of them a path means, and the hash of their bytes. No torch.

A checkpoint of TensorFlow is several files (`X.index`, `X.data-00000-of-00001`); its index stands
for all of them.
"""

import hashlib
from glob import escape
from pathlib import Path

from zoo.catalog import ZooError


def locate(path: Path) -> Path | None:
    """The file that a path means: itself, `path.index`, a folder's only index; or None."""
    if path.is_file():
        return path
    index = path.absolute().with_name(path.absolute().name + ".index")
    if index.is_file():
        return index
    found = list(path.glob("*.index")) if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def located(path: Path) -> Path:
    """The same, or a ZooError that says what is there instead."""
    if str(path) != str(path).encode(errors="replace").decode():
        raise ZooError(f"{str(path)!a} has a name that is no UTF-8. Rename it.")
    found = locate(path)
    if found is None and path.is_dir():
        raise ZooError(f"{path} is a folder without exactly one *.index. Name the weight file.")
    if found is None:
        raise ZooError(f"{path} is not a file. Which weight file is meant?")
    return found


def parts(file: Path) -> list[Path]:
    """The files that belong to one: itself, or an index and its data."""
    if file.suffix != ".index":
        return [file]
    return [file, *sorted(file.parent.glob(f"{escape(file.stem)}.data-*"))]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits; of all its parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts(located(path)):
        with part.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def stamp(file: Path) -> dict[str, int]:
    """What changes whenever the file does: its size in bytes and its time, over all parts."""
    stats = [part.stat() for part in parts(file)]
    return {
        "size": sum(stat.st_size for stat in stats),
        "mtime_ns": max(stat.st_mtime_ns for stat in stats),
    }
