"""A user's own weight files: what a file is, and their rows in a TOML beside the published ones.

A file is known by its bytes, by its name in the catalogue, or by a layout that tells how the
network was trained. Otherwise its user has to say it: names and shapes prove neither padding nor
normalisation, and a guess would be a wrong number.
"""

import fcntl
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.catalog import (
    NAME,
    WORDS,
    Checkpoint,
    ZooError,
    catalog,
    default_folder,
    find,
    own,
    own_file,
)
from zoo.files import located

if TYPE_CHECKING:
    from zoo.detect import Found
    from zoo.read import Published

SUFFIXES = re.compile(r"(\.(pth|pt|tar|th|bin|torch|ckpt|pkl|safetensors|zip|index))+$", re.I)
SEMANTICS = ("variant", "padding", "stride", "order", "mean", "std")


class Unsaid(ZooError):
    """A whole ResNet-50 of which no name says how it was trained; the text tells what to run."""

    def __init__(self, text: str, found: "Found") -> None:
        super().__init__(text)
        self.found = found


def adopt(path: Path) -> Checkpoint:
    """The row of a file that is named by its path; a new one is written into the user's TOML.

    ZooError if the file holds no ResNet-50, has changed since it was added, or does not tell how
    its network was trained.
    """
    file = located(path).absolute()
    for row in own():
        if Path(row.file) == file and row.sha256 == _sha256_of(file):
            return row
    row = known(file)[0]
    if row.family == "own" and row not in own():
        _save(row)
    return row


def add(path: Path, name: str, declared: Mapping[str, Any], *, prefix: str = "") -> Checkpoint:
    """Make a file a named row of the user's TOML, and return it.

    `declared` are fields of SEMANTICS; they take the place of what the file's layout tells, and are
    all needed where it tells nothing (Unsaid says which). `prefix` chooses among several networks.
    """
    from zoo.canonical import trunk_of
    from zoo.read import read

    if not NAME.fullmatch(name) or name in WORDS:
        raise ZooError(f"--name {name!r} cannot be a name: letters, digits, _ and - make one.")
    taken = next((row for row in (*catalog(), *own()) if name in (row.name, row.short)), None)
    if taken is not None:
        where = "the catalogue" if taken in catalog() else own_file()
        raise ZooError(f"--name {name} is {taken.file} in {where}. Choose another name.")
    file = located(path).absolute()
    published = read(file)
    _, found = trunk_of(published, prefix)
    row = _row(published, found, declared, name)
    row = replace(row, prefix=prefix, sha256=_sha256_of(file))
    _save(row)
    return row


def known(file: Path, published: "Published | None" = None) -> "tuple[Checkpoint, Found]":
    """What is known of a file: its row (maybe not in any list yet), and where its trunk is.

    ZooError where it is no ResNet-50, Unsaid where nobody says how to use it.
    """
    from zoo.canonical import trunk_of
    from zoo.read import read

    published = published or read(file)
    sha256 = _sha256_of(file)
    mine = next((row for row in own() if row.sha256 == sha256), None)
    _, found = trunk_of(published, mine.prefix if mine else "")
    if mine is not None:
        return mine, found
    for row in catalog():
        if file.name == row.file and found.layout == row.layout and sha256.startswith(row.sha256):
            return row, found
    return replace(_row(published, found, {}, _free(file)), sha256=sha256), found


def _row(
    published: "Published", found: "Found", declared: Mapping[str, Any], name: str
) -> Checkpoint:
    """A row of the family `own`, as its layout and its user say; Unsaid if neither does."""
    variant = found.names.variant
    needed = {"variant", "padding", "stride", "order", "mean", "std"}
    if variant == "clip":
        needed -= {"padding", "stride"}  # its pools stride, and pad nothing
    told: dict[str, Any] = {}
    if found.like:
        like = find(found.like)
        told = {key: getattr(like, key) for key in SEMANTICS}
    told |= {"variant": variant} | dict(declared)
    if needed - told.keys():
        raise Unsaid(_what_to_say(published, found, name, needed - told.keys()), found)
    if told["variant"] != variant:
        raise ZooError(f"{published.path.name} holds a {variant} ResNet-50, not {told['variant']}.")
    others = ", ".join(f"{group} ({count})" for group, count in found.dropped.items())
    row = {
        "name": name,
        "label": name,
        "method": name,
        "family": "own",
        "layout": found.layout or found.dialect,
        "file": str(published.path.absolute()),
        "notes": f"added by its user; {found.role} network under '{found.prefix}'"
        + (f", without {others}" if others else ""),
        **told,
    }
    return Checkpoint.from_dict(row)


def _what_to_say(published: "Published", found: "Found", name: str, missing: set[str]) -> str:
    path = published.path
    variant = found.names.variant
    like = "clip_rn50" if variant == "clip" else "supervised_tv_v1"
    others = ", ".join(f"{group} ({count})" for group, count in found.dropped.items())
    file, flags = shlex.quote(str(path)), ", ".join(f"--{flag}" for flag in sorted(missing))
    return (
        f"{path.name}: all {found.required} tensors of a ResNet-50 are here"
        + (f", beside {others}" if others else "")
        + f", but no name says how it was trained ({flags}), and a wrong guess is a wrong result. "
        f"Say it once, by flags or --like a checkpoint that was trained alike (a TensorFlow or JAX "
        f"one pads otherwise), as in: bench zoo add {file} --name {name} --like {like}"
    )


def _free(file: Path) -> str:
    """A name for a file's row: its own, as far as it can be a name and is not taken."""
    stem = re.sub(r"\W+|_+", "_", SUFFIXES.sub("", file.name), flags=re.ASCII).strip("_")
    name = stem or "file"
    taken = {text for row in (*catalog(), *own()) for text in (row.name, row.short)}
    while name in taken | WORDS:
        name += "_file"
    return name


def _sha256_of(file: Path) -> str:
    """The hash of a file, remembered until its size or time changes."""
    from zoo.store import Zoo

    return Zoo(default_folder()).sha256_of(file)


def _save(row: Checkpoint) -> None:
    """Append a row to the user's TOML; whoever reads it sees all of it or nothing."""
    file = own_file()
    defaults = {field.name: field.default for field in fields(Checkpoint)}
    values = {key: value for key, value in asdict(row).items() if value != defaults[key]}
    del values["name"]
    values |= {key: getattr(row, key) for key in SEMANTICS}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = file.read_text("utf-8").rstrip() + "\n\n" if file.exists() else ""
            part = file.with_name(f".{file.name}.part")
            part.write_text(before + "\n".join([f"[{row.name}]", *lines]) + "\n", "utf-8")
            os.replace(part, file)
    except OSError as error:
        raise ZooError(f"Cannot write {file}: {error.strerror}. Set $BENCH_ZOO.") from error
