"""TensorFlow checkpoints without TensorFlow: the tensors of a V2 checkpoint ("tensor bundle").

`X.index` is a leveldb table (google/leveldb, doc/table_format.md and table/block_builder.cc). Its
values are the messages of tensorflow/core/protobuf/tensor_bundle.proto: a header under the empty
name, then for each tensor its dtype, shape and place. `X.data-00000-of-00002` and so on hold the
elements, row by row.

Both are untrusted. Blocks and tensors may not overlap and names are bounded, so that work and
memory grow no faster than the bytes that were given. The index is checked against its checksums;
the elements are not checked against theirs.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from mmap import mmap

import torch
from torch import Tensor

from zoo.catalog import ZooError

Buffer = bytes | bytearray | memoryview | mmap

MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of every table
FOOTER = 48
TRAILER = 5  # after each block: a byte that names the compression, four of checksum
LONGEST_NAME = 1000  # bytes; a name may repeat the one before it at no cost to the file
MOST_DIMENSIONS = 254  # TensorFlow's own limit
VERSION = 1  # of the bundle format, the only one so far

# tensorflow/core/framework/types.proto
STRING = 7
DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    STRING: torch.uint8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}


@dataclass(frozen=True)
class Entry:
    """Where the bytes of one tensor lie: in which data file, from which byte, how many."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Message:
    """The fields of one protocol buffer by their number: the last integer, every byte string."""

    numbers: dict[int, int] = field(default_factory=dict)
    texts: dict[int, list[memoryview]] = field(default_factory=dict)


def read_bundle(index: bytes, shard: Callable[[int, int], Buffer]) -> dict[str, Tensor]:
    """Every tensor of a bundle under the name it has in the file, `base_model/conv2d/kernel`.

    `index` are the bytes of `X.index`; `shard(number, count)` hands back those of the data file
    `X.data-<number>-of-<count>`, and is called once for each one that holds a tensor. Tensors are
    views of a buffer that can be written to (an `mmap` with `ACCESS_COPY`) wherever their place
    suits their dtype, otherwise copies. Optimizer slots and counters are included; a tensor of
    strings comes as the uint8 vector of its raw bytes. ZooError says in one sentence, without the
    file's name, what is damaged or not supported: compressed blocks, variables saved in slices,
    big-endian bytes, other dtypes.
    """
    table = _table(memoryview(index))
    count = _shard_count(next(table, None))
    entries = [_entry(name, value, count) for name, value in table]
    _refuse_overlaps(entries)
    shards = {
        number: memoryview(shard(number, count)).cast("B")
        for number in sorted({entry.shard for entry in entries})
    }
    return {entry.name: _tensor(entry, shards[entry.shard]) for entry in entries}


