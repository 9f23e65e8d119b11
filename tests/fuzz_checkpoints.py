"""Mutate checkpoints and read them: nothing may come out but a CheckpointError or arrays, quickly and in little memory.

    python tests/fuzz_checkpoints.py --count 10000 --seed 0 [--format v1|v2|torch_zip|h5|...]
    python tests/fuzz_checkpoints.py --count 3000 --format h5 --h5py

Three depths for TensorFlow: bytes of a file (checksums then fail), bytes of a table's block with its checksum made
right again, and fields of the messages inside with the whole table written anew. Three for PyTorch: bytes of a file,
members of its container with checksums made right, and opcodes of its pickles. Two for Keras: bytes, and addresses,
sizes and kinds in the metadata of its HDF5, also inside a zip whose checksum is right. A mutation of the first kind
must never change a value: it is refused, or what comes back is what was written. Formats that have no checksum of their
own may come back with other values; tar archives and safetensors get the first kind alone.

Two for NumPy: bytes of a file, and headers of its arrays with checksums made right.

With `--h5py`, mutants of HDF5 are read by h5py, too, in a child process: an array that both return must be the same,
and crashes and hangs of libhdf5, which this project does not use, are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import pickletools
import random
import re
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tf_writer as w
import torch_writer as t
from safetensors.numpy import save

from resforward.checkpoints import read_checkpoint
from resforward.checkpoints.files import Budget, File
from resforward.checkpoints.hdf5 import Tree as Hdf5Tree
from resforward.checkpoints.torch_values import NAMES
from resforward.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
GOLDEN_TORCH = Path(__file__).parent / "golden" / "torch"
KERAS = Path(__file__).parent / "golden" / "keras"
FORMATS = ["v1", "v2", "tar", "safetensors", "torch_zip", "torch_stream", "torch_tar", "h5", "keras", "npz"]
SECONDS = 2.0
FREE_BYTES = 200 << 20
INTERESTING = [0, 1, 2, 7, 8, 127, 128, 255, 256, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32]
INTERESTING += [1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -2, -(1 << 31)]

# Which fields hold messages: V1 values, V2 entries and header.
V1_SCHEMA = {1: {1: {2: {2: {}}, 4: {1: {}}}, 2: {}}, 2: {2: {1: {}}, 3: {}}}
ENTRY_SCHEMA = {2: {2: {}}, 7: {1: {}}}
HEADER_SCHEMA = {3: {}}

Files = dict[str, bytes]
Tree = list[list]  # of [field number, wire type, int | bytes | Tree]


@dataclass
class Seed:
    """A valid checkpoint, what to pass to the reader, and the table to take apart."""

    label: str
    files: Files
    entry: str
    values: dict[str, np.ndarray]

    @property
    def is_tensorflow(self) -> bool:
        return self.label[:2] in ("v1", "v2")

    @property
    def is_keras(self) -> bool:
        return self.label.startswith(("h5", "keras"))

    @property
    def is_v1(self) -> bool:
        return self.label.startswith("v1")

    @property
    def is_torch(self) -> bool:
        return self.label.startswith("torch")

    @property
    def has_checksums(self) -> bool:
        zipped = self.label.startswith(("torch_zip", "npz"))
        return self.is_tensorflow or (zipped and "no_checksums" not in self.label)

    def tables(self) -> list[str]:
        return [name for name, body in self.files.items() if body[-8:] == w.MAGIC]


def seeds() -> list[Seed]:
    """The golden checkpoints, and a few of our own: many blocks, Snappy, slices, several files."""
    found: dict[str, Files] = {}
    for folder in sorted(path for path in GOLDEN.iterdir() if path.is_dir()):
        found[folder.name] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "checkpoint"}
    rng = np.random.default_rng(0)
    tensors = {f"block{i}/weights": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 30)}
    tensors |= {"step": np.array(-5), "flags": np.array([True, False]), "half": np.ones(3, np.float16)}
    sliced = {"block9/weights": [((0, 4), (0, 3)), ((4, 5), (0, 1)), ((4, 5), (1, 2))]}
    found["v1_blocks"] = {"m": w.v1(tensors, sliced, block_size=200)}
    found["v1_snappy"] = {"m": w.v1(tensors, block_size=300, compression=1)}
    for label, options in {
        "v2_blocks": {"block_size": 200, "shards": 3, "padding": 3},
        "v2_snappy": {"block_size": 300, "compression": 1, "big_endian": True},
    }.items():
        bundle = w.bundle(tensors, sliced, **options)
        found[label] = {f"m{suffix}": body for suffix, body in bundle.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, body in {**found["v2_blocks"], "x" * 120: b""}.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    found["tar"] = {"m": packed.getvalue()}
    found["tar_gzip"] = {"m": gzip.compress(packed.getvalue(), 1, mtime=0)}
    found["safetensors"] = {"m": save(tensors)}
    found |= torch_seeds()
    for label, name in {
        "h5_legacy": "weights.h5",
        "h5_model": "model.h5",
        "h5_paths": "resnet.weights.h5",
        "h5_chunks": "chunks.h5",
        "keras": "resnet.keras",
        "keras_2": "keras2.keras",
    }.items():
        found[label] = {"m": (KERAS / name).read_bytes()}
    found |= npz_seeds()
    result = []
    for label, files in found.items():
        entry = next((name for name in sorted(files) if files[name][-8:] == w.MAGIC), "m")
        with _written(files) as folder:
            values = {name: array.copy() for name, array in read_checkpoint(folder / entry).items()}
        result.append(Seed(label, files, entry, values))
    return result


def npz_seeds() -> dict[str, Files]:
    """What NumPy wrote, stored and deflated; arrays in both orders, and some that are no weights."""
    rng = np.random.default_rng(2)
    arrays = {f"unit{i:02d}/kernel": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 8)}
    arrays |= {"turned": np.asfortranarray(rng.normal(size=(3, 4))), "big": np.ones(3, ">f4"), "text": np.array("a")}
    found = {}
    for write in (np.savez, np.savez_compressed):
        packed = io.BytesIO()
        write(packed, **arrays)
        found[f"npz_{write.__name__}"] = {"m": packed.getvalue()}
    return found


def mutate_headers(seed: Seed, rng: random.Random) -> Files:
    """Change the headers of a NumPy archive's arrays, with checksums made right."""
    with zipfile.ZipFile(io.BytesIO(seed.files["m"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    head, numbers = members[name][:128], members[name][128:]
    if rng.random() < 0.5:
        shape = ", ".join(str(rng.choice([*INTERESTING, *range(9)])) for _ in range(rng.randrange(10)))
        head = re.sub(rb"\([0-9, ]*\)", f"({shape})".encode(), head, count=1)
    else:
        head = mutate_bytes(head, rng)
    members[name] = head + numbers
    return {"m": t.archive(members, wide=rng.random() < 0.5)}


def torch_seeds() -> dict[str, Files]:
    """What PyTorch wrote, and the same without a memo, so that an opcode can be moved without breaking another."""
    found: dict[str, Files] = {}
    for path in sorted(GOLDEN_TORCH.glob("*.pth")):
        if path.stem != "module":  # code, which is never read
            kind = "tar" if path.stem == "tar" else "stream" if path.stem.endswith("_stream") else "zip"
            found[f"torch_{kind}_{path.stem}"] = {"m": path.read_bytes()}
    rng = np.random.default_rng(1)
    arrays = {f"layer{i}.weight": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 8)}
    arrays |= {"steps": np.array(5), "flags": np.array([True, False]), "half": np.ones((2, 0), np.float16)}
    made = t.model(arrays)
    made.tensors["turned"] = t.tensor(t.storage("5", "Float", 18), (3, 6), (1, 3))
    made.tensors["repeated"] = t.tensor(t.storage("5", "Float", 18), (4, 3), (0, 2), 1)
    inner = t.dict_of([(t.number(0), t.dict_of({"momentum": made.tensors["half"]}))])
    value = t.dict_of(
        {"epoch": t.number(7), "optimizer": inner, "names": t.list_of(t.text("a")), "model": t.state_dict(made)}
    )
    packed = {name: t.deflated(body) for name, body in t.zip_members(t.pickled(value), made.storages, b"big").items()}
    found["torch_zip_plain"] = {"m": t.zipped(value, made.storages)}
    found["torch_zip_deflated"] = {"m": t.archive(packed, wide=False)}
    found["torch_stream_plain"] = {"m": t.stream(value, made.storages)}
    views = t.list_of(t.numbers((50, 0, 1, 2)))
    found["torch_tar_plain"] = {"m": t.tarred(t.tar_members(arrays, views))}
    return found


# --- mutations -------------------------------------------------------------------------------------------------------


def mutate_bytes(body: bytes, rng: random.Random) -> bytes:
    """Change one place of some bytes."""
    out = bytearray(body)
    at = rng.randrange(len(out) + 1)
    kind = rng.randrange(7)
    if kind == 0 or not out:
        out[at:at] = rng.randbytes(rng.randint(1, 8))
    elif kind == 1:
        del out[at : at + rng.choice([1, 2, 4, 8, 64])]
    elif kind == 2:
        out[at : at + 10] = w.varint(rng.choice(INTERESTING))
    elif kind == 3:
        number = struct.pack("<I", rng.choice(INTERESTING) & 0xFFFFFFFF)
        out[at : at + 4] = number
    elif kind == 4:
        source = rng.randrange(len(out))
        out[at:at] = out[source : source + rng.choice([1, 5, 40])]
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def mutate_file(seed: Seed, rng: random.Random) -> Files:
    """Damage a file as transport and disks do."""
    files = dict(seed.files)
    name = rng.choice(sorted(files))
    body = files[name]
    kind = rng.randrange(8)
    if kind == 0:
        files[name] = body[: rng.randrange(len(body))]
    elif kind == 1:
        files[name] = body + rng.randbytes(rng.randint(1, 600))
    elif kind == 2 and len(files) > 1:
        del files[name]
    elif kind == 3:
        at = rng.randrange(len(body))
        files[name] = body[:at] + bytes(min(512, len(body) - at)) + body[at + 512 :]
    elif kind == 4:
        files[name] = body[:-48] + mutate_bytes(body[-48:-8], rng)[:40].ljust(40, b"\0") + body[-8:]
    else:
        files[name] = mutate_bytes(body, rng)
    return files


def mutate_block(seed: Seed, rng: random.Random) -> Files:
    """Change a block's bytes, or its compression, and make its checksum right."""
    files = dict(seed.files)
    name = rng.choice(seed.tables())
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
        out = bytearray(w.table_of_blocks(map(tuple, blocks)))
        files[name] = _relabel_first_block(out, blocks[0][1])
        return files
    body = w.table_of_blocks(map(tuple, blocks), compression)
    if kind == 4:  # the index itself
        footer = body[-48:]
        at, size = _handle(footer, _handle(footer, 0)[2])[:2]
        index = mutate_bytes(body[at : at + size], rng)
        meta = _handle(footer, 0)[:2]
        body = body[:at] + w.block(index) + w.footer(meta, (at, len(index)))
    files[name] = body
    return files


def mutate_fields(seed: Seed, rng: random.Random) -> Files:
    """Change fields of the messages, or keys, and write the table anew."""
    files = dict(seed.files)
    name = rng.choice(seed.tables())
    records = [list(record) for _, block in take_apart(files[name]) for record in entries(block)]
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
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
            schema = V1_SCHEMA if seed.is_v1 else HEADER_SCHEMA if chosen[0] == b"" else ENTRY_SCHEMA
            try:
                tree = parse(chosen[1], schema)
            except (ValueError, IndexError):  # an earlier mutation broke this one
                continue
            mutate_tree(tree, rng)
            chosen[1] = encode(tree)
    files[name] = w.table(
        [(key, value) for key, value in records],
        block_size=rng.choice([100, 1000, 262144]),
        compression=rng.choice([0, 0, 1]),
        sort=rng.random() < 0.9,
    )
    return files


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


def mutate_members(seed: Seed, rng: random.Random) -> Files:
    """Change members of a PyTorch container, and what it says of them, with checksums made right."""
    members: dict[str, bytes | t.Odd] = dict(parts(seed))
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(sorted(members))
        body = members[name].data if isinstance(members[name], t.Odd) else members[name]
        kind = rng.randrange(9)
        if kind == 0:
            del members[name]
            if not members:
                return seed.files
        elif kind == 1:
            members[name] = parts(seed)[rng.choice(sorted(parts(seed)))]
        elif kind == 2:
            other = rng.choice(sorted(members))
            members[name], members[other] = members[other], members[name]
        elif kind == 3 and seed.label.startswith("torch_zip"):
            field = rng.choice(["method", "flags", "crc", "size", "packed", "at"])
            number = rng.choice([*INTERESTING, len(body), len(body) + 1]) & ((1 << 63) - 1)
            limit = {"method": 0xFFFF, "flags": 0xFFFF, "crc": 0xFFFFFFFF}.get(field, (1 << 63) - 1)
            members[name] = t.Odd(body)._replace(wide=rng.random() < 0.5, **{field: number & limit})
        elif kind == 4 and seed.label.startswith("torch_zip"):
            members[name] = t.deflated(body)
        elif kind == 5:
            members[rng.choice(["m/data/0", "other/data.pkl", "x" * 300, "m/constants.pkl"])] = body
        else:
            members[name] = mutate_bytes(body, rng)
    return {"m": joined(seed, members, rng)}


def mutate_opcodes(seed: Seed, rng: random.Random) -> Files:
    """Change opcodes of a pickle, or their arguments, and write the container anew."""
    members = parts(seed)
    pickles = [name for name in members if name.endswith(("/data.pkl", "pickle", "stream/4", "stream/5"))]
    name = rng.choice(sorted(pickles))
    body = members[name]
    places = [place for _, _, place in pickletools.genops(body)]
    pieces = [body[start:end] for start, end in zip(places, [*places[1:], len(body)], strict=True)]
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(pieces))
        kind = rng.randrange(10)
        if kind == 0 and len(pieces) > 1:
            del pieces[at]
        elif kind == 1:
            pieces[at:at] = [pieces[at]] * rng.choice([1, 2, 9, 300])
        elif kind == 2:
            other = rng.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == 3:
            start = rng.randrange(len(pieces))
            pieces[at:at] = pieces[start : start + rng.choice([2, 5, 20])]
        elif kind == 4:
            pieces[at] = mutate_bytes(pieces[at], rng)
        elif kind == 5:
            pieces[at] = bytes([rng.randrange(256)])
        else:  # a value of the same kind
            same = [i for i, piece in enumerate(pieces) if piece[:1] in rng.choice(KINDS_OF_OPCODES)]
            if same:
                at = rng.choice(same)
                pieces[at] = other_value(pieces[at], rng)
    members[name] = b"".join(pieces)
    return {"m": joined(seed, members, rng)}


KINDS_OF_OPCODES = [(b"K", b"M", b"J", b"\x8a"), (b"K", b"M", b"J", b"\x8a"), (b"c",), (b"X", b"\x8c")]
TORCH_NAMES = [tuple(path.rsplit(".", 1)) for path in sorted(NAMES)] + [("posix", "system"), ("builtins", "eval")]


def other_value(piece: bytes, rng: random.Random) -> bytes:
    """An opcode that pushes another number, name or string."""
    if piece[:1] == b"c":
        return t.name(*rng.choice(TORCH_NAMES))
    if piece[:1] in (b"X", b"\x8c"):
        return t.text(rng.choice(["0", "1", "storage", "model", "state_dict_ema", "module", "", "\ud800", "x" * 5000]))
    return t.number(rng.choice([*INTERESTING, *range(12)]))


def parts(seed: Seed) -> dict[str, bytes]:
    """The members of a valid PyTorch file; a stream's are its pickles, numbered, and what follows them."""
    body = seed.files["m"]
    if seed.label.startswith("torch_zip"):
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return {info.filename: _entry(archive, info, body) for info in archive.infolist()}
    if seed.label.startswith("torch_tar"):
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            return {info.name: archive.extractfile(info).read() for info in archive}
    found, at = {}, 0
    for i in range(1, 6):
        end = at + max(place for _, _, place in pickletools.genops(body[at:])) + 1
        found[f"stream/{i}"] = body[at:end]
        at = end
    return found | {"stream/6": body[at:]}


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, body: bytes) -> bytes:
    if info.CRC:
        return archive.read(info)
    start = info.header_offset + 30 + sum(struct.unpack_from("<2H", body, info.header_offset + 26))
    return body[start : start + info.file_size]  # zipfile compares with checksums that were left out


