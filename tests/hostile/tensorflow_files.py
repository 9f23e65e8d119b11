"""TensorFlow's tables and bundles: places outside of the file, circles, bombs, and shapes beyond memory."""

from __future__ import annotations

import struct

import numpy as np
import tf_writer as w

from hostile.rows import Files, Hostile, one

_WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
_V1 = w.v1({"w": _WEIGHTS})
_HUGE = 1 << 62


# --- V1 --------------------------------------------------------------------------------------------------------------


def _v1(shape: tuple[int, ...], values: bytes = b"", box: w.Box | None = None, kind: int = 1) -> bytes:
    extents = w.slice_message(box, len(shape))
    meta = w.message((1, b"w"), (2, w.shape_message(shape)), (3, kind), (4, extents))
    saved = w.message((1, b"w"), (2, extents), (3, values))
    return w.table([(b"", w.message((1, w.message((1, meta))))), (b"\0w\0\1", w.message((2, saved)))])


def _with_footer(meta: tuple[int, int], index: tuple[int, int]) -> bytes:
    return _V1[:-48] + w.footer(meta, index)


def _index(*blocks: tuple[bytes, int, int]) -> bytes:
    """The table of a valid file behind an index of its own."""
    body = _V1[:-48]
    index = w.block(w.contents([(key, w.varint(at) + w.varint(size)) for key, at, size in blocks], 1))
    return body + index + w.footer((0, 0), (len(body), len(index) - 5))


def _names_itself() -> bytes:
    """An index whose one entry is a handle of the index."""
    size = len(w.contents([(b"a", b"\0\0")]))
    return w.block(w.contents([(b"a", w.varint(0) + w.varint(size))])) + w.footer((0, size), (0, size))


def _first_block(raw: bytes, compression: int = 0) -> bytes:
    """A table of one block that holds these bytes."""
    stored = raw + bytes([compression])
    block = stored + struct.pack("<I", w.masked(stored))
    index = w.block(w.contents([(b"~", w.varint(0) + w.varint(len(raw)))], 1))
    meta = w.block(w.contents([]))
    at = len(block) + len(meta)
    return block + meta + index + w.footer((len(block), len(meta) - 5), (at, len(index) - 5))


_COPIES = w.varint(1 << 30) + b"\0a" + bytes([63 << 2 | 2, 1, 0]) * 20_000  # 64 bytes each, from one byte back
_RECORD = b"\0" + w.varint(1) + w.varint(1 << 40) + b"a"

V1: dict[str, Hostile] = {
    "v1: index outside of the file": one("does not fit", _with_footer((0, 0), (_HUGE, 8))),
    "v1: index of 2^62 bytes": one("does not fit", _with_footer((0, 0), (0, _HUGE))),
    "v1: block outside of the file": one("does not fit", lambda: _index((b"~", len(_V1) * 2, 8))),
    "v1: block of 2^62 bytes": one("does not fit", lambda: _index((b"~", 0, _HUGE))),
    "v1: index that names itself": one("but of no TensorFlow checkpoint", _names_itself),
    "v1: one block 1,000 times": one(
        "begins before byte", lambda: _index(*((b"k%04d" % i, 0, _first_size()) for i in range(1000)))
    ),
    "v1: varint without an end": one("is longer than ten bytes", _V1[:-48] + b"\xff" * 40 + w.MAGIC),
    "v1: Snappy of 2^40 bytes": one("bytes of memory", lambda: _first_block(w.varint(1 << 40) + b"\0a", 1)),
    "v1: Snappy of 1 GB by copies": one("bytes of memory", lambda: _first_block(_COPIES, 1)),
    "v1: Snappy from before the beginning": one(
        "copies from 9 bytes back", lambda: _first_block(w.varint(8) + b"\0a" + bytes([6 << 2 | 2, 9, 0]), 1)
    ),
    "v1: Snappy literal beyond the block": one(
        "which do not fit", lambda: _first_block(w.varint(8) + bytes([63 << 2]) + b"\xff\xff\xff\x7f", 1)
    ),
    "v1: unknown compression": one("has compression 7", lambda: _first_block(b"x" * 16, 7)),
    "v1: 2^31 restarts": one("restarts do not fit", lambda: _first_block(b"x" * 12 + struct.pack("<I", 1 << 31))),
    "v1: value of 2^40 bytes": one(
        "it claims 1 + 1099511627776 bytes, 1 are left", lambda: _first_block(_RECORD + struct.pack("<II", 0, 1))
    ),
    "v1: key from no key": one(
        "it shares 5 bytes of a key of 0", lambda: _first_block(b"\5\1\0a" + struct.pack("<II", 0, 1))
    ),
    "v1: 2^62 elements": one("has an impossible shape", lambda: _v1((_HUGE,))),
    "v1: 2^32 x 2^32 elements": one("has an impossible shape", lambda: _v1((1 << 32, 1 << 32))),
    "v1: 2^62 x 0 elements": one("has an impossible shape", lambda: _v1((_HUGE, 0))),
    "v1: shape of -1": one("has a negative dimension", lambda: _v1((-1,))),
    "v1: 100 dimensions": one("has 100 dimensions", lambda: _v1((1,) * 100)),
    "v1: 2^40 elements, none there": one("shape (1099511627776,)", lambda: _v1((1 << 40,))),
    "v1: slice outside of its tensor": one(
        "leaves a dimension of 3", lambda: _v1((3,), w.v1_values(_WEIGHTS[0]), [(_HUGE, 4)])
    ),
    "v1: slice from before its tensor": one(
        "leaves a dimension of 3", lambda: _v1((3,), w.v1_values(_WEIGHTS[0]), [(-1, 4)])
    ),
    "v1: slice that leaves a gap": one("leave a gap", lambda: _v1((9,), w.v1_values(_WEIGHTS[0]), [(1, 4)])),
    "v1: type that is none": one("has data type 9999", lambda: _v1((3,), kind=9999)),
    "v1: checksum that is wrong": one("fails its checksum", _V1[:20] + b"\xff" + _V1[21:]),
    "v1: shard 0 of 99999": Hostile("is one of 99999 files", lambda: {"m-00000-of-99999": _V1}, "m-00000-of-99999"),
    "v1: shards that are not there": Hostile("1 of the 2 files", lambda: {"m-00000-of-00002": _V1}, "m-00000-of-00002"),
}