def _table(index: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Names and values of every data block, in strictly ascending order of the names."""
    if len(index) < FOOTER or index[-len(MAGIC) :] != MAGIC:
        raise _damaged("the index does not end as a TensorFlow checkpoint's does")
    footer = index[-FOOTER:]
    _, _, at = _handle(footer, 0)  # of the metaindex block, which bundles leave empty
    place, size, _ = _handle(footer, at)
    end, last = 0, None
    for _, handle in _block(index, place, size):
        place, size, _ = _handle(handle, 0)
        if place < end:
            raise _damaged("two blocks of the index overlap")
        end = place + size + TRAILER
        for name, value in _block(index, place, size):
            if last is not None and name <= last:
                raise _damaged(f"{name!r} is listed twice or out of order in the index")
            last = name
            yield name, value


def _block(index: memoryview, place: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of one block; each key shares a given length with the key before it."""
    entries = _entries_of_block(index, place, size)
    at, key = 0, b""
    while at < len(entries):
        shared, at = _varint(entries, at)
        added, at = _varint(entries, at)
        length, at = _varint(entries, at)
        if shared > len(key) or at + added + length > len(entries):
            raise _damaged("an entry of the index does not fit into its block")
        if shared + added > LONGEST_NAME:
            raise _damaged(f"a name in the index is longer than {LONGEST_NAME} bytes")
        key = key[:shared] + bytes(entries[at : at + added])
        at += added
        yield key, entries[at : at + length]
        at += length


def _entries_of_block(index: memoryview, place: int, size: int) -> memoryview:
    """The verified bytes of one block without the list of restart points that ends it."""
    if place + size + TRAILER > len(index) - FOOTER:
        raise _damaged(f"the index has no room for a block of {size} bytes at byte {place}")
    block = index[place : place + size]
    stored = int.from_bytes(index[place + size + 1 : place + size + TRAILER], "little")
    if _masked_crc32c(index[place : place + size + 1]) != stored:
        raise _damaged(f"the checksum of the index's block at byte {place} does not match")
    if index[place + size]:
        raise ZooError(
            "the index is compressed (snappy), only plain ones can be read: "
            "save it again with TensorFlow, which does not compress."
        )
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    if size < 4 or end < 0:
        raise _damaged(f"the index's block at byte {place} is shorter than its restart points")
    return block[:end]


def _handle(data: memoryview, at: int) -> tuple[int, int, int]:
    """Where a block begins, how long it is, and where the next byte of `data` is."""
    place, at = _varint(data, at)
    size, at = _varint(data, at)
    return place, size, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number of at most 64 bits at byte `at`, and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128 and value < 2**64:
            return value, at
    raise _damaged("a number in the index is cut off or longer than 64 bits")


def _message(data: memoryview) -> Message:
    message, at = Message(), 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            message.numbers[number], at = _varint(data, at)
            continue
        if kind == 2:
            length, at = _varint(data, at)
            message.texts.setdefault(number, []).append(data[at : at + length])
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4  # of the fixed-width fields only a checksum is in use
        else:
            raise _damaged(f"the index holds a field of the unknown kind {kind}")
        at += length
        if at > len(data):
            raise _damaged("a field of the index is cut off")
    return message


def _joined(texts: Iterable[memoryview]) -> Message:
    """A nested message; one that is given in parts is their concatenation, says the format."""
    return _message(memoryview(b"".join(texts)))


def _shard_count(first: tuple[bytes, memoryview] | None) -> int:
    """How many data files there are, from the first entry of the table."""
    if first is None or first[0]:
        raise ZooError(
            "the table does not begin with the header of a TensorFlow checkpoint: another file?"
        )
    header = _message(first[1])
    if header.numbers.get(2):
        raise ZooError(
            "the checkpoint is big-endian, only little-endian ones can be read: "
            "save it again on another machine."
        )
    needed = _joined(header.texts.get(3, [])).numbers.get(2, 0)
    if needed > VERSION:
        raise ZooError(
            f"the checkpoint asks for version {needed} of the format, {VERSION} is the last known: "
            "save it again with an older TensorFlow."
        )
    count = header.numbers.get(1, 0)
    if not 0 < count < 2**31:
        raise _damaged(f"the header counts {count} data files")
    return count


def _entry(key: bytes, value: memoryview, count: int) -> Entry:
    message = _message(value)
    # A slice has an entry of its own, whose key begins with a zero byte and is no text.
    if 7 in message.texts or key.startswith(b"\0"):
        raise ZooError(
            "the checkpoint holds a variable in slices (partitioned), only whole ones can be read: "
            "save it again without a partitioner."
        )
    try:
        name = key.decode()
    except UnicodeDecodeError as error:
        raise _damaged(f"the name {key!r} is not UTF-8") from error
    code, shard = message.numbers.get(1, 0), message.numbers.get(3, 0)
    if code not in DTYPES:
        raise ZooError(
            f"{name!r} has TensorFlow's dtype {code} (types.proto), which cannot be read: "
            "save it as float32."
        )
    if shard >= count:
        raise _damaged(f"{name!r} lies in data file {shard} of {count}")
    size = message.numbers.get(5, 0)
    shape = (size,) if code == STRING else _shape(name, message.texts.get(2, []))
    if math.prod(shape) * DTYPES[code].itemsize != size:
        raise _damaged(f"{name!r} has {size} bytes, not those of {DTYPES[code]} {list(shape)[:9]}")
    return Entry(name, DTYPES[code], shape, shard, message.numbers.get(4, 0), size)


def _shape(name: str, texts: list[memoryview]) -> tuple[int, ...]:
    message = _joined(texts)
    shape = tuple(_message(text).numbers.get(1, 0) for text in message.texts.get(2, []))
    # Without the zeros: an empty tensor passes any comparison with its size.
    elements = math.prod(length for length in shape if length)
    if message.numbers.get(3) or len(shape) > MOST_DIMENSIONS or elements >= 2**60:
        raise _damaged(f"{name!r} has no shape, or one of too many elements")
    return shape


def _refuse_overlaps(entries: list[Entry]) -> None:
    filled = sorted(
        (entry for entry in entries if entry.size), key=lambda entry: (entry.shard, entry.offset)
    )
    for one, other in pairwise(filled):
        if one.shard == other.shard and one.end > other.offset:
            raise _damaged(f"{one.name!r} and {other.name!r} share bytes of the data file")


def _tensor(entry: Entry, data: memoryview) -> Tensor:
    if entry.end > len(data):
        raise _damaged(
            f"{entry.name!r} ends at byte {entry.end}, its data file at byte {len(data)}"
        )
    if not entry.size:
        return torch.empty(entry.shape, dtype=entry.dtype)
    piece = data[entry.offset : entry.end]
    # torch warns of buffers that cannot be written to: nothing would stop a write.
    flat = torch.frombuffer(bytearray(piece) if data.readonly else piece, dtype=torch.uint8)
    if entry.dtype == torch.bool and bool((flat > 1).any()):
        raise _damaged(f"{entry.name!r} holds a truth value that is neither 0 nor 1")
    if flat.data_ptr() % entry.dtype.itemsize:
        flat = flat.clone()
    return flat.view(entry.dtype).view(entry.shape)


def _damaged(what: str) -> ZooError:
    return ZooError(f"{what}; the checkpoint is damaged, download it again.")


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


CRC32C = _crc32c_table()


def _masked_crc32c(data: memoryview) -> int:
    """The CRC-32C (RFC 3720, B.4) of bytes, masked as leveldb stores it (util/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
