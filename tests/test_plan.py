"""What a plan computes and where it lies: nothing that nobody needs, and no two live values on the same bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden.networks import ODD, SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import CASES, EARLY
from test_model import networks

from resforward import NETWORKS, Network, resnet_v1, resnet_v2, with_output_stride
from resforward.families import TORCH_V1
from resforward.network import Conv
from resforward.plan import Layout, Step, Value, _chained, _place, lay_out
from resforward.resnet import resnet


def step_of(layout: Layout, name: str) -> Step:
    (step,) = (link for step in layout.steps for link in step.chain if link.name == name and link.kind != "store")
    return step


def values(layout: Layout) -> list[Value]:
    return [value for step in layout.steps for link in step.chain for value in link.writes]


def in_place(layout: Layout) -> list[tuple[Value, Value]]:
    """Sums that lie where their shortcuts do, with these: pixel for pixel, and nothing else of the step reads one."""
    found = []
    for step in layout.steps:
        for link in step.chain:
            out, shortcut = link.out, link.shortcut
            if not out or not shortcut or out.slot is not None or out.offset != shortcut.offset:
                continue
            assert link.shortcut_stride == 1
            assert (out.n, out.h, out.w, out.c) == (shortcut.n, shortcut.h, shortcut.w, shortcut.c)
            assert sum(value is shortcut for other in step.chain for value in other.reads) == 1
            found.append((out, shortcut))
    return found


def check_follower(head: Step, link: Step) -> None:
    """The laws of what is computed together with a convolution before it."""
    (x,) = link.inputs
    if link.kind == "max_pool":
        assert head.kind == "conv_rows", "no other convolution is computed by rows"
        assert head.writes == [x], "the pool is not all that reads it"
        assert x.slot is not None, "somebody else reads it"
        assert head.then == [link]
        return
    assert (head.kind, link.kind) == ("conv", "conv"), "neither blocks of pixels nor rows of a pool"
    assert link.conv is not None
    assert link.conv.kernel == 1, "a block of pixels is not enough for it"
    if link.inputs == head.inputs:
        assert head.conv is not None
        assert head.conv.stride == link.conv.stride == 1, "not the same pixels"
        return
    before = head.chain[: next(i for i, other in enumerate(head.chain) if other is link)]
    assert any(x is value for other in before for value in other.writes), "it reads nothing that the chain has used"
    assert (x.h, x.w) == (head.writes[0].h, head.writes[0].w), "other pixels than those of a block"


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
            if link is not step:
                check_follower(step, link)
    assert set(written) == set(last_read), "a value that nobody reads"

    for value in values(layout):
        if value.slot is not None:
            assert last_read[id(value)] == written[id(value)], "a slot is gone when its step is done"
            continue
        assert value.offset >= 0
        assert value.offset % 16 == 0, "planes start on 64-byte boundaries"
        assert value.offset + value.size <= layout.arena_floats
    replaced = {id(out): shortcut for out, shortcut in in_place(layout)}
    live = [(written[id(v)], last_read[id(v)], v) for v in values(layout) if v.slot is None]
    for i, (first, last, a) in enumerate(live):
        for other_first, other_last, b in live[i + 1 :]:
            if replaced.get(id(b)) is a:
                assert last == other_first, "a shortcut that somebody reads after its sum is written"
            elif first <= other_last and other_first <= last:
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


@pytest.mark.parametrize(
    "network", [*NETWORKS.values(), *CASES.values(), with_output_stride(NETWORKS["resnet_v2_50"], 8)]
)
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
    small = lay_out(NETWORKS["resnet_v2_50"], 1, 32, 32, ["logits"])
    assert not any(step.then for step in small.steps if step.kind == "conv")


def test_a_strided_projection_is_chained_behind_the_last_unit_of_the_block_before() -> None:
    """As in torchvision's networks: conv1 reads all pixels of a block, the projection every fourth."""
    unit = "{}/unit_{}/bottleneck_v1".format
    last, first = unit("block1", 2), unit("block2", 1)
    layout = lay_out(CASES["torch"], 1, 64, 64, ["logits"])
    head = step_of(layout, f"{last}/conv3")
    strides = {link.name: link.conv.stride for link in head.then if link.conv}
    assert strides == {f"{first}/shortcut": 2, f"{first}/conv1": 1}
    assert all(link.inputs == [head.out] for link in head.then)
    # Without a chain before it, it is a step of its own: with conv1 it would read all pixels.
    layout = lay_out(resnet(TORCH_V1, EARLY[1:], 7), 1, 64, 64, ["logits"])
    assert all(step_of(layout, f"{first}/{name}") in layout.steps for name in ("shortcut", "conv1"))


def maps(count: int, side: int = 4) -> list[Value]:
    return [Value(1, side, side, 16) for _ in range(count)]


