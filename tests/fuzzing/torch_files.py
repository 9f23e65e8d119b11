"""PyTorch's three containers: members changed under right checksums, opcodes of pickles, numbers between them."""

from __future__ import annotations

import functools
import io
import pickletools
import random
import re
import tarfile
import zipfile

import numpy as np
import torch_writer as t

from fuzzing.damage import INTERESTING, mutate_bytes, mutate_file, times
from fuzzing.models import mutate_model
from fuzzing.seeds import GOLDEN, Files, Format, Seed, Tensors, model
from fuzzing.zip_files import mutate_zip
from resforward.checkpoints.torch_values import NAMES

Members = dict[str, "bytes | t.Odd"]


# --- seeds -----------------------------------------------------------------------------------------------------------


def _golden(name: str) -> Seed:
    return Seed(f"torch {name}", {"m": (GOLDEN / "torch" / f"{name}.pth").read_bytes()})


@functools.cache
def _training() -> tuple[bytes, dict[str, tuple[int, bytes]]]:
    """A model's state dict beside what training left; tensors that are turned, repeated and empty."""
    rng = np.random.default_rng(1)
    arrays = {f"layer{i}.weight": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 8)}
    arrays |= {"steps": np.array(5), "flags": np.array([True, False]), "half": np.ones((2, 0), np.float16)}
    made = t.model(arrays)
    made.tensors["turned"] = t.tensor(t.storage("5", "Float", 18), (3, 6), (1, 3))
    made.tensors["repeated"] = t.tensor(t.storage("5", "Float", 18), (4, 3), (0, 2), 1)
    inner = t.dict_of([(t.number(0), t.dict_of({"momentum": made.tensors["half"]}))])
    names = t.list_of(t.text("a"))
    value = t.dict_of({"epoch": t.number(7), "optimizer": inner, "names": names, "model": t.state_dict(made)})
    return value, made.storages


def _zip(tensors: Tensors) -> Files:
    made = t.model(tensors)
    return {"m": t.zipped(t.state_dict(made), made.storages)}


def _stream(tensors: Tensors) -> Files:
    made = t.model(tensors)
    return {"m": t.stream(t.state_dict(made), made.storages)}


def _tar(tensors: Tensors) -> Files:
    return {"m": t.tarred(t.tar_members(tensors))}


def _zip_seeds() -> list[Seed]:
    value, storages = _training()
    packed = {name: t.deflated(body) for name, body in t.zip_members(t.pickled(value), storages, b"big").items()}
    return [
        *map(_golden, ("network", "dtypes", "attributes", "protocol_5", "unread")),
        Seed("torch zip", {"m": t.zipped(value, storages)}),
        Seed("torch zip, deflated", {"m": t.archive(packed, wide=False)}),
        model("torch zip model", "torch", _zip),
        model("torch zip model, timm", "timm", _zip),
    ]


def _stream_seeds() -> list[Seed]:
    golden = map(_golden, ("network_stream", "dtypes_stream", "protocol_4_stream"))
    return [*golden, Seed("torch stream", {"m": t.stream(*_training())}), model("torch stream model", "torch", _stream)]


def _tar_seeds() -> list[Seed]:
    arrays = {"w": np.arange(12, dtype="f4").reshape(3, 4), "b": np.arange(4, dtype="f4")}
    viewed = t.tar_members(arrays, t.list_of(t.numbers((50, 0, 1, 2))))
    return [_golden("tar"), Seed("torch tar", {"m": t.tarred(viewed)}), model("torch tar model", "torch", _tar)]


# --- containers ------------------------------------------------------------------------------------------------------


