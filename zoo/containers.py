"""The containers that weights come in, each read as dictionaries of tensors.

Tensors are views of the file, mapped privately into memory: what is not looked at is not read.
"""

import io
import mmap
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.catalog import ZooError
from zoo.pickles import unpickle
from zoo.rebuild import Array, Inert, Storage, TensorRef
from zoo.tf_bundle import read_bundle

NODES = 2_000_000  # more values than any checkpoint has beside its tensors
MEMBER = 4 << 30  # bytes that a compressed member may unpack to


@dataclass(frozen=True)
class Content:
    """What a file holds: nested dictionaries of tensors and other values.

    `sums` are the checksums that the container has of its storages, by their address in memory.
    """

    value: Any
    sums: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    def check(self, tensor: Tensor) -> None:
        """ValueError if these are not the bytes that were once stored."""
        if tensor.is_meta:
            return
        raw, crc = self.sums.get(tensor.untyped_storage().data_ptr(), (None, 0))
        if raw is not None and zlib.crc32(raw.numpy().data) != crc:
            raise ValueError("the checksum of a tensor is another")


class Attributes(dict):
    """An object's attributes: their names belong to the tensors' own, not to the nesting."""


# -- The containers ------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Content:
    try:
        with safe_open(path, framework="pt") as file:
            return Content({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except SafetensorError as error:
        raise ZooError(f"{path.name} is a damaged safetensors file: {error}") from error


def _read_zip(path: Path) -> Content:
    """A torch zip or a TorchScript archive: `data.pkl` beside one member for each storage."""
    content = _mapped(path)
    with zipfile.ZipFile(path) as archive:
        pickled = min((n for n in archive.namelist() if n.endswith("/data.pkl")), key=len)
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist():
            order = _unpacked(archive, f"{root}byteorder")
            if order != b"little":
                raise ValueError(f"its bytes are in {order[:16]!r} order")
        value = unpickle(io.BytesIO(_unpacked(archive, pickled)))
        members = {info.filename: info for info in archive.infolist()}

    sums: dict[int, tuple[Tensor, int]] = {}

    @cache
    def bytes_of(key: str) -> Tensor:
        info = members[f"{root}data/{key}"]
        raw = _member(content, info)
        sums[raw.data_ptr()] = (raw, info.CRC)
        return raw

    return Content(_resolved(value, lambda storage: bytes_of(storage.key)), sums)


def _member(content: mmap.mmap, info: zipfile.ZipInfo) -> Tensor:
    """The bytes of a member, which has to be stored as it is."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which torch never does")
    at = info.header_offset
    if content[at : at + 4] != b"PK\x03\x04":
        raise ValueError(f"{info.filename} has no header")
    name, extra = (int.from_bytes(content[at + n : at + n + 2], "little") for n in (26, 28))
    start = at + 30 + name + extra
    if start + info.file_size > len(content):
        raise ValueError(f"{info.filename} ends after the file")
    return _slice(content, start, info.file_size)


def _read_legacy(path: Path) -> Content:
    """torch's format before 1.6: five pickles, then every storage as its length and its bytes."""
    content = _mapped(path)
    for _ in range(3):  # the magic number, the protocol, the sizes of C's types
        unpickle(content)
    value, order = unpickle(content), unpickle(content)
    storages = {str(key): position for position, key in enumerate(order)}
    at, starts = content.tell(), {}
    lengths = {s.key: (s.length, _size_of(s.dtype)) for s in _storages(value)}
    for key in order:
        length, size = lengths.get(str(key), (None, None))
        told = int.from_bytes(content[at : at + 8], "little")
        if length is None or size is None or told != length or at + 8 + told * size > len(content):
            raise ValueError(f"storage {key} does not have the length that it should")
        starts[str(key)] = (at + 8, told * size)
        at += 8 + told * size
    if at != len(content) or len(storages) != len(order):
        raise ValueError("bytes after its end")
    return Content(_resolved(value, lambda storage: _slice(content, *starts[storage.key])))


def _read_pickle(path: Path) -> Content:
    content = _mapped(path)
    value = unpickle(content)
    if content.tell() != len(content):
        raise ValueError("bytes after its end")
    return Content(_resolved(value, None))


def _read_bundle(path: Path) -> Content:
    def shard(number: int, count: int) -> mmap.mmap:
        part = path.with_name(f"{path.stem}.data-{number:05}-of-{count:05}")
        if not part.is_file():
            raise ZooError(f"{path.name} needs {part.name} beside it. Get that file too.")
        return _mapped(part)

    return _bundle(path.name, path.read_bytes(), shard)


def _read_zipped_bundle(path: Path) -> Content:
    """Only unpacked in memory, and no further than the archive's own directory allows."""
    with zipfile.ZipFile(path) as archive:
        index = next(name for name in archive.namelist() if name.endswith(".index"))

        def shard(number: int, count: int) -> bytearray:
            name = f"{index.removesuffix('.index')}.data-{number:05}-of-{count:05}"
            return bytearray(_unpacked(archive, name))

        return _bundle(path.name, _unpacked(archive, index), shard)


def _bundle(name: str, index: bytes, shard: Callable[[int, int], Any]) -> Content:
    try:
        return Content(dict(read_bundle(index, shard)))
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > MEMBER:
        raise ZooError(f"{name} would unpack to {info.file_size:,} bytes. Not a weight file.")
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{name} is not as long as the archive says")
    return content


READERS: dict[str, Callable[[Path], Content]] = {
    "torch zip": _read_zip,
    "TorchScript": _read_zip,
    "torch legacy": _read_legacy,
    "safetensors": _read_safetensors,
    "pickle": _read_pickle,
    "TF checkpoint": _read_bundle,
    "TF checkpoint in a zip": _read_zipped_bundle,
}


# -- From bytes to tensors -----------------------------------------------------------------------


def _mapped(path: Path) -> mmap.mmap:
    """The file as private memory: writing to it never reaches the file."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _slice(content: mmap.mmap, start: int, length: int) -> Tensor:
    if not length:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8, count=length, offset=start)


def _size_of(dtype: str) -> int:
    return getattr(torch, dtype).itemsize if dtype else 1


def _resolved(value: Any, bytes_of: Callable[[Storage], Tensor] | None) -> Any:
    """The same value with tensors in the place of references to them."""
    return _Resolver(bytes_of).value(value)


class _Resolver:
    """Turns what a pickle holds into dictionaries of tensors, within a budget of values."""

    def __init__(self, bytes_of: Callable[[Storage], Tensor] | None) -> None:
        self.bytes_of = bytes_of
        self.left = NODES

    def value(self, value: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("more values than any checkpoint has")
        if isinstance(value, TensorRef):
            return self._tensor(value)
        if isinstance(value, Array):
            return _from_numpy(value)
        if isinstance(value, Mapping):
            return {str(key): self.value(child) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return {str(n): self.value(child) for n, child in enumerate(value)}
        if isinstance(value, Inert):
            return Attributes(self.value({**_named(value.arguments), **_state(value)}))
        return value

    def _tensor(self, ref: TensorRef) -> Tensor:
        if self.bytes_of is None:
            raise ValueError("a torch tensor in a file that is not torch's")
        raw, size = self.bytes_of(ref.storage), _size_of(ref.dtype)
        reach = sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
        if prod(ref.shape) and (ref.offset + reach + 1) * size > len(raw):
            raise ValueError("a tensor that reaches beyond its storage")
        if not prod(ref.shape):
            return torch.empty(ref.shape, dtype=getattr(torch, ref.dtype))
        if raw.data_ptr() % size:  # the old format aligns nothing
            raw = raw.clone()
        elements = raw[: len(raw) // size * size].view(getattr(torch, ref.dtype))
        return elements.as_strided(ref.shape, ref.stride, ref.offset)


def _named(arguments: tuple[Any, ...]) -> dict[str, Any]:
    return {f"argument {n}": argument for n, argument in enumerate(arguments)}


def _state(inert: Inert) -> dict[str, Any]:
    """What was stored in an object. A module's parameters, buffers and children are its own."""
    state = inert.state if isinstance(inert.state, Mapping) else {"state": inert.state}
    inner = ("_parameters", "_buffers", "_modules")
    flat = {key: child for key, child in state.items() if key not in inner}
    for key in inner:
        own = state.get(key)
        flat |= own if isinstance(own, Mapping) else {}
    return flat | inert.items


def _storages(value: Any) -> Iterator[Storage]:
    """Every storage that a value refers to, without following anything twice."""
    seen, todo = set(), [value]
    while todo:
        one = todo.pop()
        if isinstance(one, TensorRef):
            yield one.storage
        elif isinstance(one, Storage):
            yield one
        elif isinstance(one, Mapping | list | tuple | Inert) and id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, Inert):
                one = (one.arguments, one.state, one.items)
            todo.extend(one.values() if isinstance(one, Mapping) else one)


def _from_numpy(array: Array) -> Tensor | None:
    if array.value is None:
        return None
    native = array.value.astype(array.value.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native)
