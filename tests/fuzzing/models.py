"""Mutations of what a model is: its variables' names, shapes, kinds and values, written anew as a valid file.

Such a file passes its format's reader; what is tried is what comes after it: which network it is, and whether its
variables fit.
"""

from __future__ import annotations

import math
import random
import re

import numpy as np

from fuzzing.damage import times
from fuzzing.seeds import Files, Seed, Tensors

_NUMBERS = ["0", "1", "2", "3", "9", "10", "007", "999", "4294967296", "9" * 30]
_PARTS = [
    "bottleneck_v1",
    "bottleneck_v2",
    "conv1",
    "conv2",
    "conv3",
    "conv7",
    "shortcut",
    "block1",
    "unit_1",
    "unit_2",
]
_PARTS += ["layer1", "layer2", "layer9", "downsample", "stages", "blocks", "stem", "norm", "norm1", "head", "fc", "bn1"]
_PARTS += [
    "logits",
    "gamma",
    "kernel",
    "weight",
    "running_mean",
    "se",
    "num_batches_tracked",
    "",
    "..",
    "é",
    "x" * 2000,
]
_DTYPES = ["float32", "float32", "float64", "float16", "int64", "int32", "uint8", "bool"]
_MOST_VALUES = 1 << 16
_VALUES = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-45, 3e38, -3e38, 65504.0, 1e300]


def mutate_model(seed: Seed, rng: random.Random) -> Files:
    """Change variables, and write them anew."""
    tensors = dict(seed.tensors)
    for _ in times(rng):
        if tensors:
            with np.errstate(all="ignore"):
                _change(tensors, rng)
    return seed.write(tensors)


def _change(tensors: Tensors, rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    array = tensors[name]
    kind = rng.randrange(11)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[_renumbered(name, rng)] = tensors.pop(name)
    elif kind == 2:
        tensors[_reworded(name, rng)] = tensors.pop(name)
    elif kind == 3:  # a second network, or a part of one
        scope = rng.choice(["a/", "module.", "b/net/", "backbone.", "x" * 600 + "/"])
        chosen = [each for each in sorted(tensors) if rng.random() < 0.9]
        tensors |= {scope + each: tensors[each] for each in chosen}
        if rng.random() < 0.5:
            for each in chosen:
                del tensors[each]
    elif kind == 4:  # everything that is called alike
        old = rng.choice(re.split(r"[/.]", name))
        new = rng.choice([_renumbered(old, rng), rng.choice(_PARTS)])
        renamed = {each.replace(old, new) if old else each: array for each, array in tensors.items()}
        tensors.clear()
        tensors |= renamed
    elif kind == 5:
        tensors[name] = np.ascontiguousarray(array.transpose(rng.sample(range(array.ndim), array.ndim)))
    elif kind == 6:
        tensors[name] = _resized(array, rng)
    elif kind == 7:
        tensors[name] = array.astype(rng.choice(_DTYPES))
    elif kind == 8:
        changed = array.copy()
        if rng.random() < 0.5:
            changed[...] = np.asarray(rng.choice(_VALUES)).astype(array.dtype)
        if changed.size:
            changed.flat[rng.randrange(changed.size)] = np.asarray(rng.choice(_VALUES)).astype(array.dtype)
        tensors[name] = changed
    elif kind == 9:
        tensors[name] = array.reshape(rng.choice([(-1,), (1, -1), (*array.shape, 1), (1,) * 4 + array.shape]))
    else:
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]


def _renumbered(name: str, rng: random.Random) -> str:
    found = list(re.finditer(r"\d+", name))
    if not found:
        return name + rng.choice(["1", "_1", ".0", ":0"])
    match = rng.choice(found)
    return name[: match.start()] + rng.choice(_NUMBERS) + name[match.end() :]


def _reworded(name: str, rng: random.Random) -> str:
    parts = re.split(r"([/.])", name)
    parts[2 * rng.randrange((len(parts) + 1) // 2)] = rng.choice(_PARTS)
    return "".join(parts)


def _resized(array: np.ndarray, rng: random.Random) -> np.ndarray:
    if not array.ndim:
        return np.zeros(rng.choice([(0,), (1,), (3,)]), array.dtype)
    shape = list(array.shape)
    axis = rng.randrange(array.ndim)
    shape[axis] = rng.choice([0, 1, shape[axis] + 1, max(0, shape[axis] - 1), 2 * shape[axis], 64])
    if not shape[axis] and rng.random() < 0.3:
        shape[axis - 1] = rng.choice([0, 1 << 31, 1 << 40])  # no bytes, whatever the others are
    if math.prod(shape) > _MOST_VALUES:  # one that had none, and now has one
        return array
    return np.resize(array, shape) if 0 not in shape else np.zeros(shape, array.dtype)
