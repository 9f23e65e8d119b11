"""PyTorch files: pickles that are programs, pickles that cost, and zip archives and streams that lie."""

from __future__ import annotations

import io
import os
import pickle
import struct

import numpy as np
import torch_writer as t

from hostile.rows import Hostile, one

_WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
_MODEL = t.model({"conv1.weight": _WEIGHTS})
_STATE = t.state_dict(_MODEL)
_MEMBERS = t.zip_members(t.pickled(_STATE), _MODEL.storages)
_HUGE = 1 << 62
_RUN = t.tuple_of(t.text("touch ran"))
_SYSTEM = t.name("posix", "system")
_STORAGE = t.storage("0", "Float", 12)


def _zip(value: bytes) -> bytes:
    return t.zipped(value, _MODEL.storages)


def _tensor(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    return _zip(t.dict_of({"w": t.tensor(_STORAGE, shape, strides, offset)}))


def _member(name: str, data: bytes | t.Odd) -> bytes:
    return t.archive(_MEMBERS | {name: data})


# --- pickles that are programs ---------------------------------------------------------------------------------------


class _Reduced:
    """What an attacker writes first."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


class _Chained:
    """A function found by another, and called by a third: no name of the last one is in the pickle."""

    def __reduce__(self) -> tuple:
        return map, (_Found(), ["touch ran"])


class _Found:
    def __reduce__(self) -> tuple:
        return getattr, (os, "system")


class _NoModules(pickle.Pickler):
    def reducer_override(self, value: object) -> object:
        return (__import__, ("os",)) if value is os else NotImplemented


def _chain() -> bytes:
    packed = io.BytesIO()
    _NoModules(packed, 4).dump(_Chained())
    return t.archive({"m/data.pkl": packed.getvalue()})


def _named(module: str, name: str) -> Hostile:
    """A call of something that imports, runs, opens or unpickles."""
    return one(f"holds code, `{module}.{name}`; nothing was executed", _zip(t.name(module, name) + _RUN + b"R"))


_NAMES = [
    *[("builtins", name) for name in ("eval", "exec", "open", "getattr", "__import__", "compile", "input", "globals")],
    *[("os", "system"), ("nt", "system"), ("subprocess", "Popen"), ("pty", "spawn"), ("runpy", "_run_code")],
    *[("importlib", "import_module"), ("pickle", "loads"), ("marshal", "loads"), ("types", "CodeType")],
    *[("operator", "attrgetter"), ("functools", "partial"), ("io", "open"), ("webbrowser", "open"), ("ctypes", "CDLL")],
    *[("torch", "load"), ("torch.storage", "_load_from_bytes"), ("torch.hub", "load"), ("torch.jit", "load")],
    *[("torch._utils", "__builtins__.eval"), ("torch._utils", "_rebuild_tensor_v2.__globals__")],
    *[("numpy.testing._private.utils", "runstring"), ("torch.nn.modules.linear", "Linear"), ("torch", "Tensor.map_")],
]

_STATEFUL = t.name("torch.nn.modules.container", "Sequential")
_SETSTATE = t.dict_of({"__setstate__": t.name("builtins", "eval")})

PROGRAMS: dict[str, Hostile] = {
    **{f"torch: pickle that calls {module}.{name}": _named(module, name) for module, name in _NAMES},
    "torch: pickle that calls os.system": one("holds code, `posix.system`; nothing was", _zip(_SYSTEM + _RUN + b"R")),
    "torch: stream that calls os.system": one("holds code, `posix.system`", t.stream(_SYSTEM + _RUN + b"R", {})),
    "torch: tar that calls os.system": one(
        "holds code, `posix.system`",
        lambda: t.tarred(t.tar_members({"w": _WEIGHTS}) | {"pickle": t.pickled(_SYSTEM + _RUN + b"R")}),
    ),
    "torch: __reduce__": one(
        f"holds code, `{os.system.__module__}.system`",
        lambda: t.archive({"m/data.pkl": pickle.dumps({"state_dict": _Reduced()}, 2)}),
    ),
    "torch: chain of __reduce__": one("holds code, `builtins.map`", _chain),
    "torch: Python 2's spelling": one("holds code, `builtins.eval`", _zip(t.name("__builtin__", "eval") + _RUN + b"R")),
    "torch: name from two strings": one(
        "holds code, `posix.system`", _zip(t.text("posix") + t.text("system") + b"\x93" + _RUN + b"R")
    ),
    "torch: name from the memo": one(
        "holds code, `posix.system`", _zip(t.text("posix") + b"q\0" + t.text("system") + b"q\1h\0h\1\x93" + _RUN + b"R")
    ),
    "torch: name of a number": one("a pickle names an int in an int", _zip(b"K\1K\2\x93")),
    "torch: code in a list of training": one(
        "holds code, `posix.system`", _zip(t.dict_of({"state_dict": _STATE, "hooks": t.list_of(_SYSTEM)}))
    ),
    "torch: code as a storage's class": one(
        "holds code, `posix.system`",
        _zip(t.tuple_of(t.text("storage"), _SYSTEM, t.text("0"), t.text("cpu"), t.number(1)) + b"Q"),
    ),
    "torch: code that is thrown away": one("holds code, `posix.system`", _zip(_SYSTEM + _RUN + b"R0" + _STATE)),
    "torch: object with state": one("`torch.nn.modules.container.Sequential`", _zip(_STATEFUL + b")\x81}b")),
    "torch: BUILD with __setstate__": one("holds code, `builtins.eval`", _zip(_STATE + _SETSTATE + b"b")),
    "torch: BUILD of a number": one("gives attributes to an int", _zip(b"K\1" + t.dict_of({"real": b"K\2"}) + b"b")),
    "torch: BUILD of a function": one(
        "gives attributes to a function",
        _zip(t.name("torch._utils", "_rebuild_tensor_v2") + t.dict_of({"__code__": b"N"}) + b"b"),
    ),
    "torch: attributes of a state dict": one(
        None, _zip(_STATE + t.dict_of({"keys": b"N", "__class__": b"N", "__dict__": b"}"}) + b"b")
    ),
    "torch: INST": one("holds code, `posix.system`", _zip(b"(" + t.text("touch ran") + b"iposix\nsystem\n")),
    "torch: OBJ": one("holds code, `posix.system`", _zip(b"(" + _SYSTEM + t.text("touch ran") + b"o")),
    **{
        f"torch: {name}": one(f"has the opcode {name},", _zip(code))
        for name, code in {
            "EXT1": b"\x82\1",
            "EXT2": b"\x83\1\1",
            "EXT4": b"\x84\1\1\1\1",
            "NEWOBJ_EX": t.name("collections", "OrderedDict") + b")}\x92",
            "NEXT_BUFFER": b"\x97",
            "READONLY_BUFFER": b"\x98",
            "PERSID": b"P../outside/secret\n",
            "LONG4": b"\x8b\xff\xff\xff\x7f",
            "DUP": b"N2",
        }.items()
    },
    "torch: TorchScript": one("a TorchScript archive, which is a program", lambda: _member("m/constants.pkl", b"")),
    "torch: a whole pickle alone": one(
        "a Python pickle, but no PyTorch file; it can run code", lambda: pickle.dumps(_Reduced(), 2)
    ),
}

# --- pickles that cost -----------------------------------------------------------------------------------------------

_LAUGHS = b")q\0" + b"".join(b"0(" + bytes([ord("h"), i]) * 10 + b"tq" + bytes([i + 1]) for i in range(200))

COSTS: dict[str, Hostile] = {
    "torch: ten to the 200 tuples in the memo": one("holds no state dict, but a tuple", _zip(_LAUGHS)),
    "torch: memo at 2^32": one("remembers value 4294967295, out of turn", _zip(b"Nr\xff\xff\xff\xff")),
    "torch: memo that is not there": one("asks for value 7, and remembers 0", _zip(b"h\7")),
    "torch: state dict inside of itself": one("holds no state dict", _zip(b"}q\0" + t.text("state_dict") + b"h\0s")),
    "torch: 60,000 lists in one another": one("holds no state dict, but a list", _zip(b"]" * 60_000 + b"a" * 59_999)),
    "torch: 100,000 tuples in one another": one("holds no state dict, but a tuple", _zip(b")" + b"\x85" * 100_000)),
    "torch: 1,000 marks": one("nested more than 256 deep", _zip(b"(" * 1000)),
    "torch: 70,000 values on the stack": one("more than 65536 values on its stack", _zip(b"N" * 70_000)),
    "torch: 300,000 dicts": one("too many small pieces", lambda: _zip(b"}0" * 300_000 + b"N")),
    "torch: string of 2^63 bytes": one("a pickle is cut short", _zip(b"\x8d" + b"\xff" * 7 + b"\x7f")),
    "torch: bytes of 4 GB": one("a pickle is cut short", _zip(b"B\xff\xff\xff\xff")),
    "torch: number of 10^200": one("a number that is none", _zip(b"I" + b"9" * 200 + b"\n")),
    "torch: pickle without an end": one("a pickle is cut short", lambda: t.archive({"m/data.pkl": b"\x80\2}"})),
}

# --- tensors that lie elsewhere than they say ------------------------------------------------------------------------

TENSORS: dict[str, Hostile] = {
    "torch: 2^62 elements": one("has an impossible shape", _tensor((1 << 62,), (1,))),
    "torch: 2^62 elements, repeated": one("has an impossible shape", _tensor((1 << 62,), (0,))),
    "torch: 2^32 x 2^32 elements": one("has an impossible shape", _tensor((1 << 32, 1 << 32), (1 << 32, 1))),
    "torch: 2^62 x 0 elements": one("has an impossible shape", _tensor((1 << 62, 0), (1, 1))),
    "torch: 2^40 elements from one": one("repeats its numbers to", _tensor((1 << 40,), (0,))),
    "torch: shape of -1": one("has a negative dimension", _tensor((-1,), (1,))),
    "torch: stride of -1": one("has a negative offset or stride", _tensor((3,), (-1,), 11)),
    "torch: stride of 2^62": one("is outside of its storage", _tensor((3,), (1 << 62,))),
    "torch: offset of 2^62": one("is outside of its storage", _tensor((3,), (1,), 1 << 62)),
    "torch: offset of -1": one("has a negative offset or stride", _tensor((3,), (1,), -1)),
    "torch: one element too many": one("is outside of its storage", _tensor((13,), (1,))),
    "torch: 100 tensors over one storage": one(
        "bytes of memory",
        lambda: t.zipped(
            t.dict_of({f"w{i}": t.tensor(t.storage("0", "Float", 1 << 18), (1 << 18,), (1,)) for i in range(200)}),
            {"0": (1 << 18, bytes(1 << 20))},
        ),
    ),
    "torch: storage of -1 elements": one(
        "persistent id is none of a storage", _zip(t.dict_of({"w": t.tensor(t.storage("0", "Float", -1), (), ())}))
    ),
    "torch: storage shorter than it says": one("storage `0` has 0 bytes", lambda: _member("m/data/0", b"")),
    "torch: storage longer than it says": one("storage `0` has 52 bytes", lambda: _member("m/data/0", bytes(52))),
    "torch: storage outside of the archive": one(
        "lacks the entry `m/data/../../outside/secret`",
        lambda: _zip(t.dict_of({"w": t.tensor(t.storage("../../outside/secret", "Byte", 6), (6,), (1,))})),
    ),
    "torch: stream's storage of 2^62 elements": one(
        "claims 4611686018427387904 elements", lambda: t.stream(_STATE, {"0": (1 << 62, bytes(48))})
    ),
    "torch: stream's storage of two sizes": one(
        "is described in two ways",
        lambda: t.stream(
            t.dict_of({"w": t.tensor(_STORAGE, (2,), (1,)), "x": t.tensor(t.storage("0", "Int", 12), (2,), (1,))}),
            _MODEL.storages,
        ),
    ),
    "torch: tar's tensor of 2^31 dimensions": one(
        "has 2147483648 dimensions",
        lambda: t.tarred(
            {
                name: body.replace(struct.pack("<ii", 2, 7), struct.pack("<Ii", 1 << 31, 7))
                for name, body in t.tar_members({"w": _WEIGHTS}).items()
            }
        ),
    ),
    "torch: tar's view outside of its storage": one(
        "is outside of it", lambda: t.tarred(t.tar_members({"w": _WEIGHTS}, t.list_of(t.numbers((5, 0, 4, 9)))))
    ),
}

# --- zip archives that lie -------------------------------------------------------------------------------------------


def _overlapping() -> bytes:
    """Two storages over the same bytes: the second entry's header lies inside the first one's data."""
    inner = t.archive({"m/data/1": bytes(64)}, wide=False)
    body = t.archive(_MEMBERS | {"m/x": inner}, wide=False)
    at = body.index(b"PK\3\4", body.index(b"m/x"))
    return t.archive(_MEMBERS | {"m/x": inner, "m/data/1": t.Odd(bytes(64), at=at)})


def _quine_of_entries() -> bytes:
    """3,000 entries over the same megabyte of zeros."""
    packed = t.deflated(bytes(1 << 20))
    members: list[tuple[str, bytes | t.Odd]] = [*_MEMBERS.items(), ("m/data/a", packed)]
    at = t.archive(members).index(b"PK\3\4", t.archive(members).index(b"m/version"))
    return t.archive([*members, *((f"m/data/a{i}", packed._replace(at=at)) for i in range(3000))])


def _directory(field: int, number: int) -> bytes:
    """A zip64 end record with another number in one of its fields, and nothing in the record that is older."""
    body = bytearray(t.archive(_MEMBERS))
    end = body.rindex(b"PK\6\6")
    for place in (field, field + 8) if field == 24 else (field,):
        struct.pack_into("<Q", body, end + place, number)
    body[-14:-2] = b"\xff" * 12
    return bytes(body)


def _locator(at: int) -> bytes:
    body = t.archive(_MEMBERS)
    found = body.rindex(b"PK\6\7")
    return body[: found + 8] + struct.pack("<Q", at) + body[found + 16 :]


ARCHIVES: dict[str, Hostile] = {
    **{
        f"torch: entry {name}": one("leads out of the archive", lambda name=name: _member(name, b"x"))
        for name in ("../outside/new", "m/../../new", "/etc/cron.d/new", "..", "m\\..\\..\\new", "C:\\new", "m/\0new")
    },
    "torch: entry there twice": one(
        "entry `m/data/0` is there twice", lambda: t.archive([*_MEMBERS.items(), ("m/data/0", bytes(48))])
    ),
    "torch: two pickles": one("it has 2 pickles", lambda: _member("n/data.pkl", t.pickled(_SYSTEM))),
    "torch: encrypted": one("is encrypted", lambda: _member("m/data/0", t.Odd(bytes(48), flags=1))),
    "torch: LZMA": one("has compression 14", lambda: _member("m/data/0", t.Odd(bytes(48), method=14))),
    "torch: 300 MB of zeros, packed": one(
        "would unpack to 314572800", lambda: _member("m/data/0", t.deflated(bytes(300 << 20)))
    ),
    "torch: 300 MB of zeros, packed, said to be 48 bytes": one(
        "48 bytes are announced", lambda: _member("m/data/0", t.deflated(bytes(300 << 20), size=48))
    ),
    "torch: size of 2^62": one(
        "claims 4611686018427387904 bytes", lambda: _member("m/data/0", t.Odd(bytes(48), packed=1 << 62, wide=True))
    ),
    "torch: place of 2^63": one("has no header", lambda: _member("m/data/0", t.Odd(bytes(48), at=1 << 63, wide=True))),
    "torch: another name at its place": one(
        "is something else at its place", lambda: _member("m/data/0", t.Odd(bytes(48), local_name=b"m/data/x"))
    ),
    "torch: overlapping storages": one("begins inside", _overlapping),
    "torch: 3,000 entries over one": one("is something else at its place", _quine_of_entries),
    "torch: 2^40 entries": one("too many small pieces", lambda: _directory(24, 1 << 40)),
    "torch: directory at 2^62": one("does not fit", lambda: _directory(48, _HUGE)),
    "torch: zip64's end somewhere else": one("does not lie before its locator", lambda: _locator(_HUGE)),
    "torch: bytes before the archive": one("does not fit", lambda: b"PK\3\4" + t.archive(_MEMBERS, wide=False)),
    "torch: wrong checksum": one("fails its checksum", lambda: _member("m/data/0", t.Odd(bytes(48), crc=1))),
}

TORCH = PROGRAMS | COSTS | TENSORS | ARCHIVES
