"""Loading: from a checkpoint's name or a file to a ResNet-50 that is ready to use."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.canonical import Record, convert, read_canonical
from zoo.catalog import CATALOG, Checkpoint, ZooError, find
from zoo.layouts import identify
from zoo.read import read, sniff
from zoo.report import LoadReport, measure
from zoo.resnet50 import Normalisation, ResNet50, Size, cut, resnet50
from zoo.store import Zoo, default_folder

__all__ = ["LoadReport", "load"]


def load(source: str | Path, *, size: Size = "full", folder: Path | None = None) -> ResNet50:
    """The trunk of a catalogue name, of a canonical file or of a published file.

    A name is looked for in `folder` (default: `default_folder()`) and converted there once. A
    published file is known by its file name, because names and shapes prove neither padding nor
    normalisation. The result is in eval mode; `net.input` says how to normalise its images,
    `net.report` what was loaded. ZooError tells what cannot be loaded and why.
    """
    tensors, record = _open(source, Zoo(folder or default_folder()))
    row = record.checkpoint
    with torch.device("meta"):
        net = resnet50(variant=row.variant, padding=row.padding, size=size)
    net.to_empty(device="cpu")
    net.load_state_dict(cut(tensors, net), strict=True)
    net.input = Normalisation(row.mean, row.std)
    net.report = measure(net, record, whole=size == "full")
    return net


def _open(source: str | Path, zoo: Zoo) -> tuple[Mapping[str, Tensor], Record]:
    path = Path(source)
    if isinstance(source, str) and path.name == source and not path.suffix:
        path = zoo.canonical(find(source), stand_in=False)
    if sniff(path) == "safetensors":
        canonical = read_canonical(path)
        if canonical is not None:
            return canonical
    return convert(path, _row_of(path))


def _row_of(path: Path) -> Checkpoint:
    for row in CATALOG:
        if path.name == row.file:
            return row
    found = identify(read(path).tensors, path.name)
    known = ", ".join(row.file for row in CATALOG)
    raise ZooError(
        f"{path.name}: {found} How it pads and normalises only the file's name can say. "
        f"Known names: {known}; files that the zoo converted may have any."
    )
