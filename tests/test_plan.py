"""What a plan computes and where it lies: nothing that nobody needs, and no two live values on the same bytes."""

from __future__ import annotations

import pytest
from golden.networks import ODD, SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import networks

from resforward import NETWORKS, Network, resnet_v1, resnet_v2, with_output_stride
from resforward.plan import Layout, Step, Value, lay_out


def step_of(layout: Layout, name: str) -> Step:
    (step,) = (link for step in layout.steps for link in step.chain if link.name == name and link.kind != "store")
    return step


def values(layout: Layout) -> list[Value]:
    return [value for step in layout.steps for link in step.chain for value in link.writes]


def check(layout: Layout, wanted: list[str]) -> None:
    """The laws of every layout."""
    written: dict[int, int] = {}
    last_read: dict[int, int] = {}
    for index, step in enumerate(layout.steps):
        for link in step.chain:
            assert link.kind == "store" or link.writes, "a step that writes nothing"
            for value in link.reads:
                assert id(value) in written, "read before it is written"
                last_read[id(value)] = index
            for value in link.writes:
                assert id(value) not in written, "written twice"
                written[id(value)] = index
        for link in step.then:
            assert link.conv, "only convolutions follow"
            assert (link.conv.kernel, link.conv.stride) == (1, 1), "a block of pixels is not enough for it"
            just_used = written[id(link.inputs[0])] == index or link.inputs == step.inputs
            assert just_used, "it reads nothing that the chain has just read or written"
    assert set(written) == set(last_read), "a value that nobody reads"

    for value in values(layout):
        if value.slot is not None:
            assert last_read[id(value)] == written[id(value)], "a slot is gone when its step is done"
            continue
        assert value.offset >= 0
        assert value.offset % 16 == 0, "planes start on 64-byte boundaries"
        assert value.offset + value.size <= layout.arena_floats
    live = [(written[id(v)], last_read[id(v)], v) for v in values(layout) if v.slot is None]
    for i, (first, last, a) in enumerate(live):
        for other_first, other_last, b in live[i + 1 :]:
            if first <= other_last and other_first <= last:
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset, "two live values overlap"

    stores = [step for step in layout.steps if step.kind == "store"]
    assert sorted(step.output for step in stores) == list(range(len(wanted)))
    assert {step.name: step.output for step in stores} == {name: i for i, name in enumerate(wanted)}
    assert layout.steps[-1].kind == "store", "something is computed after the last wanted end point"


@given(network=networks(), size=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)), data=st.data())
@settings(max_examples=100, deadline=None)
def test_laws_of_every_layout(network: Network, size: tuple[int, int, int], data: st.DataObject) -> None:
    points = network.end_points(*size[1:])
    wanted = data.draw(st.lists(st.sampled_from(list(points)), min_size=1, unique=True))
    layout = lay_out(network, *size, wanted, winograd=data.draw(st.booleans()))
    check(layout, wanted)
    assert layout.shapes == {name: (size[0], *points[name].shape) for name in wanted}


@pytest.mark.parametrize("network", [*NETWORKS.values(), with_output_stride(NETWORKS["resnet_v2_50"], 8)])
def test_published_networks(network: Network) -> None:
    points = list(network.end_points(28, 28))
    for wanted in (points, points[-1:], points[len(points) // 2 :: 7]):
        check(lay_out(network, 2, 28, 28, wanted), wanted)


def test_a_step_is_a_convolution_a_pool_or_the_mean() -> None:
    """resnet_v2_50: 53 convolutions, one pool, one mean; norms, ReLUs and sums cost no step."""
    layout = lay_out(NETWORKS["resnet_v2_50"], 1, 224, 224, ["logits"])
    kinds = [link.kind for step in layout.steps for link in step.chain]
    assert kinds.count("conv") + kinds.count("winograd") == 3 * 16 + 4 + 1
    assert sorted(kind for kind in kinds if kind not in ("conv", "winograd")) == [
        "conv_rows",
        "load_rows",
        "max_pool",
        "mean",
        "store",
    ]


def test_the_preact_of_a_unit_is_an_output_of_the_step_before() -> None:
    layout = lay_out(resnet_v2(SMALL, 7), 1, 32, 32, ["logits"])
    unit = "block2/unit_{}/bottleneck_v2".format
    before = step_of(layout, f"{unit(1)}/conv3")
    assert before.norm == f"{unit(2)}/preact"
    assert step_of(layout, f"{unit(2)}/conv1").inputs == [before.preact]
    # Its shortcut is the identity: the raw sum is read again, by the unit's last step.
    assert before.out is not None
    assert step_of(layout, f"{unit(2)}/conv3").shortcut is before.out
    assert before.linear is None


def test_units_are_chained_across_their_border() -> None:
    """conv3 of a unit, then the projection and conv1 of the next; their preact is stored only if it is asked for."""
    unit = "{}/unit_{}/bottleneck_v2".format
    last, first = unit("block1", 3), unit("block2", 1)
    for extra in ([], [f"{first}/preact"]):
        layout = lay_out(NETWORKS["resnet_v2_50"], 1, 224, 224, [*extra, "logits"])
        head = step_of(layout, f"{last}/conv3")
        assert [link.name for link in head.then] == [f"{first}/shortcut", f"{first}/conv1"]
        assert head.preact is not None
        assert (head.preact.slot is None) == bool(extra)
    # Too few pixels to share between threads: a step of its own for each, split over output channels.
    assert not any(step.then for step in lay_out(NETWORKS["resnet_v2_50"], 1, 32, 32, ["logits"]).steps)


def test_a_sum_that_only_its_norm_reads_is_not_stored() -> None:
    layout = lay_out(resnet_v2(SMALL, 7), 1, 32, 32, ["logits"])
    # Block 1 ends, and the projection of block 2 reads the preact alone; so does the head after the last unit.
    for name in ("block1/unit_3/bottleneck_v2/conv3", "block4/unit_2/bottleneck_v2/conv3"):
        step = step_of(layout, name)
        assert step.preact is not None
        assert step.out is None
    wanted = lay_out(resnet_v2(SMALL, 7), 1, 32, 32, ["logits", "block1"])
    assert step_of(wanted, "block1/unit_3/bottleneck_v2/conv3").out is not None


def test_a_subsampling_shortcut_costs_no_step() -> None:
    layout = lay_out(resnet_v2(SMALL, 7), 1, 32, 32, ["logits"])
    last = step_of(layout, "block1/unit_3/bottleneck_v2/conv3")
    assert last.shortcut_stride == 2
    assert last.shortcut is step_of(layout, "block1/unit_2/bottleneck_v2/conv3").out


@pytest.mark.parametrize("make", [resnet_v1, resnet_v2])
def test_a_residual_path_alone_needs_no_shortcut(make) -> None:  # type: ignore[no-untyped-def]
    network = make(ODD, 7)
    name = network.units[-2].convs[-1].name
    layout = lay_out(network, 1, 32, 32, [name])
    check(layout, [name])
    assert network.units[-2].projection.name not in [step.name for step in layout.steps]
    assert step_of(layout, name).shortcut is None


def test_the_arena_holds_what_lives_at_once() -> None:
    """Not the sum of all values: for resnet_v2_50, less than a third of what the whole pass writes."""
    layout = lay_out(NETWORKS["resnet_v2_50"], 1, 224, 224, ["logits"])
    assert layout.arena_floats < sum(value.size for value in values(layout)) / 3
