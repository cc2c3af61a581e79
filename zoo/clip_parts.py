"""What CLIP's files hold beside the trunk: the text tower and the attention pool.

Either becomes a canonical file of its own, beside the trunk's and with an identity of its own, once
a protocol asks for it. No torch is imported until a file has to be converted.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args
from uuid import uuid4

from zoo.catalog import Checkpoint, ZooError
from zoo.files import stamp
from zoo.manifests import digest
from zoo.store import STAND_IN_RECIPE, Zoo, make_folder

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.canonical import Record

Part = Literal["text", "pool"]
PARTS: tuple[Part, ...] = get_args(Part)

CONVERTER = 1  # raised when a part's canonical file gets another content

# What the tensors need and do not say, and what `zoo.layouts` calls them.
SEMANTICS = {"text": {"activation": "quick_gelu", "heads": 8}, "pool": {"heads": 32}}
GROUPS = {"text": "text tower", "pool": "attention pool"}

LAYERS, WIDTH, FEATURES, CHANNELS = 12, 512, 1024, 2048
NAMED = "Name one that has it: --set adapter.text=clip_rn50."

_BLOCK = {
    "attn.in_proj_weight": (3 * WIDTH, WIDTH),
    "attn.in_proj_bias": (3 * WIDTH,),
    "attn.out_proj.weight": (WIDTH, WIDTH),
    "attn.out_proj.bias": (WIDTH,),
    "ln_1.weight": (WIDTH,),
    "ln_1.bias": (WIDTH,),
    "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
    "mlp.c_fc.bias": (4 * WIDTH,),
    "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
    "mlp.c_proj.bias": (WIDTH,),
    "ln_2.weight": (WIDTH,),
    "ln_2.bias": (WIDTH,),
}
_TEXT = {
    "token_embedding.weight": (49408, WIDTH),
    "positional_embedding": (77, WIDTH),
    **{
        f"transformer.resblocks.{layer}.{name}": shape
        for layer in range(LAYERS)
        for name, shape in _BLOCK.items()
    },
    "ln_final.weight": (WIDTH,),
    "ln_final.bias": (WIDTH,),
    "text_projection": (WIDTH, FEATURES),
    "logit_scale": (),  # of the contrast with images, which nothing here computes
}
_POOL = {
    "positional_embedding": (50, CHANNELS),
    **{
        f"{name}_proj.{leaf}": (FEATURES if name == "c" else CHANNELS, CHANNELS)[:rank]
        for name in "qkvc"
        for leaf, rank in (("weight", 2), ("bias", 1))
    },
}
# timm's names in its ByobNet's head
_TIMM = {"positional_embedding": "pos_embed"} | {
    f"{name}_proj.{leaf}": f"{'proj' if name == 'c' else name}.{leaf}"
    for name in "qkvc"
    for leaf in ("weight", "bias")
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {"text": _TEXT, "pool": _POOL}


def check_has(row: Checkpoint, part: Part) -> None:
    """ZooError if this checkpoint's file has no such part, or one that cannot be used as it is."""
    if row.layout not in ("clip", "timm_clip"):
        what = "text encoder" if part == "text" else "attention pool"
        raise ZooError(f"{row.name} is no CLIP checkpoint: it has no {what}. " + _instead(part))
    if part == "text" and row.layout == "timm_clip":
        raise ZooError(f"{row.name} is CLIP's image tower alone, without a text encoder. {NAMED}")
    if part == "text" and row.family == "own":
        raise ZooError(
            f"{row.name} is a file of your own, and none says whether its text encoder was trained "
            f"with GELU or QuickGELU. {NAMED}"
        )


def _instead(part: Part) -> str:
    return NAMED if part == "text" else "Take a CLIP checkpoint (bench zoo ls)."


def identity(shelf: Zoo, row: Checkpoint, part: Part, *, stand_in: bool) -> str:
    """The SHA-256 by which results know this part of a checkpoint: tensors and their semantics.

    A stand-in's is that of its recipe. ZooError if the file is missing or refused, or has no such
    part.
    """
    check_has(row, part)
    if stand_in:
        return _sha256(_recipe(row, part))
    tensors = shelf.remembered(_source(shelf, row)).get("parts", {}).get(row.prefix + part)
    return _identity(tensors or _convert(shelf, row, part), part)


def canonical(shelf: Zoo, row: Checkpoint, part: Part, *, stand_in: bool) -> Path:
    """The canonical safetensors file of a part, made if it is not there yet."""
    path = _path(shelf, row, part, identity(shelf, row, part, stand_in=stand_in))
    if path.is_file():
        return path
    if stand_in:
        _make_stand_in(shelf, row, part, path)
    else:
        _convert(shelf, row, part)
    return path


