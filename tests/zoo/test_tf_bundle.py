"""TensorFlow checkpoints: read bit for bit, and refused in words whatever is done to the bytes."""

import mmap

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.zoo import bundles
from tests.zoo.bundles import block_of, entry, header, number, pack, sealed, table, text, varint
from zoo.catalog import ZooError
from zoo.tf_bundle import read_bundle

WEIGHTS = {
    "base_model/batch_normalization/gamma": torch.arange(5.0),
    "base_model/conv2d/kernel": torch.arange(24.0).reshape(2, 3, 1, 4),
    "base_model/conv2d/kernel/Momentum": torch.full((2, 3, 1, 4), -1.5),
    "base_model/conv2d_1/kernel": torch.zeros(0, 7),
    "global_step": torch.tensor(225206),
}
ENTRIES = {b"": header(), b"x": entry(1, [2, 3], 0, 24), b"y": entry(1, [], 24, 4)}
DATA = bytes(range(28))


def read(index, data=DATA):
    return read_bundle(index, lambda number, count: data)


def same(tensors, wanted):
    return tensors.keys() == wanted.keys() and all(
        tensors[name].dtype == wanted[name].dtype and torch.equal(tensors[name], wanted[name])
        for name in wanted
    )


@pytest.mark.parametrize("per_block", [1, 2, 1000])
def test_every_tensor_of_every_block_is_read(per_block):
    many = WEIGHTS | {f"layer/{i}/bias": torch.tensor([float(i)]) for i in range(40)}
    assert same(read(*pack(many, per_block)), many)


@pytest.mark.parametrize("dtype", bundles.CODES, ids=str)
def test_every_dtype_keeps_its_bits(dtype):
    bits = torch.arange(64, dtype=torch.uint8) % (2 if dtype == torch.bool else 255)
    tensor = read(*pack({"x": bits.view(dtype)}))["x"]
    assert tensor.dtype == dtype
    assert torch.equal(tensor.view(torch.uint8), bits)


