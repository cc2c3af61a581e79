"""A pickle machine that builds data and nothing else: no class is imported, no function called.

Opcodes are decoded by the standard library's `pickletools`; what they mean is in its documentation
of each. What calls do is in `rebuild`.
"""

import mmap
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import IO, Any, cast

from zoo.rebuild import Inert, Name, Span, Storage, call, set_state, storage, table

# What damaged bytes raise here and in what reads around it; all of it is reported as damage.
DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)

# Far more opcodes than a checkpoint's pickle has: each may make an object a hundred times as large
# as itself, and a call may copy what others made.
STEPS = 8_000_000


def unpickle(file: IO[bytes] | mmap.mmap) -> tuple[Any, list[Storage]]:
    """The value of one pickle, up to its STOP, and every torch storage that it refers to.

    DAMAGE for bytes that are none.
    """
    machine, steps, content = _Machine(), _steps(), cast(IO[bytes], file)
    for _ in range(STEPS):
        code = content.read(1)
        if code == b".":
            return machine.stack.pop(), machine.storages
        step = steps.get(code)
        if step is None:
            raise ValueError(f"the pickle opcode {code!r}" if code else "a pickle without an end")
        argument, act = step
        act(machine, argument(content) if argument else None)
    raise ValueError("a longer pickle than any checkpoint's")


# -- The machine ---------------------------------------------------------------------------------

# What an opcode without an argument pushes.
PUSHED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
NOTHING = frozenset({"PROTO", "FRAME"})
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Those that push the number, the text or the bytes that they carry.
VALUES = re.compile(
    r"(BIN)?INT|BININT[12]|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE)"
    r"|BINUNICODE8|(SHORT_)?BINBYTES8?|BYTEARRAY8"
)

# Those whose argument may be an array's elements: bytes of its length, is it text?
LONG = {
    "BINSTRING": (4, False),
    "BINUNICODE": (4, True),
    "BINUNICODE8": (8, True),
    "BINBYTES": (4, False),
    "BINBYTES8": (8, False),
    "BYTEARRAY8": (8, False),
}
SPAN = 1 << 16  # bytes from which on such an argument is left in the file

Step = tuple[Callable[[IO[bytes]], Any] | None, Callable[["_Machine", Any], None]]


@cache
def _steps() -> dict[bytes, Step]:
    """For each opcode's byte: what reads its argument, if it has one, and what it does."""
    steps = {}
    for opcode in pickletools.opcodes:
        act = _act(opcode.name)
        if act is not None:
            argument = opcode.arg.reader if opcode.arg else None
            if opcode.name in LONG and argument:
                argument = _span_or(argument, *LONG[opcode.name])
            steps[opcode.code.encode("latin-1")] = argument, act
    return steps


def _span_or(
    whole: Callable[[IO[bytes]], Any], width: int, is_text: bool
) -> Callable[[IO[bytes]], Any]:
    """What reads an argument, but leaves a long one where it is in a mapped file."""

    def argument(file: IO[bytes] | mmap.mmap) -> Any:
        if not isinstance(file, mmap.mmap):
            return whole(file)
        at = file.tell()
        length = int.from_bytes(file[at : at + width], "little")
        if length < SPAN:
            return whole(cast(IO[bytes], file))
        file.seek(at + width + length)  # ValueError beyond its end
        return Span(file, at + width, length, is_text)

    return argument


def _act(opcode: str) -> Callable[["_Machine", Any], None] | None:
    """What an opcode does to the machine; None for one that no checkpoint needs."""
    if VALUES.fullmatch(opcode):
        return lambda machine, argument: machine.stack.append(argument)
    if opcode in PUSHED:
        make = PUSHED[opcode]
        return lambda machine, _: machine.stack.append(make())
    if opcode in TUPLES:
        count = TUPLES[opcode]
        return lambda machine, _: machine.stack.append(tuple(machine.taken(count)))
    if opcode in NOTHING:
        return lambda machine, _: None
    return getattr(_Machine, f"_{opcode.lower()}", None)


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: list[Storage] = []
        self.left = STEPS

    def made(self, value: Any) -> None:
        """Push what a call made, which may be a copy of something large."""
        if isinstance(value, dict | list | tuple | set):
            self.left -= len(value)
        elif isinstance(value, bytes | str):
            self.left -= len(value) >> 6
        if self.left < 0:
            raise ValueError("more copies than any checkpoint's pickle makes")
        self.stack.append(value)

    def taken(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an empty pickle stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    # Marks, memo, stack

    def _mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:  # a mark is popped as a value is
            self._since_mark()

    def _pop_mark(self, _: None) -> None:
        self._since_mark()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, index: int) -> None:
        self.memo[int(index)] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[int(index)])

    _binget = _long_binget = _get

    # Containers

    def _tuple(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _list(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(items)

    def _dict(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(table(zip(items[::2], items[1::2], strict=True)))

    def _frozenset(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(items)  # as a list: nothing in it is hashed

    def _append(self, _: None) -> None:
        self._extend(self.taken(1))

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.items |= {str(len(target.items) + n): item for n, item in enumerate(items)}
        else:
            list.extend(target, items)

    def _additems(self, _: None) -> None:
        self._extend(self._since_mark())

    def _setitem(self, _: None) -> None:
        self._set(self.taken(2))

    def _setitems(self, _: None) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.items if isinstance(target, Inert) else target
        dict.update(entries, table(zip(items[::2], items[1::2], strict=True)))

    # Names, calls, states

    def _global(self, argument: str) -> None:
        self.stack.append(Name(*argument.split(" ", 1)))

    def _stack_global(self, _: None) -> None:
        module, name = self.taken(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        self.stack.append(Name(module, name))

    def _reduce(self, _: None) -> None:
        function, arguments = self.taken(2)
        self.made(call(function, arguments if isinstance(arguments, tuple) else (arguments,)))

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        function, arguments, keywords = self.taken(3)
        self.made((*arguments, keywords))
        self.stack.append(Inert(function, self.stack.pop()))

    def _inst(self, argument: str) -> None:
        arguments = self._since_mark()
        self.made(call(Name(*argument.split(" ", 1)), tuple(arguments)))

    def _obj(self, _: None) -> None:
        function, *arguments = self._since_mark()
        self.made(call(function, tuple(arguments)))

    def _build(self, _: None) -> None:
        (state,) = self.taken(1)
        set_state(self.stack[-1], state)

    def _binpersid(self, _: None) -> None:
        (pid,) = self.taken(1)
        if pid[0] == "module":  # a class with its source, in old files of whole modules
            self.stack.append(pid[1])
            return
        self.storages.append(storage(pid))
        self.stack.append(self.storages[-1])
