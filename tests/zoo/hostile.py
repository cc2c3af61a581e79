"""Builders of hostile files: fragments of pickles, and the containers that they are put into.

A fragment pushes one value. Every container holds it under "evil", beside a harmless tensor "w".
"""

import pickle
import struct
import zlib
from typing import NamedTuple

import torch

W = torch.tensor([1.0, 2.0, 3.0])
CANARY = "canary"
TOUCH = f"touch {CANARY}"
PYTHON = f"open({CANARY!r}, 'w').close()"


# -- Fragments -------------------------------------------------------------------------------------


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def call(module, attribute, *arguments):
    return name(module, attribute) + tuple_of(*arguments) + b"R"


def laughs(first, two_of):
    """A value that holds the one before it twice, 60 times over: 2^60 leaves in 600 bytes."""
    return first + b"q\0" + (b"0" + two_of + b"q\0") * 60


SYSTEM = name("os", "system")
IMPORT = call("builtins", "__import__", text("os"))
NESTED = pickle.dumps(b"", 2)[:2] + SYSTEM + tuple_of(text(TOUCH)) + b"R."

RUNS = {  # what runs a command where a pickle is believed
    "REDUCE": call("os", "system", text(TOUCH)),
    "REDUCE in posix": call("posix", "system", text(TOUCH)),
    "INST": b"(" + text(TOUCH) + b"ios\nsystem\n",
    "OBJ": b"(" + SYSTEM + text(TOUCH) + b"o",
    "NEWOBJ": name("subprocess", "Popen") + tuple_of(text(TOUCH)) + b"\x81",
    "NEWOBJ_EX": name("subprocess", "Popen") + tuple_of(text(TOUCH)) + b"}\x92",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + tuple_of(text(TOUCH)) + b"R",
    "eval": call("builtins", "eval", text(PYTHON)),
    "exec": call("__builtin__", "exec", text(PYTHON)),
    "getattr": call("builtins", "getattr", IMPORT, text("system")) + tuple_of(text(TOUCH)) + b"R",
    "partial": call("functools", "partial", SYSTEM, text(TOUCH)) + b")R",
    "map": call("builtins", "list", call("builtins", "map", SYSTEM, tuple_of(text(TOUCH)))),
    "a call of a call": call("a", "b") + tuple_of(call("os", "system", text(TOUCH))) + b"R",
    "run a file": call("runpy", "run_path", text("evil.py")),
    "a pickle in a pickle": call("pickle", "loads", call("_codecs", "encode", text("c"))),
    "a storage in a pickle": call("torch.storage", "_load_from_bytes", b"B\0\0\0\0"),
    "nested bytes": call("pickle", "loads", b"B" + struct.pack("<I", len(NESTED)) + NESTED),
    "a state that sets states": call("a", "B") + b"}" + text("__setstate__") + SYSTEM + b"sb",
    "a state of a class": name("a", "B") + b"}" + text("__class__") + SYSTEM + b"sb",
    "a state of a dictionary": b"}}" + text("__reduce__") + SYSTEM + b"sb",
    "a tensor of another type": call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        SYSTEM,
        name("a", "B"),
        tuple_of(text(TOUCH)),
        b"N",
    ),
    "an array of another type": call(
        "numpy.core.multiarray", "_reconstruct", SYSTEM, tuple_of(text(TOUCH)), text("b")
    ),
    "fields that are code": call(
        "dill._dill", "_create_namedtuple", text("A"), tuple_of(text(f"x={PYTHON}")), text("m")
    ),
    "dill's code": call("dill._dill", "_eval_repr", text(PYTHON)),
    "dill's imports": call("dill._dill", "_import_module", text("antigravity")),
    "dill's array": call("dill._dill", "_create_array", SYSTEM, tuple_of(text(TOUCH)), b"N", b"N"),
    "codecs": call("_codecs", "encode", text(TOUCH), text("evil")),
    "codecs that unpack": call("_codecs", "decode", text(TOUCH), text("zip")),
    "an import": name("evil", "anything"),
}

AMPLIFIER = b"(" + b"N" * 400_000 + b"lq\1"
COPIES = {
    what: AMPLIFIER + b"(" + (name("builtins", what) + b"h\1\x85R") * 4000 + b"l\x86"
    for what in ("tuple", "set", "frozenset")
}
LONG_TEXT = text("x" * 60_000) + b"q\1"
ARRAY = name("numpy.core.multiarray", "_reconstruct") + b"NR"
F4 = call("numpy", "dtype", text("f4"))


