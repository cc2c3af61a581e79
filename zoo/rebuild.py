"""What a pickle may make: plain records of tensors, arrays and everything else.

The few calls that build containers, arrays and tensors are carried out by what is written here, on
data alone; every other call becomes an `Inert` record of its name and arguments.
"""

import codecs
import mmap
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

DECODED = 1 << 20  # bytes of a long text that are decoded at once


class Name(NamedTuple):
    """A class or a function that a pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
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


@dataclass(frozen=True)
class Span:
    """A long text, or many bytes, that stay in their file until somebody wants them."""

    content: mmap.mmap
    start: int
    length: int
    is_text: bool

    def latin1(self, size: int) -> bytearray:
        """The bytes, so many, that protocol 2 wrote as a text; ValueError if there are others."""
        decoder, decoded, filled = codecs.getincrementaldecoder("utf-8")(), bytearray(size), 0
        stop = self.start + self.length
        for at in range(self.start, stop, DECODED):
            part = self.content[at : min(at + DECODED, stop)]
            part = decoder.decode(part, at + DECODED >= stop).encode("latin-1")
            decoded[filled : filled + len(part)] = part
            filled += len(part)
        if filled != size:
            raise ValueError(f"{filled} bytes for an array of {size}")
        return decoded


@dataclass(eq=False)
class Array:
    """A numpy array, its elements as they are in the file; `dtype` is None if there are none.

    That is so until its state has come, and for arrays of objects.
    """

    dtype: np.dtype | None = None
    shape: tuple[int, ...] = ()
    order: Literal["C", "F"] = "C"
    elements: bytes | bytearray | Span = b""

    def read(self) -> np.ndarray:
        """The array; ValueError if it has more elements or fewer than its shape says."""
        span = self.elements
        if not isinstance(span, Span):
            values = np.frombuffer(bytearray(span), self.dtype)
        elif span.is_text and self.dtype:
            size = prod(self.shape) * self.dtype.itemsize
            values = np.frombuffer(span.latin1(size), self.dtype)
        else:
            values = np.frombuffer(span.content, self.dtype, prod(self.shape), span.start)
        return values.reshape(self.shape, order=self.order)


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
        return table(zip(function.fields, arguments, strict=True))
    known = CALLS.get(str(function)) if isinstance(function, Name) else None
    return known(*arguments) if known else Inert(function, arguments)


class NamedTupleType(NamedTuple):
    """A named tuple that a pickle describes; calling it gives a dictionary."""

    fields: tuple[str, ...]


def table(items: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of pairs, or the one that is given.

    Tuples are not hashed, whose inner tuples may be as deep and as many as a pickle likes, nor are
    endless numbers: as keys they are only themselves.
    """
    if isinstance(items, dict):
        return items
    pairs = items.items() if isinstance(items, Mapping) else items
    return {key if _is_plain(key) else Inert(key): value for key, value in pairs}


def _is_plain(key: Any) -> bool:
    if isinstance(key, tuple | list):
        return isinstance(key, Name)
    return not isinstance(key, int) or key.bit_length() <= 64


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
    if isinstance(raw, str | bytes | Span):  # an array of objects has a list
        content = raw.encode("latin-1") if isinstance(raw, str) else raw
        filled = _array(content, dtype, shape, "F" if fortran else "C")
        array.dtype, array.shape, array.order = filled.dtype, filled.shape, filled.order
        array.elements = filled.elements


def _array(content: bytes | bytearray | Span, dtype: DType, shape: Any, order: str = "C") -> Array:
    """ValueError if the elements cannot be as many as the shape says."""
    kind, size = dtype.get(), tuple(int(length) for length in shape)
    if kind is None:
        return Array()
    length = content.length if isinstance(content, Span) else len(content)
    most = 2 if isinstance(content, Span) and content.is_text else 1  # bytes for one in UTF-8
    needed = prod(size) * kind.itemsize
    if min(size, default=0) < 0 or not needed <= length <= most * needed:
        raise ValueError(f"{length} bytes for an array of {needed}")
    return Array(kind, size, "F" if order == "F" else "C", content)


