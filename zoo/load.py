"""Loading: from a checkpoint's name or a file to a ResNet-50 that is ready to use."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.canonical import Record, convert, read_canonical
from zoo.catalog import default_folder, find
from zoo.files import located
from zoo.own import known
from zoo.read import sniff
from zoo.report import LoadReport, measure
from zoo.resnet50 import Normalisation, ResNet50, Size, cut, resnet50
from zoo.store import Zoo

__all__ = ["LoadReport", "load", "network", "opened"]


def load(source: str | Path, *, size: Size = "full", folder: Path | None = None) -> ResNet50:
    """The trunk of a catalogue name, of a canonical file or of a published file.

    A name is looked for in `folder` (default: `default_folder()`) and converted there once. A file
    is used as its layout, its name in the catalogue, or the user's own row says. The result is in
    eval mode; `net.input` says how to normalise its images, `net.report` what was loaded. ZooError
    tells what cannot be loaded and why.
    """
    return network(*opened(source, folder), size=size)


def network(tensors: Mapping[str, Tensor], record: Record, *, size: Size = "full") -> ResNet50:
    """The trunk with these canonical tensors, in eval mode, measured."""
    row = record.checkpoint
    with torch.device("meta"):
        net = resnet50(variant=row.variant, padding=row.padding, stride=row.stride, size=size)
    net.to_empty(device="cpu")
    net.load_state_dict(cut(tensors, net), strict=True)
    net.input = Normalisation(row.mean, row.std, row.order)
    net.report = measure(net, record, whole=size == "full")
    return net


def opened(source: str | Path, folder: Path | None = None) -> tuple[Mapping[str, Tensor], Record]:
    """The canonical tensors and the record of what `load` would load."""
    zoo, path = Zoo(folder or default_folder()), Path(source)
    if isinstance(source, str) and path.name == source and not path.suffix:
        path = zoo.canonical(find(source), stand_in=False)
    path = located(path)
    if sniff(path) == "safetensors":
        canonical = read_canonical(path)
        if canonical is not None:
            return canonical
    row = known(path)[0]
    return convert(path, row, sha256=zoo.sha256_of(path))
