"""Keras' files: every number of the HDF5's own blocks is known by its place, and so are those of the zip around it."""

from __future__ import annotations

import functools
import io
import json
import random
import re
from collections.abc import Iterator

import h5py
import torch_writer as t

from fuzzing.damage import INTERESTING, Place, mutate_bytes, mutate_file, mutate_numbers
from fuzzing.json_trees import mutate_json
from fuzzing.models import mutate_model
from fuzzing.seeds import GOLDEN, Files, Format, Mutation, Seed, Tensors, model, tensors_of
from fuzzing.torch_files import zip_members
from fuzzing.zip_files import mutate_zip

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"


# --- seeds -----------------------------------------------------------------------------------------------------------


def _layers(tensors: Tensors) -> dict[str, Tensors]:
    layers: dict[str, Tensors] = {}
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition("/")
        layers.setdefault(layer, {})[leaf] = array
    return layers


def _legacy(tensors: Tensors) -> Files:
    layers = _layers(tensors)
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [leaf.encode() for leaf in weights]
            for leaf, array in weights.items():
                group.create_dataset(leaf, data=array)
    return {"m": packed.getvalue()}


def _kind(weights: Tensors) -> str:
    if "kernel" not in weights:
        return "BatchNormalization"
    return "Conv2D" if weights["kernel"].ndim == 4 else "Dense"


def _by_path(tensors: Tensors, named: bool = True) -> tuple[bytes, list[tuple[str, str]]]:
    """A `.weights.h5`, and the layers as (class, name)."""
    counts: dict[str, int] = {}
    listed = []
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        for layer, weights in _layers(tensors).items():
            kind = {"Conv2D": "conv2d", "Dense": "dense"}.get(_kind(weights), "batch_normalization")
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars")
            if named:
                group.attrs["name"] = layer
            for place, array in enumerate(weights.values()):
                group.create_dataset(str(place), data=array)
            listed.append((_kind(weights), layer))
    return packed.getvalue(), listed


def _weights(tensors: Tensors) -> Files:
    return {"m": _by_path(tensors)[0]}


def _nameless() -> Seed:
    """Layers that have but a number; its network is none of keras.applications, so that it is read and refused."""
    return Seed("Keras weights.h5 without names", {"m": _by_path(tensors_of("keras"), named=False)[0]})


def _keras(tensors: Tensors) -> Files:
    weights, listed = _by_path(tensors, named=False)
    layers = [
        {"module": "keras.layers", "class_name": kind, "config": {"name": name, "scale": True, "center": True}}
        for kind, name in listed
    ]
    config = {"module": "keras", "class_name": "Functional", "config": {"name": "net", "layers": layers}}
    members = {"metadata.json": b'{"keras_version": "3.15.1"}', _CONFIG: json.dumps(config).encode(), _WEIGHTS: weights}
    return {"m": t.archive(members, wide=False)}


def _golden(name: str) -> Seed:
    return Seed(f"Keras {name}", {"m": (GOLDEN / "keras" / name).read_bytes()})


# --- where HDF5's numbers are ----------------------------------------------------------------------------------------


