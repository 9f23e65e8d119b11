"""Archives as models are published in: a tar's headers changed under right checksums, gzip around it, and its files."""

from __future__ import annotations

import gzip
import random

import torch_writer as t

from fuzzing.damage import mutate_bytes, mutate_file, times
from fuzzing.models import mutate_model
from fuzzing.seeds import Files, Format, Seed, Tensors, model
from fuzzing.tables import v1_seeds, v2_seeds

_BLOCK = 512
_SUM = slice(148, 156)
# Mode, size, type, a link's target, magic and version, the prefix of a name; the name itself is at 0.
_FIELDS = [(0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155)]
_TYPES = b"\0" + b"01234567LKSxgXNVDM"
_NAMES = [b"../m", b"/etc/passwd", b"checkpoint", b"m", b".", b"", b"x" * 100, b"a/b/c", b"..\\m", b"m\n"]
_SIZES = [
    b"0",
    b"1",
    b"777",
    b"-1",
    b"77777777777",
    b"8",
    b"\x80" + b"\0" * 10 + b"\1",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
]


def _plain(tensors: Tensors, kind: int) -> Files:
    seed = (v1_seeds, v2_seeds)[kind]()[-1]
    return {"m": t.tarred({"model/" + name: body for name, body in seed.write(tensors).items()})}


def _seeds() -> list[Seed]:
    sharded = v2_seeds()[2].files
    state = {"checkpoint": b'model_checkpoint_path: "m"\n'}
    return [
        Seed("tar of several files", {"m": t.tarred({**sharded, **state, "x" * 120: b"long"})}),
        model("tar of v1", "slim", lambda tensors: _plain(tensors, 0)),
        model("tar of v2", "slim", lambda tensors: _plain(tensors, 1)),
    ]


def mutate_headers(seed: Seed, rng: random.Random) -> Files:
    """Change fields of headers, and make their checksums right."""
    body = bytearray(seed.body)
    headers = [at for at in range(0, len(body), _BLOCK) if body[at + 257 : at + 262] == b"ustar"]
    for _ in times(rng):
        at = rng.choice(headers)
        start, size = rng.choice(_FIELDS)
        value = {156: bytes([rng.choice(_TYPES)]), 124: rng.choice(_SIZES), 0: rng.choice(_NAMES)}.get(
            start, mutate_bytes(bytes(body[at + start : at + start + size]), rng)
        )
        body[at + start : at + start + size] = value[:size].ljust(size, b"\0")
        _make_right(body, at)
    return {"m": bytes(body)}


def mutate_order(seed: Seed, rng: random.Random) -> Files:
    """Move, repeat or drop blocks: headers and pieces of files."""
    blocks = [seed.body[at : at + _BLOCK] for at in range(0, len(seed.body), _BLOCK)]
    for _ in times(rng):
        at, other = rng.randrange(len(blocks)), rng.randrange(len(blocks))
        kind = rng.randrange(3)
        if kind == 0 and len(blocks) > 1:
            del blocks[at]
        elif kind == 1:
            blocks[at:at] = [blocks[at % len(blocks)]] * rng.choice([1, 2, 50])
        elif kind == 2:
            blocks[at % len(blocks)], blocks[other % len(blocks)] = (
                blocks[other % len(blocks)],
                blocks[at % len(blocks)],
            )
    return {"m": b"".join(blocks)}


def mutate_packed(seed: Seed, rng: random.Random) -> Files:
    """Do the same inside of a gzip stream with right checksums, or damage that stream."""
    if rng.random() < 0.7:
        inner = rng.choice([mutate_headers, mutate_order, mutate_file])(seed, rng)["m"]
        return {"m": gzip.compress(inner, 1, mtime=0)}
    packed = {"m": gzip.compress(seed.body, 1, mtime=0)}
    return mutate_file(Seed(seed.label, packed), rng)


def mutate_inside(seed: Seed, rng: random.Random) -> Files:
    """Change a model's variables where there is one, else bytes."""
    return (mutate_model if seed.write else mutate_file)(seed, rng)


def _make_right(body: bytearray, at: int) -> None:
    header = body[at : at + _BLOCK]
    header[_SUM] = b" " * 8
    body[at + _SUM.start : at + _SUM.stop] = b"%06o\0 " % sum(header)


TAR = Format(_seeds, (mutate_file, mutate_headers, mutate_headers, mutate_order, mutate_packed, mutate_inside))
