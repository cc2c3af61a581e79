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

    A published file that is not the one in the zoo's folder is the user's own. ZooError if the
    file holds no ResNet-50, has changed or moved since it was added, or does not tell how its
    network was trained.
    """
    file = located(path).absolute()
    mine = [row for row in own() if Path(row.file) == file]
    same = [row for row in mine if row.sha256 == _sha256_of(file)]
    if mine and not same:
        raise ZooError(
            f"{file} has changed since it was added as {mine[0].name}. Add it by another name "
            f"(bench zoo add), or remove [{mine[0].name}] from {own_file()}."
        )
    row = same[0] if same else known(file)[0]
    source = _source(row)
    if row.family != "own":
        if source is not None and _sha256_of(source) == _sha256_of(file):
            return row
        row = _own_copy(row, file)
    elif source is None:
        raise ZooError(
            f"{file} was added as {row.name} from {row.file}, where it is not any more. Move it "
            f"back, or write its new place into [{row.name}] of {own_file()}."
        )
    return row if row in own() else _save(row, again=False)


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
    row = _row(published, found, declared, name, prefix)
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
    published: "Published", found: "Found", declared: Mapping[str, Any], name: str, prefix: str = ""
) -> Checkpoint:
    """A row of the family `own`, as its layout and its user say; Unsaid if neither does."""
    variant = found.names.variant
    needed = {"variant", "padding", "stride", "order", "mean", "std"}
    if variant == "clip":
        needed -= {"padding", "stride"}  # its pools stride, and pad nothing
    told = _in_header(published)
    if found.like:
        like = find(found.like)
        told = {key: getattr(like, key) for key in SEMANTICS}
    if found.dialect != "timm_deep_stem":  # a ResNet-50-D without its head has the very same names
        told["variant"] = variant
    told |= dict(declared)
    if needed - told.keys():
        raise Unsaid(_what_to_say(published, found, name, needed - told.keys(), prefix), found)
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


def _in_header(published: "Published") -> dict[str, Any]:
    """What a converted file says of itself; {} for any other."""
    from zoo.canonical import read_canonical

    if published.container != "safetensors":
        return {}
    canonical = read_canonical(published.path)
    if canonical is None:
        return {}
    record = canonical[1]
    if record.stand_in:
        raise ZooError(f"{published.path.name} is a stand-in: random weights, which have no name.")
    return {key: getattr(record.checkpoint, key) for key in SEMANTICS}


def _what_to_say(
    published: "Published", found: "Found", name: str, missing: set[str], prefix: str
) -> str:
    path = published.path
    variant = found.names.variant
    like = "clip_rn50" if variant == "clip" else "supervised_tv_v1"
    others = ", ".join(f"{group} ({count})" for group, count in found.dropped.items())
    named = sorted("stem" if key == "variant" else key for key in missing)
    file, flags = shlex.quote(str(path)), ", ".join(f"--{flag}" for flag in named)
    return (
        f"{path.name}: all {found.required} tensors of a ResNet-50 are here"
        + (f", beside {others}" if others else "")
        + f", but no name says how it was trained ({flags}), and a wrong guess is a wrong result. "
        f"Say it once, by flags or --like a checkpoint that was trained alike (a TensorFlow or JAX "
        f"one pads otherwise), as in: bench zoo add {file} --name {name} --like {like}"
        + (f" --prefix {shlex.quote(prefix)}" if prefix else "")
    )


def _free(file: Path) -> str:
    """A name for a file's row: its own, as far as it can be a name and is not taken."""
    stem = re.sub(r"\W+|_+", "_", SUFFIXES.sub("", file.name), flags=re.ASCII).strip("_")
    name = stem or "file"
    taken = {text for row in (*catalog(), *own()) for text in (row.name, row.short)}
    while name in taken | WORDS:
        name += "_file"
    return name


def _own_copy(row: Checkpoint, file: Path) -> Checkpoint:
    """The user's own row of a published file that is not in the zoo's folder."""
    name, note = _free(file), f"added by its user; the file of {row.name}"
    row = replace(row, name=name, short="", label=name, family="own", manifest="", url="")
    return replace(row, file=str(file), sha256=_sha256_of(file), notes=note)


def _source(row: Checkpoint) -> Path | None:
    from zoo.store import Zoo

    return Zoo(default_folder()).source(row)


def _sha256_of(file: Path) -> str:
    """The hash of a file, remembered until its size or time changes."""
    from zoo.store import Zoo

    return Zoo(default_folder()).sha256_of(file)


def _save(row: Checkpoint, *, again: bool = True) -> Checkpoint:
    """Append a row to the user's TOML and return it; whoever reads it sees all of it or nothing.

    A row of the same file is returned in its place unless it may be there `again`: another process
    was faster.
    """
    file = own_file()
    defaults = {field.name: field.default for field in fields(Checkpoint)}
    values = {key: value for key, value in asdict(row).items() if value != defaults[key]}
    del values["name"]
    values |= {key: getattr(row, key) for key in SEMANTICS}
    lines = [f"{key} = {_in_toml(value)}" for key, value in values.items()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            mine = {other.name: other for other in own()}
            twins = [o for o in mine.values() if (o.file, o.sha256) == (row.file, row.sha256)]
            if twins and not again:
                return twins[0]
            if row.name in mine:
                taken = mine[row.name].file
                raise ZooError(f"{row.name} is {taken} by now. Choose another name.")
            before = file.read_text("utf-8").rstrip() + "\n\n" if file.exists() else ""
            part = file.with_name(f".{file.name}.part")
            part.write_text(before + "\n".join([f"[{row.name}]", *lines]) + "\n", "utf-8")
            os.replace(part, file)
        return row
    except OSError as error:
        raise ZooError(f"Cannot write {file}: {error.strerror}. Set $BENCH_ZOO.") from error


def _in_toml(value: object) -> str:
    """As JSON has it, but for the one character that is allowed there and not here."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