def joined(seed: Seed, members: dict[str, bytes | t.Odd], rng: random.Random) -> bytes:
    """Put the members of a PyTorch file together again."""
    if seed.label.startswith("torch_zip"):
        return t.archive(members, wide=rng.random() < 0.8)
    if seed.label.startswith("torch_tar"):
        return t.tarred(members)
    return b"".join(body for _, body in sorted(members.items()))


HDF5_SIGNATURES = re.compile(rb"TREE|SNOD|HEAP|GCOL|\x01\0.\0\x01\0\0\0|\x89HDF", re.DOTALL)


def mutate_hdf5(seed: Seed, rng: random.Random) -> Files:
    """Change numbers in the metadata of an HDF5 file, often into addresses of other blocks."""
    body = seed.files["m"]
    if not seed.label.startswith("keras"):
        return {"m": _mutate_metadata(body, rng)}
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if name == "model.weights.h5":
                member = _mutate_metadata(member, rng)
            elif name == "config.json" and rng.random() < 0.3:
                member = mutate_bytes(member, rng)
            new.writestr(name, member)
    return {"m": packed.getvalue()}


def _mutate_metadata(body: bytes, rng: random.Random) -> bytes:
    out = bytearray(body)
    places = [match.start() for match in HDF5_SIGNATURES.finditer(body)]
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.choice(places) + rng.randrange(rng.choice([24, 100, 600]))
        if at + 8 > len(out):
            continue
        size = rng.choice([1, 2, 4, 8])
        number = rng.choice([*INTERESTING, rng.choice(places), rng.choice(places)])
        old = int.from_bytes(out[at : at + size], "little")
        number = rng.choice([number, number, old + 1, old - 1, old ^ 1 << rng.randrange(8 * size)])
        out[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(out)


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


def take_apart(body: bytes) -> list[tuple[bytes, bytes]]:
    """The data blocks of a valid table, as (last key, contents)."""
    footer = body[-48:]
    index = _unpacked(body, *_handle(footer, _handle(footer, 0)[2])[:2])
    return [(key, _unpacked(body, *_handle(value, 0)[:2])) for key, value in entries(index)]


def entries(block: bytes) -> list[tuple[bytes, bytes]]:
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
    return found


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


# --- running ---------------------------------------------------------------------------------------------------------

Mutation = Callable[[Seed, random.Random], Files]
MUTATIONS: list[Mutation] = [mutate_file, mutate_block, mutate_fields, mutate_fields]
TORCH_MUTATIONS: list[Mutation] = [mutate_file, mutate_members, mutate_opcodes, mutate_opcodes]
NPZ_MUTATIONS: list[Mutation] = [mutate_file, mutate_headers, mutate_headers]
KERAS_MUTATIONS: list[Mutation] = [mutate_file, mutate_hdf5, mutate_hdf5, mutate_hdf5]


@contextlib.contextmanager
def _written(files: Files) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, body in files.items():
            Path(folder, name).write_bytes(body)
        yield Path(folder)


@contextlib.contextmanager
def limits(largest_file: int) -> Iterator[None]:
    """Let the process grow by no more than a checkpoint may cost, so that a larger allocation is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + FREE_BYTES + largest_file * 11 // 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _hangs(*_: object) -> None:
    raise TimeoutError("the reader hangs")


def run_one(seed: Seed, files: Files, exact: bool) -> tuple[str, float]:
    """Read one mutated checkpoint; return what came of it and how long it took, or raise AssertionError."""
    with _written(files) as folder:
        path = folder / seed.entry
        started = time.process_time()  # of this process alone: the machine may be busy
        signal.signal(signal.SIGALRM, _hangs)
        signal.setitimer(signal.ITIMER_REAL, 30 * SECONDS)
        try:
            checkpoint = read_checkpoint(path)
            arrays = dict(checkpoint)
            outcome = "read"
        except CheckpointError:
            outcome = "refused"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        taken = time.process_time() - started
        assert taken < SECONDS, f"took {taken:.1f} s"
        if outcome == "read":
            assert not any(array.flags.writeable for array in arrays.values())
            if exact:
                assert arrays.keys() == seed.values.keys()
                for name, array in arrays.items():
                    np.testing.assert_array_equal(array, seed.values[name])
                outcome = "read, unchanged"
        return outcome, taken


def with_h5py(path: Path) -> tuple[str, dict[str, bytes]]:
    """Read every array of a file by h5py in a child; return how the child ended, and the arrays' bytes by path."""
    import pickle

    import h5py

    read, write = os.pipe()
    child = os.fork()
    if not child:
        found: dict[str, bytes] = {}
        try:
            os.close(read)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libhdf5 prints its own stack
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)

            def visit(name: str, item: object) -> None:
                for each in (item, *item.attrs):
                    with contextlib.suppress(Exception):
                        if each is not item:
                            item.attrs[each]
                        elif isinstance(item, h5py.Dataset) and item.nbytes < 1 << 26:
                            found[name] = np.ascontiguousarray(item[()]).tobytes()

            with contextlib.suppress(Exception), h5py.File(path) as file:
                file.visititems(visit)
            with os.fdopen(write, "wb") as stream:
                pickle.dump(found, stream)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        answer = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end = "hung" if status == -signal.SIGALRM else f"killed by signal {-status}" if status < 0 else "ended"
    return end, pickle.loads(answer) if answer else {}


