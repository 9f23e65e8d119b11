"""Mutations that know of no format: bytes changed as disks, transport and careless programs change them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence

import tf_writer as w

from fuzzing.seeds import Files, Seed

INTERESTING = [0, 1, 2, 7, 8, 127, 128, 255, 256, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32]
INTERESTING += [1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -2, -(1 << 31)]

Place = tuple[int, int]  # where a little-endian number lies, and its size in bytes


def times(rng: random.Random) -> range:
    """How often one mutant is changed: mostly once, so that one check alone stands between it and harm."""
    return range(rng.choice([1, 1, 1, 2, 5]))


def unchanged(seed: Seed, rng: random.Random) -> Files:
    """No mutation."""
    return dict(seed.files)


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
        out[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING) & 0xFFFFFFFF)
    elif kind == 4:
        source = rng.randrange(len(out))
        out[at:at] = out[source : source + rng.choice([1, 5, 40])]
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def mutate_file(seed: Seed, rng: random.Random) -> Files:
    """Damage a file."""
    files = dict(seed.files)
    name = rng.choice(sorted(files))
    body = files[name]
    kind = rng.randrange(7)
    if kind == 0:
        files[name] = body[: rng.randrange(len(body) + 1)]
    elif kind == 1:
        files[name] = body + rng.randbytes(rng.randint(1, 600))
    elif kind == 2 and len(files) > 1:
        del files[name]
    elif kind == 3:
        at = rng.randrange(len(body) + 1)
        files[name] = body[:at] + bytes(min(512, len(body) - at)) + body[at + 512 :]
    elif kind == 4:  # where some formats begin, and others end
        edge = rng.choice([slice(0, 64), slice(max(0, len(body) - 64), len(body))])
        files[name] = body[: edge.start] + mutate_bytes(body[edge], rng) + body[edge.stop :]
    else:
        files[name] = mutate_bytes(body, rng)
    return files


def mutate_numbers(body: bytes, places: Sequence[Place], rng: random.Random, others: Iterable[int] = ()) -> bytes:
    """Change little-endian numbers of a file whose places are known.

    Args:
        others: numbers that mean something in this file, such as addresses of its blocks.
    """
    out = bytearray(body)
    meant = list(others)
    for _ in times(rng):
        at, size = rng.choice(places)
        old = int.from_bytes(out[at : at + size], "little")
        choices = [rng.choice(INTERESTING), old + 1, old - 1, old * 2, old ^ 1 << rng.randrange(8 * size)]
        if meant:
            choices += [rng.choice(meant), rng.choice(meant) + rng.choice([-8, 8])]
        else:
            choices.append(len(body) - at)
        out[at : at + size] = (rng.choice(choices) % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(out)
