"""safetensors: its header changed member by member, our metadata in it, and timm's config.json beside it."""

from __future__ import annotations

import functools
import json
import random

import numpy as np
from plain_networks import random_weights
from safetensors.numpy import save

from fuzzing.damage import INTERESTING, mutate_bytes, mutate_file
from fuzzing.json_trees import mutate_json
from fuzzing.models import mutate_model
from fuzzing.seeds import NETWORKS, Files, Format, Seed, Tensors, model
from resforward.own_file import KEY, describe, own_bytes
from resforward.preprocess import VGG_224

_CONFIG = "config.json"
_TIMM = {
    "architecture": "resnetv2_50",
    "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "test_input_size": [3, 288, 288],
        "test_crop_pct": 1.0,
    },
}


def _plain(tensors: Tensors) -> Files:
    return {"m": save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {"format": "pt"})}


@functools.cache
def _description() -> dict[str, str]:
    return describe(NETWORKS["timm"], VGG_224, ["a", "b", "c"])


def _own(tensors: Tensors) -> Files:
    return {"m": own_bytes(tensors, _description(), "float32")}


def _own_seeds() -> list[Seed]:
    weights = random_weights(NETWORKS["timm"])
    half = {"m": own_bytes(weights, _description(), "bfloat16")}
    return [Seed("own", _own(weights), "m", weights, _own), Seed("own, bfloat16", half)]


def _beside(tensors: Tensors) -> Files:
    return {"model.safetensors": _plain(tensors)["m"], _CONFIG: json.dumps(_TIMM).encode()}


# --- mutations -------------------------------------------------------------------------------------------------------


def _split(body: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(body[:8], "little")
    return body[8 : 8 + size], body[8 + size :]


def _joined(header: bytes, data: bytes, rng: random.Random) -> bytes:
    size = len(header) if rng.random() < 0.95 else rng.choice([*INTERESTING, len(header) + 1]) % (1 << 64)
    return size.to_bytes(8, "little") + header + data


def mutate_header(seed: Seed, rng: random.Random) -> Files:
    """Change the header's JSON, or the bytes behind it."""
    name = next(name for name in seed.files if name != _CONFIG)
    header, data = _split(seed.files[name])
    if rng.random() < 0.1:
        data = mutate_bytes(data, rng)
    else:
        header = mutate_json(header, rng)
    return {**seed.files, name: _joined(header, data, rng)}


def mutate_description(seed: Seed, rng: random.Random) -> Files:
    """Change what the metadata says of the network, its preprocessing and its labels."""
    header, data = _split(seed.body)
    members = json.loads(header)
    told = mutate_json(members["__metadata__"][KEY].encode(), rng)
    members["__metadata__"][KEY] = told.decode("utf-8", "replace")
    return {"m": _joined(json.dumps(members).encode(), data, rng)}


def mutate_config(seed: Seed, rng: random.Random) -> Files:
    """Change what lies beside the weights."""
    return {**seed.files, _CONFIG: mutate_json(seed.files[_CONFIG], rng)}


SAFETENSORS = Format(
    lambda: [model("safetensors, torch", "torch", _plain), model("safetensors, timm", "timm", _plain)],
    (mutate_file, mutate_header, mutate_header, mutate_model),
)
OWN = Format(_own_seeds, (mutate_file, mutate_header, mutate_description, mutate_description, mutate_description))
TIMM_CONFIG = Format(
    lambda: [
        model("timm, by its file", "timm", _beside, "model.safetensors"),
        model("timm, by its folder", "timm", _beside, ""),
    ],
    (mutate_file, mutate_config, mutate_config, mutate_config, mutate_header),
)
