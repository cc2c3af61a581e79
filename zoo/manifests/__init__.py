"""Names, dtypes and shapes of the tensors in each published file, one JSON per layout.

Facts only: they were read off the original repositories' model classes, not off the published
bytes. Standard library only, because the hash of a stand-in's recipe is taken without torch.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one published file holds.

    `container` is how the bytes are packed, `nesting` the dictionary keys that lead to the
    tensors, `prefix` what stands before the trunk's names.
    """

    layout: str
    container: str
    nesting: tuple[str, ...]
    prefix: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)


@cache
def manifest(layout: str) -> Manifest:
    """The manifest with this id, such as `moco_v2`."""
    fields = json.loads((files(__name__) / f"{layout}.json").read_text("utf-8"))
    tensors = {
        name: (dtype, tuple(shape)) for name, (dtype, shape) in fields.pop("tensors").items()
    }
    nesting = tuple(fields.pop("nesting"))
    return Manifest(**fields, nesting=nesting, tensors=tensors)