def read_part(path: Path, part: Part) -> "tuple[dict[str, Tensor], Checkpoint]":
    """The tensors of a canonical file of this part, and the checkpoint that they are of."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if (header.get("part"), header.get("converter")) != (part, str(CONVERTER)):
            raise ZooError(f"{path.name} is no {GROUPS[part]} that this version converted.")
        tensors = {name: file.get_tensor(name) for name in SHAPES[part]}
    return tensors, Checkpoint.from_dict(json.loads(header["record"])["checkpoint"])


# -- From a published file -----------------------------------------------------------------------


def take(
    path: Path, row: Checkpoint, part: Part, *, sha256: str = "", stand_in: bool = False
) -> "tuple[dict[str, Tensor], Record]":
    """The part's tensors in a published file of this row, as float32, and the trunk's record.

    Every tensor of the part is taken, under CLIP's own name; ZooError for one that is missing, has
    another shape, is left over, or holds what no training leaves.
    """
    import torch

    from zoo.canonical import convert
    from zoo.read import read
    from zoo.values import check_values

    check_has(row, part)
    record = convert(path, row, sha256=sha256, stand_in=stand_in)[1]  # is it the row's file?
    published = read(path)
    outer = ".".join((*record.nesting, record.prefix))
    names = {name: _published(outer, name, part, record.layout) for name in SHAPES[part]}
    _check(names, published.tensors, part, record.dropped.get(GROUPS[part], 0), path.name)
    published.check(names.values())
    stored = {name: published.tensors[at] for name, at in names.items()}
    check_values(stored, path.name)
    tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in stored.items()}
    return tensors, record


def _published(outer: str, name: str, part: Part, layout: str) -> str:
    """Where a file keeps a tensor of the part; `outer` stands before the trunk's names."""
    if part == "text":
        return outer.removesuffix("visual.") + name
    return (
        f"{outer}head.{_TIMM.get(name, name)}"
        if layout == "timm_clip"
        else f"{outer}attnpool.{name}"
    )


def _check(
    names: Mapping[str, str], tensors: "Mapping[str, Tensor]", part: Part, count: int, file: str
) -> None:
    """ZooError unless the file's `count` tensors of this part are these, in their shapes."""
    faults = [f"'{at}' is missing" for at in names.values() if at not in tensors]
    faults += [
        f"'{at}' is {tensors[at].dtype} {tuple(tensors[at].shape)}, not {SHAPES[part][name]}"
        for name, at in names.items()
        if at in tensors
        and not (tensors[at].is_floating_point() and tensors[at].shape == SHAPES[part][name])
    ]
    if not faults and count != len(names):
        faults = [f"it has {count} tensors, not {len(names)}"]
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise ZooError(
            f"{file}: the {GROUPS[part]} is not that of CLIP's ResNet-50: "
            f"{'; '.join(faults[:4])}{more}. Another network? Name clip_rn50, or get it again."
        )


def _convert(shelf: Zoo, row: Checkpoint, part: Part) -> str:
    """Write the canonical file of a published one's part; remember the hash of its tensors."""
    from zoo.canonical import tensors_sha256

    source = _source(shelf, row)
    before = stamp(source)
    tensors, record = take(source, row, part, sha256=shelf.sha256_of(source))
    digest = tensors_sha256(tensors)
    _write(_path(shelf, row, part, _identity(digest, part)), part, tensors, record)
    known = shelf.remembered(source).get("parts", {})
    shelf.remember(source, before | {"parts": known | {row.prefix + part: digest}})
    return digest


def _make_stand_in(shelf: Zoo, row: Checkpoint, part: Part, path: Path) -> None:
    """Write a stand-in in its published layout, and convert that as if it were real."""
    from zoo.stand_in import write_stand_in

    make_folder(path.parent)
    with TemporaryDirectory(dir=path.parent, prefix=f".{row.name}-") as scratch:
        published = Path(scratch) / row.file
        write_stand_in(row, published)
        recipe = _sha256(_recipe(row, part))
        _write(path, part, *take(published, row, part, sha256=recipe, stand_in=True))


def _write(path: Path, part: Part, tensors: "dict[str, Tensor]", record: "Record") -> None:
    """Write the canonical file; whoever looks at `path` sees all of it or nothing."""
    from safetensors.torch import save

    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.part")
    header = {"part": part, "converter": str(CONVERTER), "record": json.dumps(asdict(record))}
    try:
        with unfinished.open("wb") as file:  # the library's own files are for one user alone
            file.write(save(tensors, header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


# -- Where, and by which hash --------------------------------------------------------------------


def _source(shelf: Zoo, row: Checkpoint) -> Path:
    source = shelf.source(row)
    if source is None:
        raise ZooError(shelf.how_to_get([row]))
    return source


def _path(shelf: Zoo, row: Checkpoint, part: Part, identity: str) -> Path:
    return shelf.folder / "canonical" / f"{row.name}-{part}-{identity[:8]}-v{CONVERTER}.safetensors"


def _recipe(row: Checkpoint, part: Part) -> dict[str, object]:
    return {
        "stand-in": row.name,
        "recipe": STAND_IN_RECIPE,
        "manifest": digest(row.manifest),
        "part": part,
        "semantics": SEMANTICS[part],
    }


def _identity(tensors: str, part: Part) -> str:
    return _sha256({"tensors": tensors, "part": part, "semantics": SEMANTICS[part]})


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
