"""NumPy's archives: headers of arrays changed under right checksums, and the zip around them."""

from __future__ import annotations

import io
import random
import re

import numpy as np
import torch_writer as t

from fuzzing.damage import INTERESTING, mutate_bytes, mutate_file, times
from fuzzing.models import mutate_model
from fuzzing.seeds import Files, Format, Seed, Tensors, model
from fuzzing.torch_files import zip_members
from fuzzing.zip_files import mutate_zip

_DESCRIPTIONS = ["<f4", ">f4", "<f8", "<f2", "|b1", "<i8", "|O", "<U9", "<c8", "<M8", "|V4", "<f16", "f4", "", "x" * 50]
_DESCRIPTIONS += ["<i4", "|u1", "=f4", "<f4'", "[('a', '<f4')]", "__import__('os')"]


def _written(tensors: Tensors, compressed: bool = False) -> Files:
    packed = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(packed, **tensors)
    return {"m": packed.getvalue()}


def _seeds() -> list[Seed]:
    rng = np.random.default_rng(2)
    arrays = {f"unit{i:02d}/kernel": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 5)}
    arrays |= {"turned": np.asfortranarray(rng.normal(size=(3, 4))), "big": np.ones(3, ">f4"), "text": np.array("a")}
    return [
        Seed("npz", _written(arrays)),
        Seed("npz, compressed", _written(arrays, compressed=True)),
        model("npz model", "bit", _written),
    ]


def mutate_headers(seed: Seed, rng: random.Random) -> Files:
    """Change headers of arrays, or what follows them, and make the checksums right."""
    members = dict(zip_members(seed.body))
    for _ in times(rng):
        name = rng.choice(sorted(members))
        head, numbers = members[name][:128], members[name][128:]
        kind = rng.randrange(6)
        if kind == 0:
            shape = ", ".join(str(rng.choice([*INTERESTING, *range(9)])) for _ in range(rng.randrange(10)))
            head = re.sub(rb"\([0-9, ]*\)", f"({shape})".encode(), head, count=1)
        elif kind == 1:
            head = re.sub(rb"'descr': '[^']*'", f"'descr': '{rng.choice(_DESCRIPTIONS)}'".encode(), head, count=1)
        elif kind == 2:
            head = head.replace(b"False", b"True") if b"False" in head else head.replace(b"True", b"False")
        elif kind == 3:  # version, and the length of the header
            at = rng.randrange(6, 10)
            head = head[:at] + bytes([rng.choice([0, 1, 2, 3, 118, 255])]) + head[at + 1 :]
        elif kind == 4:
            numbers = mutate_bytes(numbers, rng)
        else:
            head = mutate_bytes(head, rng)
        members[name] = head + numbers
    return {"m": t.archive(members, wide=rng.random() < 0.5)}


def mutate_members(seed: Seed, rng: random.Random) -> Files:
    """Change an archive's model where it has one, else its arrays."""
    return (mutate_model if seed.write else mutate_headers)(seed, rng)


NPZ = Format(_seeds, (mutate_file, mutate_zip, mutate_headers, mutate_headers, mutate_members), damage=mutate_file)
