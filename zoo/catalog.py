"""The catalogue: which pretrained ResNet-50s exist, and what no file says about itself.

Names and shapes cannot prove padding, stride place, colour order or normalisation, so each row
declares them. The rows are data: `catalog.toml` beside this file, and the user's own `zoo.toml`,
in the same form. Standard library only, and nothing is read before it is asked for: `bench --help`,
plans and tables do without torch.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args


class ZooError(ValueError):
    """A weight file, a name of one, or a row about one, that the zoo cannot use as asked."""


Family = Literal["classification", "detection", "segmentation", "vision-language", "own"]
Variant = Literal["plain", "clip"]
Padding = Literal["torch", "same", "same_pool"]
Stride = Literal["3x3", "1x1"]
Order = Literal["rgb", "bgr"]
Interpolation = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

CHOICES: dict[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "variant": get_args(Variant),
    "padding": get_args(Padding),
    "stride": get_args(Stride),
    "order": get_args(Order),
    "interpolation": get_args(Interpolation),
}
# The words of --zoo that mean a group of the paper's nine: the groups of its Table 2.
FAMILIES = tuple(family for family in CHOICES["family"] if family != "own")
WORDS = {"all", "everything", *CHOICES["family"]}

# The bare keys of TOML, which are also safe in file names, and are no option of a command line.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
WEIGHTS = (".pth", ".pt", ".tar", ".pkl", ".ckpt", ".safetensors", ".torch", ".th", ".bin")
WEIGHTS += (".index", ".zip")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published weight file and what must be known to use it.

    `name` tells the lineage, `short` is what people type for the paper's nine, `label` what tables
    print, `method` how it was pretrained. `family` is the kind of method, or "own" for a row of the
    user's. `layout` is a key of `zoo.layouts.LAYOUTS`, `manifest` the file of `zoo/manifests` in
    which stand-ins are written. `file` is a path from the zoo's folder; `url` is where it is
    published, which can be a page. `sha256` is as much of the file's hash as its publisher gives,
    often nothing. `prefix` says which of several networks in the file is meant; without it, the one
    that detection picks is.

    What the tensors need and do not say: `variant` is the network's, plain or CLIP's. `padding` is
    "torch" (symmetric), "same" (TensorFlow's SAME in every strided convolution and pool) or
    "same_pool" (SAME in the stem's max-pool alone). `stride` is the convolution of a block that
    halves the map. `mean` and `std` are in the channels' `order`, for pixels in [0, 1].
    `interpolation` is how the training images were resized.
    """

    name: str
    short: str = ""
    label: str
    method: str
    family: Family
    layout: str
    manifest: str = ""
    file: str
    url: str = ""
    licence: str = ""
    notes: str = ""
    sha256: str = ""
    variant: Variant = "plain"
    padding: Padding = "torch"
    stride: Stride = "3x3"
    order: Order = "rgb"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    prefix: str = ""

    @property
    def semantics(self) -> dict[str, object]:
        """What the tensors need and do not say: it is part of the weights' identity."""
        return {
            "variant": self.variant,
            "padding": self.padding,
            "stride": self.stride,
            "order": self.order,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """A row from the values of a table, `name` among them; lists become tuples.

        ZooError, naming the row and the key, for a key that is missing or unknown and for a value
        of the wrong kind.
        """
        row = f"row {values.get('name')!r}"
        for key in REQUIRED:
            if values.get(key, "") == "":
                raise ZooError(f"{row}: {key} is missing. Every row says {', '.join(REQUIRED)}.")
        for key, value in values.items():
            if key not in KEYS:
                close = _did_you_mean(get_close_matches(key, KEYS, n=1))
                raise ZooError(f"{row}: unknown key '{key}'.{close} Known: {', '.join(KEYS)}.")
            if wrong := _wrong(key, value):
                raise ZooError(f"{row}: {key} is {value!r}. It must be {wrong}.")
        if values.get("variant") == "clip" and (
            values.get("padding", "torch") != "torch" or values.get("stride", "3x3") != "3x3"
        ):
            raise ZooError(f"{row}: CLIP's network strides by pooling, without padding or stride.")
        triples = {key: _triple(values[key]) for key in ("mean", "std") if key in values}
        return cls(**cast("dict[str, Any]", {**values, **triples}))


KEYS = tuple(field.name for field in fields(Checkpoint))
REQUIRED = tuple(field.name for field in fields(Checkpoint) if field.default is MISSING)


def _wrong(key: str, value: object) -> str:
    """What this value must be, if it is not that."""
    if key in ("mean", "std"):
        return _wrong_triple(key, value)
    if not isinstance(value, str):
        return "text"
    if key in CHOICES and value not in CHOICES[key]:
        return f"one of {', '.join(CHOICES[key])}"
    if key in ("name", "short") and value and not NAME.fullmatch(value):
        return "letters, digits, '_' and '-', beginning with a letter or a digit"
    if key == "sha256" and not re.fullmatch(r"[0-9a-f]{0,64}", value):
        return "the SHA-256 in small hexadecimal letters, or its beginning"
    return ""


def _wrong_triple(key: str, value: object) -> str:
    """Both are for pixels in [0, 1], where no standard deviation is above 1."""
    numbers = value if isinstance(value, (list, tuple)) else ()
    if len(numbers) != 3 or not all(type(x) in (int, float) for x in numbers):
        return "three numbers"
    if not all(0 <= x <= 1 for x in numbers) or (key == "std" and 0 in numbers):
        return "for pixels in [0, 1]; one for pixels up to 255 is to be divided by 255"
    return ""


def _triple(value: object) -> Triple:
    """As floats, because a weight's identity is a hash of their text."""
    red, green, blue = cast("list[float]", value)
    return float(red), float(green), float(blue)


@cache
def catalog() -> tuple[Checkpoint, ...]:
    """Every built-in row, the paper's nine in the order of its Table 2. Read once."""
    return _read(Path(__file__).with_name("catalog.toml"))


def default_folder() -> Path:
    """`$BENCH_ZOO`, else `~/.cache/lv-adapter-bench/zoo`."""
    if folder := os.environ.get("BENCH_ZOO"):
        return Path(folder)
    return Path.home() / ".cache" / "lv-adapter-bench" / "zoo"


def own_file() -> Path:
    """Where the user's own rows are: `zoo.toml` in the default folder."""
    return default_folder() / "zoo.toml"


def own() -> tuple[Checkpoint, ...]:
    """The user's own rows, as their file is now; none if there is no such file.

    ZooError, with the file's path, if it is not valid TOML, if a row is not valid, or if a row has
    a name that is taken.
    """
    path = own_file()
    if not path.exists():
        return ()
    rows = _read(path)
    taken = dict.fromkeys(WORDS, "a word of --zoo")
    taken |= dict.fromkeys(_named(catalog()), "the name of a built-in row")
    for row in rows:
        for name in filter(None, dict.fromkeys((row.name, row.short))):
            if name in taken:
                raise ZooError(f"{path}: row '{row.name}': '{name}' is {taken[name]}. Rename it.")
            taken[name] = "the name of another row"
    return rows


def known() -> tuple[Checkpoint, ...]:
    """Every row there is: the built-in ones, then the user's own."""
    return catalog() + own()


def _read(path: Path) -> tuple[Checkpoint, ...]:
    """The rows of a TOML file, one per table, whose name is the row's."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        return tuple(_row(name, table) for name, table in tables.items())
    except OSError as error:
        raise ZooError(f"Cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ZooError(f"{path} is not valid TOML: {error}. Correct it or move it away.") from error
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error


def _row(name: str, table: object) -> Checkpoint:
    if not isinstance(table, dict):
        raise ZooError(f"'{name}' stands outside of a table. A row begins with [its_name].")
    if "name" in table:
        raise ZooError(f"row '{name}': unknown key 'name'. The table's name is the row's.")
    return Checkpoint.from_dict({"name": name, **table})


def find(name: str) -> Checkpoint:
    """The row with this short or full name, built-in or the user's own.

    ZooError with suggestions otherwise.
    """
    row = _named(catalog()).get(name) or _named(own()).get(name)
    if row is None:
        raise ZooError(_unknown(name))
    return row


def select(patterns: Iterable[str]) -> tuple[Checkpoint, ...]:
    """The rows that these patterns mean, each once: in the catalogue's order, then the user's own.

    A pattern is `all` (the paper's nine), `everything` (every row), `own` (the user's), a family
    (that group of the paper's nine), a short or full name, a glob such as `moco*` over every name,
    or a path to a weight file; a leading `!` excludes. Exclusions alone start from `all`. ZooError
    for a pattern that means nothing, and when nothing is left.
    """
    patterns = tuple(patterns)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["all"]
    unwanted = {row for p in patterns if p.startswith("!") for row in _rows(p[1:])}
    kept = dict.fromkeys(row for pattern in wanted for row in _rows(pattern) if row not in unwanted)
    if not kept:
        raise ZooError(f"{' '.join(patterns)} leaves no checkpoint. Exclude fewer (bench zoo ls).")
    return tuple(dict.fromkeys([*(row for row in known() if row in kept), *kept]))


def _rows(pattern: str) -> tuple[Checkpoint, ...]:
    if pattern in ("all", *FAMILIES):
        return tuple(r for r in catalog() if r.short and pattern in ("all", r.family))
    if pattern == "everything":
        return known()
    if pattern == "own":
        return _some(own(), f"{own_file()} has no rows yet: bench zoo add FILE makes one.")
    if pattern not in _named(known()) and _is_path(pattern):
        # Not above: it opens weight files, and so needs torch.
        from zoo.own import adopt

        return (adopt(Path(pattern).expanduser()),)
    if any(character in pattern for character in "*?["):
        rows = [r for r in known() if fnmatchcase(r.short, pattern) or fnmatchcase(r.name, pattern)]
        return _some(rows, f"No checkpoint matches '{pattern}'. See bench zoo ls.")
    return (find(pattern),)


def _some(rows: Sequence[Checkpoint], otherwise: str) -> tuple[Checkpoint, ...]:
    if not rows:
        raise ZooError(otherwise)
    return tuple(rows)


def _is_path(pattern: str) -> bool:
    apart = "/" in pattern or "\\" in pattern or pattern.startswith((".", "~"))
    return apart or pattern.lower().endswith(WEIGHTS)


def _named(rows: Iterable[Checkpoint]) -> dict[str, Checkpoint]:
    return {name: row for row in rows for name in (row.short, row.name) if name}


def _unknown(name: str) -> str:
    rows = known()
    named = _named(rows)
    begun = {r.short or r.name: r for n, r in named.items() if name and n.startswith(f"{name}_")}
    close = list(begun)[:3] or get_close_matches(name, list(named), n=1)
    nine = sorted(row.short for row in catalog() if row.short)
    listed = f"Known: {', '.join(nine)} and {len(rows) - len(nine)} more (bench zoo ls)."
    return f"Unknown checkpoint '{name}'.{_did_you_mean(close)} {listed}"


def _did_you_mean(close: Sequence[str]) -> str:
    quoted = " or ".join(f"'{name}'" for name in close)
    return f" Did you mean {quoted}?" if quoted else ""
