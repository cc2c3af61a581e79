"""What a training step asks of a device, counted without one.

A wait is whatever lets the host stand still until a GPU has done all that it was given: a value
read (`.item()`, `bool`, `.tolist()`, `.cpu()`), a shape that depends on values (`nonzero`, indexing
by a mask), a copy from memory that is not pinned (`.to(device)`, `torch.tensor` and `new_tensor`
with values). On a CPU none of them takes time, but all of them can be seen.
"""

import sys
from collections import Counter
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}


class Calls(TorchDispatchMode):
    """Counts the calls of operators, those of the backward pass too, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many there were."""
        return self.by_name.total()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.by_name[self.name(function, args)] += 1
        return function(*args, **(kwargs or {}))

    def name(self, function: Any, args: Any) -> str:
        """What the call counts as."""
        return function.overloadpacket.__name__


class _Reads(Calls):
    def name(self, function: Any, args: Any) -> str:
        name = super().name(function, args)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = (i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8))
            return f"{name} by a mask" if any(True for _ in masks) else ""
        return name if name in READS else ""


class Waits(TorchFunctionMode):
    """Counts the waits by their names; of torch's own Python code only what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        self._reads = _Reads()

    @property
    def count(self) -> int:
        """How many there were."""
        return self.by_name.total()

    def __enter__(self) -> Self:
        self._reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._reads.__exit__(*error)
        self.by_name += Counter({k: n for k, n in self._reads.by_name.items() if k})

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not sys._getframe(1).f_globals["__name__"].startswith("torch."):
            self.by_name += Counter(_copies(function, args, kwargs))
        return function(*args, **kwargs)


def _copies(function: Any, args: Any, kwargs: Any) -> list[str]:
    """The name of a function that copies between host and device, and waits for it."""
    name = getattr(function, "__name__", "")
    if name in ("cpu", "tolist", "cuda"):
        return [name]
    if name in ("tensor", "as_tensor", "new_tensor"):
        data = args[1] if name == "new_tensor" else args[0]
        return [] if isinstance(data, Tensor) else [name]
    moves = any(isinstance(x, (torch.device, str)) for x in (*args[1:], *kwargs.values()))
    return ["to"] if name == "to" and moves and not kwargs.get("non_blocking") else []
