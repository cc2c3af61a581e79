"""The canonical file: one trunk under torchvision's names, float32, with its history in the header.

Every published file is converted to it once. The header's fields are JSON texts.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.catalog import Checkpoint, ZooError
from zoo.detect import Found, detect, to_canonical
from zoo.dialects import COUNTER
from zoo.files import sha256_of
from zoo.read import Published, read
from zoo.store import CONVERTER
from zoo.values import check_values

# Networks with a ResNet-50's names and shapes that compute something else: blurred strides.
NOT_SHOWN = re.compile(r"resnet(aa|blur)50.*")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where a canonical trunk comes from and how it must be used.

    `sha256` is the published file's, or that of a stand-in's recipe. `layout` is the file's, or its
    dialect where no layout accounts for all of it. `nesting` and `prefix` lead to the trunk in the
    file, `role` says which of its networks that is. `renamed` of the `required` tensors
    (BatchNorm's step counters aside) had another name; `dropped` counts the rest by group.
    `counters` is "file" or "zero".
    """

    checkpoint: Checkpoint
    stand_in: bool
    sha256: str
    container: str
    layout: str
    nesting: tuple[str, ...]
    prefix: str
    role: str
    required: int
    renamed: int
    counters: str
    dropped: dict[str, int]
    warnings: tuple[str, ...] = ()

    @property
    def architecture(self) -> dict[str, object]:
        """The network in words, for people who read the header without this code."""
        clip = self.checkpoint.variant == "clip"
        return {
            "stride_in": "2x2 average pool" if clip else self.checkpoint.stride,
            "stem": "three 3x3" if clip else "7x7",
            "stem_pool": "2x2 average" if clip else "3x3 max",
            "downsample": "average pool, 1x1" if clip else "strided 1x1",
            "bn_eps": 1e-5,
            "input": f"{self.checkpoint.order.upper()} in [0, 1], then mean and std; "
            "trained at 224 pixels",
        }


def convert(
    path: Path, row: Checkpoint, *, sha256: str = "", stand_in: bool = False
) -> tuple[dict[str, Tensor], Record]:
    """The canonical tensors and record of a published file of this row of the catalogue.

    `sha256` is the file's hash if it is known already; a stand-in's is that of its recipe. ZooError
    if the file is not the one of the row, holds anything unexpected, or values that no training
    leaves.
    """
    sha256 = sha256 or sha256_of(path)
    if not stand_in and not sha256.startswith(row.sha256):
        again = f"Download it again from {row.url}" if row.url else "Add it again: bench zoo add."
        raise ZooError(
            f"{path.name} has SHA-256 {sha256}, that of {row.name} begins {row.sha256}. {again}"
        )
    published = read(path)
    tensors, found = trunk_of(published, row.prefix)
    check_row(found, row, path.name)
    return tensors, record_of(published, found, row, sha256=sha256, stand_in=stand_in)


def trunk_of(published: Published, prefix: str = "") -> tuple[dict[str, Tensor], Found]:
    """The canonical tensors of an open file, checked, and where they were; ZooError names the file.

    `prefix` chooses among several networks.
    """
    file = published.path.name
    arch = published.facts.get("arch", "")
    try:
        if NOT_SHOWN.fullmatch(arch):
            raise ZooError(f"it calls itself {arch}, which blurs where ResNet-50 strides.")
        found = detect(published.tensors.outlines(), prefix)
        published.check(link.at(found.prefix) for link in found.links)
        tensors = to_canonical(published.tensors, found)
    except ZooError as error:
        error.args = (f"{file}: {error}",)
        raise
    check_values(tensors, file)
    return tensors, found


def record_of(
    published: Published, found: Found, row: Checkpoint, *, sha256: str, stand_in: bool
) -> Record:
    """The record of a trunk that was found in an open file."""
    first = found.names.probes[0].at(found.prefix)
    nesting, prefix = _split(found.prefix, published.keys[first])
    return Record(
        checkpoint=row,
        stand_in=stand_in,
        sha256=sha256,
        container=published.container,
        layout=found.layout or found.dialect,
        nesting=nesting,
        prefix=prefix,
        role=found.role,
        required=found.required,
        renamed=sum(link.canonical != link.at(found.prefix) for link in found.names.trunk),
        counters=found.counters,
        dropped=found.dropped,
    )


def check_row(found: Found, row: Checkpoint, file: str) -> None:
    """ZooError if this is not what the row of the catalogue describes."""
    if found.names.variant != row.variant:
        raise ZooError(
            f"{file} holds a {found.names.variant} ResNet-50, {row.name} is {row.variant}."
        )
    if row.family == "own":  # what it holds beside the trunk was shown when it was added
        return
    if not found.layout:
        unknown = ", ".join(f"{group} ({count})" for group, count in found.dropped.items())
        raise ZooError(
            f"{file} also holds {unknown}, neither part of ResNet-50 nor on {row.layout}'s "
            "list in zoo/layouts.py. Another release of the file? Add it by a name of your own: "
            f"bench zoo add {file} --name NAME."
        )
    if found.layout != row.layout:
        raise ZooError(
            f"{file} is laid out as {found.layout}, {row.name} is published as {row.layout}. "
            "Another file under the same name?"
        )


def _split(prefix: str, keys: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """What of a joined prefix are a file's dictionary keys, and what begins the names."""
    nesting: list[str] = []
    for key in keys[:-1]:
        if not prefix.startswith(f"{key}."):
            break
        nesting.append(key)
        prefix = prefix.removeprefix(f"{key}.")
    return tuple(nesting), prefix


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and values, without the step counters, which change no output."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith(COUNTER):
            digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
            digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], record: Record) -> None:
    """Write the canonical file; whoever looks at `path` sees all of it or nothing.

    Tensor by tensor (the library's own writer first makes a copy of them all): safetensors is the
    length of a JSON header, the header, and the bytes.
    """
    fields = asdict(record) | {"architecture": record.architecture, "converter": CONVERTER}
    header: dict[str, object] = {
        "__metadata__": {name: json.dumps(value) for name, value in fields.items()}
    }
    at = 0
    tensors = dict(sorted(tensors.items()))  # so that the same weights are the same bytes
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        dtype = "I64" if name.endswith(COUNTER) else "F32"
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors.values():
                file.write(tensor.contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_canonical(path: Path) -> tuple[dict[str, Tensor], Record] | None:
    """The tensors and the record of a canonical file; None for any other safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if "converter" not in header:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ZooError(f"{path.name} is a damaged safetensors file: {error}") from error
    if json.loads(header["converter"]) != CONVERTER:
        raise ZooError(f"{path.name} was converted by another version. Remove it: it is remade.")
    return tensors, _record(header)


def _record(header: Mapping[str, str]) -> Record:
    values = {name: json.loads(text) for name, text in header.items()}
    del values["architecture"], values["converter"]
    row = Checkpoint.from_dict(values.pop("checkpoint"))
    for name in ("nesting", "warnings"):
        values[name] = tuple(values[name])
    return Record(checkpoint=row, **values)