def _first_size() -> int:
    """Bytes of the one block of a valid file, which begins it: its index's one entry says so."""
    return _V1.index(w.block(w.contents([]))) - 5


# --- V2 --------------------------------------------------------------------------------------------------------------


def _v2(reason: str, shape: tuple[int, ...] = (3, 4), header: bytes | None = None, **fields: int) -> Hostile:
    """A bundle of one tensor, some of whose fields are replaced."""

    def make() -> Files:
        data = _WEIGHTS.tobytes()
        numbers = {"kind": 1, "shard": 0, "offset": 0, "size": len(data)} | fields
        entry = w.message(
            (1, numbers["kind"]),
            (2, w.shape_message(shape)),
            *((place, numbers[name]) for place, name in ((3, "shard"), (4, "offset"), (5, "size"))),
            (6, w.Fixed32(w.masked(data))),
        )
        index = w.table([(b"", w.header() if header is None else header), (b"w", entry)])
        return {"m.index": index, "m.data-00000-of-00001": data}

    return Hostile(reason, make, "m.index")


def _shared() -> Files:
    data = _WEIGHTS.tobytes()
    entry = w.entry(_WEIGHTS, (3, 4), 1)
    return {"m.index": w.table([(b"", w.header()), (b"v", entry), (b"w", entry)]), "m.data-00000-of-00001": data}


def _slices() -> Files:
    pieces = [(7, w.slice_message([(i, 0)], 1)) for i in range(5000)]
    entry = w.message((1, 1), (2, w.shape_message((5000,))), *pieces)
    return {"m.index": w.table([(b"", w.header()), (b"w", entry)]), "m.data-00000-of-00001": b""}


def _state(path: str) -> Hostile:
    return Hostile(
        "names a file outside its folder",
        lambda: {"checkpoint": b'model_checkpoint_path: "' + path.encode() + b'"\n', "m": _V1},
        "",
    )


V2: dict[str, Hostile] = {
    "v2: 2^62 elements": _v2("has an impossible shape", (_HUGE,)),
    "v2: 2^32 x 2^32 elements": _v2("has an impossible shape", (1 << 32, 1 << 32)),
    "v2: 2^40 elements over 48 bytes": _v2("shape (1099511627776,)", (1 << 40,)),
    "v2: shape of -1": _v2("has a negative dimension", (-1,)),
    "v2: offset of 2^62": _v2("lies outside it", offset=_HUGE),
    "v2: offset of -1": _v2("lies outside it", offset=-1),
    "v2: size of 2^62": _v2("lies outside it", size=_HUGE),
    "v2: size of -48": _v2("lies outside it", size=-48),
    "v2: offset and size that wrap around": _v2("lies outside it", offset=(1 << 63) - 1, size=(1 << 63) - 1),
    "v2: data file -1": _v2("data file -1 of 1", shard=-1),
    "v2: data file 2^31": _v2("data file 2147483648 of 1", shard=1 << 31),
    "v2: 2^31 data files": _v2("its header says 2147483648 data files", header=w.header(1 << 31)),
    "v2: byte order 7": _v2("says byte order 7", header=w.header(1, 7)),
    "v2: another version's": _v2(
        "written for another version", header=w.message((1, 1), (3, w.message((1, 1), (2, 1 << 30))))
    ),
    "v2: two tensors over the same bytes": Hostile("belongs to another tensor too", _shared, "m.index"),
    "v2: 5,000 slices of nothing": Hostile("5000 slices", _slices, "m.index"),
    "v2: index without its data": Hostile(
        "lacks 1 of its 1 data files", lambda: {"m.index": _shared()["m.index"]}, "m"
    ),
    **{
        f"v2: state file that names {path}": _state(path)
        for path in ("../outside/secret", "a/../../outside/secret", "..", "..\\\\outside\\\\secret", "m\\000")
    },
}

TENSORFLOW = V1 | V2
