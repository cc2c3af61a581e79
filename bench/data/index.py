"""The index of a data folder, kept so that its images are looked into once and not every time.

    $BENCH_INDEX (~/.cache/lv-adapter-bench/index)/<folder's name>-<hash of its path>.npz

It holds what `survey` found out, under a stamp of the names, sizes and times of all files that were
looked at. With another stamp it is made again. Data sets of few files have none.
"""

import hashlib
import json
import os
import sys
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from bench.data import DataError
from bench.data.packagings import SPLITS, Found, Packaging
from bench.store import whole

VERSION = 1  # of what the arrays mean
MANY = 5_000  # files from which on looking into them takes seconds

Arrays = dict[str, np.ndarray]


def default_folder() -> Path:
    """`$BENCH_INDEX`, else `~/.cache/lv-adapter-bench/index`."""
    if folder := os.environ.get("BENCH_INDEX"):
        return Path(folder)
    return Path.home() / ".cache" / "lv-adapter-bench" / "index"


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one kind in a folder, by the names of their frames, sorted."""

    folder: Path
    suffix: str
    names: list[str]
    stamp: bytes

    def file(self, name: str) -> Path:
        """Return a frame's file."""
        return self.folder / f"{name}{self.suffix}"

    @classmethod
    def of(cls, root: Path, place: str, suffix: str, mark: str = "") -> Self:
        """List a folder's files with a suffix; all names have a mark before it, or none."""
        folder = root / place
        present = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
        marked = [name for name in present if mark and name.endswith(mark + suffix)]
        if marked:
            suffix = mark + suffix
        if marked and len(marked) < len(present):
            raise DataError(
                f"In {folder} {len(marked):,} of {len(present):,} names end in {suffix}: masks of "
                "two releases lie together. Keep one of the two."
            )
        stamp = hashlib.blake2b(f"{place}\n{suffix}\n".encode())
        stamp.update(os.fsencode("\n".join(present)))
        stamp.update(_sizes_and_times(folder, present).tobytes())
        names = [name[: -len(suffix)] for name in present]
        return cls(folder=folder, suffix=suffix, names=names, stamp=stamp.digest())


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All files of a data folder that are looked at, and a hash of their sizes and times."""

    images: dict[str, list[Files]]  # by split
    labels: dict[tuple[str, str], Files]  # by (split, task)

    @classmethod
    def of(cls, root: Path, found: Found) -> Self:
        """List the files of what was found in a data folder."""
        return cls(
            images={
                s: [Files.of(root, place, ".jpg") for place in found.images[s]] for s in SPLITS
            },
            labels={key: _labels(root, key[0], one) for key, one in found.labels.items()},
        )

    def all(self) -> list[Files]:
        """Return what is listed of every folder."""
        return [*(files for split in SPLITS for files in self.images[split]), *self.labels.values()]

    @cached_property
    def stamp(self) -> str:
        """A hash of the names, sizes and times of all files."""
        return hashlib.blake2b(b"".join(files.stamp for files in self.all())).hexdigest()

    def __len__(self) -> int:
        """Return how many files there are."""
        return sum(len(files.names) for files in self.all())


def _labels(root: Path, split: str, packaging: Packaging) -> Files:
    place = packaging.at(split)
    if packaging.suffix:
        return Files.of(root, place, packaging.suffix, packaging.mark)
    file = root / place
    stamp = hashlib.blake2b(place.encode() + _sizes_and_times(file.parent, [file.name]).tobytes())
    return Files(folder=file.parent, suffix=".json", names=[file.stem], stamp=stamp.digest())


def _sizes_and_times(folder: Path, names: list[str]) -> np.ndarray:
    """Return size and time of last change (ns) of files in a folder, int64 [2 N]."""
    handle = os.open(folder, os.O_RDONLY)
    values: list[int] = []
    try:
        for name in names:
            one = os.stat(name, dir_fd=handle)
            values += (one.st_size, one.st_mtime_ns)
    except OSError as error:
        raise DataError(
            f"{folder / str(error.filename)} cannot be read ({error.strerror})."
        ) from None
    finally:
        os.close(handle)
    return np.array(values, dtype=np.int64)


def load(root: Path, listing: Listing) -> tuple[Arrays, dict[str, Any]] | None:
    """Return the arrays kept for a data folder, and what is kept in words; None if there are none.

    None too if they are of other files than are there now, of another version, or damaged. That an
    index is about to be made is said.
    """
    file = _file(root)
    if len(listing) < MANY:
        return None
    if not file.exists():
        return _say(f"Looking once into the {len(listing):,} files of {root}: a minute or so.")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            words = json.loads(kept["words"].tobytes())
            if words["version"] != VERSION:
                return _say(f"The index {file} is of another version: {root} is read again.")
            if words["stamp"] != listing.stamp:
                return _say(f"{root} has changed: it is read again.")
            return {name: kept[name] for name in kept.files if name != "words"}, words
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return _say(f"The index {file} is damaged: {root} is read again.")


def save(root: Path, listing: Listing, arrays: Arrays, words: dict[str, Any]) -> None:
    """Keep arrays and words for a data folder of many files; where that cannot be, say so."""
    if len(listing) < MANY:
        return
    file = _file(root)
    said = json.dumps({**words, "version": VERSION, "stamp": listing.stamp})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as unfinished, unfinished.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays, words=_bytes(said))
    except OSError as error:
        _say(
            f"The index of {root} cannot be kept in {file.parent} ({error.strerror}): every "
            "command reads all of it. Name another folder with $BENCH_INDEX."
        )


def _file(root: Path) -> Path:
    path = root.resolve()
    return (
        default_folder() / f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.npz"
    )


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