def test_strings_come_as_their_raw_bytes():
    graph = varint(3) + b"\1\2\3\4" + b"abc"
    entries = {b"": header(), b"_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], 2, len(graph))}
    tensors = read(table(entries), b"--" + graph)
    assert bytes(tensors["_CHECKPOINTABLE_OBJECT_GRAPH"]) == graph


def test_a_bundle_without_tensors_needs_no_data_file():
    assert read_bundle(table({b"": header()}), lambda number, count: 1 / 0) == {}


def test_each_data_file_is_asked_for_once():
    asked = []
    entries = {b"": header(shards=3), b"a": entry(3, [], 4, 4, shard=0)}
    entries |= {b"b": entry(3, [], 0, 4, shard=2), b"c": entry(3, [], 4, 4, shard=2)}

    def shard(number, count):
        asked.append((number, count))
        return b"".join((10 * number + i).to_bytes(4, "little") for i in range(2))

    assert {n: t.item() for n, t in read_bundle(table(entries), shard).items()} == {
        "a": 1,
        "b": 20,
        "c": 21,
    }
    assert asked == [(0, 3), (2, 3)]


def test_tensors_are_views_of_a_buffer_that_can_be_written_to():
    index, data = pack({"a": torch.ones(3), "b": torch.ones(2, 2)})
    data = bytearray(data)
    tensors = read(index, data)
    data[:] = bytes(len(data))
    assert all(not tensor.any() for tensor in tensors.values())


def test_tensors_are_copies_of_a_buffer_that_cannot():
    index, data = pack(WEIGHTS)
    tensors = read(index, data)
    for tensor in tensors.values():
        tensor.zero_()
    assert pack(WEIGHTS) == (index, data)
    assert same(read(index, data), WEIGHTS)


def test_a_tensor_at_an_odd_place_is_copied_to_an_even_one():
    crooked = {"a": torch.tensor([1], dtype=torch.int8), "b": torch.arange(9.0, dtype=torch.double)}
    index, data = pack(crooked)
    tensors = read(index, bytearray(data))
    assert same(tensors, crooked)
    assert tensors["b"].data_ptr() % 8 == 0


def test_a_mapped_file_is_read_and_outlives_its_handle(tmp_path):
    bundles.write_bundle(tmp_path / "model.ckpt-1", WEIGHTS)

    def shard(number, count):
        with (tmp_path / f"model.ckpt-1.data-{number:05}-of-{count:05}").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    assert same(read_bundle((tmp_path / "model.ckpt-1.index").read_bytes(), shard), WEIGHTS)


@pytest.mark.parametrize(
    ("data", "published"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_is_that_of_rfc_3720(data, published):
    assert bundles.crc32c(data) == published


def test_the_checksum_of_long_bytes_is_that_of_a_plain_loop():
    data = bytes(i * i % 251 for i in range(5000))
    state = 0xFFFFFFFF
    for byte in data:
        state = int(bundles.STEP[(state ^ byte) & 255]) ^ state >> 8
    assert bundles.crc32c(data) == state ^ 0xFFFFFFFF


def one(name=b"x", more=b"", **changed):
    """A table of one tensor that differs from a good one as said."""
    fields = {"dtype": 1, "shape": [2, 3], "offset": 0, "size": 24} | changed
    return table({b"": header(), name: entry(**fields, more=more)})


def with_block(block, places=None, listed=None):
    """A table of this one data block, or of whatever the index block lists instead."""
    places = places or [(b"x", varint(0) + varint(len(block)))]
    out = sealed(block)
    handles = varint(len(out)) + varint(8)
    out += sealed(block_of([]))
    listed = listed or block_of(places)
    handles += varint(len(out)) + varint(len(listed))
    return out + sealed(listed) + handles.ljust(40, b"\0") + bundles.MAGIC.to_bytes(8, "little")


GOOD = entry(1, [2, 3], 0, 24)
FIRST = block_of([(b"", header())])
HUGE = 2**64 - 1

REFUSED = {
    "nothing": (b"", "does not end as"),
    "a footer alone": (table(ENTRIES)[-48:], "no room for a block"),
    "another magic number": (table(ENTRIES)[:-1] + b"\0", "does not end as"),
    "a cut index": (table(ENTRIES)[:-8], "does not end as"),
    "another byte": (b"\1" + table(ENTRIES)[1:], "checksum of .* at byte 0 does not match"),
    "no beginning": (table(ENTRIES)[9:], "no room for a block"),
    "compression": (table(ENTRIES, compression=1), r"compressed \(snappy\)"),
    "no entry": (table({}), "does not begin with the header"),
    "no header": (table({b"x": entry(1, [2, 3], 0, 24)}), "does not begin with the header"),
    "big endian": (table(ENTRIES | {b"": header(endianness=1)}), "big-endian"),
    "a newer format": (table(ENTRIES | {b"": header(needs=2)}), "version 2 of the format"),
    "no data files": (table(ENTRIES | {b"": header(shards=0)}), "counts 0 data files"),
    "data files below zero": (table(ENTRIES | {b"": header(shards=HUGE)}), "counts 18446744"),
    "slices": (one(more=text(7, b"")), "in slices"),
    "a slice": (one(name=b"\0kernel\0\1\1\2\x80\x82\x80\x7f"), "in slices"),
    "complex numbers": (one(dtype=8), "'x' has TensorFlow's dtype 8"),
    "no dtype": (one(dtype=0), "'x' has TensorFlow's dtype 0"),
    "another data file": (one(shard=1), "'x' lies in data file 1 of 1"),
    "a data file below zero": (one(shard=HUGE), "'x' lies in data file"),
    "too few bytes": (one(size=20), r"'x' has 20 bytes, not those of torch.float32 \[2, 3\]"),
    "too many bytes": (one(size=28), "'x' has 28 bytes"),
    "a dimension below zero": (one(shape=[HUGE, HUGE - 1]), "too many elements"),
    "empty but huge": (one(shape=[0, 2**40, 2**40], size=0), "too many elements"),
    "unknown rank": (one(more=text(2, number(3, 1))), "'x' has no shape"),
    "255 dimensions": (one(shape=[1] * 255, size=4), "too many elements"),
    "beyond the end": (one(offset=5), "'x' ends at byte 29, its data file at byte 28"),
    "before the beginning": (one(offset=HUGE), "'x' ends at byte"),
    "empty, beyond the end": (one(shape=[0], size=0, offset=29), "'x' ends at byte 29"),
    "shared bytes": (table(ENTRIES | {b"y": entry(1, [], 20, 4)}), "'x' and 'y' share bytes"),
    "half a truth": (one(dtype=10, size=6), "neither 0 nor 1"),
    "no UTF-8": (one(name=b"\xff"), "is not UTF-8"),
    "a field of no kind": (one(more=varint(9 << 3 | 3)), "unknown kind 3"),
    "a cut field": (one(more=varint(9 << 3 | 2) + b"\x05ab"), "field of the index is cut off"),
    "a cut number": (one(more=varint(9 << 3) + b"\x80"), "number in the index is cut off"),
    "an endless number": (one(more=varint(9 << 3) + b"\x80" * 10 + b"\1"), "longer than 64 bits"),
    "a long name": (one(name=b"x" * 1001), "longer than 1000 bytes"),
    "a name that grows": (
        table({b"": header(), b"x" * 1000: GOOD, b"x" * 1000 + b"y": GOOD}),
        "longer than 1000 bytes",
    ),
    "a name twice": (
        with_block(block_of([(b"", header()), (b"x", GOOD), (b"x", GOOD)])),
        "b'x' is listed twice",
    ),
    "names out of order": (
        with_block(block_of([(b"", header()), (b"y", GOOD), (b"x", GOOD)])),
        "b'x' is listed twice or out of order",
    ),
    "a block twice": (
        with_block(FIRST, [(b"", varint(0) + varint(len(FIRST)))] * 2),
        "two blocks of the index overlap",
    ),
    "more restarts than bytes": (with_block(FIRST[:-4] + b"\xff" * 4), "restart points"),
    "a block of nothing": (with_block(b""), "restart points"),
    "a shared beginning of nothing": (
        with_block(varint(1) + varint(0) + varint(0) + bytes(8)),
        "does not fit into its block",
    ),
    "an entry over the end": (
        with_block(varint(0) + varint(1) + varint(90) + b"x" + bytes(8)),
        "does not fit into its block",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_named(what):
    index, said = REFUSED[what]
    with pytest.raises(ZooError, match=said):
        read(index)


def test_the_good_tables_that_the_bad_ones_differ_from_are_read():
    assert read(table(ENTRIES)).keys() == {"x", "y"}
    assert read(one()).keys() == {"x"}
    assert read(with_block(block_of(list(ENTRIES.items())))).keys() == {"x", "y"}


def test_every_truncation_is_refused():
    index, data = pack(WEIGHTS, per_block=2)
    for length in range(len(index)):
        with pytest.raises(ZooError):
            read(index[:length], data)
    for length in range(len(data)):
        with pytest.raises(ZooError, match="its data file at byte"):
            read(index, data[:length])


def read_or_refuse(index, data):
    """Whatever `index` says, tensors are pieces of `data` that share none of it."""
    try:
        tensors = read(index, data)
    except ZooError:
        return None
    pieces = [bytes(t.reshape(-1).view(torch.uint8).numpy()) for t in tensors.values()]
    assert sum(map(len, pieces)) <= len(data)
    assert all(piece in bytes(data) for piece in pieces)
    return tensors


BYTE_FLIPS = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), min_size=1, max_size=4)
ANY_NUMBER = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))


def flipped(data, flips):
    out = bytearray(data)
    for at, bits in flips:
        out[at % len(out)] ^= bits
    return bytes(out)


@given(flips=BYTE_FLIPS)
def test_flipped_bytes_of_an_index_never_pass_its_checksums(flips):
    index, data = pack(WEIGHTS, per_block=2)
    tensors = read_or_refuse(flipped(index, flips), data)
    assert tensors is None or same(tensors, WEIGHTS)  # the metaindex block is never looked at


@given(flips=BYTE_FLIPS, mapped=st.booleans())
def test_flipped_bytes_under_right_checksums_are_refused_or_stay_in_the_data_file(flips, mapped):
    entries, data = bundles.entries_of(WEIGHTS)
    data = bytearray(data) if mapped else data
    read_or_refuse(with_block(flipped(block_of(list(entries.items())), flips)), data)


@given(flips=BYTE_FLIPS)
def test_flipped_places_of_blocks_are_refused(flips):
    entries, data = bundles.entries_of(WEIGHTS)
    block = block_of(list(entries.items()))
    listed = block_of([(b"x", varint(0) + varint(len(block)))])
    read_or_refuse(with_block(block, listed=flipped(listed, flips)), data)


@given(
    dtype=st.sampled_from([*bundles.CODES.values(), 7]),
    shape=st.lists(ANY_NUMBER, max_size=4),
    offset=ANY_NUMBER,
    size=ANY_NUMBER,
    shard=st.sampled_from([0, 0, 0, 1, HUGE]),
)
@example(dtype=1, shape=[0, 2**61], offset=0, size=0, shard=0)
@example(dtype=7, shape=[], offset=3, size=HUGE, shard=0)
def test_whatever_an_entry_says_its_tensor_stays_in_the_data_file(**fields):
    read_or_refuse(one(**fields), DATA)
