"""The containers that weights come in, each read as dictionaries of what is stored.

A tensor is taken out of its file when it is asked for, as a view of the file, mapped privately into
memory, wherever its bytes can be used as they are: what is not looked at is not read.
"""

import io
import mmap
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.catalog import ZooError
from zoo.pickles import unpickle
from zoo.rebuild import Array, Inert, Name, Storage, TensorRef
from zoo.tf_bundle import read_bundle

NODES = 2_000_000  # more values than any checkpoint has beside its tensors,
TENSORS = 20_000  # and more tensors
MEMBER = 4 << 30  # bytes that a compressed member may unpack to,
UNPACKED = 100  # and how many times as many as it has: weights hardly shrink at all


class Stored(NamedTuple):
    """A tensor that is still in its file: `take` reads it, each time anew."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    take: Callable[[], Tensor]
    run: "Run | None" = None


class Run(NamedTuple):
    """The bytes of a storage in a mapped file, and the checksum that its container has of them."""

    content: mmap.mmap
    start: int
    length: int
    crc: int | None = None

    def is_whole(self) -> bool:
        """Are these the bytes that were once stored, as far as their container can tell?"""
        raw = memoryview(self.content)[self.start : self.start + self.length]
        return self.crc is None or zlib.crc32(raw) == self.crc


class Attributes(dict):
    """An object's attributes: their names belong to the tensors' own, not to the nesting."""


# -- The containers ------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: _stored(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ZooError(f"{path.name} is a damaged safetensors file: {error}") from error


def _read_zip(path: Path) -> Any:
    """A torch zip or a TorchScript archive: `data.pkl` beside one member for each storage."""
    content = _mapped(path)
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two members of one name")
        summed = any(info.CRC for info in members.values())  # torch.save can leave them out

        @cache
        def run(name: str) -> Run:
            return _member(file.fileno(), content, members[name], summed)

        pickled = min((name for name in members if name.endswith("/data.pkl")), key=len)
        root = pickled.removesuffix("data.pkl")
        order = _bytes(run(f"{root}byteorder")) if f"{root}byteorder" in members else b"little"
        if order != b"little":
            raise ValueError(f"its bytes are in {order[:16]!r} order")
        value, _ = unpickle(io.BytesIO(_bytes(run(pickled))))
        return _resolved(value, lambda storage: run(f"{root}data/{storage.key}"))


def _bytes(run: Run) -> bytes:
    if not run.is_whole():
        raise ValueError("the checksum of its pickle is another")
    return run.content[run.start : run.start + run.length]


def _member(file: int, content: mmap.mmap, info: zipfile.ZipInfo, summed: bool) -> Run:
    """The bytes of a member, which has to be stored as it is.

    Its header is read from the file, since looking at it in `content` would map what is around it.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which torch never does")
    at = info.header_offset
    header = os.pread(file, 30, at) if at >= 0 else b""
    if header[:4] != b"PK\x03\x04":
        raise ValueError(f"{info.filename} has no header")
    name, extra = (int.from_bytes(header[n : n + 2], "little") for n in (26, 28))
    start = at + 30 + name + extra
    if start + info.file_size > len(content):
        raise ValueError(f"{info.filename} ends after the file")
    return Run(content, start, info.file_size, info.CRC if summed else None)


def _read_legacy(path: Path) -> Any:
    """torch's format before 1.6: five pickles, then every storage as its length and its bytes."""
    content = _mapped(path)
    for _ in range(3):  # the magic number, the protocol, the sizes of C's types
        unpickle(content)
    (value, storages), (order, _) = unpickle(content), unpickle(content)
    at, starts = content.tell(), {}
    known = {storage.key: storage for storage in storages}
    for key in order:
        storage = known.get(key)
        told = int.from_bytes(content[at : at + 8], "little")
        size = told * _size_of(storage.dtype) if storage else 0
        if not storage or told != storage.length or at + 8 + size > len(content):
            raise ValueError("a storage does not have the length that it should")
        starts[key] = (at + 8, size)
        at += 8 + size
    if at != len(content) or len(starts) != len(order):
        raise ValueError("bytes after its end")
    return _resolved(value, lambda storage: Run(content, *starts[storage.key]))


def _read_pickle(path: Path) -> Any:
    content = _mapped(path)
    value, _ = unpickle(content)
    if content.tell() != len(content):
        raise ValueError("bytes after its end")
    return _resolved(value, None)


def _read_bundle(path: Path) -> Any:
    def shard(number: int, count: int) -> mmap.mmap:
        part = path.with_name(f"{path.stem}.data-{number:05}-of-{count:05}")
        if not part.is_file():
            raise ZooError(f"{part.name} is not beside it. Get that file too.")
        return _mapped(part)

    return _bundle(path.name, path.read_bytes(), shard)


def _read_zipped_bundle(path: Path) -> Any:
    """Only unpacked in memory, and no further than the archive's own directory allows."""
    with zipfile.ZipFile(path) as archive:
        index = next(name for name in archive.namelist() if name.endswith(".index"))

        def shard(number: int, count: int) -> bytearray:
            name = f"{index.removesuffix('.index')}.data-{number:05}-of-{count:05}"
            return bytearray(_unpacked(archive, name))

        return _bundle(path.name, _unpacked(archive, index), shard)


