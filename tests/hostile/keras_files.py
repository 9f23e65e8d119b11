"""Keras files: HDF5 that reads other files, runs in circles or grows, and `.keras` archives with code in them."""

from __future__ import annotations

import base64
import io
import json
import marshal
import struct
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import torch_writer as t

from hostile.rows import Hostile, one

_KERNEL = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
_BIAS = np.arange(100, 104, dtype=np.float32)
_AT = "conv1/bias"
_HUGE = 1 << 62


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def _h5(edit: Callable[[h5py.File], object], **options: Any) -> bytes:
    packed = io.BytesIO()
    with h5py.File(packed, "w", **options) as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"kernel", b"bias"]
        group["kernel"], group["bias"] = _KERNEL, _BIAS
        edit(file)
    return packed.getvalue()


def _edited(reason: str | None, edit: Callable[[h5py.File], object], **options: Any) -> Hostile:
    return one(reason, lambda: _h5(edit, **options))


def _instead(reason: str, **options: Any) -> Hostile:
    """Another dataset in the place of a bias."""

    def edit(file: h5py.File) -> None:
        del file[_AT]
        file.create_dataset(_AT, **options)

    return _edited(reason, edit)


def _patched(reason: str, old: bytes, new: bytes, edit: Callable[[h5py.File], object] = lambda file: None) -> Hostile:
    """Bytes changed that h5py does not let one write; the old ones are there once."""

    def make() -> bytes:
        body = _h5(edit)
        assert body.count(old) == 1, (old, body.count(old))
        return body.replace(old, new)

    return one(reason, make)


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("../outside/secret", "x", (4,))
    del file[_AT]
    file.create_virtual_dataset(_AT, layout)