def array(shape, dtype=F4, raw=b"C\x08" + bytes(8), fortran=b"\x89"):
    """A numpy array's own state; by default of two numbers."""
    return ARRAY + tuple_of(b"K\1", shape, dtype, fortran, raw) + b"b"


BOMBS = {  # what costs more than it is worth, or is not what it seems; then what is said, if sure
    "a memo of 4 billion": b"Nr\xff\xff\xff\xff",
    "a memo far below zero": b"Np-9999999999999999999999\n",
    "a memo that is empty": b"j\xff\xff\xff\x7f",
    "lists of lists": laughs(b"]", b"](h\0h\0e"),
    "dictionaries of dictionaries": laughs(b"}", b"}(K\1h\0K\2h\0u"),
    "tuples of tuples": laughs(b")", b"h\0h\0\x86"),
    "tuples of tuples as keys": b"}" + laughs(b")", b"h\0h\0\x86") + b"Ns",
    "tuples of tuples in sets": b"(" + laughs(b")", b"h\0h\0\x86") + b"\x91",
    "tuples of tuples as names": laughs(b")", b"h\0h\0\x86") + text("a") + b"\x93",
    "calls of calls": laughs(call("a", "b"), name("a", "b") + b"h\0h\0\x86R"),
    "calls as keys": b"}" + laughs(call("a", "b"), name("a", "b") + b"h\0h\0\x86R") + b"Ns",
    "a list in itself": b"]q\0h\0a",
    "a dictionary in itself": b"}q\0" + text("me") + b"h\0s",
    "an object in itself": call("a", "b") + b"q\0h\0b",
    "a tuple in itself": b"]q\0h\0\x85a",
    "100,000 lists deep": b"]" * 100_000 + b"a" * 99_999,
    "100,000 tuples deep": b")" + b"\x85" * 100_000,
    "100,000 tuples deep as a key": b"})" + b"\x85" * 100_000 + b"Ns",
    "100,000 tuples deep in a set": b"\x8f()" + b"\x85" * 100_000 + b"\x90",
    "50,000 calls deep": (name("a", "b") + b"(") * 50_000 + b"tR" * 50_000,
    "100,000 marks": b"(" * 100_000 + b"N" + b"1" * 99_999,
    "a text of 4 GB": b"X\xff\xff\xff\xff",
    "a text of 2^63": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "bytes of 2^62": b"\x8e" + b"\xff" * 7 + b"\x3f",
    "a bytearray of 2^62": b"\x96" + b"\xff" * 7 + b"\x3f",
    "a number of 2 GB": b"\x8b\xff\xff\xff\x7f",
    "a number of -1 bytes": b"\x8b\xff\xff\xff\xff",
    "a frame of 2^63": b"\x95" + b"\xff" * 8 + b"N",
    "a number of 100,000 digits": b"I" + b"9" * 100_000 + b"\n",
    "a number of 1 MB as a key": b"}" + number(1 << 8_000_000) + b"Ns",
    "a float beyond all": b"F1e999999\n",
    "20 GB of zeros": call("builtins", "bytearray", number(20 << 30)),
    "20 GB of zeros for Python 2": call("__builtin__", "bytes", number(20 << 30)),
    "a text encoded 4000 times": LONG_TEXT
    + b"("
    + (name("_codecs", "encode") + b"h\1\x85R") * 4000
    + b"l\x86",
    "a text as 100,000 keys": LONG_TEXT + b"](" + b"}h\1Ns" * 100_000 + b"e\x86",
    "a list copied by NEWOBJ_EX": b"(" + b"N" * 400_000 + b"tq\1(" + b"Nh\1N\x92" * 4000 + b"l\x86",
    "EXT1": b"\x82\1",
    "EXT2": b"\x83\1\1",
    "EXT4": b"\x84\1\0\0\0",
    "a buffer from outside": b"\x97",
    "a buffer that is read only": b"N\x98",
    "an opcode that is none": b"\xff",
    "nothing to pop": b"00000",
    "nothing to take": b"\x87",
    "no mark": b"eeee",
    "an odd dictionary": b"}(NNNu",
    "items for a list": b"](NNu",
    "an item for a dictionary": b"}Na",
    "a state for a number": b"K\1Nb",
    "a call of a number": b"K\1)R",
    "a call with a number": name("a", "b") + b"K\1R",
    "a call that lacks arguments": call("numpy", "dtype"),
    "a name with a line too few": b"cos\n",
    "a protocol from the future": b"\x80\xff\x4e",
    "a named tuple of numbers": call(
        "dill._dill", "_create_namedtuple", text("A"), tuple_of(b"K\1", b"]"), text("m")
    )
    + tuple_of(b"N", b"N")
    + b"\x81",
    "an array of 2^60": array(number(2**60) + b"\x85"),
    "an array of -1": array(number(-1) + b"\x85"),
    "an array of half a number": array(b"F0.5\n\x85"),
    "an array of a text": array(text("2")),
    "an array of pointers": array(b"K\1\x85", call("numpy", "dtype", text("O"))),
    "an array of records": array(b"K\1\x85", call("numpy", "dtype", text("V8"))),
    "an array of no dtype": array(b"K\1\x85", text("f4")),
    "an array of 99-byte floats": array(b"K\2\x85", call("numpy", "dtype", text("f99"))),
    "an array of 3-byte floats": array(b"K\2\x85", call("numpy", "dtype", text("f3"))),
    "an array of 16-byte floats": array(
        b"K\1\x85", call("numpy", "dtype", text("f16")), b"C\x10" + bytes(16)
    ),
    "an array of too few bytes": array(b"K\3\x85"),
    "an array of a list": array(b"K\1\x85", raw=b"]"),
    "an array without a state": ARRAY,
    "an array of a number's state": ARRAY + b"K\1b",
    "an array out of nothing": call("numpy.core.numeric", "_frombuffer", b"N", F4, b"N", text("C")),
    "a scalar of too few bytes": call("numpy.core.multiarray", "scalar", F4, b"C\1x"),
    "a name that cannot be printed": b"}" + b"X\3\0\0\0\xed\xa0\x80" + array(b"K\2\x85") + b"s",
    "a name that clears the screen": b"}" + text("\033[2J") + array(b"K\2\x85") + b"s",
    "a text that clears the screen": call("_codecs", "encode", text("a"), text("\033[2J")),
    "a name with a zero in it": b"}" + text("a\0b") + array(b"K\2\x85") + b"s",
    "a name of 1 MB": b"}" + text("n" * 1_000_000) + array(b"K\2\x85") + b"s",
    "an array in 2^60 places": laughs(array(b"K\2\x85"), b"](h\0h\0e"),
} | {f"a list copied by {what}": fragment for what, fragment in COPIES.items()}


