"""What a file is: the answer of `bench zoo inspect`, for people and for programs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.canonical import Record, convert, read_canonical, record_of
from zoo.catalog import Checkpoint, ZooError, default_folder
from zoo.detect import NotFound
from zoo.files import located, stamp
from zoo.own import Unsaid, known
from zoo.read import read, sniff
from zoo.store import CONVERTER, Zoo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class Inspection:
    """What was found in a file; `error` is why it cannot be used as it is, in one line.

    `required` counts the trunk's tensors without BatchNorm's step counters, `matched` those of them
    that are here in their shapes. `name` is the row of the catalogue, or of the user's, that the
    file is; a name that is in neither is the one that `bench run --zoo FILE` would give it.
    """

    ok: bool = False
    file: str
    sha256: str | None = None
    container: str | None = None
    name: str | None = None
    layout: str | None = None
    variant: str | None = None
    role: str | None = None
    nesting: tuple[str, ...] = ()
    prefix: str | None = None
    required: int = 265
    matched: int = 0
    counters: str | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    semantics: dict[str, object] = field(default_factory=dict)
    activation: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


def inspect(path: Path) -> Inspection:
    """Open a file, find its ResNet-50, run it once, and tell all of it; never raises ZooError."""
    found = Inspection(file=str(path).encode(errors="replace").decode())  # a name can be no text
    try:
        _look(located(path), found)
    except Unsaid as error:
        found.required = found.matched = error.found.required
        found.error = str(error)
    except NotFound as error:
        found.required, found.matched, found.error = error.required, error.matched, str(error)
    except ZooError as error:
        found.error = str(error)
    found.ok = found.error is None
    return found


def _look(file: Path, into: Inspection) -> None:
    """Fill in what is learned, as it is learned."""
    before = stamp(file)
    into.sha256 = Zoo(default_folder()).sha256_of(file)
    into.container = sniff(file)
    canonical = read_canonical(file) if into.container == "safetensors" else None
    if canonical is None:
        published = read(file)
        try:
            row = known(file, published)[0]
        except Unsaid as error:
            unsaid = Checkpoint(
                name="",
                label="",
                method="",
                family="own",
                layout="",
                file=str(file),
                variant=error.found.names.variant,
            )
            record = record_of(published, error.found, unsaid, sha256=into.sha256, stand_in=False)
            _fill(into, record)
            into.name, into.semantics = None, {}
            raise
        canonical = convert(file, row, sha256=into.sha256)
    _fill(into, canonical[1])
    measured = _measured(file, *canonical, before)
    into.activation, into.warnings = measured["activation"], measured["warnings"]


def _measured(
    file: Path, tensors: "Mapping[str, Tensor]", record: Record, before: dict[str, int]
) -> dict[str, Any]:
    """What the network puts out, remembered until the file or what is said of it changes."""
    shelf = Zoo(default_folder())
    kind = [CONVERTER, record.nesting, record.prefix, record.checkpoint.semantics]
    asked = json.dumps(kind, sort_keys=True)
    noted = shelf.remembered(file).get("measured", {})
    if asked not in noted:
        from zoo.load import network  # it needs timm, which takes as long to import as torch

        report = network(tensors, record).report
        noted = noted | {asked: {"activation": report.activation, "warnings": report.warnings}}
        shelf.remember(file, before | {"measured": noted})
    return noted[asked]


def _fill(into: Inspection, record: Record) -> None:
    into.name, into.layout = record.checkpoint.name, record.layout
    into.variant, into.role = record.checkpoint.variant, record.role
    into.nesting, into.prefix = record.nesting, record.prefix
    into.required = into.matched = record.required
    into.counters, into.dropped = record.counters, record.dropped
    into.semantics = record.checkpoint.semantics
