"""Opening a published file safely: tensors by name, and no code of the file's own is ever run."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.catalog import ZooError
from zoo.containers import READERS, Attributes, Content
from zoo.files import located
from zoo.pickles import DAMAGE

LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the pickled magic number
TF_INDEX_END = bytes.fromhex("57fb808b247547db")

# What a script says of its network in words, and under which keys.
FACTS = ("arch", "author", "__author__")


@dataclass(frozen=True)
class Published:
    """The tensors of one file as their publisher named them.

    `tensors` are named by their whole path through the file's dictionaries, joined by dots; `keys`
    gives the path itself. `facts` are the texts under FACTS.
    """

    path: Path
    container: str
    content: Content
    tensors: dict[str, Tensor]
    keys: dict[str, tuple[str, ...]]
    facts: dict[str, str]

    def check(self, names: Iterable[str]) -> None:
        """ZooError if one of these tensors is not what the file's own checksums say."""
        for name in names:
            try:
                self.content.check(self.tensors[name])
            except ValueError as error:
                raise ZooError(f"{self.path.name}: '{name}' is damaged ({error}).") from error


def read(path: Path) -> Published:
    """Read a weight file, or a TensorFlow checkpoint by its index, folder or name.

    ZooError names what is not a weight file, what is damaged, and what cannot be read safely.
    """
    path = located(path)
    container = sniff(path)
    try:
        content = READERS[container](path)
    except DAMAGE as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise ZooError(f"{path.name} is damaged ({what}). Get it again.") from error
    keys: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, Tensor] = {}
    for where, tensor in _leaves(content.value):
        name = ".".join(where)
        if name in tensors:
            raise ZooError(f"{path.name}: two tensors are called '{name}'. Which one is meant?")
        keys[name], tensors[name] = where, tensor
    if not tensors:
        raise ZooError(f"{path.name} is a {container} without a single tensor. The wrong file?")
    return Published(path, container, content, tensors, keys, _facts(content.value))


# -- What kind of file it is ---------------------------------------------------------------------


def sniff(path: Path) -> str:
    """Tell the container by its first and last bytes: one of READERS.

    ZooError names whatever else it is.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(size - 8, 0))
        tail = file.read()
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(LEGACY_TORCH):
        return "torch legacy"
    if tail == TF_INDEX_END:
        return "TF checkpoint"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    raise ZooError(f"{path.name} {_what_else(head)}")


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, *DAMAGE) as error:
        raise ZooError(f"{path.name} is a truncated or damaged zip. Get it again.") from error
    if any(name.endswith("/data.pkl") for name in names):
        return "TorchScript" if any("/code/" in name for name in names) else "torch zip"
    if sum(name.endswith(".index") for name in names) == 1:
        return "TF checkpoint in a zip"
    raise ZooError(f"{path.name} is a zip of {names[:3]}, not of weights. Unpack it first?")


def _what_else(head: bytes) -> str:
    if not head:
        return "is empty. Download it again."
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the weights. Fetch the file itself (git lfs pull)."
    if head.lstrip().startswith(b"<"):
        return "is a web page, not weights: the download failed. Download it again by hand."
    return f"begins with {head[:8]!r}: not a weight file, or a damaged one."


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield keys, value
    elif isinstance(value, dict):
        own = keys[:-1] if isinstance(value, Attributes) else keys
        for key, child in value.items():
            joined = f"{keys[-1]}.{key}" if isinstance(value, Attributes) and keys else str(key)
            yield from _leaves(child, (*own, joined))


def _facts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: value[key] for key in FACTS if isinstance(value.get(key), str)}
