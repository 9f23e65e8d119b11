"""TensorFlow's tables: blocks and messages changed, with the checksums of what was changed made right.

Three depths: bytes of a file, whose checksums then fail; bytes of a block under a right checksum; and fields of the
messages, with the whole table written anew. A V2 bundle's tensors have checksums of their own, in its index.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator

import numpy as np
import tf_writer as w

from fuzzing.damage import INTERESTING, mutate_bytes, mutate_file, times
from fuzzing.models import mutate_model
from fuzzing.seeds import GOLDEN, Files, Format, Seed, Tensors, model

# Which fields hold messages: V1 values, V2 entries and header.
_V1_SCHEMA = {1: {1: {2: {2: {}}, 4: {1: {}}}, 2: {}}, 2: {2: {1: {}}, 3: {}}}
_ENTRY_SCHEMA = {2: {2: {}}, 7: {1: {}}}
_HEADER_SCHEMA = {3: {}}
_SHARD, _OFFSET, _SIZE, _CRC32C = 3, 4, 5, 6

Tree = list[list]  # of [field number, wire type, int | bytes | Tree]


# --- seeds -----------------------------------------------------------------------------------------------------------


def _tensors() -> tuple[Tensors, dict]:
    """Several dtypes, and a variable in three slices."""
    rng = np.random.default_rng(0)
    tensors = {f"block{i}/weights": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 7)}
    tensors |= {"step": np.array(-5), "flags": np.array([True, False]), "half": np.ones(3, np.float16)}
    return tensors, {"block5/weights": [((0, 4), (0, 3)), ((4, 1), (0, 1)), ((4, 1), (1, 2))]}


def _golden(folder: str) -> Seed:
    paths = sorted((GOLDEN / "checkpoints" / folder).iterdir())
    files = {path.name: path.read_bytes() for path in paths if path.name != "checkpoint"}
    return Seed(folder, files, next(name for name in files if name.endswith((".index", ".ckpt", "-of-00003"))))


def v1_seeds() -> list[Seed]:
    tensors, slices = _tensors()
    return [
        _golden("v1_dtypes"),
        _golden("v1_sharded"),
        Seed("v1 blocks", {"m": w.v1(tensors, slices, block_size=200)}),
        Seed("v1 Snappy", {"m": w.v1(tensors, block_size=300, compression=1)}),
        model("v1 model", "slim", lambda tensors: {"m": w.v1(tensors, block_size=2000)}),
    ]


def _bundle(tensors: Tensors, *given: object, **options: object) -> Files:
    return {f"m{suffix}": body for suffix, body in w.bundle(tensors, *given, **options).items()}


def v2_seeds() -> list[Seed]:
    tensors, slices = _tensors()
    return [
        _golden("v2_dtypes"),
        _golden("v2_objects"),
        Seed("v2 blocks", _bundle(tensors, slices, block_size=200, shards=3, padding=3), "m.index"),
        Seed("v2 Snappy", _bundle(tensors, slices, block_size=300, compression=1, big_endian=True), "m.index"),
        model("v2 model", "slim", _bundle, "m.index"),
    ]


# --- mutations -------------------------------------------------------------------------------------------------------


def tables(files: Files) -> list[str]:
    """Which of the files are tables."""
    return sorted(name for name, body in files.items() if body[-8:] == w.MAGIC)


def mutate_block(seed: Seed, rng: random.Random) -> Files:
    """Change a block's bytes, or its compression, and make its checksum right."""
    files = dict(seed.files)
    name = rng.choice(tables(files))
    blocks = [[key, body] for key, body in take_apart(files[name])]
    compression = 0
    kind = rng.randrange(8)
    if kind == 0:
        compression = 1  # as Snappy's literals
    elif kind == 1:
        blocks.append(list(rng.choice(blocks)))
    elif kind == 2:
        rng.shuffle(blocks)
    else:
        chosen = rng.choice(blocks)
        chosen[1] = mutate_bytes(chosen[1], rng)
    if kind == 3:  # blocks named raw bytes as Snappy data: the decoder reads them
        files[name] = _relabel_first_block(bytearray(w.table_of_blocks(map(tuple, blocks))), blocks[0][1])
        return files
    body = w.table_of_blocks(map(tuple, blocks), compression)
    if kind == 4:  # the index itself
        footer = body[-48:]
        at, size = _handle(footer, _handle(footer, 0)[2])[:2]
        index = mutate_bytes(body[at : at + size], rng)
        body = body[:at] + w.block(index) + w.footer(_handle(footer, 0)[:2], (at, len(index)))
    files[name] = body
    return files