def compare_with_h5py(seed: Seed, files: Files) -> str:
    """Read a mutant by both readers; an array that both return must be the same."""
    with _written(files) as folder:
        end, theirs = with_h5py(folder / seed.entry)
    file = File("m", memoryview(files[seed.entry]), Budget())
    same = 0
    try:
        tree = Hdf5Tree(file)
        for path in tree.datasets():
            ours = np.ascontiguousarray(tree.array(path)).tobytes()
            assert theirs.get(path, ours) == ours, f"h5py reads other values for {path}"
            same += path in theirs
    except CheckpointError:
        return f"h5py {end}, ours refused after {'some' if same else 'no'} equal arrays"
    return f"h5py {end}, ours read"


def fuzz_against_h5py(count: int, seed: int) -> Counter[str]:
    """Count how both readers end; raise for the first mutant that they read differently."""
    chosen = [each for each in seeds() if each.label.startswith("h5")]
    outcomes: Counter[str] = Counter()
    for case in range(count):
        rng = random.Random(f"h5py/{seed}/{case}")
        victim = rng.choice(chosen)
        try:
            outcome = compare_with_h5py(victim, mutate_hdf5(victim, rng))
        except BaseException as error:
            error.add_note(f"case {case} of seed {seed}: {victim.label}")
            raise
        if "killed" in outcome or "hung" in outcome:
            print(f"case {case}: {victim.label}, {outcome}")
        outcomes[outcome] += 1
    return outcomes


