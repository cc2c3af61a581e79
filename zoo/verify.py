"""Everything that can be checked about a loaded trunk, one verdict in words for each.

The checksum says that the file is the published one; the fingerprint that the network computes
today what it computed when it was first seen, padding and normalisation included.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from zoo.canonical import Record, check_row, read_canonical, record_of, trunk_of
from zoo.catalog import Checkpoint, ZooError, default_folder, find
from zoo.files import located, sha256_of, stamp
from zoo.load import network
from zoo.own import known
from zoo.read import read, sniff
from zoo.report import STAGES, probe_images
from zoo.resnet50 import ResNet50
from zoo.store import Zoo
from zoo.values import LOOKS_RANDOM_BELOW, check_values, random_ratio

Fingerprint = dict[str, list[float]]

PROJECTIONS = 4
NUMBERS = ("mean", "standard deviation", *(f"projection {i + 1}" for i in range(PROJECTIONS)))


@dataclass(frozen=True, kw_only=True)
class Check:
    """`what` was looked at, whether it is as it should be, and what was found, in words."""

    what: str
    ok: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verdict` found; all fields can go into JSON.

    `fingerprint` is empty and `random_ratio` None where the values are not fit to be measured.
    """

    name: str
    file: str
    sha256: str
    stand_in: bool
    checks: list[Check]
    fingerprint: Fingerprint
    random_ratio: float | None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong. What cannot be known is not wrong."""
        return all(check.ok for check in self.checks)


def verify(source: str) -> Verdict:
    """Check a checkpoint again from its bytes, by its name or its file, and keep what was found.

    ZooError if it is not on this machine, or holds no ResNet-50 any more.
    """
    zoo = Zoo(default_folder())
    path = Path(source)
    row = find(source) if path.name == source and not path.suffix else None
    file = located(path) if row is None else zoo.source(row)
    if file is None:
        raise ZooError(zoo.how_to_get([find(source)]))
    before = zoo.noted(file).get("verified", {})
    taken, sha256 = stamp(file), sha256_of(file)
    tensors, record = _read(file, row, sha256)
    row = record.checkpoint
    # A user's own file is not published: its row remembers what it was when it was added.
    published = "" if row.family == "own" or _is_canonical(file) else row.sha256
    remembered = row.sha256 if row.family == "own" and not _is_canonical(file) else None
    found = verdict(
        name=row.name,
        file=str(file),
        sha256=sha256,
        published_sha256=published,
        remembered_sha256=before.get("sha256", remembered),
        required=record.required,
        matched=record.required,
        tensors=tensors,
        net=network(tensors, record),
        remembered_fingerprint=before.get("fingerprint"),
        stand_in=record.stand_in,
    )
    if found.ok:
        kept = {"sha256": sha256, "fingerprint": found.fingerprint}
        zoo.remember(file, taken | {"sha256": sha256, "verified": kept})
    return found


def _read(file: Path, row: Checkpoint | None, sha256: str) -> tuple[Mapping[str, Tensor], Record]:
    """A file's trunk, whatever its hash: that is what is to be checked."""
    canonical = read_canonical(file) if _is_canonical(file) else None
    if canonical is not None:
        return canonical
    published = read(file)
    row = row or known(file, published)[0]
    tensors, found = trunk_of(published, row.prefix)
    check_row(found, row, file.name)
    return tensors, record_of(published, found, row, sha256=sha256, stand_in=False)


def _is_canonical(file: Path) -> bool:
    return sniff(file) == "safetensors" and read_canonical(file) is not None