def mutate_fields(seed: Seed, rng: random.Random) -> Files:
    """Change fields of the messages, or keys, and write the table anew."""
    files = dict(seed.files)
    name = rng.choice(tables(files))
    records = [list(record) for _, block in take_apart(files[name]) for record in entries(block)]
    for _ in times(rng):
        chosen = rng.choice(records)
        kind = rng.randrange(10)
        if kind == 0:
            chosen[0] = mutate_bytes(chosen[0], rng)
        elif kind == 1:
            records.insert(rng.randrange(len(records) + 1), list(chosen))
        elif kind == 2 and len(records) > 1:
            records.remove(chosen)
        elif kind == 3:
            chosen[1] = rng.choice(records)[1]
        elif kind == 4:
            chosen[1] = mutate_bytes(chosen[1], rng)
        else:
            is_index = name.endswith(".index")
            schema = _V1_SCHEMA if not is_index else _HEADER_SCHEMA if chosen[0] == b"" else _ENTRY_SCHEMA
            try:
                tree = parse(chosen[1], schema)
            except (ValueError, IndexError):  # an earlier mutation broke this one
                continue
            mutate_tree(tree, rng)
            if is_index and rng.random() < 0.7:
                _make_right(tree, files)
            chosen[1] = encode(tree)
    files[name] = _table(records, rng)
    return files


def mutate_data(seed: Seed, rng: random.Random) -> Files:
    """Change a tensor's bytes in a data file, and its checksum in the index."""
    files = dict(seed.files)
    (name,) = tables(files)
    records = [list(record) for _, block in take_apart(files[name]) for record in entries(block)]
    trees = {i: parse(record[1], _ENTRY_SCHEMA) for i, record in enumerate(records) if record[0]}
    chosen = rng.choice([i for i, tree in trees.items() if _value(tree, _SIZE)])
    data_file = _data_file(trees[chosen], files)
    body = bytearray(files[data_file])
    start, size = _value(trees[chosen], _OFFSET), _value(trees[chosen], _SIZE)
    pieces = [rng.randbytes(size), bytes(size), struct.pack("<f", rng.choice([np.nan, np.inf, -1, 3e38])) * size]
    pieces.append(mutate_bytes(bytes(body[start : start + size]), rng) + bytes(size))
    body[start : start + size] = rng.choice(pieces)[:size]
    files[data_file] = bytes(body)
    _make_right(trees[chosen], files)
    records[chosen][1] = encode(trees[chosen])
    files[name] = _table(records, rng)
    return files


def _table(records: list[list], rng: random.Random) -> bytes:
    return w.table(
        [(key, value) for key, value in records],
        block_size=rng.choice([100, 1000, 262144]),
        compression=rng.choice([0, 0, 1]),
        sort=rng.random() < 0.9,
    )


def _make_right(tree: Tree, files: Files) -> None:
    """Give an entry of an index the checksum of the bytes that it names, wherever they are."""
    name = _data_file(tree, files)
    if name:
        start = _value(tree, _OFFSET)
        crc = w.masked(files[name][start : start + _value(tree, _SIZE)])
        tree[:] = [field for field in tree if field[0] != _CRC32C] + [[_CRC32C, 5, struct.pack("<I", crc)]]


