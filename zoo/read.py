"""Opening a published file safely: tensors by name, and no code of the file's own is ever run."""

import hashlib
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.catalog import ZooError

LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the pickled magic number
TF_INDEX_END = bytes.fromhex("57fb808b247547db")

# What torch's restricted unpickler raises on bytes that are damaged or are not plain tensors.
UNREADABLE = (
    AssertionError,
    AttributeError,
    MemoryError,
    OverflowError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
)

# Keys under which training scripts put the network, outermost first.
WRAPPERS = ("experiment_state", "state_dict", "model")


@dataclass(frozen=True)
class Published:
    """The tensors of one file as their publisher named them.

    `nesting` are the dictionary keys that led to them. A tensor elsewhere in the file keeps its
    whole path, joined by dots.
    """

    path: Path
    container: str
    nesting: tuple[str, ...]
    tensors: dict[str, Tensor]


def read(path: Path) -> Published:
    """Read a torch file (zip or legacy) or a safetensors file; ZooError names anything else."""
    container = sniff(path)
    if container == "safetensors":
        return Published(path, container, (), _read_safetensors(path))
    loaded = _read_torch(path, zipped=container == "torch zip")
    nesting = tuple(_wrappers(loaded))
    tensors: dict[str, Tensor] = {}
    for keys, tensor in _leaves(loaded):
        name = ".".join(keys[len(nesting) :] if keys[: len(nesting)] == nesting else keys)
        if name in tensors:
            raise ZooError(f"{path.name}: two tensors are called '{name}'. Which one is meant?")
        tensors[name] = tensor
    if not tensors:
        raise ZooError(f"{path.name} is a torch file without a single tensor. The wrong file?")
    return Published(path, container, nesting, tensors)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sniff(path: Path) -> str:
    """Tell the container by its first bytes: "torch zip", "torch legacy" or "safetensors".

    ZooError names whatever else it is.
    """
    if not path.is_file():
        raise ZooError(f"{path} is not a file. Which weight file is meant?")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(size - 8, 0))
        tail = file.read()
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(LEGACY_TORCH):
        return "torch legacy"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < size:
        return "safetensors"
    raise ZooError(f"{path.name} {_what_else(head, tail)}")


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ZooError(f"{path.name} is a truncated zip. Download it again.") from error
    if any("/code/" in name for name in names):
        raise ZooError(f"{path.name} is a TorchScript archive, which cannot be read yet.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise ZooError(f"{path.name} is a zip of {names[:3]}, not a torch file. Unpack it first?")
    return "torch zip"


def _what_else(head: bytes, tail: bytes) -> str:
    if not head:
        return "is empty. Download it again."
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the weights. Fetch the file itself (git lfs pull)."
    if head.lstrip().startswith(b"<"):
        return "is a web page, not weights: the download failed. Download it again by hand."
    if tail == TF_INDEX_END:
        return "is the index of a TensorFlow checkpoint, which cannot be read yet."
    if head.startswith(b"\x80"):
        return "is a raw pickle, which cannot be read yet (and is never simply unpickled)."
    return f"begins with {head[:8]!r}: not a weight file, or a damaged one."


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ZooError(f"{path.name} is a damaged safetensors file: {error}") from error


def _read_torch(path: Path, *, zipped: bool) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        raise ZooError(f"{path.name} {_refusal(error)}") from error


def _refusal(error: Exception) -> str:
    """One line in place of torch's advice, which is to run whatever code the file names."""
    foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    if foreign:
        return f"holds a {foreign[1]}, not tensors alone. Save its state dict by itself."
    return f"is damaged ({type(error).__name__}). Download it again."


def _wrappers(loaded: object) -> Iterator[str]:
    while isinstance(loaded, Mapping):
        key = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if key is None:
            return
        yield key
        loaded = loaded[key]


def _leaves(value: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield keys, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, (*keys, str(key)))
    elif isinstance(value, list | tuple):
        for position, child in enumerate(value):
            yield from _leaves(child, (*keys, str(position)))
