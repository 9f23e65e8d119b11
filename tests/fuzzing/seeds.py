"""What is mutated: valid checkpoints as files, and the smallest networks as every source names their variables."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from plain_networks import random_weights
from test_dialects import stored

from resforward import Block, Network, basic, bottleneck
from resforward.dialects import BIG_TRANSFER, KERAS, TIMM, TORCH, Dialect
from resforward.families import BIT, GROUPS, KERAS_V1, SLIM_V1, TIMM_V2, TORCH_V1, Family
from resforward.network import UnitKind
from resforward.resnet import resnet

GOLDEN = Path(__file__).parents[1] / "golden"

Files = dict[str, bytes]
Tensors = dict[str, NDArray]


@dataclass(frozen=True)
class Seed:
    """A valid checkpoint.

    Args:
        label: for messages. files: by their names. entry: which of them is passed to the reader; "" for their folder.
        tensors, write: the model in it, and how to write it with others; None where another program wrote it.
        options: that `load` takes for it.
    """

    label: str
    files: Files
    entry: str = "m"
    tensors: Mapping[str, NDArray] | None = None
    write: Callable[[Tensors], Files] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The file, where there is one."""
        return self.files[self.entry]


Mutation = Callable[[Seed, random.Random], Files]


class Format(NamedTuple):
    """A row of the table of formats.

    Args:
        seeds: makes the valid files. mutations: one is chosen for every mutant, so one that is listed twice is chosen
            twice as often.
        damage: the one of them that changes bytes as disks and transport do. Where the format has checksums it must
            never change a value, else None.
    """

    seeds: Callable[[], list[Seed]]
    mutations: tuple[Mutation, ...]
    damage: Mutation | None = None


def _network(family: Family, kind: UnitKind, width: int = 2) -> Network:
    """One unit with a projection, a root block, three classes: 2 kB of weights."""
    block = Block("block1", kind, [(2 * width, width, 2)])
    return resnet(family, [block], 3, stem=replace(family.stem, widths=(width,)))


NETWORKS = {
    "slim": _network(SLIM_V1, bottleneck),
    "torch": _network(TORCH_V1, basic),
    "timm": _network(TIMM_V2, basic),
    "keras": _network(KERAS_V1, bottleneck),
    "bit": _network(BIT, bottleneck, GROUPS),
}
_DIALECTS: dict[str, Dialect] = {"torch": TORCH, "timm": TIMM, "keras": KERAS, "bit": BIG_TRANSFER}


@functools.cache
def tensors_of(source: str) -> Tensors:
    """The variables of one of `NETWORKS`, called and turned as its source does."""
    weights = random_weights(NETWORKS[source])
    if source == "slim":
        return {f"net/{name}": array for name, array in weights.items()}
    tensors = stored(_DIALECTS[source], weights)
    return tensors | ({"bn1.num_batches_tracked": np.array(7)} if source == "torch" else {})


def model(label: str, source: str, write: Callable[[Tensors], Files], entry: str = "m") -> Seed:
    """A model's seed, by the format's writer."""
    tensors = tensors_of(source)
    return Seed(label, write(tensors), entry, tensors, write)
