"""Weight files on this machine: where they lie, what they are, and their canonical form.

Reads no weights and imports no torch until a file has to be converted.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from zoo.catalog import Checkpoint, ZooError
from zoo.files import locate, sha256_of, stamp
from zoo.manifests import digest

# Raised when zoo/stand_in.py makes other values, and when canonical files get another content.
STAND_IN_RECIPE = 2
CONVERTER = 2

ELSEWHERE = "Name a folder to write in with $BENCH_ZOO."


class Zoo:
    """A folder of published files; canonical ones are made beside them, in `canonical/`.

    `notes/` keeps what was computed of each file, wherever that lies, until the file's size or time
    changes. Several processes may use one folder: each file appears whole, by a rename, and two
    that make the same file make the same tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(self, checkpoint: Checkpoint) -> Path | None:
        """The published file, or a user's own wherever it lies, if it is on this machine."""
        return locate(self.folder / checkpoint.file)

    def missing(self, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
        """Those whose published file is not on this machine."""
        return [checkpoint for checkpoint in checkpoints if self.source(checkpoint) is None]

    def how_to_get(self, checkpoints: Sequence[Checkpoint]) -> str:
        """For people: where each file is published and where to put it."""
        lines = [
            f"  {row.short or row.name}: {row.file} from {row.url}"
            if row.url
            # a user's own file has no other place than its own
            else f"  {row.name}: {row.file}, which was there when it was added"
            for row in checkpoints
        ]
        published = any(row.url for row in checkpoints)
        put = f"Put them into {self.folder} ($BENCH_ZOO), or try bench zoo fetch NAME."
        back = "Put it back, or add it again from where it is now: bench zoo add FILE."
        return "\n".join(["Missing weights:", *lines, put if published else back])

    def sha256_of(self, file: Path) -> str:
        """The hash of a file, taken once for each size and time of it."""
        note = self.remembered(file)
        if "sha256" not in note:
            note = self.remember(file, stamp(file) | {"sha256": sha256_of(file)})
        return note["sha256"]

    def noted(self, file: Path) -> dict[str, Any]:
        """What is known of a file as it was when it was last looked at."""
        try:
            return json.loads(self._note(file).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def remembered(self, file: Path) -> dict[str, Any]:
        """What is known of a file as it is now; {} if it was never looked at or has changed."""
        note, now = self.noted(file), stamp(file)
        return note if all(note.get(key) == value for key, value in now.items()) else {}

    def remember(self, file: Path, facts: dict[str, Any]) -> dict[str, Any]:
        """Keep facts of a file beside what is known of it already, and return them all.

        The facts' own size and time win: they were taken before what they belong to was computed.
        """
        note = {"file": str(file.absolute())} | self.remembered(file) | facts
        path = self._note(file)
        make_folder(path.parent)
        part = path.with_name(f".{path.name}.{uuid4().hex}.part")
        part.write_text(json.dumps(note, indent=1) + "\n", "utf-8")
        os.replace(part, path)
        return note

    def same_as(self, file: Path, tensors: str) -> list[str]:
        """Other files on this machine that are known to hold the very same trunk."""
        own = str(file.absolute())
        notes = [json.loads(p.read_text("utf-8")) for p in (self.folder / "notes").glob("*.json")]
        same = (note for note in notes if tensors in note.get("tensors", {}).values())
        return sorted(note["file"] for note in same if note["file"] != own)

    def identity(self, checkpoint: Checkpoint, *, stand_in: bool) -> str:
        """The SHA-256 by which results know these weights.

        A stand-in's is that of its recipe and needs no torch. A real one's is that of the
        canonical tensors and their declared semantics; it is kept beside the file until the
        file's size or time changes. ZooError if the file is missing or refused.
        """
        if stand_in:
            return _sha256(_recipe(checkpoint))
        source = self._source_or_error(checkpoint)
        # One file may be several rows: the network that `prefix` chooses is part of the question.
        tensors = self.remembered(source).get("tensors", {}).get(checkpoint.prefix)
        return _identity(tensors or self._convert(checkpoint, source), checkpoint)

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

        before = stamp(source)
        tensors, record = convert(source, checkpoint, sha256=self.sha256_of(source))
        digest = tensors_sha256(tensors)
        twins = [f"the same tensors as {other}" for other in self.same_as(source, digest)]
        path = self._canonical_path(checkpoint, _identity(digest, checkpoint))
        make_folder(path.parent)
        write(path, tensors, replace(record, warnings=tuple(twins)))
        known = self.remembered(source).get("tensors", {})
        self.remember(source, before | {"tensors": known | {checkpoint.prefix: digest}})
        return digest

    def _note(self, file: Path) -> Path:
        name = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:8]
        return self.folder / "notes" / f"{file.name}-{name}.json"

    def _make_stand_in(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write a stand-in in its published layout, and convert that as if it were real."""
        from zoo.canonical import convert, write
        from zoo.stand_in import write_stand_in

        make_folder(path.parent)
        with TemporaryDirectory(dir=path.parent, prefix=f".{checkpoint.short}-") as scratch:
            published = Path(scratch) / checkpoint.file
            write_stand_in(checkpoint, published)
            recipe = _sha256(_recipe(checkpoint))
            tensors, record = convert(published, checkpoint, sha256=recipe, stand_in=True)
            write(path, tensors, record)


def _recipe(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "stand-in": checkpoint.name,
        "recipe": STAND_IN_RECIPE,
        "manifest": digest(checkpoint.manifest),
        "semantics": checkpoint.semantics,
    }


def _identity(tensors: str, checkpoint: Checkpoint) -> str:
    return _sha256({"tensors": tensors, "semantics": checkpoint.semantics})


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder that is there to be written in; ZooError if that cannot be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZooError(f"Cannot make {folder}: {error.strerror}. {ELSEWHERE}") from error
    if not os.access(folder, os.W_OK):
        raise ZooError(f"Cannot write into {folder}. {ELSEWHERE}")