@functools.cache
def zip_members(body: bytes) -> Members:
    """The members of a valid zip archive, unpacked."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


@functools.cache
def tar_members(body: bytes) -> Members:
    """The members of a valid tar archive."""
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def _archived(members: Members, rng: random.Random) -> bytes:
    return t.archive(members, wide=rng.random() < 0.8)


def mutate_zip_members(seed: Seed, rng: random.Random) -> Files:
    """Change members of a zip, and what it says of them, with checksums made right."""
    whole = zip_members(seed.body)
    members = dict(whole)
    for _ in times(rng):
        name = rng.choice(sorted(members))
        body = members[name].data if isinstance(members[name], t.Odd) else members[name]
        if rng.random() < 0.4:
            field = rng.choice(["method", "flags", "crc", "size", "packed", "at"])
            number = rng.choice([*INTERESTING, len(body), len(body) + 1]) & ((1 << 63) - 1)
            limit = {"method": 0xFFFF, "flags": 0xFFFF, "crc": 0xFFFFFFFF}.get(field, (1 << 63) - 1)
            members[name] = t.Odd(body)._replace(wide=rng.random() < 0.5, **{field: number & limit})
        elif rng.random() < 0.2:
            members[name] = t.deflated(body, size=rng.choice([len(body), len(body) + 1, 1 << 30]))
        else:
            _change_member(members, whole, rng)
        if not members:
            return seed.files
    return {"m": _archived(members, rng)}


def mutate_tar_members(seed: Seed, rng: random.Random) -> Files:
    """Change members of a tar."""
    whole = tar_members(seed.body)
    members = dict(whole)
    for _ in times(rng):
        _change_member(members, whole, rng)
        if not members:
            return seed.files
    return {"m": t.tarred(members)}


def _change_member(members: Members, whole: Members, rng: random.Random) -> None:
    name, other = rng.choice(sorted(members)), rng.choice(sorted(members))
    body = members[name].data if isinstance(members[name], t.Odd) else members[name]
    kind = rng.randrange(6)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = whole[rng.choice(sorted(whole))]
    elif kind == 2:
        members[name], members[other] = members[other], members[name]
    elif kind == 3:
        members[rng.choice(["m/data/0", "other/data.pkl", "x" * 300, "m/constants.pkl", "../data.pkl", "/m"])] = body
    else:
        members[name] = mutate_bytes(body, rng)


# --- pickles ---------------------------------------------------------------------------------------------------------

_KINDS_OF_OPCODES = [(b"K", b"M", b"J", b"\x8a"), (b"K", b"M", b"J", b"\x8a"), (b"c",), (b"X", b"\x8c")]
_NAMES = [tuple(path.rsplit(".", 1)) for path in sorted(NAMES)] + [("posix", "system"), ("builtins", "eval")]
_TEXTS = ["0", "1", "storage", "model", "state_dict_ema", "module", "", "\ud800", "x" * 5000]


_NEXT = re.compile(rb"\x80[\2-\5][(\]}K]")


@functools.cache
def pieces(body: bytes) -> tuple[tuple[bytes, ...], ...]:
    """Cut pickles, and raw bytes between them: a tuple for each pickle, of its opcodes and of what follows it."""
    found, at = [], 0
    while at < len(body):
        places = [place for _, _, place in pickletools.genops(body[at:])]
        end = at + places[-1] + 1
        opcodes = [body[at + one : at + two] for one, two in zip(places, [*places[1:], end - at], strict=True)]
        following = _NEXT.search(body, end)
        at = end if body[end : end + 1] == b"\x80" else following.start() if following else len(body)
        found.append((*opcodes, body[end:at]))
    return tuple(found)


def mutate_pickles(body: bytes, rng: random.Random) -> bytes:
    """Change opcodes of pickles, their arguments, or numbers between two pickles."""
    cut = [list(pickle) for pickle in pieces(body)]
    for _ in times(rng):
        pickle = rng.choice(cut)
        raw = pickle[-1]
        if raw and rng.random() < 0.5:
            size = rng.choice([4, 8, 8])
            at = size * rng.randrange(max(1, min(len(raw), 80) // size))
            old = int.from_bytes(raw[at : at + size], "little")
            number = rng.choice([*INTERESTING, old + 1, old - 1]) % (1 << 8 * size)
            pickle[-1] = raw[:at] + number.to_bytes(size, "little") + raw[at + size :]
        elif len(pickle) > 1:
            _change_opcode(pickle, rng)
    return b"".join(piece for pickle in cut for piece in pickle)


def _change_opcode(pickle: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(pickle) - 1)
    kind = rng.randrange(10)
    if kind == 0:
        del pickle[at]
    elif kind == 1:
        pickle[at:at] = [pickle[at]] * rng.choice([1, 2, 9, 300])
    elif kind == 2:
        other = rng.randrange(len(pickle) - 1)
        pickle[at], pickle[other] = pickle[other], pickle[at]
    elif kind == 3:
        start = rng.randrange(len(pickle) - 1)
        pickle[at:at] = pickle[start : start + rng.choice([2, 5, 20])]
    elif kind == 4:
        pickle[at] = mutate_bytes(pickle[at], rng)
    elif kind == 5:
        pickle[at] = bytes([rng.randrange(256)])
    else:  # a value of the same kind
        kinds = rng.choice(_KINDS_OF_OPCODES)
        same = [i for i, piece in enumerate(pickle[:-1]) if piece[:1] in kinds]
        if same:
            at = rng.choice(same)
            pickle[at] = _other_value(pickle[at], rng)


def _other_value(piece: bytes, rng: random.Random) -> bytes:
    """An opcode that pushes another number, name or string."""
    if piece[:1] == b"c":
        return t.name(*rng.choice(_NAMES))
    if piece[:1] in (b"X", b"\x8c"):
        return t.text(rng.choice(_TEXTS))
    return t.number(rng.choice([*INTERESTING, *range(12)]))


def mutate_zip_pickle(seed: Seed, rng: random.Random) -> Files:
    """Change the pickle of a zip archive."""
    members = zip_members(seed.body)
    name = next(name for name in members if name.endswith("/data.pkl"))
    return {"m": _archived(members | {name: mutate_pickles(members[name], rng)}, rng)}


def mutate_tar_pickle(seed: Seed, rng: random.Random) -> Files:
    """Change one of the pickles of a tar archive."""
    members = tar_members(seed.body)
    name = rng.choice(["pickle", "tensors", "storages"])
    return {"m": t.tarred(members | {name: mutate_pickles(members[name], rng)})}


def mutate_stream_pickle(seed: Seed, rng: random.Random) -> Files:
    """Change one of the pickles of a stream, or the first storages behind them."""
    return {"m": mutate_pickles(seed.body, rng)}


ZIP = Format(
    _zip_seeds,
    (mutate_file, mutate_zip, mutate_zip_members, mutate_zip_pickle, mutate_zip_pickle, mutate_model),
    damage=mutate_file,
)
STREAM = Format(_stream_seeds, (mutate_file, mutate_stream_pickle, mutate_stream_pickle, mutate_model))
TAR = Format(_tar_seeds, (mutate_file, mutate_tar_members, mutate_tar_pickle, mutate_tar_pickle, mutate_model))