def _data_file(tree: Tree, files: Files) -> str | None:
    return next((name for name in files if f".data-{_value(tree, _SHARD):05d}-of-" in name), None)


def _value(tree: Tree, number: int) -> int:
    return next((value for field, wire, value in tree if field == number and wire == 0 and isinstance(value, int)), 0)


def mutate_tree(tree: Tree, rng: random.Random) -> None:
    """Change one field somewhere in a message."""
    places = [(parent, i) for parent in _walk(tree) for i in range(len(parent))]
    if not places:
        tree.append([rng.randint(1, 16), 0, rng.choice(INTERESTING)])
        return
    parent, i = rng.choice(places)
    field = parent[i]
    kind = rng.randrange(8)
    if kind == 0:
        del parent[i]
    elif kind == 1:
        parent[i:i] = [field] * rng.choice([1, 2, 9, 300])
    elif kind == 2:
        field[0] = rng.choice([*range(20), 1 << 29])
    elif kind == 3:
        field[1] = rng.randrange(8)
        field[2] = rng.choice([b"", rng.randbytes(8), rng.choice(INTERESTING)])
    elif isinstance(field[2], bytes):
        field[2] = mutate_bytes(field[2], rng)
    elif isinstance(field[2], int):
        field[2] = rng.choice([*INTERESTING, field[2] + 1, field[2] - 1, field[2] * 2])
    else:
        rng.shuffle(field[2])


# --- taking tables and messages apart --------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _unpacked(body: bytes, offset: int, size: int) -> bytes:
    stored = body[offset : offset + size]
    if not body[offset + size]:
        return stored
    _, at = _varint(stored, 0)
    out = b""
    while at < len(stored):  # our writer's Snappy: literals with two bytes of length
        length = int.from_bytes(stored[at + 1 : at + 3], "little") + 1
        out += stored[at + 3 : at + 3 + length]
        at += 3 + length
    return out


@functools.cache
def take_apart(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The data blocks of a valid table, as (last key, contents)."""
    footer = body[-48:]
    index = _unpacked(body, *_handle(footer, _handle(footer, 0)[2])[:2])
    return tuple((key, _unpacked(body, *_handle(value, 0)[:2])) for key, value in entries(index))


@functools.cache
def entries(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The records of a valid block."""
    end = len(block) - 4 * (int.from_bytes(block[-4:], "little") + 1)
    at, key, found = 0, b"", []
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        size, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        found.append((key, block[at + unshared : at + unshared + size]))
        at += unshared + size
    return tuple(found)


def _relabel_first_block(out: bytearray, first: bytes) -> bytes:
    out[len(first)] = 1
    out[len(first) + 1 : len(first) + 5] = struct.pack("<I", w.masked(first + b"\1"))
    return bytes(out)


def parse(data: bytes, schema: dict) -> Tree:
    """A message as a tree, by its schema."""
    at, tree = 0, []
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            tree.append([number, wire, value])
            continue
        if wire not in (1, 2, 5):
            raise ValueError(wire)
        length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        piece = data[at : at + length]
        at += length
        nested = wire == 2 and number in schema
        tree.append([number, wire, parse(piece, schema[number]) if nested else piece])
    return tree


def encode(tree: Tree) -> bytes:
    out = b""
    for number, wire, value in tree:
        out += w.varint(number << 3 | wire)
        if isinstance(value, int):
            out += w.varint(value)
        else:
            body = encode(value) if isinstance(value, list) else value
            out += (w.varint(len(body)) if wire == 2 else b"") + body
    return out


def _walk(tree: Tree) -> Iterator[Tree]:
    yield tree
    for _, _, value in tree:
        if isinstance(value, list):
            yield from _walk(value)


V1 = Format(v1_seeds, (mutate_file, mutate_block, mutate_fields, mutate_fields, mutate_model), damage=mutate_file)
V2 = Format(
    v2_seeds, (mutate_file, mutate_block, mutate_fields, mutate_fields, mutate_data, mutate_model), damage=mutate_file
)