def _bundle(name: str, index: bytes, shard: Callable[[int, int], Any]) -> Any:
    try:
        return {name: _stored(tensor) for name, tensor in read_bundle(index, shard).items()}
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in an unusual way")
    if info.file_size > min(MEMBER, UNPACKED * info.compress_size + 1000):
        raise ValueError(f"{name} would unpack to {info.file_size:,} bytes")
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{name} is not as long as the archive says")
    return content


READERS: dict[str, Callable[[Path], Any]] = {
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


def _stored(tensor: Tensor) -> Stored:
    """A tensor that its container's reader has made already."""
    return Stored(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _size_of(dtype: str) -> int:
    return getattr(torch, dtype).itemsize if dtype else 1


def _resolved(value: Any, run_of: Callable[[Storage], Run] | None) -> Any:
    """The same value with stored tensors in the place of references to them."""
    return _Resolver(run_of).value(value)


class _Resolver:
    """Turns what a pickle holds into dictionaries of what is stored, within a budget of values."""

    def __init__(self, run_of: Callable[[Storage], Run] | None) -> None:
        self.run_of = run_of
        self.left, self.tensors_left = NODES, TENSORS
        self.open: set[int] = set()
        self.barren: set[int] = set()

    def value(self, value: Any) -> Any:
        self.left -= 1
        self.tensors_left -= isinstance(value, TensorRef | Array)
        if self.left < 0 or self.tensors_left < 0:
            raise ValueError("more values than any checkpoint has")
        if isinstance(value, TensorRef):
            return self._tensor(value)
        if isinstance(value, Array):
            return _from_numpy(value)
        if not isinstance(value, dict | list | tuple | Inert):
            return value
        # Without tensors, or an object that is known to its own parts
        if id(value) in self.barren or id(value) in self.open:
            return None
        self.open.add(id(value))
        if isinstance(value, Inert):
            inner = Attributes(self._inner({**_named(value.arguments), **_state(value)}.items()))
        else:
            inner = self._inner(value.items() if isinstance(value, dict) else enumerate(value))
        self.open.remove(id(value))
        if not inner:
            self.barren.add(id(value))
        return inner

    def _inner(self, items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        """What holds tensors; and of the outermost dictionary the texts."""
        inner: dict[str, Any] = {}
        for position, (key, child) in enumerate(items):
            found = self.value(child)
            text = isinstance(found, str) and len(self.open) == 1
            if text or isinstance(found, Stored) or (isinstance(found, dict) and found):
                name = _name(key, position)
                if name in inner:
                    raise ValueError(f"two keys that read {name[:99]!r}")
                inner[name] = found
        return inner

    def _tensor(self, ref: TensorRef) -> Stored:
        if self.run_of is None:
            raise ValueError("a torch tensor in a file that is not torch's")
        run, dtype = self.run_of(ref.storage), getattr(torch, ref.dtype)
        reach = sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
        if prod(ref.shape) and (ref.offset + reach + 1) * dtype.itemsize > run.length:
            raise ValueError("a tensor that reaches beyond its storage")
        return Stored(ref.shape, dtype, partial(_taken, ref, dtype, run), run)


def _taken(ref: TensorRef, dtype: torch.dtype, run: Run) -> Tensor:
    if not prod(ref.shape):
        return torch.empty(ref.shape, dtype=dtype)
    count = run.length // dtype.itemsize
    elements = torch.frombuffer(run.content, dtype=dtype, count=count, offset=run.start)
    tensor = elements.as_strided(ref.shape, ref.stride, ref.offset)
    # the old format aligns nothing
    return tensor.clone() if elements.data_ptr() % dtype.itemsize else tensor


def _name(key: Any, position: int) -> str:
    """A key as a part of its tensors' names; its place, where it is no short text or number."""
    return str(key) if isinstance(key, str | int | float | Name | None) else f"key {position}"


def _named(arguments: tuple[Any, ...]) -> dict[str, Any]:
    return {f"argument {n}": argument for n, argument in enumerate(arguments)}


def _state(inert: Inert) -> dict[str, Any]:
    """What was stored in an object. A module's parameters, buffers and children are its own."""
    state = inert.state if isinstance(inert.state, dict) else {"state": inert.state}
    inner = ("_parameters", "_buffers", "_modules")
    flat = {key: child for key, child in state.items() if key not in inner}
    for key in inner:
        own = state.get(key)
        flat |= own if isinstance(own, dict) else {}
    return flat | inert.items


def _from_numpy(array: Array) -> Stored | None:
    if array.dtype is None:
        return None
    native = array.dtype.newbyteorder("=")
    like = torch.from_numpy(np.empty(0, native))  # TypeError where torch has no such numbers

    def take() -> Tensor:
        values = np.require(array.read(), native, ["ALIGNED"])
        return torch.from_numpy(values)

    return Stored(array.shape, like.dtype, take)