def mutations(victim: Seed) -> list[Mutation]:
    """What can be done to a file of its format."""
    if victim.is_tensorflow:
        return MUTATIONS
    if victim.label.startswith("npz"):
        return NPZ_MUTATIONS
    return TORCH_MUTATIONS if victim.is_torch else KERAS_MUTATIONS if victim.is_keras else [mutate_file]


def fuzz(count: int, seed: int, label: str = "") -> tuple[Counter[str], float]:
    """Run `count` mutations; return the outcomes and the slowest case's seconds.

    The first case that goes wrong is raised, with its number.
    """
    chosen = [each for each in seeds() if each.label.startswith(label)]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with limits(max(len(body) for each in chosen for body in each.files.values())):
        for case in range(count):
            rng = random.Random(f"{seed}/{case}")
            victim = rng.choice(chosen)
            mutation = rng.choice(mutations(victim))
            files = mutation(victim, rng)
            try:
                outcome, taken = run_one(victim, files, exact=victim.has_checksums and mutation is mutate_file)
            except BaseException as error:
                error.add_note(f"case {case} of seed {seed}, label {label!r}: {victim.label}, {mutation.__name__}")
                raise
            outcomes[f"{mutation.__name__}: {outcome}"] += 1
            slowest = max(slowest, taken)
    return outcomes, slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=FORMATS, help="only this format")
    parser.add_argument("--h5py", action="store_true", help="read mutants of HDF5 by h5py, too, and compare")
    args = parser.parse_args()
    if args.h5py:
        for outcome, number in sorted(fuzz_against_h5py(args.count, args.seed).items()):
            print(f"{number:7d}  {outcome}")
        return 0
    fuzz(10, args.seed)  # so that what is imported and cached once is not counted below
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    outcomes, slowest = fuzz(args.count, args.seed, args.format or "")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:7d}  {outcome}")
    print(f"{args.count} cases in {time.perf_counter() - started:.0f} s, the slowest took {slowest:.3f} s")
    print(f"the process grew by {grown:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