# -- Tensors that are not what they seem -----------------------------------------------------------


def persistent(*parts):
    return tuple_of(*parts) + b"Q"


def storage(key="0", length=3, kind="FloatStorage"):
    where = text("cpu")
    return persistent(text("storage"), name("torch", kind), text(key), where, number(length))


def tensor(offset=0, shape=(3,), stride=(1,), of=None, more=b""):
    shape, stride = (tuple_of(*map(number, sizes)) for sizes in (shape, stride))
    of = storage() if of is None else of
    hooks = call("collections", "OrderedDict")
    arguments = (of, number(offset), shape, stride, b"\x89", hooks, more)
    return call("torch._utils", f"_rebuild_tensor_v{3 if more else 2}", *arguments)


TENSORS = {
    "beyond its storage": tensor(shape=(4,)),
    "beyond its storage by its offset": tensor(offset=1),
    "beyond its storage by its stride": tensor(shape=(2,), stride=(3,)),
    "of 2^62 numbers": tensor(shape=(2**62,)),
    "of 2^62 numbers without a step": tensor(shape=(2**62,), stride=(0,)),
    "of 2^59 numbers without a step": tensor(shape=(2**40, 2**19), stride=(0, 0)),
    "of 2^80 numbers": tensor(shape=(2**40, 2**40), stride=(0, 0)),
    "of 2^200 numbers": tensor(shape=(2**200,)),
    "of -1 numbers": tensor(shape=(-1,)),
    "with a step of -1": tensor(stride=(-1,)),
    "with a step of 2^63": tensor(shape=(1,), stride=(2**63,)),
    "from -1 on": tensor(offset=-1),
    "from 2^63 on": tensor(offset=2**63),
    "empty in 2^62 ways": tensor(shape=(0, 2**62, 2**62), stride=(1, 1, 1)),
    "empty in 2^40 ways": tensor(shape=(2**40, 2**40, 0), stride=(1, 1, 1)),
    "of 100,000 dimensions": tensor(shape=(1,) * 100_000, stride=(1,) * 100_000),
    "of fewer steps": tensor(shape=(1, 3), stride=(1,)),
    "of a number as its shape": tensor().replace(tuple_of(number(3)), number(3), 1),
    "of a text as its shape": tensor().replace(tuple_of(number(3)), text("3"), 1),
    "of halves": tensor().replace(tuple_of(number(3)), b"(F1.5\nt", 1),
    "of truths": tensor().replace(tuple_of(number(3)), b"(\x88t", 1),
    "of no storage": tensor(of=b"N"),
    "of a call": tensor(of=call("os", "system", text(TOUCH))),
    "of a storage that is not there": tensor(of=storage("7")),
    "of a storage that climbs": tensor(of=storage("../../../../etc/passwd")),
    "of an unknown storage": tensor(of=storage(kind="SecretStorage")),
    "of a storage with another length": tensor(of=storage(length=2**50), shape=(2**40,)),
    "of a storage of negative length": tensor(of=storage(length=-3)),
    "of a storage that is no storage": tensor(of=persistent(text("os"), *[b"N"] * 4)),
    "of a storage that is a number": tensor(of=b"K\1Q"),
    "of a short storage": tensor(of=persistent(text("storage"), name("torch", "FloatStorage"))),
    "of a storage with a list as its key": tensor(
        of=persistent(text("storage"), name("torch", "FloatStorage"), laughs(b"]", b"](h\0h\0e"))
    ),
    "of a storage named by a text": tensor(
        of=persistent(text("storage"), text("FloatStorage"), text("0"), text("cpu"), b"K\3")
    ),
    "of a module that is code": persistent(text("module"), SYSTEM, text("evil.py"), text(PYTHON))
    + tuple_of(text(TOUCH))
    + b"R",
    "of a dtype that is a function": tensor(more=name("torch", "load")),
    "of a dtype that is a module": tensor(more=name("torch", "onnx")),
    "of a dtype that is quantised": tensor(more=name("torch", "quint8")),
    "of a dtype that is none": tensor(more=b"N"),
    "of hooks": call("torch._utils", "_rebuild_parameter", tensor(), b"\x88", RUNS["REDUCE"]),
    "with a state": call(
        "torch._utils", "_rebuild_parameter_with_state", tensor(), b"\x88", b"}", RUNS["REDUCE"]
    ),
}


