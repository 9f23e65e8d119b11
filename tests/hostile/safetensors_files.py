"""safetensors: headers that lie about the bytes behind them, and our own metadata that describes no network."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzzing.seeds import NETWORKS, tensors_of
from plain_networks import random_weights
from safetensors.numpy import save

from hostile.rows import Hostile, one
from resforward.own_file import KEY, describe, own_bytes
from resforward.preprocess import VGG_224

_F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
_NAME = "m.safetensors"


def _file(header: bytes | dict[str, Any], data: bytes = bytes(8), size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def _header(reason: str, header: bytes | dict[str, Any], data: bytes = bytes(8), size: int | None = None) -> Hostile:
    return Hostile(reason, lambda: {_NAME: _file(header, data, size)}, _NAME)


def _one(reason: str, data: bytes = bytes(8), **changed: Any) -> Hostile:
    return _header(reason, {"w": _F32 | changed}, data)


def _at(start: int) -> dict[str, Any]:
    return _F32 | {"data_offsets": [start, start + 8]}


_LIBRARY = "the safetensors library refuses it"

SAFETENSORS: dict[str, Hostile] = {
    "safetensors: header of 2^63 bytes": _header("its header claims 9223372036854775808 bytes", b"{}", size=1 << 63),
    "safetensors: header of 2^64 - 1 bytes": _header(
        "its header claims 18446744073709551615", b"{}", size=(1 << 64) - 1
    ),
    "safetensors: header of 1 GB": _header("its header claims 1073741824 bytes", b"{}", size=1 << 30),
    "safetensors: header beyond the file": _header("its header claims 11 bytes", b"{}", size=11),
    "safetensors: header of 9 MB": _header("at most 8388608 are read", b"{" + b" " * (9 << 20) + b"}"),
    "safetensors: overlapping tensors": _header(_LIBRARY, {"v": _F32, "w": _at(4)}, bytes(12)),
    "safetensors: the same bytes twice": _header(_LIBRARY, {"v": _F32, "w": _F32}),
    "safetensors: hole": _header(_LIBRARY, {"v": _F32, "w": _at(12)}, bytes(20)),
    "safetensors: bytes behind the last tensor": _one(_LIBRARY, bytes(12)),
    "safetensors: tensor beyond the file": _one(_LIBRARY, data_offsets=[0, 8], data=bytes(4)),
    "safetensors: end before the beginning": _one(_LIBRARY, data_offsets=[8, 0]),
    "safetensors: offsets of -8": _one(_LIBRARY, data_offsets=[-8, 0]),
    "safetensors: offsets of 2^64": _one(_LIBRARY, data_offsets=[1 << 64, (1 << 64) + 8]),
    "safetensors: 2^62 elements": _one(_LIBRARY, shape=[1 << 62]),
    "safetensors: 2^62 elements over 0 bytes": _one(_LIBRARY, b"", shape=[1 << 62], data_offsets=[0, 0]),
    "safetensors: shape that wraps around to 0": _one(_LIBRARY, b"", shape=[1 << 32, 1 << 32], data_offsets=[0, 0]),
    "safetensors: 2^62 x 0 elements": _one("has an impossible shape", b"", shape=[1 << 62, 0], data_offsets=[0, 0]),
    "safetensors: shape of -1": _one(_LIBRARY, shape=[-1, -2]),
    "safetensors: shape of 2.0": _one(_LIBRARY, shape=[2.0]),
    "safetensors: 100 dimensions": _one("has 100 dimensions", shape=[2] + [1] * 99),
    "safetensors: type that is none": _one(_LIBRARY, dtype="../F32"),
    "safetensors: bool of 7": _one("a bool that is neither 0 nor 1", b"\7\1", dtype="BOOL", data_offsets=[0, 2]),
    "safetensors: name twice": _header(
        "`w` is there twice", b'{"w":' + json.dumps(_F32).encode() + b',"w":' + json.dumps(_F32).encode() + b"}"
    ),
    "safetensors: metadata of numbers": _header("metadata is not of texts", {"__metadata__": {"a": 1}, "w": _F32}),
    "safetensors: list for an object": _header("its header", b"{" + b"[" * 8),
    "safetensors: 5,000 objects in one another": _header(
        "its header cannot be read", b'{"a":' * 5000 + b"1" + b"}" * 5000
    ),
    "safetensors: 1,000,000 brackets": _header("too many pieces", b'{"a":' + b"[" * 1_000_000),
    "safetensors: number of 100,000 digits": _header("its header cannot be read", b'{"w":' + b"9" * 100_000 + b"}"),
    "safetensors: 9,000 tensors": _header(
        "lists 9000 tensors", {f"w{i}": _F32 | {"shape": [0], "data_offsets": [0, 0]} for i in range(9000)}, b""
    ),
    "safetensors: names that are no UTF-8": _header("its header cannot be read", b'{"\xff":1}'),
}


def _long_names(length: int) -> bytes:
    """A network that lacks a variable, under a long scope, and thousands of names that are nearly the missing one's."""
    letters = random.Random(0)
    scope = "".join(letters.choices("layerconvbn10", k=length))
    held = {f"{scope}.{name}": array for name, array in tensors_of("torch").items() if name != "layer1.0.bn1.weight"}
    shuffled = ("".join(letters.sample(scope, length)) for _ in range(4000))
    return save(held | {f"{name}.layer1.0.bnX.weight": np.zeros(1, np.float32) for name in shuffled})


SAFETENSORS |= {
    f"safetensors: 4,000 names of {length} characters": one("does not fit", lambda length=length: _long_names(length))
    for length in (900, 170)
}