def verdict(
    *,
    name: str,
    file: str,
    sha256: str,
    published_sha256: str,
    remembered_sha256: str | None,
    required: int,
    matched: int,
    tensors: Mapping[str, Tensor],
    net: ResNet50,
    remembered_fingerprint: Fingerprint | None,
    stand_in: bool = False,
) -> Verdict:
    """Check `tensors`, canonical and as read from `file`, and `net`, the whole trunk they are in.

    `sha256` is the file's own; `published_sha256` as much of it as the publisher gives, "" for
    nothing; what is remembered is from an earlier verdict, None if this is the first. `required`
    and `matched` count trunk tensors without BatchNorm's step counters. The trunk is left in eval
    mode.
    """
    values = _values(tensors, file)
    ratio = random_ratio(tensors) if values.ok else None
    measured, as_before = _fingerprint(net, remembered_fingerprint, measurable=values.ok)
    return Verdict(
        name=name,
        file=file,
        sha256=sha256,
        stand_in=stand_in,
        checks=[
            _published(sha256, published_sha256, stand_in=stand_in),
            _remembered(sha256, remembered_sha256),
            _coverage(required, matched),
            _shapes(tensors, net),
            values,
            as_before,
            _distance(ratio, stand_in=stand_in),
        ],
        fingerprint=measured,
        random_ratio=ratio,
    )


# -- Fingerprint -----------------------------------------------------------------------------------


@torch.no_grad()
def fingerprint(net: ResNet50) -> Fingerprint:
    """What the trunk makes of `zoo.report.probe_images`, normalised by `net.input`: NUMBERS of
    each of C2 to C5, to six significant digits.

    A projection is a signed sum over images and channels of the globally pooled features, with
    fixed signs, over the square root of their number. Computed in float64, so that threads and
    library versions change the sixth digit at most. Padding, stride, stem and normalisation
    change it as well as the tensors do. One number of the millions in a late layer can change
    unseen: that is what checksums are for. The trunk keeps its float32 and is left in eval mode.
    ZooError if the features are not finite.
    """
    double = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in net.eval().state_dict().items()
    }
    stages = functional_call(net, double, (probe_images(net.input),))
    return {stage: _numbers(stage, maps) for stage, maps in zip(STAGES, stages, strict=True)}


def _numbers(stage: str, maps: Tensor) -> list[float]:
    if not maps.isfinite().all():
        raise ZooError(
            f"{stage} of the fixed images is not finite, though the weights are. Are they of "
            "absurd scale? Fetch the file again."
        )
    pooled = maps.mean(dim=(2, 3)).flatten()
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (PROJECTIONS, len(pooled)), generator=generator)
    projections = (2.0 * bits.double() - 1) @ pooled / len(pooled) ** 0.5
    exact = [maps.mean().item(), maps.std().item(), *projections.tolist()]
    return [float(f"{number:.6g}") for number in exact]


def same_fingerprint(a: Fingerprint, b: Fingerprint, tolerance: float = 1e-4) -> list[str]:
    """A sentence for each stage in which two fingerprints differ; none if they are the same.

    `tolerance` is relative to the largest number of that stage in either.
    """
    expected = dict.fromkeys(STAGES, len(NUMBERS))
    if any({stage: len(one[stage]) for stage in one} != expected for one in (a, b)):
        return ["the two fingerprints hold different numbers: one was made by another version"]
    return [
        sentence for stage in STAGES for sentence in _differs(stage, a[stage], b[stage], tolerance)
    ]


def _differs(stage: str, a: list[float], b: list[float], tolerance: float) -> Iterator[str]:
    scale = max(map(abs, a + b))
    wrong = [
        (abs(x - y), x, y, number)
        for x, y, number in zip(a, b, NUMBERS, strict=True)
        if not abs(x - y) <= tolerance * scale  # so that NaN differs
    ]
    if wrong:
        apart, x, y, number = max(wrong)
        share = 100 * apart / scale
        yield f"{stage}'s {number} is {x:g} against {y:g}, {share:.2g} % of the stage's scale apart"


# -- Checks ----------------------------------------------------------------------------------------