def storage(pid: Any) -> Storage:
    kind, storage, key, _, length = pid[:5]
    known = isinstance(storage, Name) and isinstance(key, str | int) and isinstance(length, int)
    if kind != "storage" or not known:
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
    if dtype.name not in DTYPES:
        raise ValueError(f"a tensor of {dtype}")
    return _strided(storage, offset, shape, stride, dtype.name)


def _strided(storage: Storage, offset: int, shape: Any, stride: Any, dtype: str) -> TensorRef:
    numbers = (offset, *shape, *stride)
    possible = all(type(n) is int and 0 <= n < 2**48 for n in numbers) and len(shape) <= 64
    # Without the zeros: an empty tensor passes any comparison with its storage.
    if not isinstance(storage, Storage) or not possible or prod(n or 1 for n in shape) >= 2**60:
        raise ValueError("a tensor of impossible sizes")
    return TensorRef(storage, offset, tuple(shape), tuple(stride), dtype)


def _scalar(dtype: DType, content: Any = b"") -> Any:
    kind = dtype.get()
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, kind)[0].item() if kind and isinstance(raw, bytes) else None


def _encode(text: str | Span, encoding: str = "latin1") -> bytes | Span:
    """Protocol 2 writes bytes as text; only that use of the codecs is known here."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded as {encoding}")
    return text if isinstance(text, Span) else text.encode("latin-1")


def _bytes(data: Any = b"", encoding: str = "latin1") -> bytes | Span:
    """Of bytes, or of the text that stands for them; a number would be so many zeros."""
    if not isinstance(data, bytes | str | Span):
        raise ValueError("bytes of something else than bytes")
    return data if isinstance(data, bytes) else _encode(data, encoding)


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


# All dtypes that a tensor may say it has: those of the storages, and newer ones.
DTYPES = {
    *filter(None, STORAGES.values()),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
}


def _moved(
    module: str, other: str, name: str, call: Callable[..., Any]
) -> dict[str, Callable[..., Any]]:
    """What has two homes: Python 2's name is in protocol 2, and numpy has moved its core."""
    return {f"{module}.{name}": call, f"{other}.{name}": call}


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, _, data, *__: call(function, data),
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.Size": lambda items=(): tuple(items),
    "collections.OrderedDict": lambda items=(): table(items),
    "collections.defaultdict": lambda _=None, items=(): table(items),
    **_moved("builtins", "__builtin__", "dict", lambda items=(): table(items)),
    **_moved("builtins", "__builtin__", "list", lambda items=(): list(items)),
    **_moved("builtins", "__builtin__", "tuple", lambda items=(): tuple(items)),
    **_moved("builtins", "__builtin__", "set", lambda items=(): list(items)),
    **_moved("builtins", "__builtin__", "frozenset", lambda items=(): list(items)),
    **_moved("builtins", "__builtin__", "bytes", _bytes),
    **_moved("builtins", "__builtin__", "bytearray", _bytes),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda code, *_: DType(code if isinstance(code, str) else ""),
    "numpy.ndarray": lambda *_: Array(),
    **_moved("numpy.core", "numpy._core", "multiarray._reconstruct", lambda *_: Array()),
    **_moved("numpy.core", "numpy._core", "multiarray.scalar", _scalar),
    **_moved("numpy.core", "numpy._core", "numeric._frombuffer", _array),
    # DeepMind's BYOL was pickled by dill with haiku's dictionaries and a named tuple.
    "haiku._src.data_structures.FlatMapping": lambda items=(): table(items),
    "haiku._src.data_structures.FlatMap": lambda items=(): table(items),
    "haiku._src.data_structures.frozendict": lambda items=(): table(items),
    "haiku._src.data_structures.to_immutable_dict": lambda items=(): table(items),
    "dill._dill._create_namedtuple": lambda name, fields, *_: NamedTupleType(tuple(fields)),
    "dill._dill._create_array": lambda function, arguments, state, *_: _dill_array(state),
}


def _dill_array(state: tuple[Any, ...]) -> Array:
    array = Array()
    _fill(array, state)
    return array
