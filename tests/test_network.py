"""Networks as tables: slim's shapes, parameters and end points, and every choice that cannot be made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from golden.networks import SMALL

from resforward import NETWORKS, Block, Network, bottleneck, resnet_v1, resnet_v2, with_output_stride
from resforward.errors import NetworkError
from resforward.families import Pool, PoolPadding
from resforward.published import UNITS
from resforward.resnet import resnet_block


def block_shapes(network: Network, height: int, width: int) -> list[tuple[int, int, int]]:
    points = network.end_points(height, width)
    return [points[name].shape for name in network.blocks]


# Parameters with batch norm's statistics, as the published checkpoints hold them.
@pytest.mark.parametrize(
    ("name", "variables", "parameters"),
    [
        ("resnet_v1_50", 267, 25_610_152),
        ("resnet_v1_101", 522, 44_654_504),
        ("resnet_v1_152", 777, 60_344_232),
        ("resnet_v2_50", 272, 25_615_849),
        ("resnet_v2_101", 544, 44_677_609),
        ("resnet_v2_152", 816, 60_382_697),
    ],
)
def test_parameters_are_those_of_the_published_checkpoints(name: str, variables: int, parameters: int) -> None:
    network = NETWORKS[name]
    assert network.parameters == parameters
    assert len(network.variables) == variables


@pytest.mark.parametrize(("depth", "units"), UNITS.items())
def test_depth_counts_layers_with_weights(depth: int, units: tuple[int, ...]) -> None:
    for version in ("v1", "v2"):
        network = NETWORKS[f"resnet_{version}_{depth}"]
        assert [len(us) for us in network.blocks.values()] == list(units)
        assert 1 + sum(len(unit.convs) for unit in network.units) + 1 == depth


# tf_slim/nets/resnet_v2_test.py, ResnetCompleteNetworkTest: height, width, depth of every Block.
@pytest.mark.parametrize("make", [resnet_v1, resnet_v2])
@pytest.mark.parametrize(
    ("size", "options", "shapes"),
    [
        (224, {}, [(28, 28, 4), (14, 14, 8), (7, 7, 16), (7, 7, 32)]),
        (321, {}, [(41, 41, 4), (21, 21, 8), (11, 11, 16), (11, 11, 32)]),
        (321, {"output_stride": 8}, [(41, 41, 4), (41, 41, 8), (41, 41, 16), (41, 41, 32)]),
        (128, {"include_root_block": False}, [(64, 64, 4), (32, 32, 8), (16, 16, 16), (16, 16, 32)]),
    ],
)
def test_blocks_have_slim_s_shapes(make: Any, size: int, options: dict[str, Any], shapes: list[Any]) -> None:
    assert block_shapes(make(SMALL, 10, global_pool=False, **options), size, size) == shapes


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        (224, [112, 56, 28, 14, 7, 7]),
        (299, [150, 75, 38, 19, 10, 10]),
        (33, [17, 9, 5, 3, 2, 2]),
        (2, [1, 1, 1, 1, 1, 1]),
        (1, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_maps_halve_and_round_up(size: int, maps: list[int]) -> None:
    points = NETWORKS["resnet_v2_50"].end_points(size, 224)
    assert [points[n].height for n in ("conv1", "pool1", "block1", "block2", "block3", "block4")] == maps
    assert [points[n].width for n in ("conv1", "pool1", "block1", "block2", "block3", "block4")] == [
        112, 56, 28, 14, 7, 7,
    ]  # fmt: skip


def test_end_points_are_in_the_order_of_computation() -> None:
    blocks = [Block("block1", bottleneck, [(8, 2, 1), (8, 2, 2)])]
    unit = "block1/unit_{}/bottleneck_v2{}".format
    v2 = [
        "conv1", "pool1",
        unit(1, "/preact"), unit(1, "/shortcut"), unit(1, "/conv1"), unit(1, "/conv2"), unit(1, "/conv3"), unit(1, ""),
        unit(2, "/preact"), unit(2, "/conv1"), unit(2, "/conv2"), unit(2, "/conv3"), unit(2, ""), "block1",
        "postnorm", "global_pool", "logits", "predictions",
    ]  # fmt: skip
    assert list(resnet_v2(blocks, 10).end_points(9, 9)) == v2
    v1 = [name.replace("_v2", "_v1") for name in v2 if not name.endswith(("preact", "postnorm"))]
    assert list(resnet_v1(blocks, 10).end_points(9, 9)) == v1
    assert list(resnet_v2(blocks).end_points(9, 9)) == v2[:-2]
    assert list(resnet_v2(blocks, global_pool=False).end_points(9, 9)) == v2[:-3]
    assert list(resnet_v2(blocks, include_root_block=False).end_points(9, 9)) == v2[2:-2]


def test_slim_collects_77_end_points_of_50_layers() -> None:
    # models repository: conv1, 4 of each of 16 units, 4 shortcuts, 4 Blocks, and global_pool, logits,
    # spatial_squeeze, predictions; we collect the 16 preacts, pool1 and postnorm besides, and squeeze nothing.
    assert len(NETWORKS["resnet_v2_50"].end_points(224, 224)) == 77 + 16 + 2 - 1


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_weights_times_output_pixels(name: str) -> None:
    network = NETWORKS[name]
    height, width = (28, 28) if name == "fashion" else (224, 192)
    points = network.end_points(height, width)
    total = 0
    for variable, shape in network.variables.items():
        if variable.endswith("/weights"):
            point = points[variable.removesuffix("/weights")]
            total += math.prod(shape) * point.height * point.width
    assert network.macs(height, width) == total
    assert sum(points[block].macs for block in network.blocks) == sum(points[u.name].macs for u in network.units)


def test_multiply_adds_of_the_root_block_by_hand() -> None:
    points = NETWORKS["resnet_v2_50"].end_points(224, 224)
    assert points["conv1"].macs == 112 * 112 * (7 * 7 * 3) * 64
    assert points["logits"].macs == 2048 * 1001
    # block1/unit_1: 1x1 64 -> 256 for the shortcut, then 64 -> 64, 3x3 64 -> 64, 64 -> 256, all on 56 x 56.
    assert points["block1/unit_1/bottleneck_v2"].macs == 56 * 56 * (64 * 256 + 64 * 64 + 9 * 64 * 64 + 64 * 256)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_end_points_add_up(name: str) -> None:
    network = NETWORKS[name]
    points = network.end_points(32, 32)
    parts = ["conv1", *network.blocks, "postnorm", "logits"]
    assert sum(points[part].parameters for part in parts if part in points) == network.parameters


@pytest.mark.parametrize(
    ("output_stride", "strides", "rates"),
    [
        (None, [2, 2, 2, 1], [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1]]),
        (32, [2, 2, 2, 1], [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1]]),
        # The unit that gives up its stride still has the rate so far; the ones after it see the difference.
        (16, [2, 2, 1, 1], [[1, 1, 1], [1, 1, 1], [1, 1, 1], [2, 2]]),
        (8, [2, 1, 1, 1], [[1, 1, 1], [1, 1, 1], [2, 2, 2], [4, 4]]),
        (4, [1, 1, 1, 1], [[1, 1, 1], [2, 2, 2], [4, 4, 4], [8, 8]]),
    ],
)
def test_output_stride_trades_strides_for_rates(output_stride: int, strides: list[int], rates: list[Any]) -> None:
    network = resnet_v2(SMALL, output_stride=output_stride, global_pool=False)
    assert [math.prod(u.stride for u in units) for units in network.blocks.values()] == strides
    assert [[u.rate for u in units] for units in network.blocks.values()] == rates
    assert network.variables == resnet_v2(SMALL).variables
    for unit in network.units:
        assert [conv.rate for conv in unit.convs] == [1, unit.rate, 1]
        assert unit.shortcut != "subsample" or unit.stride > 1


@pytest.mark.parametrize("output_stride", [0, 1, 2, 3, 6, 12, 64, -4])
def test_an_output_stride_that_no_unit_ends_on_is_refused(output_stride: int) -> None:
    with pytest.raises(NetworkError, match=f"output_stride {output_stride} cannot be reached") as caught:
        resnet_v2(SMALL, output_stride=output_stride)
    assert "4, 8, 16, 32" in str(caught.value)


def test_a_dense_network_is_not_made_denser() -> None:
    dense = with_output_stride(NETWORKS["resnet_v2_50"], 16)
    with pytest.raises(NetworkError, match="already made with output_stride=16"):
        with_output_stride(dense, 8)
    assert with_output_stride(dense, None) is dense


def test_shortcuts_follow_from_depths_and_strides() -> None:
    network = resnet_v2([Block("block1", bottleneck, [(64, 1, 1), (64, 1, 2), (65, 1, 2), (65, 1, 1)])])
    assert [unit.shortcut for unit in network.units] == ["identity", "subsample", "projection", "identity"]


def test_a_unit_may_be_slim_s_dict() -> None:
    unit = {"depth": 8, "depth_bottleneck": 2, "stride": 1}
    assert Block("block1", bottleneck, [unit]) == Block("block1", bottleneck, [(8, 2, 1)])


def test_units_that_are_none_are_all_named() -> None:
    wrong: list[Any] = [(8, 2), (8, 2, 0), (8, -2, 1), (8.5, 2, 1), ("a", 2, 1), (8, 2, True), 8, {"depth": 8}]
    with pytest.raises(NetworkError, match="block7 is no list of units") as caught:
        Block("block7", bottleneck, [(8, 2, 1), *wrong])
    assert [line.split(":")[0] for line in caught.value.found] == [f"unit_{i}" for i in range(2, 10)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block("block1", bottleneck, []), "block1 is no list of units"),
        (lambda: resnet_v2([]), "at least one Block"),
        (lambda: resnet_v2([resnet_block("a", 1, 1, 1)] * 2), "share a name"),
        (lambda: resnet_v2(SMALL, input_channels=0), "input_channels is 0"),
        (lambda: resnet_v2(SMALL, num_classes=-1), "num_classes is -1"),
        (lambda: NETWORKS["resnet_v2_50"].end_points(0, 224), "0 x 224 pixels"),
        (lambda: NETWORKS["resnet_v2_50"].end_points(224, -1), "224 x -1 pixels"),
    ],
)
def test_what_describes_no_network_is_refused(make: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make()


@pytest.mark.parametrize(
    ("padding", "size", "geometry"),
    [
        ("same", 112, (56, 0)), ("same", 113, (57, 1)), ("same", 1, (1, 1)), ("same", 2, (1, 0)),
        ("symmetric", 112, (56, 1)), ("symmetric", 113, (57, 1)), ("symmetric", 1, (1, 1)),
        ("ceil", 112, (56, 0)), ("ceil", 113, (56, 0)), ("ceil", 1, (1, 0)), ("ceil", 2, (1, 0)),
    ],
)  # fmt: skip
def test_pool_geometry(padding: PoolPadding, size: int, geometry: tuple[int, int]) -> None:
    assert Pool(3, 2, padding).geometry(size) == geometry


def test_values_that_describe_no_network_are_all_named() -> None:
    with pytest.raises(NetworkError) as caught:
        dataclasses.replace(
            NETWORKS["fashion"], num_classes=10.0, input_channels=True, global_pool="no", epsilon=float("nan")
        )
    assert [line.split()[0] for line in caught.value.found] == [
        "num_classes",
        "input_channels",
        "global_pool",
        "epsilon",
    ]


def test_strides_no_image_has_are_refused() -> None:
    with pytest.raises(NetworkError, match="is no network"):
        resnet_v2([Block("block1", bottleneck, [(4, 1, 10**12)])])
