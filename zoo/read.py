"""Opening a published file safely: tensors by name, and no code of the file's own is ever run."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.catalog import ZooError
from zoo.containers import READERS, Attributes, Run, Stored
from zoo.files import located
from zoo.pickles import DAMAGE

LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the pickled magic number
TF_INDEX_END = bytes.fromhex("57fb808b247547db")

PARTS = 2  # of what is to be checked, at once

LONGEST_NAME = 1000  # characters of a tensor's, keys and all

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
    tensors: "Tensors"
    keys: dict[str, tuple[str, ...]]
    facts: dict[str, str]

    def check(self, names: Iterable[str]) -> None:
        """ZooError if one of these tensors is not what the file's own checksums say."""
        runs = {self.tensors.stored[name].run: name for name in names}
        todo = sorted(((run, name) for run, name in runs.items() if run), key=_length)
        # Checksums do not hold the interpreter's lock; each part has large ones and small ones.
        with ThreadPoolExecutor(PARTS - 1) as pool:
            others = [pool.submit(_damaged, todo[part::PARTS]) for part in range(1, PARTS)]
            found = _damaged(todo[::PARTS])
            found += [name for other in others for name in other.result()]
        if found:
            raise ZooError(
                f"{self.path.name}: '{found[0]}' is damaged (its checksum is another). "
                "Get the file again."
            )


def _length(item: tuple[Run, str]) -> int:
    return item[0].length


def _damaged(runs: Iterable[tuple[Run, str]]) -> list[str]:
    return [name for run, name in runs if not run.is_whole()]


class Tensors(Mapping[str, Tensor]):
    """The tensors of a file by name; each is taken out of the file whenever it is asked for.

    ZooError where that cannot be done.
    """

    def __init__(self, file: str, stored: Mapping[str, Stored]) -> None:
        self.file, self.stored = file, stored

    def __getitem__(self, name: str) -> Tensor:
        stored = self.stored[name]
        try:
            return stored.take()
        except DAMAGE as error:
            what = _printable(str(error))
            raise ZooError(f"{self.file}: '{name}' is damaged ({what}). Get it again.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def outlines(self) -> dict[str, Tensor]:
        """Shapes and dtypes alone, as meta tensors; those that are alike are one."""
        alike = cache(partial(torch.empty, device="meta"))
        return {name: alike(one.shape, dtype=one.dtype) for name, one in self.stored.items()}


def read(path: Path) -> Published:
    """Read a weight file, or a TensorFlow checkpoint by its index, folder or name.

    ZooError names what is not a weight file, what is damaged, and what cannot be read safely.
    """
    path = located(path)
    container = sniff(path)
    try:
        value = READERS[container](path)
    except ZooError:
        raise
    except DAMAGE as error:
        what = _printable(f"{type(error).__name__}: {error}")
        raise ZooError(f"{path.name} is damaged ({what}). Get it again.") from error
    keys: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, Stored] = {}
    for where, tensor in _leaves(value):
        name = ".".join(where)
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ZooError(f"{path.name}: a tensor is called '{_printable(name)}'. Damaged?")
        if name in tensors:
            raise ZooError(f"{path.name}: two tensors are called '{name}'. Which one is meant?")
        keys[name], tensors[name] = where, tensor
    if not tensors:
        raise ZooError(f"{path.name} is a {container} without a single tensor. The wrong file?")
    return Published(path, container, Tensors(path.name, tensors), keys, _facts(value))


def _printable(text: str) -> str:
    """A few words of a file's own, or about it, that no terminal takes for a command."""
    line = next(iter(text.splitlines()), "")[:160]
    return "".join(character if character.isprintable() else "?" for character in line)


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
    except DAMAGE as error:
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


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Stored]]:
    if isinstance(value, Stored):
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
