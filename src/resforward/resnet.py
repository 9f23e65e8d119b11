"""From Blocks to a Network: every choice that a table of Blocks leaves open, made by a family's row.

    network = resnet_v2([Block("block1", bottleneck, [(256, 64, 1)] * 2 + [(256, 64, 2)]), ...], num_classes=1001)

Rules and names are TF-slim's (google-research/tf-slim, tf_slim/nets/resnet_utils.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypedDict, Unpack

from .errors import NetworkError
from .families import SLIM_V1, SLIM_V2, Family, Shortcut, Stem
from .network import Block, Network, Unit, bottleneck


class Options(TypedDict, total=False):
    """What `resnet_v1` and `resnet_v2` take beside Blocks and classes; see `resnet`."""

    global_pool: bool
    output_stride: int | None
    include_root_block: bool
    input_channels: int
    epsilon: float | None
    stem: Stem | None
    name: str | None


_END_POINT_NAMES = {"conv1", "pool1", "postnorm", "global_pool", "logits", "predictions"}


def resnet(
    family: Family,
    blocks: Sequence[Block],
    num_classes: int | None = None,
    *,
    global_pool: bool = True,
    output_stride: int | None = None,
    include_root_block: bool = True,
    input_channels: int = 3,
    epsilon: float | None = None,
    stem: Stem | None = None,
    name: str | None = None,
) -> Network:
    """Make a network of any family from its Block table; `resnet_v1` and `resnet_v2` are this with slim's rows.

    Args:
        family: the row of values that decides everything the Blocks leave open.
        blocks: in order.
        num_classes: of the classifier; 0 or None for features alone.
        global_pool: average over height and width before the classifier; False for dense prediction.
        output_stride: pixels of the image for one of the last Block's, by dilation from there on; None: nominal.
        include_root_block: False to let the first Block read the image itself.
        input_channels: of the images.
        epsilon: of batch norm, when it is not the family's.
        stem: another root block than the family's.
        name: slim's scope, the first part of full end point keys.

    Raises:
        NetworkError: values that describe no network, no Blocks, two of one name, one called like an end point, or an
            output stride that cannot be reached.
    """
    if not blocks:
        raise NetworkError("a network needs at least one Block")
    scopes = [block.scope for block in blocks]
    if twice := sorted({s for s in scopes if scopes.count(s) > 1}):
        raise NetworkError("Blocks share a name, so their end points would too", found=twice)
    if taken := sorted(set(scopes) & _END_POINT_NAMES):
        raise NetworkError("Blocks are called what an end point is called", found=taken)
    root = (stem or family.stem) if include_root_block else None
    units: list[Unit] = []
    depth_in = (root.widths or (0,))[-1] if root else input_channels  # `Network` refuses a root block of no width
    for block in blocks:
        for index, (depth, depth_bottleneck, stride) in enumerate(block.args, start=1):
            projects = {
                "width": depth != depth_in,
                "width or stride": depth != depth_in or stride > 1,
                "first unit": index == 1,
            }[family.projects]
            shortcut: Shortcut = "subsample" if stride > 1 else "identity"
            if projects:
                shortcut = family.projection if stride > 1 else "projection"
            convs = len(block.unit_fn.kernels)
            units.append(
                Unit(
                    name=f"{block.scope}/unit_{index}/{block.unit_fn.name}_{family.version}",
                    block=block.scope,
                    kind=block.unit_fn,
                    depth_in=depth_in,
                    depth=depth,
                    depth_bottleneck=depth_bottleneck,
                    stride=stride,
                    rates=(1,) * convs,
                    stride_at=family.stride_at if convs > 2 else 1,
                    pre=family.pre_projection if projects else family.pre_identity,
                    post=family.post,
                    bias=family.bias if convs > 2 else (family.bias[0], family.bias[-1]),
                    norms=family.norms if convs > 2 else (family.norms[0], family.norms[-1]),
                    shortcut=shortcut,
                    shortcut_bias=family.shortcut_bias,
                    shortcut_norm=family.shortcut_norm,
                    norm=family.norm,
                )
            )
            depth_in = depth
    network = Network(
        name=name or f"resnet_{family.version}",
        family=family,
        input_channels=input_channels,
        stem=root,
        units=tuple(units),
        num_classes=0 if num_classes is None else num_classes,
        global_pool=global_pool,
        epsilon=family.epsilon if epsilon is None else epsilon,
    )
    return with_output_stride(network, output_stride)


def with_output_stride(network: Network, output_stride: int | None) -> Network:
    """Trade strides for dilation from the unit on that would overshoot `output_stride`.

    >>> dense = with_output_stride(NETWORKS["resnet_v2_50"], 16)
    >>> [unit.rate for unit in dense.units[-3:]]
    [2, 2, 2]

    The rule is slim's (`stack_blocks_dense`): once the stride reached is the one asked for, a unit keeps the rate so
    far and loses its stride, and the rate grows by that stride for what comes after it. Torch's, with its first and
    later dilations of a stage, is the same rule for networks whose first units have the stride.

    Args:
        network: with its nominal strides.
        output_stride: pixels of the image for one of the last Block's; None leaves the network as it is.

    Raises:
        NetworkError: a stride that no unit ends on, or a network that was made dense already.
    """
    if output_stride is None:
        return network
    if network.output_stride is not None:
        raise NetworkError(
            f"{network.name} was already made with output_stride={network.output_stride}",
            help="start from the nominal network",
        )
    root = network.stem.stride * (network.stem.pool.stride if network.stem.pool else 1) if network.stem else 1
    reachable = [root]
    for unit in network.units:
        if unit.stride > 1:
            reachable.append(reachable[-1] * unit.stride)
    if output_stride not in reachable:
        raise NetworkError(
            f"output_stride {output_stride} cannot be reached by {network.name}",
            help=f"its strides are {', '.join(map(str, reachable))}",
        )
    current, rate, units = root, 1, []
    for unit in network.units:
        if current == output_stride:
            if unit.shortcut == "avg_projection":
                raise NetworkError(
                    f"{network.name} has no dense form: {unit.name}'s shortcut takes the mean of its strides",
                    help="an output stride can be had where shortcuts are plain convolutions",
                )
            shortcut: Shortcut = "identity" if unit.shortcut == "subsample" else unit.shortcut
            # What follows the convolution that lost the stride reads a map that is denser by it.
            rates = tuple(
                1 if kernel == 1 else rate if place <= unit.stride_at else rate * unit.stride
                for place, kernel in enumerate(unit.kind.kernels, start=1)
            )
            units.append(dataclasses.replace(unit, stride=1, rates=rates, shortcut=shortcut))
            rate *= unit.stride
        else:
            units.append(unit)
            current *= unit.stride
    return dataclasses.replace(network, units=tuple(units), output_stride=output_stride)


def resnet_v1(blocks: Sequence[Block], num_classes: int | None = None, **options: Unpack[Options]) -> Network:
    """Make slim's post-activation network from its Block table.

    >>> resnet_v1([Block("block1", bottleneck, [(256, 64, 1)] * 3)], num_classes=1000).depth
    256

    Args:
        blocks: in order.
        num_classes: of the classifier; 0 or None for features alone.
        options: those of `resnet`: global_pool, output_stride, include_root_block, input_channels, epsilon,
            stem, name.
    """
    return resnet(SLIM_V1, blocks, num_classes, **options)


def resnet_v2(blocks: Sequence[Block], num_classes: int | None = None, **options: Unpack[Options]) -> Network:
    """Make slim's pre-activation network from its Block table.

    >>> resnet_v2([Block("block1", bottleneck, [(256, 64, 1)] * 3)], num_classes=1000).units[0].shortcut
    'projection'

    Args:
        blocks: in order.
        num_classes: of the classifier; 0 or None for features alone.
        options: those of `resnet`: global_pool, output_stride, include_root_block, input_channels, epsilon,
            stem, name.
    """
    return resnet(SLIM_V2, blocks, num_classes, **options)


def resnet_block(scope: str, base_depth: int, num_units: int, stride: int, stride_unit: str = "last") -> Block:
    """Make a Block of units of one width; slim's `resnet_v2_block`, where the last unit carries the stride.

    >>> resnet_block("block1", base_depth=64, num_units=3, stride=2).args
    ((256, 64, 1), (256, 64, 1), (256, 64, 2))
    """
    strides = [1] * num_units
    strides[-1 if stride_unit == "last" else 0] = stride
    return Block(scope, bottleneck, [(4 * base_depth, base_depth, s) for s in strides])