# -- Containers ------------------------------------------------------------------------------------


def as_pickle(fragment):
    arrays = pickle.dumps({"w": W.numpy()}, 2)
    return arrays[:-1] + text("evil") + fragment + b"s."


def as_zip(fragment):
    """A torch zip: a pickle and one storage."""
    return zip_of(*torch_zip(fragment))


def torch_zip(fragment, root="archive/"):
    pickled, data = with_tensor(fragment), W.numpy().tobytes()
    return [
        Member(f"{root}data.pkl", pickled, len(pickled)),
        Member(f"{root}data/0", data, len(data)),
    ]


def with_tensor(fragment):
    return b"\x80\x02}" + text("w") + tensor() + b"s" + text("evil") + fragment + b"s."


ORDER = b"](" + text("0") + b"e."


def as_legacy(fragment, order=ORDER, length=3, head=b""):
    magic, protocol, sizes = (
        pickle.dumps(value, 2)
        for value in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True},
        )
    )
    storages = struct.pack("<q", length) + W.numpy().tobytes()
    return (
        magic + (head or protocol) + sizes + with_tensor(fragment) + b"\x80\x02" + order + storages
    )


CONTAINERS = {"pickle": as_pickle, "zip": as_zip, "legacy": as_legacy}


class Member(NamedTuple):
    """A member of a zip, and what the zip's directory says of it."""

    path: str
    packed: bytes
    told: int  # bytes once unpacked
    method: int = 0
    flags: int = 0
    crc: int | None = None
    place: int | None = None


def zip_of(*members):
    """A zip whose directory says anything at all."""
    out, directory = b"", b""
    for path, packed, told, method, flags, crc, place in members:
        crc = zlib.crc32(packed) if crc is None else crc
        fields = (flags, method, 0, 33, crc, len(packed), told & 0xFFFFFFFF, len(path))
        place = len(out) if place is None else place
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 45, *fields, 0) + path.encode() + packed
        central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, *fields, 0, 0, 0, 0, 0, place)
        directory += central + path.encode()
    sizes = (len(members), len(members), len(directory), len(out))
    return out + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *sizes, 0)


def deflated_zeros(length):
    """A deflate stream of so many zeros (a multiple of 2^20), made in no time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (length >> 20) + packer.flush()


def safetensors(header, data=bytes(12), length=None):
    """A header of JSON, or of what is none, behind its length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data