def _many(reason: str, name: Callable[[int], str], **options: str) -> Hostile:
    """A file of 8,000 small variables."""
    return Hostile(
        reason, lambda: {"m": save({name(i): np.zeros(1, np.float32) for i in range(8000)})}, "m", {}, options
    )


SAFETENSORS |= {
    "safetensors: 8,000 networks": _many("holds 8000 networks", lambda i: f"{i}.layer1.0.conv1.weight"),
    "safetensors: 8,000 names of 400 parts": _many("is incomplete", lambda i: "a/" * 400 + _slim(i)),
    "safetensors: 8,000 names of 400 parts, a network asked for": _many(
        "does not fit", lambda i: "a/" * 400 + _slim(i), network="resnet_v1_50"
    ),
    "safetensors: 8,000 units": _many("is incomplete", lambda i: f"block1/unit_{i + 1}/bottleneck_v1/conv1/weights"),
    "safetensors: 8,000 Blocks": _many("is incomplete", lambda i: f"block{i}/unit_1/bottleneck_v1/conv1/weights"),
}


def _slim(place: int) -> str:
    return f"block1/unit_1/bottleneck_v1/{place}"


# --- our own metadata ------------------------------------------------------------------------------------------------


def _own(reason: str, change: Callable[[Any], None]) -> Hostile:
    """A valid file of ours, something in whose description is changed."""

    def make() -> bytes:
        told = json.loads(describe(NETWORKS["timm"], VGG_224, ["a", "b", "c"])[KEY])
        change(told)
        return own_bytes(random_weights(NETWORKS["timm"]), {KEY: json.dumps(told)}, "float32")

    return one(reason, make)


def _told(text: str) -> Hostile:
    weights = {"w": np.ones(3, np.float32)}
    return one("its metadata is not what resforward writes", lambda: own_bytes(weights, {KEY: text}, "float32"))


_NO_NETWORK = "describes no network"

OWN: dict[str, Hostile] = {
    "own: version 10^9": _own("is of version 1000000000", lambda t: t.update(version=10**9)),
    "own: units of 10^9 channels": _own(
        "does not fit", lambda t: t["network"]["blocks"][0].__setitem__(2, [[10**9, 10**9, 2]])
    ),
    "own: stride of 10^9": _own(_NO_NETWORK, lambda t: t["network"]["blocks"][0].__setitem__(2, [[4, 2, 10**9]])),
    "own: 5,000 units": _own(
        "more than 4096 Blocks or units", lambda t: t["network"]["blocks"][0].__setitem__(2, [[4, 2, 1]] * 5000)
    ),
    "own: 5,000 Blocks": _own(
        "more than 4096 Blocks or units", lambda t: t["network"].update(blocks=t["network"]["blocks"] * 5000)
    ),
    "own: 60,000 units in 15 Blocks": _own(
        "more than 4096 Blocks or units",
        lambda t: t["network"].update(blocks=[[f"b{i}", "basic", [[4, 2, 1]] * 4000] for i in range(15)]),
    ),
    "own: epsilon of NaN": _own(_NO_NETWORK, lambda t: t["network"].update(epsilon=float("nan"))),
    "own: epsilon of infinity": _own(_NO_NETWORK, lambda t: t["network"].update(epsilon=float("inf"))),
    "own: epsilon of -1": _own(_NO_NETWORK, lambda t: t["network"].update(epsilon=-1.0)),
    "own: epsilon of weights of -1": _own(_NO_NETWORK, lambda t: t["network"]["family"].update(weight_epsilon=-1.0)),
    "own: 2^62 classes": _own(
        "does not fit", lambda t: (t.update(labels=None), t["network"].update(num_classes=1 << 62))
    ),
    "own: -1 classes": _own(_NO_NETWORK, lambda t: t["network"].update(num_classes=-1)),
    "own: 2^62 channels": _own(
        "does not fit", lambda t: (t.update(preprocess=None), t["network"].update(input_channels=1 << 62))
    ),
    **{
        f"own: root block's {field} of {value}": _own(
            _NO_NETWORK, lambda t, field=field, value=value: t["network"]["stem"].update({field: value})
        )
        for field, value in [("stride", -1), ("stride", 0), ("stride", 1 << 62), ("kernel", 0), ("widths", [])]
    },
    **{
        f"own: pool's {field} of {value}": _own(
            _NO_NETWORK, lambda t, field=field, value=value: t["network"]["stem"]["pool"].update({field: value})
        )
        for field, value in [("stride", -1), ("stride", 0), ("stride", 1 << 62), ("kernel", -1), ("kernel", 1 << 31)]
    },
    "own: pictures of 2^31 pixels": _own(_NO_NETWORK, lambda t: t["preprocess"].update(size=[1 << 31, 1 << 31])),
    "own: deviation of 0": _own(_NO_NETWORK, lambda t: t["preprocess"].update(std=[0.0, 1.0, 1.0])),
    "own: two labels for three classes": _own("says 2 labels for 3 classes", lambda t: t.update(labels=["a", "b"])),
    "own: grey pictures for three channels": _own(
        "says 1 channels, and preprocessing for 3", lambda t: t["network"].update(input_channels=1)
    ),
    "own: a family with a field more": _own(
        "Family has the fields", lambda t: t["network"]["family"].update({"__class__": "os.system"})
    ),
    **{
        f"own: description {text[:8]}": _told(text)
        for text in ("[" * 10_000, "", "null", '{"version": 1e400}', '{"version": ' + "9" * 100_000 + "}")
    },
}
