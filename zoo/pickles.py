"""A pickle machine that builds data and nothing else: no class is imported, no function called.

Opcodes are decoded by the standard library's `pickletools`; what they mean is in its documentation
of each. What calls do is in `rebuild`.
"""

import mmap
import pickletools
import re
from collections.abc import Callable
from functools import cache
from typing import IO, Any, cast

from zoo.rebuild import Inert, Name, call, set_state, storage

# What damaged bytes raise here and in what reads around it; all of it is reported as damage.
DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def unpickle(file: IO[bytes] | mmap.mmap) -> Any:
    """The value of one pickle, up to its STOP; DAMAGE for bytes that are none."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
        machine.step(opcode.name, argument)
    return machine.stack.pop()


# -- The machine ---------------------------------------------------------------------------------

CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@cache
def _is_value(opcode: str) -> bool:
    """Does this opcode push the number, the text or the bytes that it carries?"""
    numbers, texts = r"(BIN)?INT|BININT[12]|LONG[14]?|(BIN)?FLOAT", r"(BIN)?(STRING|UNICODE)"
    return bool(
        re.fullmatch(
            rf"{numbers}|(SHORT_)?{texts}|BINUNICODE8|(SHORT_)?BINBYTES8?|BYTEARRAY8", opcode
        )
    )


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if _is_value(opcode):
            self.stack.append(argument)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in EMPTY:
            self.stack.append(EMPTY[opcode]())
        elif opcode in TUPLES:
            self.stack.append(tuple(self._pop(TUPLES[opcode])))
        elif opcode not in NOTHING:
            act = getattr(self, f"_{opcode.lower()}", None)
            if act is None:
                raise ValueError(f"the pickle opcode {opcode}")
            act(argument)

    def _pop(self, count: int) -> list[Any]:
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
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _frozenset(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(frozenset(items))

    def _append(self, _: None) -> None:
        self._extend(self._pop(1))

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.items |= {str(len(target.items) + n): item for n, item in enumerate(items)}
        else:
            list.extend(target, items)

    def _additems(self, _: None) -> None:
        items = self._since_mark()
        if not isinstance(self.stack[-1], Inert):
            set.update(self.stack[-1], items)

    def _setitem(self, _: None) -> None:
        self._set(self._pop(2))

    def _setitems(self, _: None) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.items if isinstance(target, Inert) else target
        dict.update(entries, zip(items[::2], items[1::2], strict=True))

    # Names, calls, states

    def _global(self, argument: str) -> None:
        self.stack.append(Name(*argument.split(" ", 1)))

    def _stack_global(self, _: None) -> None:
        module, name = self._pop(2)
        self.stack.append(Name(str(module), str(name)))

    def _reduce(self, _: None) -> None:
        function, arguments = self._pop(2)
        self.stack.append(
            call(function, arguments if isinstance(arguments, tuple) else (arguments,))
        )

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        function, arguments, keywords = self._pop(3)
        self.stack.append(Inert(function, (*arguments, keywords)))

    def _inst(self, argument: str) -> None:
        arguments = self._since_mark()
        self.stack.append(call(Name(*argument.split(" ", 1)), tuple(arguments)))

    def _obj(self, _: None) -> None:
        function, *arguments = self._since_mark()
        self.stack.append(call(function, tuple(arguments)))

    def _build(self, _: None) -> None:
        (state,) = self._pop(1)
        set_state(self.stack[-1], state)

    def _binpersid(self, _: None) -> None:
        (pid,) = self._pop(1)
        self.stack.append(storage(pid))