def _published(sha256: str, published: str, *, stand_in: bool) -> Check:
    what = "published checksum"
    if stand_in:
        return Check(what=what, ok=True, words="unknown: a stand-in has no published file")
    if not published:
        return Check(what=what, ok=True, words="unknown: its publisher gives no SHA-256")
    if not sha256.startswith(published):
        words = f"SHA-256 is {sha256}, the published one begins {published}; fetch the file again"
        return Check(what=what, ok=False, words=words)
    known = "is" if sha256 == published else "begins"
    return Check(what=what, ok=True, words=f"SHA-256 {known} {published}, as published")


def _remembered(sha256: str, remembered: str | None) -> Check:
    what = "remembered checksum"
    if remembered is None:
        return Check(what=what, ok=True, words="unknown: this file was not verified before")
    if sha256 != remembered:
        words = f"SHA-256 is {sha256}, it was {remembered} before; the file changed: fetch it again"
        return Check(what=what, ok=False, words=words)
    return Check(what=what, ok=True, words=f"SHA-256 is {sha256}, as before")


def _coverage(required: int, matched: int) -> Check:
    words = f"{matched} of the {required} tensors of the trunk"
    return Check(what="coverage", ok=matched == required, words=words)


def _shapes(tensors: Mapping[str, Tensor], net: ResNet50) -> Check:
    """Names, shapes and values of the network's tensors are those that were read."""
    read, held = (
        {name: t for name, t in source.items() if not name.endswith("num_batches_tracked")}
        for source in (tensors, net.state_dict())
    )
    wrong = [f"'{name}' is missing" for name in held.keys() - read.keys()]
    wrong += [f"'{name}' is no part of it" for name in read.keys() - held.keys()]
    for name in held.keys() & read.keys():
        ours, theirs = tuple(held[name].shape), tuple(read[name].shape)
        if ours != theirs:
            wrong.append(f"'{name}' is {theirs}, not {ours}")
        elif not _equal(held[name], read[name]):
            wrong.append(f"'{name}' holds other values in the network than in the file")
    words = "; ".join([*sorted(wrong)[:3], *([f"{len(wrong)} in all"] if len(wrong) > 3 else [])])
    found = f"all {len(held)} tensors are in the network, with their names, shapes and values"
    return Check(what="shapes", ok=not wrong, words=words or found)


def _equal(held: Tensor, read: Tensor) -> bool:
    read = read.to(held.dtype)
    return torch.equal(held, read) or torch.allclose(held, read, rtol=0, atol=0, equal_nan=True)


def _values(tensors: Mapping[str, Tensor], file: str) -> Check:
    try:
        check_values(tensors, file)
    except ZooError as error:
        return Check(what="values", ok=False, words=str(error))
    return Check(what="values", ok=True, words="finite, not zero, every variance above 0")


def _fingerprint(
    net: ResNet50, remembered: Fingerprint | None, *, measurable: bool
) -> tuple[Fingerprint, Check]:
    what = "fingerprint"
    if not measurable:
        return {}, Check(what=what, ok=False, words="not measured, for want of sound values")
    try:
        now = fingerprint(net)
    except ZooError as error:
        return {}, Check(what=what, ok=False, words=str(error))
    if remembered is None:
        return now, Check(what=what, ok=True, words="unknown: it was not measured before")
    differs = "; ".join(same_fingerprint(now, remembered))
    return now, Check(what=what, ok=not differs, words=differs or "as before")


def _distance(ratio: float | None, *, stand_in: bool) -> Check:
    what = "distance from random initialisation"
    if ratio is None:
        return Check(what=what, ok=False, words="not measured, for want of sound values")
    words = f"largest singular values {ratio:.2f} times those of random matrices"
    if ratio >= LOOKS_RANDOM_BELOW:
        return Check(what=what, ok=True, words=words)
    if stand_in:
        return Check(what=what, ok=True, words=f"{words}: random, as a stand-in's are")
    words += (
        f", under {LOOKS_RANDOM_BELOW}: the weights look random. Saved before training, or of "
        "another network than the trained one?"
    )
    return Check(what=what, ok=False, words=words)
