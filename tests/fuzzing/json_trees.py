"""JSON with one value changed: objects stay lists of pairs, so that a name can be there twice."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from typing import Any

from fuzzing.damage import INTERESTING, mutate_bytes, times

_SCALARS: list[str] = [json.dumps(number) for number in INTERESTING]
_SCALARS += ["null", "true", "false", "[]", "{}", '""', '"\\u0000"', '"\\ud800"', "-0.0", "1.5", "NaN", "-Infinity"]
_SCALARS += ["1e400", "-1", "3", "224", "1e9", "9" * 400, "1" + "0" * 5000, "[" * 200 + "]" * 200, "[" * 20_000]
_SCALARS += ['"F32"', '"BF16"', '"F4"', '"bicubic"', '"' + "x" * 5000 + '"']


class Raw(str):
    """Text that stands for itself."""


class Pairs(list):
    """An object: [name, value] for every member."""


def mutate_json(text: bytes, rng: random.Random) -> bytes:
    """Change names or values of JSON, or, now and then, bytes."""
    if rng.random() < 0.1:
        return mutate_bytes(text, rng)
    tree = _copy(_parsed(text))
    for _ in times(rng):
        _change(tree, rng)
    return encode(tree).encode("utf-8", "surrogatepass")


def _change(tree: Any, rng: random.Random) -> None:
    places = list(_places(tree))
    if not places:
        return
    holder, i = rng.choice(places)
    kind = rng.randrange(9)
    if kind == 0:
        del holder[i]
    elif kind == 1:
        times = rng.choice([1, 2, 300 if len(places) < 300 else 3])
        holder[i:i] = [_copy(holder[i]) for _ in range(times)]
    elif kind == 2:
        other, j = rng.choice(places)
        _put(holder, i, _copy(_value(other, j)))  # a copy: it may be what holds this place
    elif kind == 3 and isinstance(holder, Pairs):
        holder[i] = [rng.choice([rng.choice(holder)[0], "x", "", "__metadata__", "resforward"]), holder[i][1]]
    elif kind == 4 and len(holder) > 1:
        rng.shuffle(holder)
    elif isinstance(value := _value(holder, i), int | float) and not isinstance(value, bool) and kind < 8:
        _put(holder, i, rng.choice([*INTERESTING, value + 1, value - 1, -value, value * 2, value + 0.5]))
    elif isinstance(value, str) and kind < 8:
        _put(holder, i, mutate_bytes(value.encode("utf-8", "replace"), rng).decode("latin-1"))
    else:
        _put(holder, i, Raw(rng.choice(_SCALARS)))


def _places(tree: Any) -> Iterator[tuple[list, int]]:
    """Every member of every list and object, each once, without recursion into what was put there as text."""
    pending = [tree]
    while pending:
        holder = pending.pop()
        if isinstance(holder, list):
            for i in range(len(holder)):
                yield holder, i
                pending.append(_value(holder, i))


def _value(holder: list, i: int) -> Any:
    return holder[i][1] if isinstance(holder, Pairs) else holder[i]


def _put(holder: list, i: int, value: Any) -> None:
    holder[i] = [holder[i][0], value] if isinstance(holder, Pairs) else value


@functools.cache
def _parsed(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=lambda pairs: Pairs(list(pair) for pair in pairs))


def _copy(tree: Any) -> Any:
    if isinstance(tree, Pairs):
        return Pairs([name, _copy(value)] for name, value in tree)
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


def encode(tree: Any) -> str:
    """Write a tree as JSON, however wrong."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{encode(value)}" for name, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(encode, tree)) + "]"
    return json.dumps(tree)
