"""Numbers in the records of a zip archive, wherever they are: its local headers, its directory and its ends."""

from __future__ import annotations

import functools
import random
import struct

from fuzzing.damage import Place, mutate_numbers
from fuzzing.seeds import Files, Seed

_LOCAL = [(4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)]
_CENTRAL = [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4)]
_END = [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)]
_END_64 = [(4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)]
_LOCATOR = [(4, 4), (8, 8), (16, 4)]


@functools.cache
def zip_places(body: bytes) -> tuple[Place, ...]:
    """Where the numbers of a valid archive lie."""
    end = body.rindex(b"PK\5\6")
    count, size = struct.unpack_from("<HI", body, end + 10)
    start = body.rindex(b"PK\6\6", 0, end) if body[end - 20 : end - 16] == b"PK\6\7" else end
    places = [(end + at, width) for at, width in _END]
    if start < end:
        places += [(start + at, width) for at, width in _END_64] + [(end - 20 + at, width) for at, width in _LOCATOR]
    at = start - size
    for _ in range(count):
        name, extra, comment = struct.unpack_from("<3H", body, at + 28)
        (header,) = struct.unpack_from("<I", body, at + 42)
        places += [(at + place, width) for place, width in _CENTRAL]
        if header < len(body):  # else its place is in a zip64 field
            places += [(header + place, width) for place, width in _LOCAL]
        at += 46 + name + extra + comment
    return tuple(places)


def mutate_zip(seed: Seed, rng: random.Random) -> Files:
    """Change numbers of the archive's own records."""
    return {seed.entry: mutate_numbers(seed.body, zip_places(seed.body), rng)}
