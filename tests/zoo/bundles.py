"""A writer of TensorFlow V2 checkpoints, in pieces that a test can put together wrongly.

TensorFlow itself reads what `write_bundle` writes (tests/parity/test_simclr_tf.py).
"""

from pathlib import Path

import numpy as np
import torch

MAGIC = 0xDB4775248B80FB57
RESTART_INTERVAL = 16
CODES = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int32: 3,
    torch.uint8: 4,
    torch.int16: 5,
    torch.int8: 6,
    torch.int64: 9,
    torch.bool: 10,
    torch.bfloat16: 14,
    torch.float16: 19,
}


def write_bundle(prefix: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write `<prefix>.index` and `<prefix>.data-00000-of-00001`."""
    index, data = pack(tensors)
    Path(f"{prefix}.index").write_bytes(index)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)


def pack(tensors, per_block=1000):
    """The bytes of the index, so many names to a block, and of the data file."""
    entries, data = entries_of(tensors)
    return table(entries, per_block), data


def entries_of(tensors):
    """The keys and values of the index, and the bytes of the data file."""
    entries, data = {b"": header()}, bytearray()
    for name in sorted(tensors, key=str.encode):
        raw = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        dtype, shape = CODES[tensors[name].dtype], tuple(tensors[name].shape)
        entries[name.encode()] = entry(dtype, shape, len(data), len(raw), checksum=masked(raw))
        data += raw
    return entries, bytes(data)


def header(shards=1, endianness=0, needs=0):
    version = number(1, 1) + number(2, needs)
    return number(1, shards) + number(2, endianness) + text(3, version)


def entry(dtype, shape, offset, size, *, shard=0, checksum=0, more=b""):
    dimensions = b"".join(text(2, number(1, length)) for length in shape)
    place = number(3, shard) + number(4, offset) + number(5, size)
    crc = varint(6 << 3 | 5) + checksum.to_bytes(4, "little")
    return number(1, dtype) + text(2, dimensions) + place + crc + more


def table(entries, per_block=1000, compression=0):
    """A leveldb table of these keys and values in their order, so many to a block."""
    pairs, out, places = list(entries.items()), b"", {}
    for first in range(0, len(pairs), per_block):
        block = block_of(pairs[first : first + per_block])
        places[pairs[first : first + per_block][-1][0]] = varint(len(out)) + varint(len(block))
        out += sealed(block, compression)
    handles = b""
    for block in (block_of([]), block_of(list(places.items()), restart_interval=1)):
        handles += varint(len(out)) + varint(len(block))
        out += sealed(block, compression)
    return out + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def block_of(pairs, restart_interval=RESTART_INTERVAL):
    out, restarts, before = b"", [0], b""
    for position, (key, value) in enumerate(pairs):
        shared = 0
        if position and position % restart_interval == 0:
            restarts.append(len(out))
        elif position:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    words = [*restarts, len(restarts)]
    return out + b"".join(word.to_bytes(4, "little") for word in words)


def sealed(block, compression=0):
    """A block with its trailer: how it is compressed, and the checksum over both."""
    block += bytes([compression])
    return block + masked(block).to_bytes(4, "little")


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _after_a_zero_byte(states):
    for _ in range(8):
        states = states >> 1 ^ np.where(states & 1, np.uint32(0x82F63B78), np.uint32(0))
    return states


STEP = _after_a_zero_byte(np.arange(256, dtype=np.uint32))
BITS = np.arange(32, dtype=np.uint32)


def crc32c(data):
    """The CRC-32C (Castagnoli, RFC 3720) of bytes."""
    if len(data) >= 1024:
        return _crc32c_in_lanes(data)
    state = 0xFFFFFFFF
    for byte in data:
        state = int(STEP[(state ^ byte) & 255]) ^ state >> 8
    return state ^ 0xFFFFFFFF


def _crc32c_in_lanes(data):
    """The same, over lanes side by side: a plain loop takes seconds for ten megabytes.

    The register is linear: what one lane leaves behind, moved past the bytes of the next lane and
    combined with what that one leaves, is what both leave together. Zeros in front of the first
    lane leave nothing; beginning with all ones is the same as inverting the first four bytes.
    """
    lanes = 2 ** (len(data).bit_length() // 2)
    length = -(-len(data) // lanes)
    padded = np.zeros(lanes * length, np.uint8)
    raw = padded[len(padded) - len(data) :]
    raw[:] = np.frombuffer(data, np.uint8)
    raw[:4] ^= 255
    columns = np.zeros((length, lanes + 32), np.uint8)
    columns[:, :lanes] = padded.reshape(lanes, length).T
    states = np.concatenate([np.zeros(lanes, np.uint32), np.uint32(1) << BITS])
    for column in columns:
        states = STEP[(states ^ column) & 255] ^ states >> 8
    states, moved = states[:lanes], states[lanes:]  # moved: each bit past one lane of zeros
    while len(states) > 1:
        states = _move(states[::2], moved) ^ states[1::2]
        moved = _move(moved, moved)
    return int(states[0]) ^ 0xFFFFFFFF


def _move(states, moved):
    bits = states[:, None] >> BITS & 1
    return np.bitwise_xor.reduce(np.where(bits, moved, np.uint32(0)), axis=1)