def _at(body: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(body[at : at + size], "little")


@functools.cache
def hdf5_places(body: bytes) -> tuple[tuple[Place, ...], tuple[int, ...]]:
    """Where the numbers of a valid file lie, and the addresses of its blocks."""
    places: list[Place] = [(8 + i, 1) for i in range(8)] + [(16, 2), (18, 2), (20, 4), (72, 4)]
    places += [(24 + 8 * i, 8) for i in range(6)] + [(80, 8), (88, 8)]
    addresses: set[int] = set()
    for block in _blocks(body, _at(body, 64)):
        addresses.add(block[0][0])
        places += block
    for match in re.finditer(b"GCOL\x01", body):
        addresses.add(match.start())
        places += [(match.start() + 8, 8), *((match.start() + 16 + i, 2) for i in (0, 2)), (match.start() + 24, 8)]
    return tuple(places), tuple(sorted(addresses))


def _blocks(body: bytes, address: int) -> Iterator[list[Place]]:
    """The places of every block of an object, and of those under it."""
    yield [(address, 1), (address + 2, 2), (address + 4, 4), (address + 8, 4)]
    pending = [(address + 16, _at(body, address + 8, 4))]
    while pending:
        at, size = pending.pop()
        end = at + size
        while at + 8 <= end:
            kind, length, start = _at(body, at, 2), _at(body, at + 2, 2), at + 8
            words = range(start, start + length - 7, 8)
            yield [(at, 2), (at + 2, 2), (at + 4, 1), *((start + i, 1) for i in range(min(8, length)))]
            yield [(at, 2), *((place, 8) for place in words), *((place + 2, 8) for place in words)]
            if kind == 0x10:
                pending.append((_at(body, start), _at(body, start + 8)))
            elif kind == 0x11:
                yield from _group(body, _at(body, start), _at(body, start + 8))
            elif kind == 0x08 and body[start + 1] == 2 and _at(body, start + 3) < len(body):
                yield from _chunks(body, _at(body, start + 3), 8 + 8 * body[start + 2])
            at = start + length


def _node(body: bytes, address: int) -> list[Place]:
    return [(address, 4), (address + 4, 1), (address + 5, 1), (address + 6, 2), (address + 8, 8), (address + 16, 8)]


def _group(body: bytes, tree: int, heap: int) -> Iterator[list[Place]]:
    yield [(heap, 4), (heap + 4, 1), *((heap + at, 8) for at in (8, 16, 24))]
    yield _node(body, tree)
    for i in range(_at(body, tree + 6, 2)):
        child = tree + 32 + 16 * i
        yield [(child, 8)]
        listed = _at(body, child)
        yield [(listed, 4), (listed + 4, 1), (listed + 6, 2)]
        for at in range(listed + 8, listed + 8 + 40 * _at(body, listed + 6, 2), 40):
            yield [(at, 8), (at + 8, 8), (at + 16, 4)]
            yield from _blocks(body, _at(body, at + 8))


def _chunks(body: bytes, tree: int, key: int) -> Iterator[list[Place]]:
    yield _node(body, tree)
    for i in range(_at(body, tree + 6, 2)):
        at = tree + 24 + (key + 8) * i
        yield [(at, 4), (at + 4, 4), *((place, 8) for place in range(at + 8, at + key + 8, 8))]


# --- mutations -------------------------------------------------------------------------------------------------------


def _numbers(body: bytes, rng: random.Random) -> bytes:
    places, addresses = hdf5_places(body)
    return mutate_numbers(body, places, rng, addresses)


def mutate_hdf5(seed: Seed, rng: random.Random) -> Files:
    """Change numbers of blocks, often into addresses of other blocks."""
    return {"m": _numbers(seed.body, rng)}


def mutate_names(seed: Seed, rng: random.Random) -> Files:
    """Change a name wherever it is: in a group's list and in the attributes that list it, or in one of them alone."""
    names = sorted({match[0] for match in re.finditer(rb"[a-z][a-z0-9_]{3,}(?:/[a-z0-9_]+)*", seed.body)})
    old = rng.choice(names)
    new = rng.choice([rng.choice(names), b"..", old[:-1] + b"\xff", old.replace(b"1", b"9"), old.upper(), b""])
    new = new[: len(old)].ljust(len(old), b"\0")
    return {"m": seed.body.replace(old, new, rng.choice([1, 2, -1]))}


def mutate_keras_model(seed: Seed, rng: random.Random) -> Files:
    """Change variables, or, where h5py itself would not write what came of it, numbers of the file."""
    try:
        return mutate_model(seed, rng)
    except (
        ValueError,
        TypeError,
        OSError,
        RuntimeError,
    ):  # a name with a NUL, empty or used twice; attributes of 64 kB
        return mutate_file(seed, rng)


def mutate_keras_zip(seed: Seed, rng: random.Random) -> Files:
    """Change the HDF5, or the configuration beside it, under right checksums."""
    members = dict(zip_members(seed.body))
    if rng.random() < 0.5:
        members[_WEIGHTS] = _numbers(members[_WEIGHTS], rng)
    elif rng.random() < 0.8:
        members[_CONFIG] = mutate_json(members[_CONFIG], rng)
    else:
        name = rng.choice(sorted(members))
        size = rng.choice([*INTERESTING[:14], len(members[name])]) & 0xFFFFFFFF
        members[name] = rng.choice(
            [t.deflated(members[name]), t.deflated(members[name], size=size), mutate_bytes(members[name], rng)]
        )
    return {"m": t.archive(members, wide=False)}


def _of_models(mutation: Mutation, otherwise: Mutation) -> Mutation:
    """A mutation of models, for formats some of whose seeds are another program's."""

    def mutate(seed: Seed, rng: random.Random) -> Files:
        return (mutation if seed.write else otherwise)(seed, rng)

    mutate.__name__ = mutation.__name__
    return mutate


HDF5 = Format(
    lambda: [
        _golden("chunks.h5"),
        _nameless(),
        model("Keras h5", "keras", _legacy),
        model("Keras weights.h5", "keras", _weights),
    ],
    (mutate_file, mutate_hdf5, mutate_hdf5, mutate_hdf5, mutate_names, _of_models(mutate_keras_model, mutate_hdf5)),
)
KERAS = Format(
    lambda: [model("Keras zip", "keras", _keras)],
    (mutate_file, mutate_zip, mutate_keras_zip, mutate_keras_zip, mutate_keras_zip, mutate_keras_model),
)
