"""Weight files on this machine: where they lie, what they are, and their canonical form.

Reads no weights and imports no torch until a file has to be converted.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from zoo.catalog import Checkpoint, ZooError
from zoo.manifests import manifest

# Raised when zoo/stand_in.py makes other values, and when canonical files get another content.
STAND_IN_RECIPE = 1
CONVERTER = 1

ELSEWHERE = "Name a folder to write in with $BENCH_ZOO."


def default_folder() -> Path:
    """`$BENCH_ZOO`, else `~/.cache/lv-adapter-bench/zoo`."""
    if folder := os.environ.get("BENCH_ZOO"):
        return Path(folder)
    return Path.home() / ".cache" / "lv-adapter-bench" / "zoo"


class Zoo:
    """A folder of published files; canonical ones are made beside them, in `canonical/`.

    Several processes may use one folder: each file appears whole, by a rename, and two that make
    the same file make the same tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(self, checkpoint: Checkpoint) -> Path | None:
        """The published file, if it is on this machine."""
        path = self.folder / checkpoint.file
        return path if path.is_file() else None

    def missing(self, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
        """Those whose published file is not on this machine."""
        return [checkpoint for checkpoint in checkpoints if self.source(checkpoint) is None]

    def how_to_get(self, checkpoints: Iterable[Checkpoint]) -> str:
        """For people: where each file is published and where to put it."""
        lines = [f"  {row.short}: {row.file} from {row.url}" for row in checkpoints]
        return "\n".join(["Missing weights:", *lines, f"Put them into {self.folder} ($BENCH_ZOO)."])

    def identity(self, checkpoint: Checkpoint, *, stand_in: bool) -> str:
        """The SHA-256 by which results know these weights.

        A stand-in's is that of its recipe and needs no torch. A real one's is that of the
        canonical tensors and their declared semantics; it is kept beside the file until the
        file's size or time changes. ZooError if the file is missing or refused.
        """
        if stand_in:
            return _sha256(_recipe(checkpoint))
        source = self._source_or_error(checkpoint)
        tensors = _remembered(source) or self._convert(checkpoint, source)
        return _identity(tensors, checkpoint)

    def canonical(self, checkpoint: Checkpoint, *, stand_in: bool) -> Path:
        """The canonical safetensors file, made if it is not there yet."""
        path = self._canonical_path(checkpoint, self.identity(checkpoint, stand_in=stand_in))
        if path.is_file():
            return path
        if stand_in:
            self._make_stand_in(checkpoint, path)
        else:
            self._convert(checkpoint, self._source_or_error(checkpoint))
        return path

    def _source_or_error(self, checkpoint: Checkpoint) -> Path:
        source = self.source(checkpoint)
        if source is None:
            raise ZooError(self.how_to_get([checkpoint]))
        return source

    def _canonical_path(self, checkpoint: Checkpoint, identity: str) -> Path:
        name = f"{checkpoint.name}-{identity[:8]}-v{CONVERTER}.safetensors"
        return self.folder / "canonical" / name

    def _convert(self, checkpoint: Checkpoint, source: Path) -> str:
        """Write the canonical file of a published one and remember the hash of its tensors."""
        from zoo.canonical import convert, tensors_sha256, write

        stamp = _stamp(source)
        tensors, record = convert(source, checkpoint)
        digest = tensors_sha256(tensors)
        path = self._canonical_path(checkpoint, _identity(digest, checkpoint))
        _make_folder(path.parent)
        write(path, tensors, record)
        _remember(source, {**stamp, "sha256": record.sha256, "tensors": digest})
        return digest

    def _make_stand_in(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write a stand-in in its published layout, and convert that as if it were real."""
        from zoo.canonical import convert, write
        from zoo.stand_in import write_stand_in

        _make_folder(path.parent)
        with TemporaryDirectory(dir=path.parent, prefix=f".{checkpoint.short}-") as scratch:
            published = Path(scratch) / checkpoint.file
            write_stand_in(checkpoint, published)
            tensors, record = convert(
                published, checkpoint, stand_in_sha256=_sha256(_recipe(checkpoint))
            )
            write(path, tensors, record)


def _recipe(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "stand-in": checkpoint.name,
        "recipe": STAND_IN_RECIPE,
        "manifest": asdict(manifest(checkpoint.layout)),
        "semantics": checkpoint.semantics,
    }


def _identity(tensors: str, checkpoint: Checkpoint) -> str:
    return _sha256({"tensors": tensors, "semantics": checkpoint.semantics})


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stamp(source: Path) -> dict[str, object]:
    stat = source.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _note(source: Path) -> Path:
    return source.with_name(source.name + ".identity.json")


def _remembered(source: Path) -> str | None:
    """The hash of the file's canonical tensors, if it was taken since the file last changed."""
    try:
        note = json.loads(_note(source).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return note["tensors"] if note.items() >= _stamp(source).items() else None


def _remember(source: Path, note: dict[str, object]) -> None:
    part = source.with_name(f".{source.name}.{uuid4().hex}.part")
    part.write_text(json.dumps(note) + "\n", "utf-8")
    os.replace(part, _note(source))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZooError(f"Cannot make {folder}: {error.strerror}. {ELSEWHERE}") from error
    if not os.access(folder, os.W_OK):
        raise ZooError(f"Cannot write into {folder}. {ELSEWHERE}")
