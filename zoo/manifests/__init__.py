"""Names, dtypes and shapes of the tensors in each published file, one JSON per file.

Facts only: they were read off the original repositories' model classes (`source` says which), not
off the published bytes. In a name, " > " stands between the keys of nested dictionaries. Standard
library only, because the hash of a stand-in's recipe is taken without torch.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

KEYS = " > "


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one published file holds.

    `container` is how the bytes are packed, `nesting` the dictionary keys that lead to all tensors.
    `prefix` is what stands before the trunk's names, `tensors` maps paths below the nesting to
    (dtype, shape).
    """

    name: str
    container: str
    nesting: tuple[str, ...]
    prefix: str
    source: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys that lead to one of the tensors, from the top of the file."""
        return (*self.nesting, *name.split(KEYS))

    @property
    def trunk(self) -> str:
        """What stands before the trunk's names, from the top of the file, joined by dots."""
        return ".".join((*self.nesting, self.prefix))


@cache
def manifest(name: str) -> Manifest:
    """The manifest with this name, such as `moco_v2`."""
    fields = json.loads(_text(name))
    tensors = {
        name: (dtype, tuple(shape)) for name, (dtype, shape) in fields.pop("tensors").items()
    }
    return Manifest(nesting=tuple(fields.pop("nesting")), tensors=tensors, **fields)


@cache
def digest(name: str) -> str:
    """The SHA-256 of a manifest, without reading what it says."""
    return hashlib.sha256(_text(name).encode()).hexdigest()


def _text(name: str) -> str:
    return (files(__name__) / f"{name}.json").read_text("utf-8")
