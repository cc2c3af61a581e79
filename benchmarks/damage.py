"""What becomes of whole files of which some bytes are changed; see `benchmarks/mutations.py`.

If a file's SHA-256 is known, each change has to be refused by it. If not, what loads has to be, bit
for bit, what torch.load, the safetensors library, pickle (of numpy's arrays alone), or, for
TensorFlow's, the bytes at their places give for the changed file; where those refuse it, the trunk
has to be the one that was written. Nothing but a ZooError may be raised.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tests.zoo.written import write
from zoo.canonical import convert, trunk_of
from zoo.catalog import Checkpoint, ZooError, find
from zoo.files import sha256_of
from zoo.manifests import Manifest, manifest
from zoo.read import read

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class File:
    """A whole file, of which one part, `changed`, is changed; TensorFlow's has two.

    `written` are the tensors that were put in; `by_others` reads them from the changed file without
    the zoo. `row` is a row of the catalogue that knows its hash.
    """

    container: str
    path: Path
    changed: Path
    content: bytes
    written: Tensors
    by_others: Callable[[Path], Tensors]
    row: Checkpoint

    def place(self, random: Random) -> int:
        """Near a tensor's name, in the first or the last 64 KB, or anywhere."""
        where, size = random.randrange(5), len(self.content)
        if where < 2:
            name = random.choice(list(self.written)).encode()
            last = name.rpartition(b".")[2] if where else name.removeprefix(b"model.")
            at = self.content.find(last, random.randrange(size) if random.random() < 0.5 else 0)
            return min(max(at, 0) + random.randrange(200), size - 1)
        if where == 2:
            return random.randrange(min(1 << 16, size))
        return size - 1 - random.randrange(min(1 << 16, size) if where == 3 else size)

    def change(self, random: Random) -> None:
        """Do one thing to the file; nothing before the place is written again."""
        content, length = self.content, random.randrange(1, 17)
        at = self.place(random)
        rest = content[at : at + 16]
        how = random.randrange(10)
        if how < 5:
            new = bytes([content[at] ^ 1 << random.randrange(8)])
        elif how < 7:
            new = random.randbytes(min(length, len(content) - at))
        elif how == 7:
            new = content[at + length :]
        elif how == 8:
            new = random.randbytes(length) + content[at:]
        else:
            new = b""
        if new == rest[: len(new)] and how < 7:  # the same by chance
            return self.change(random)
        with self.changed.open("r+b") as file:
            file.seek(at)
            file.write(new)
            if how >= 7:
                file.truncate()
        return None

    def restore(self) -> None:
        """Write again what differs, which is at most what is behind the place."""
        with self.changed.open("r+b") as file:
            for at in range(0, len(self.content), 1 << 20):
                file.seek(at)
                block = self.content[at : at + (1 << 20)]
                if file.read(1 << 20) != block:
                    file.seek(at)
                    file.write(block)
            file.truncate(len(self.content))


def by_torch(path: Path) -> Tensors:
    return _flat(torch.load(path, map_location="cpu", weights_only=True))


def by_safetensors(path: Path) -> Tensors:
    return safetensors.torch.load(path.read_bytes())


class _Arrays(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """pickle itself, of numpy's arrays and of nothing else.

    In Python: the one in C makes room for as many memos as a changed byte says, up to 64 GB.
    """

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name.partition(".")[0], global_name) in {
            *(("numpy", name) for name in ("_reconstruct", "ndarray", "dtype", "_frombuffer")),
            ("_codecs", "encode"),
        }:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")


def by_pickle(path: Path) -> Tensors:
    with path.open("rb") as file:
        return _flat(_Arrays(file).load())


def _flat(value: Any, before: str = "") -> Tensors:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.require(value, value.dtype.newbyteorder("="), ["C", "W"]))
    if isinstance(value, Tensor):
        return {before[:-1]: value}
    inner = value.items() if isinstance(value, Mapping) else ()
    return {name: t for key, child in inner for name, t in _flat(child, f"{before}{key}.").items()}


def by_place(written: Tensors) -> Callable[[Path], Tensors]:
    """What lies in a TensorFlow data file where each tensor was written, in the order of names."""

    def read_data(path: Path) -> Tensors:
        data, at, tensors = path.with_suffix(".data-00000-of-00001").read_bytes(), 0, {}
        for name in sorted(written):
            count, dtype = written[name].numel(), written[name].numpy().dtype
            array = np.frombuffer(data, dtype, count, at).copy()
            tensors[name] = torch.from_numpy(array).reshape(written[name].shape)
            at += array.nbytes
        return tensors

    return read_data


LIBRARIES: dict[str, Callable[[Path], Tensors]] = {
    "densecl": by_torch,
    "mmselfsup_0x_backbone": by_torch,
    "timm_resnet50": by_safetensors,
    "detectron2_pkl_torchvision": by_pickle,
    "detco_pkl": by_pickle,
    "simclr_v1_tf": by_torch,
}


def halved(name: str) -> Manifest:
    """A manifest in float16, so that there is less to write."""
    listed = manifest(name)
    half = {path: (dtype.replace("32", "16"), s) for path, (dtype, s) in listed.tensors.items()}
    return replace(listed, tensors=half)


def whole_file(name: str, folder: Path) -> Iterator[File]:
    """The file of a manifest, once for each part of it."""
    folder.mkdir()
    listed = halved(name)
    path, written = write(listed, folder, seed=1)
    by_others = by_place(written) if path.suffix == ".index" else LIBRARIES[name]
    row = replace(find("moco_v2"), name="known", sha256=sha256_of(path))
    for part in sorted(folder.iterdir()):
        yield File(listed.container, path, part, part.read_bytes(), written, by_others, row)


def judged(file: File) -> tuple[bool, str]:
    """Is the changed file refused by its hash, and what becomes of it if that is not known?"""
    try:
        convert(file.path, file.row)
        by_hash = False
    except ZooError as error:
        by_hash = "has SHA-256" in str(error)
    try:
        published = read(file.path)
        _, found = trunk_of(published)
    except ZooError:
        return by_hash, "refused"
    names = [link.at(found.prefix) for link in found.links]
    try:
        others, said = file.by_others(file.path), "as others read it"
    except Exception:  # whatever other libraries raise
        others, said = file.written, "others refuse it, trunk as written"
    same = all(name in others and _same(published.tensors[name], others[name]) for name in names)
    return by_hash, said if same else "WRONG: not what others read"


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    one, other = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(one, other)


def damages(count: int) -> Iterator[tuple[str, bool, str]]:
    """Each damage's container, whether its hash refuses it, and what becomes of it without."""
    with TemporaryDirectory() as folder:
        for turn, name in enumerate(LIBRARIES):
            parts = list(whole_file(name, Path(folder) / name))
            for number in range(turn, count, len(LIBRARIES)):
                random = Random(number)
                file = random.choice(parts)
                file.change(random)
                yield file.container, *judged(file)
                file.restore()
            for file in parts:
                file.changed.unlink()
