"""The canonical file: one trunk under torchvision's names, float32, with its history in the header.

Every published file is converted to it once. The header's fields are JSON texts.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.catalog import Checkpoint, ZooError
from zoo.dialects import COUNTER
from zoo.layouts import to_canonical
from zoo.read import read, sha256_of
from zoo.store import CONVERTER


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where a canonical trunk comes from and how it must be used.

    `sha256` is the published file's, or that of a stand-in's recipe. `nesting` and `prefix` lead
    to the trunk in the file, `role` says which of its networks that is. `renamed` of the
    `required` tensors (BatchNorm's step counters aside) had another name; `dropped` counts the
    rest by group. `counters` is "file" or "zero".
    """

    checkpoint: Checkpoint
    stand_in: bool
    sha256: str
    container: str
    nesting: tuple[str, ...]
    prefix: str
    role: str
    required: int
    renamed: int
    counters: str
    dropped: dict[str, int]

    @property
    def architecture(self) -> dict[str, object]:
        """The network in words, for people who read the header without this code."""
        clip = self.checkpoint.variant == "clip"
        return {
            "stride_in": "2x2 average pool" if clip else "3x3",
            "stem": "three 3x3" if clip else "7x7",
            "stem_pool": "2x2 average" if clip else "3x3 max",
            "downsample": "average pool, 1x1" if clip else "strided 1x1",
            "bn_eps": 1e-5,
            "input": "RGB in [0, 1], then mean and std; trained at 224 pixels",
        }


def convert(
    path: Path, checkpoint: Checkpoint, *, stand_in_sha256: str | None = None
) -> tuple[dict[str, Tensor], Record]:
    """The canonical tensors and record of a published file of this checkpoint.

    `stand_in_sha256` marks a stand-in and takes the place of the file's hash. ZooError if the
    file is not the published one, holds anything unexpected, or its values cannot be trained ones.
    """
    sha256 = stand_in_sha256 or sha256_of(path)
    if stand_in_sha256 is None and not sha256.startswith(checkpoint.sha256):
        raise ZooError(
            f"{path.name} has SHA-256 {sha256}, the published one begins {checkpoint.sha256}. "
            f"Download it again from {checkpoint.url}"
        )
    published = read(path)
    canonical = to_canonical(published.tensors, checkpoint.layout)
    check_values(canonical.tensors, path.name)
    record = Record(
        checkpoint=checkpoint,
        stand_in=stand_in_sha256 is not None,
        sha256=sha256,
        container=published.container,
        nesting=published.nesting,
        prefix=canonical.prefix,
        role=canonical.role,
        required=canonical.required,
        renamed=canonical.renamed,
        counters=canonical.counters,
        dropped=canonical.dropped,
    )
    return canonical.tensors, record


def check_values(tensors: Mapping[str, Tensor], file: str) -> None:
    """ZooError for values that no trained ResNet-50 has."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ZooError(f"{file}: '{name}' holds values that are not finite. A damaged file?")
        if name.endswith("running_var") and (tensor <= 0).any():
            raise ZooError(f"{file}: '{name}' holds a variance of 0 or less. A damaged file?")
    if all(not tensor.any() for tensor in tensors.values() if tensor.ndim == 4):
        raise ZooError(f"{file}: every convolution is zero. These are not trained weights.")
    means = (tensor for name, tensor in tensors.items() if name.endswith("running_mean"))
    variances = (tensor for name, tensor in tensors.items() if name.endswith("running_var"))
    if all(not mean.any() for mean in means) and all((var == 1).all() for var in variances):
        raise ZooError(f"{file}: BatchNorm has never seen an image. These are untrained weights.")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and values, without the step counters, which change no output."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith(COUNTER):
            digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
            digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], record: Record) -> None:
    """Write the canonical file; whoever looks at `path` sees all of it or nothing."""
    fields = asdict(record) | {"architecture": record.architecture, "converter": CONVERTER}
    header = {name: json.dumps(value) for name, value in fields.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        save_file(contiguous, part, metadata=header)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_canonical(path: Path) -> tuple[dict[str, Tensor], Record] | None:
    """The tensors and the record of a canonical file; None for any other safetensors file."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if "converter" not in header:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if json.loads(header["converter"]) != CONVERTER:
        raise ZooError(f"{path.name} was converted by another version. Remove it: it is remade.")
    return tensors, _record(header)


def _record(header: Mapping[str, str]) -> Record:
    values = {name: json.loads(text) for name, text in header.items()}
    row = values.pop("checkpoint")
    row |= {"mean": tuple(row["mean"]), "std": tuple(row["std"])}
    del values["architecture"], values["converter"]
    values["nesting"] = tuple(values["nesting"])
    return Record(checkpoint=Checkpoint(**row), **values)
