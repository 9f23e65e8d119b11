"""The networks that are published, by name, and the numbers of units that make their depths."""

from __future__ import annotations

from collections.abc import Sequence

from .families import SLIM_V1, SLIM_V2, Family, Stem
from .network import Block, Network, UnitKind, bottleneck
from .resnet import resnet, resnet_block

BASIC_UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}  # units per Block, by depth


def published_layers(kind: UnitKind, units: Sequence[int]) -> int | None:
    """By how many layers a published network with so many units in its Blocks is known.

    >>> published_layers(bottleneck, [3, 4, 6, 3])
    50
    """
    known = UNITS if kind is bottleneck else BASIC_UNITS
    return next((layers for layers, counts in known.items() if list(counts) == list(units)), None)


def block_strides(family: Family, blocks: int) -> list[int]:
    """The strides of a published network's Blocks: three of four halve the map, on their way out or on their way in.

    >>> block_strides(SLIM_V2, 4)
    [2, 2, 2, 1]
    """
    halving = [2] * (blocks - 1)
    return [*halving, 1] if family.stride_unit == "last" else [1, *halving]


def standard_blocks(units: Sequence[int], family: Family = SLIM_V2) -> list[Block]:
    """The Blocks of a published depth from the number of units in each."""
    strides = block_strides(family, len(units))
    return [
        resnet_block(f"block{i + 1}", 64 * 2**i, count, stride, family.stride_unit)
        for i, (count, stride) in enumerate(zip(units, strides, strict=True))
    ]


def _fashion() -> Network:
    """The built-in model's table: 28 x 28 grey pictures, ten classes; trained by tools/train_fashion.py."""
    blocks = [
        Block("block1", bottleneck, [(64, 32, 1), (64, 32, 2)]),
        Block("block2", bottleneck, [(128, 48, 1)] * 2 + [(128, 48, 2)]),
        Block("block3", bottleneck, [(192, 64, 1)] * 4),
    ]
    stem = Stem(kernel=3, stride=1, widths=(32,), bias=True, norm=False, relu=False, pool=None)
    return resnet(SLIM_V2, blocks, 10, input_channels=1, stem=stem, name="fashion")


NETWORKS: dict[str, Network] = {
    f"resnet_{family.version}_{depth}": resnet(
        family, standard_blocks(units, family), family.classes, name=f"resnet_{family.version}_{depth}"
    )
    for family in (SLIM_V1, SLIM_V2)
    for depth, units in UNITS.items()
} | {"fashion": _fashion()}