def test_what_reads_a_strided_follower_is_a_step_of_its_own() -> None:
    """It has fewer pixels than the blocks of the chain."""
    (images, whole), (half, last) = maps(2, 32), maps(2, 16)
    strides = {"whole": 1, "half": 2, "last": 1}
    steps = [
        Step("conv", name, [x], out=out, conv=Conv(name, 1, 16, 16, stride=strides[name]))
        for name, x, out in (("whole", images, whole), ("half", whole, half), ("last", half, last))
    ]
    steps.append(Step("store", "last", [last]))
    assert [[link.name for link in step.chain] for step in _chained(steps)] == [["whole", "half"], ["last"], ["last"]]
    assert whole.slot == 0
    assert half.slot is None


def test_nothing_but_a_pool_follows_the_root_block_s_convolution() -> None:
    """Not even where it is 1x1: it reads rows of images, not blocks of pixels."""
    for pool in (None, TORCH_V1.stem.pool):
        stem = replace(TORCH_V1.stem, kernel=1, stride=1, widths=(16,), pool=pool)
        check(lay_out(resnet(TORCH_V1, EARLY, 7, stem=stem), 1, 32, 32, ["logits"]), ["logits"])


def pooled_at_once(network: Network, *wanted: str) -> bool:
    """Whether the pool is computed with the convolution before it; else that one's map has a place in the arena."""
    layout = lay_out(network, 2, 33, 47, wanted)
    check(layout, list(wanted))
    (root,) = (step for step in layout.steps if any(link.kind == "max_pool" for link in step.chain))
    pool = root.chain[-1]
    assert (root is pool) == (pool.inputs[0].offset >= 0)
    return root is not pool


@pytest.mark.parametrize("name", [name for name, network in CASES.items() if network.stem and network.stem.pool])
def test_the_pool_is_computed_with_the_only_convolution_before_it(name: str) -> None:
    network = CASES[name]
    *_, last = network.end_points(33, 47)
    alone = len(network.stem_convs) == 1
    assert pooled_at_once(network, last) == alone
    assert pooled_at_once(network, "pool1") == alone
    assert pooled_at_once(network, last, "pool1") == alone
    # What somebody else reads, too, must be stored.
    first = network.stem_convs[-1].name
    assert not pooled_at_once(network, first, last)
    assert not pooled_at_once(network, last, first)
    assert not pooled_at_once(network, *network.end_points(33, 47))


def test_nothing_is_pooled_that_nobody_wants() -> None:
    layout = lay_out(NETWORKS["resnet_v2_50"], 1, 32, 32, ["conv1"])
    assert [link.kind for step in layout.steps for link in step.chain] == ["load_rows", "conv_rows", "store"]


def test_no_convolution_follows_a_pool() -> None:
    """Of v1 the first projection and conv1 are 1x1 and read the pool: they are a chain of their own."""
    layout = lay_out(NETWORKS["resnet_v1_50"], 1, 224, 224, ["logits"])
    assert [[link.name for link in step.chain] for step in layout.steps[1:3]] == [
        ["conv1", "pool1"],
        [f"block1/unit_1/bottleneck_v1/{name}" for name in ("shortcut", "conv1")],
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_sum_takes_the_place_of_its_shortcut(name: str) -> None:
    """Wherever it reads all its pixels. A unit before that is an end point, too, has been handed out by then."""
    points = list(CASES[name].end_points(33, 47))
    for wanted in ([points[-1]], points, points[::-1]):
        layout = lay_out(CASES[name], 2, 33, 47, wanted)
        check(layout, wanted)
        links = [link for step in layout.steps for link in step.chain if link.shortcut and link.shortcut_stride == 1]
        sums = [link.out for link in links if link.out and link.out.slot is None]
        assert sums
        assert [out for out, _ in in_place(layout)] == sums


@pytest.mark.parametrize("later", ["nothing", "a step", "its chain", "its own convolution", "some pixels alone"])
def test_a_shortcut_that_is_still_read_keeps_its_place(later: str) -> None:
    first, hidden, summed, other = maps(4)
    last = Step("conv", "conv3", [hidden], out=summed, shortcut=first)
    steps = [
        Step("load", "images", out=first),
        Step("conv", "conv2", [first], out=hidden),
        last,
        Step("store", "sum", [summed]),
    ]
    if later == "a step":
        steps.append(Step("store", "shortcut", [first]))
    elif later == "its chain":
        last.then.append(Step("conv", "next", [first], out=other))
        steps.append(Step("store", "other", [other]))
    elif later == "its own convolution":
        last.inputs = [first]
        steps.insert(2, Step("store", "hidden", [hidden]))
    elif later == "some pixels alone":
        last.shortcut_stride = 2
    arena = _place(steps)
    assert (summed.offset == first.offset) == (later == "nothing")
    assert arena == first.size * {"nothing": 2, "its chain": 4, "its own convolution": 2}.get(later, 3)


def test_only_the_sum_takes_the_place_of_its_shortcut() -> None:
    first, hidden, summed, linear = maps(4)
    steps = [
        Step("load", "images", out=first),
        Step("conv", "conv2", [first], out=hidden),
        Step("conv", "conv3", [hidden], linear=linear, out=summed, shortcut=first),
        *(Step("store", name, [value]) for name, value in (("sum", summed), ("linear", linear))),
    ]
    assert _place(steps) == 3 * first.size
    assert summed.offset == first.offset
    assert linear.offset not in (first.offset, hidden.offset)


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
