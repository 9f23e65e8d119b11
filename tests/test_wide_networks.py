"""Random networks wide enough for every form that the engine chooses by itself: chains, slots, Winograd's tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_model import ISAS, THREADS, TOLERANCE, images_of, same_bits

from resforward import Block, Model, Network, bottleneck, build, resnet_v1, resnet_v2
from resforward.reference import forward

units = st.tuples(st.integers(1, 150), st.integers(1, 70), st.sampled_from([1, 1, 2]))
sizes = st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 17), st.integers(1, 17)), st.just((16, 15)))


@st.composite
def wide_networks(draw: st.DrawFn) -> Network:
    blocks = [
        Block(f"block{i}", bottleneck, draw(st.lists(units, min_size=1, max_size=2)))
        for i in range(1, draw(st.integers(1, 2)) + 1)
    ]
    options: dict[str, Any] = {
        "include_root_block": False,
        "input_channels": draw(st.sampled_from([1, 20, 64, 130])),
        "global_pool": draw(st.booleans()),
        "output_stride": draw(st.sampled_from([None, 1])),
    }
    return draw(st.sampled_from([resnet_v1, resnet_v2]))(blocks, draw(st.sampled_from([0, 33])), **options)


def check_against_reference(model: Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every end point within what is promised of the largest value on the way to it."""
    _, wanted = forward(model.network, model.weights, images, np.float64)
    found = model.forward(images)
    assert list(found) == list(wanted)
    size = 0.0
    for name, tensor in found.items():
        size = max(size, np.abs(wanted[name]).max())
        assert np.abs(tensor - wanted[name]).max() <= TOLERANCE * size, name
    return found


@given(
    network=wide_networks(), batch=st.integers(1, 4), size=sizes, isa=st.sampled_from(ISAS),
    threads=st.sampled_from(THREADS), winograd=st.booleans(), data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_wide_network_is_the_reference_and_wanting_less_changes_no_bit(
    network: Network, batch: int, size: tuple[int, int], isa: str, threads: int, winograd: bool, data: st.DataObject
) -> None:
    height = size[0] + (size[0] == network.input_channels > 1)  # as many rows as channels could be NCHW
    images = images_of(network, batch, height, size[1])
    model = build(network, isa=isa, threads=threads, winograd=winograd)
    found = check_against_reference(model, images)
    subset = data.draw(st.lists(st.sampled_from(list(found)), min_size=1, max_size=3, unique=True))
    assert same_bits(model.forward(images, subset), {name: found[name] for name in subset})
    for step in model._plan(images.shape, tuple(subset))[1].steps:
        event(f"{step.kind} {'chain' if step.then else step.tile or ''}")


@pytest.mark.parametrize("make", [resnet_v1, resnet_v2])
@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ((1, 1), 1), ((4, 4), 1), ((9, 9), 1), ((14, 14), 1), ((13, 11), 1), ((17, 18), 1),
        ((7, 8), 2), ((13, 14), 2), ((19, 20), 2), ((28, 27), 2),
    ],
)  # fmt: skip
def test_each_size_of_winograd_s_tiles_is_the_reference(make: Any, size: tuple[int, int], stride: int) -> None:
    """Deep sums, where rounding has most room: the depths of resnet_50's third block, for the published errors."""
    block = Block("block1", bottleneck, [(512, 256, stride), (512, 256, 1)])
    network = make([block], 33, include_root_block=False, input_channels=64)
    check_against_reference(build(network), images_of(network, 2, *size))