def _filtered(**options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[_AT]
        file.create_dataset(_AT, data=_BIAS, chunks=(4,), **options)

    return edit


def _chunk(body: bytes) -> Callable[[h5py.File], None]:
    """A chunk of 64 bytes whose stored bytes are these."""

    def edit(file: h5py.File) -> None:
        del file[_AT]
        dataset = file.create_dataset(_AT, (64,), "u1", chunks=(64,), compression="gzip")
        dataset.id.write_direct_chunk((0,), body)

    return edit


def _bomb(file: h5py.File) -> None:
    del file[_AT]
    file.create_dataset(_AT, (1 << 28,), "u1", chunks=(1 << 20,), compression="gzip")
    packed = zlib.compress(bytes(1 << 20), 9)
    for at in range(0, 1 << 28, 1 << 20):
        file[_AT].id.write_direct_chunk((at,), packed)


def _circle(file: h5py.File) -> None:
    file["conv1/again"] = file["/"]


def _set(name: str, value: Any, owner: str = "/") -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[owner].attrs[name] = value

    return edit


def _string(size: int, heap: int | None = None) -> bytes:
    """The name of a layer, which lies in a heap: its attribute says how long it is, and where."""
    body = _h5(_set("layer_names", ["conv1-in-a-heap"]))
    true = body.index(b"GCOL")
    old = struct.pack("<IQ", 15, true)
    assert body.count(old) == 1
    return body.replace(old, struct.pack("<IQ", size, true if heap is None else heap))


def _layout(place: int | str | None, size: int) -> bytes:
    """The bias, said to lie elsewhere: its layout message is an address and a number of bytes."""
    body = _h5(lambda file: None)
    kernel, bias = body.index(_KERNEL.tobytes()), body.index(_BIAS.tobytes())
    old = struct.pack("<QQ", bias, 16)
    at = {"kernel": kernel, "kernel + 4": kernel + 4, None: bias}.get(place, place)
    assert body.count(old) == 1
    return body.replace(old, struct.pack("<QQ", at, size))


HDF5: dict[str, Hostile] = {
    "h5: external storage": _instead(
        "has external storage: its values lie in another file",
        shape=(4,),
        dtype="f4",
        external=[("../outside/secret", 0, 16)],
    ),
    "h5: external storage, absolute": _instead(
        "has external storage: its values lie in another file",
        shape=(4,),
        dtype="f4",
        external=[("/etc/passwd", 0, 16)],
    ),
    "h5: external link": _edited(
        "an external link", lambda file: file.__setitem__("x", h5py.ExternalLink("../outside/secret", "/x"))
    ),
    "h5: soft link": _edited("is a soft link", lambda file: file.__setitem__("x", h5py.SoftLink("/conv1"))),
    "h5: soft link to itself": _edited("is a soft link", lambda file: file.__setitem__("x", h5py.SoftLink("/x"))),
    "h5: group inside of itself": _edited("linked twice, or in a circle", _circle),
    "h5: dataset in two groups": _edited("linked twice", lambda file: file.__setitem__("x", file[_AT])),
    "h5: 40 groups in one another": _edited("more than 32 deep", lambda file: file.create_group("/".join("x" * 40))),
    "h5: virtual dataset": _edited("is a virtual dataset", _virtual),
    "h5: LZF": _edited("uses filter 32000", _filtered(compression="lzf")),
    "h5: Blosc": _patched(
        "uses filter 32001", struct.pack("<HH", 32000, 8), struct.pack("<HH", 32001, 8), _filtered(compression="lzf")
    ),
    "h5: scale and offset": _instead("uses filter 6", data=np.zeros(4, "i4"), scaleoffset=2),
    "h5: shuffle of 10^9 bytes": _patched(
        "shuffles values of (1000000000,) bytes",
        b"shuffle\0" + struct.pack("<I", 4),
        b"shuffle\0" + struct.pack("<I", 10**9),
        _filtered(shuffle=True),
    ),
    "h5: 256 MB of zeros in chunks": _edited("would take 268435456 bytes of memory", _bomb),
    "h5: chunk that unpacks to more": _edited("unpacks to more than its 64", _chunk(zlib.compress(bytes(1 << 24)))),
    "h5: chunk that unpacks to less": _edited("has 60 bytes, expected 64", _chunk(zlib.compress(bytes(60)))),
    "h5: chunk that breaks off": _edited("breaks off", _chunk(zlib.compress(bytes(64))[:-6])),
    "h5: chunk of garbage": _edited("cannot be unpacked", _chunk(b"\xff" * 24)),
    "h5: never written": _instead("was never written", shape=(1 << 40,), dtype="f4"),
    "h5: chunks never written": _instead("was never written", shape=(1 << 40,), dtype="f4", chunks=(1 << 20,)),
    "h5: 2^60 elements": _instead("has an impossible shape", shape=(1 << 60,), dtype="u1"),
    "h5: 2^62 elements": _patched(
        "has an impossible shape",
        struct.pack("<BBBB4xQ", 1, 1, 1, 0, 4),
        struct.pack("<BBBB4xQ", 1, 1, 1, 0, _HUGE),
    ),
    "h5: bytes at 2^62": one("is 16 bytes at byte 4611686018427387904", lambda: _layout(_HUGE, 16)),
    "h5: 2^62 bytes": one("is 4611686018427387904 bytes at byte", lambda: _layout(None, _HUGE)),
    "h5: the kernel's bytes as a bias": one("in use: linked twice", lambda: _layout("kernel", 16)),
    "h5: bytes inside of the kernel's": one("overlap", lambda: _layout("kernel + 4", 16)),
    "h5: objects": _instead("holds object or region references", data=np.array([None]), dtype=h5py.ref_dtype),
    "h5: lists": _instead("holds values of variable length", shape=(1,), dtype=h5py.vlen_dtype("f4")),
    "h5: strings": _instead("holds strings", data=["/etc/passwd"]),
    "h5: weight outside of its layer": _edited("is not there", _set("weight_names", [b"../conv1/bias"], "conv1")),
    "h5: layer that is a path": _edited("has no group", _set("layer_names", [b"/etc/passwd"])),
    "h5: 3,000 times the same layer": _edited("two weights are named", _set("layer_names", [b"conv1"] * 3000)),
    "h5: name that is no text": _edited("text that is not UTF-8", _set("layer_names", np.array([b"\xff\xfe"]))),
    "h5: name with a NUL": _edited("text with a NUL in it", _set("layer_names", np.array([b"a\0b"]))),
    "h5: string of 2^31 bytes": one("has a string of 2147483647 bytes", lambda: _string((1 << 31) - 1)),
    "h5: string in a heap at 2^62": one("is 16 bytes at byte 4611686018427387904", lambda: _string(15, _HUGE)),
    "h5: newer layout": _edited("its superblock has version 3", lambda file: None, libver="latest"),
    "h5: user block": one("superblock", lambda: _h5(lambda file: None)[:8] + b"\x09" + _h5(lambda file: None)[9:]),
}


# --- .keras ----------------------------------------------------------------------------------------------------------


def _weights() -> bytes:
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        file["layers/conv2d/vars/0"], file["layers/conv2d/vars/1"] = _KERNEL, _BIAS
    return packed.getvalue()


def _layer(kind: str, **changed: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": kind.lower()}} | changed


def _config(*layers: dict[str, Any]) -> bytes:
    every = [_layer("Conv2D"), *layers]
    return json.dumps({"module": "keras", "class_name": "Functional", "config": {"layers": every}}).encode()


def _members(**changed: bytes | t.Odd) -> dict[str, bytes | t.Odd]:
    names = {"config": "config.json", "weights": "model.weights.h5", "metadata": "metadata.json"}
    body: dict[str, bytes | t.Odd] = {"config": _config(), "weights": _weights(), "metadata": b"{}"}
    return {names[part]: data for part, data in (body | changed).items()}


def _keras(reason: str | None, **changed: Callable[[], bytes | t.Odd]) -> Hostile:
    return one(reason, lambda: t.archive(_members(**{part: make() for part, make in changed.items()}), wide=False))


def _code() -> str:
    program = compile("open('ran', 'w').close()", "layer", "exec")
    return base64.b64encode(marshal.dumps(program)).decode()


def _lambda() -> bytes:
    """Keras' own way to store a function: its code, marshalled."""
    function = {"class_name": "__lambda__", "config": {"code": _code(), "defaults": None, "closure": None}}
    return _config(_layer("Lambda", config={"name": "l", "function": function, "arguments": {}}))


def _extra(reason: str, name: str) -> Hostile:
    return one(reason, lambda: t.archive(_members() | {name: b"x"}, wide=False))


KERAS: dict[str, Hostile] = {
    "keras: Lambda with code": _keras(None, config=_lambda),
    "keras: layer of any module": _keras(
        None, config=lambda: _config({"module": "os", "class_name": "system", "config": {"name": "touch ran"}})
    ),
    "keras: registered name": _keras(
        None,
        config=lambda: _config(_layer("TouchRan", registered_name="os>system", build_config=[_HUGE])),
    ),
    "keras: 3,000 objects in one another": _keras(
        "cannot be read", config=lambda: b'{"a":' * 3000 + b"1" + b"}" * 3000
    ),
    "keras: 20 models in one another": _keras("models more than 16 deep", config=lambda: _nested(20)),
    "keras: 500,000 pieces": _keras("too many pieces", config=lambda: b"[" + b"1," * 500_000 + b"1]"),
    "keras: configuration of 300 MB": _keras(
        "its config.json has 314572800 bytes", config=lambda: t.deflated(bytes(300 << 20))
    ),
    "keras: weights of 300 MB of zeros": _keras("would take 314572800", weights=lambda: t.deflated(bytes(300 << 20))),
    "keras: weights said to be 48 bytes": _keras(
        "unpacks to more than the 48 bytes", weights=lambda: t.deflated(bytes(1 << 20), size=48)
    ),
    "keras: weights that are no HDF5": _keras("model.weights.h5", weights=lambda: b"#!/bin/sh\ntouch ran\n"),
    "keras: weights with a link out": _keras(
        "an external link",
        weights=lambda: _h5(lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/x"))),
    ),
    "keras: encrypted": _keras("is encrypted", weights=lambda: t.Odd(bytes(48), flags=1)),
    "keras: checksum that is wrong": _keras("fails its checksum", weights=lambda: t.Odd(_weights(), crc=1)),
    "keras: member there twice": one(
        "is there twice", lambda: t.archive([*_members().items(), ("config.json", b"{}")], wide=False)
    ),
    **{
        f"keras: member {name}": _extra("leads out of the archive", name)
        for name in ("../outside/new", "/etc/cron.d/new", "..\\new")
    },
    "keras: no configuration": one(
        "without `config.json`", lambda: t.archive({"model.weights.h5": _weights()}, wide=False)
    ),
}


def _nested(depth: int) -> bytes:
    model: dict[str, Any] = {"class_name": "Functional", "config": {"layers": []}}
    for _ in range(depth):
        model = {"class_name": "Functional", "config": {"layers": [model]}}
    return json.dumps(model).encode()
