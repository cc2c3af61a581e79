"""What a pickle may make: plain records of tensors, arrays and everything else.

The few calls that build containers, arrays and tensors are carried out by what is written here, on
data alone; every other call becomes an `Inert` record of its name and arguments.
"""

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Name(NamedTuple):
    """A class or a function that a pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """What a call would have made: the name, the arguments, and what was stored in it later."""

    name: object
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


class Storage(NamedTuple):
    """A run of numbers in a torch file; `dtype` is torch's name of it, "" for plain bytes."""

    dtype: str
    key: str
    length: int


class TensorRef(NamedTuple):
    """A tensor as torch pickles it: a strided view of a storage, in elements of `dtype`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


@dataclass(eq=False)
class Array:
    """A numpy array while it is being read; `value` is there once its state has come."""

    value: np.ndarray | None = None


@dataclass(eq=False)
class DType:
    """A numpy dtype while it is being read."""

    code: str
    order: str = "="

    def get(self) -> np.dtype | None:
        """The dtype, of plain numbers and booleans; None for all else (texts, objects)."""
        if not re.fullmatch(r"[biuf]\d{1,2}", self.code):
            return None
        found = np.dtype(self.code)
        return found.newbyteorder(">") if self.order == ">" else found


def call(function: object, arguments: tuple[Any, ...]) -> Any:
    """Carry out the few calls that are known by name; record every other."""
    if isinstance(function, NamedTupleType):
        return dict(zip(function.fields, arguments, strict=True))
    known = CALLS.get(str(function)) if isinstance(function, Name) else None
    return known(*arguments) if known else Inert(function, arguments)


class NamedTupleType(NamedTuple):
    """A named tuple that a pickle describes; calling it gives a dictionary."""

    fields: tuple[str, ...]


def set_state(target: Any, state: Any) -> None:
    if isinstance(target, Array):
        _fill(target, state)
    elif isinstance(target, DType):
        target.order = str(state[1])
    elif isinstance(target, Inert):
        target.state = state
    # A dictionary's attributes are torch's version notes (`_metadata`): no tensors.


def _fill(array: Array, state: tuple[Any, ...]) -> None:
    """numpy's own state of an array: version, shape, dtype, is it Fortran's order, bytes."""
    _, shape, dtype, fortran, raw = state
    if isinstance(raw, str | bytes):  # an array of objects has a list
        content = raw.encode("latin-1") if isinstance(raw, str) else raw
        array.value = _array(content, dtype, shape, "F" if fortran else "C").value


def _array(content: bytes, dtype: DType, shape: Any, order: str = "C") -> Array:
    kind, size = dtype.get(), tuple(int(length) for length in shape)
    if kind is None:
        return Array()
    values = np.frombuffer(bytearray(content), kind)
    return Array(values.reshape(size, order="F" if order == "F" else "C"))


def storage(pid: Any) -> Storage:
    kind, storage, key, _, length = pid[:5]
    if kind != "storage" or not isinstance(storage, Name) or not isinstance(length, int):
        raise ValueError("a reference to something that is no storage")
    if len(pid) > 5 and pid[5] is not None:  # torch 0.3: a part of a larger storage
        raise ValueError("a view of another storage")
    return Storage(STORAGES.get(storage.name, ""), str(key), length)


def _tensor(storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> TensorRef:
    return _strided(storage, offset, shape, stride, storage.dtype)


def _tensor_v3(
    storage: Storage,
    offset: int,
    shape: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Name,
    *_: Any,
) -> TensorRef:
    return _strided(storage, offset, shape, stride, dtype.name)


def _strided(storage: Storage, offset: int, shape: Any, stride: Any, dtype: str) -> TensorRef:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor of impossible sizes")
    return TensorRef(storage, offset, tuple(shape), tuple(stride), dtype)


def _scalar(dtype: DType, content: Any = b"") -> Any:
    kind = dtype.get()
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, kind)[0].item() if kind and isinstance(raw, bytes) else None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 writes bytes as text; only that use of the codecs is known here."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded as {encoding}")
    return text.encode("latin-1")


def _hashable(items: Any = ()) -> Any:
    return {item for item in items if isinstance(item, Hashable)}


STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "",
}


def _numpy(name: str, call: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """numpy's core moved from one private name to another; files have either."""
    return {f"numpy.{core}.{name}": call for core in ("core", "_core")}


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, _, data, *__: call(function, data),
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.Size": lambda items=(): tuple(items),
    "collections.OrderedDict": lambda items=(): dict(items),
    "collections.defaultdict": lambda _=None, items=(): dict(items),
    "builtins.dict": lambda items=(): dict(items),
    "builtins.list": lambda items=(): list(items),
    "builtins.tuple": lambda items=(): tuple(items),
    "builtins.set": _hashable,
    "__builtin__.set": _hashable,
    "builtins.frozenset": _hashable,
    "builtins.bytearray": lambda data=b"", *_: bytes(data),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda code, *_: DType(str(code)),
    "numpy.ndarray": lambda *_: Array(),
    **_numpy("multiarray._reconstruct", lambda *_: Array()),
    **_numpy("multiarray.scalar", _scalar),
    **_numpy("numeric._frombuffer", _array),
    # DeepMind's BYOL was pickled by dill with haiku's dictionaries and a named tuple.
    "haiku._src.data_structures.FlatMapping": lambda items=(): dict(items),
    "haiku._src.data_structures.FlatMap": lambda items=(): dict(items),
    "haiku._src.data_structures.frozendict": lambda items=(): dict(items),
    "haiku._src.data_structures.to_immutable_dict": lambda items=(): dict(items),
    "dill._dill._create_namedtuple": lambda name, fields, *_: NamedTupleType(tuple(fields)),
    "dill._dill._create_array": lambda function, arguments, state, *_: _dill_array(state),
}


def _dill_array(state: tuple[Any, ...]) -> Array:
    array = Array()
    _fill(array, state)
    return array
