"""Where the time of a pass goes: nothing lost, nothing counted twice, and a table that says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import networks

from resforward import NETWORKS, Block, InputError, Network, bottleneck, build, model, resnet_v2
from resforward.bench import Measurement, Timing, measure
from resforward.cli.units import print_units
from resforward.per_unit import Pass, UnitTime, per_unit, total
from resforward.plan import Layout, Value, lay_out

UNIT = "{}/unit_{}/bottleneck_v2".format


def layout_of(network: Network, batch: int, height: int, width: int) -> Layout:
    *_, last = network.end_points(height, width)
    return lay_out(network, batch, height, width, ["logits" if last == "predictions" else last])


def parameters_of_convolutions(network: Network) -> int:
    return sum(int(np.prod(shape)) for name, shape in network.variables.items() if name.endswith("/weights"))


# Laws


@given(
    network=networks(),
    batches=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_rows_sum_to_the_pass(network: Network, batches: list[int], size: tuple[int, int], seed: int) -> None:
    layouts = [layout_of(network, batch, *size) for batch in batches]
    rng = np.random.default_rng(seed)
    passes: list[Pass] = [[(layout, rng.random(len(layout.steps))) for layout in layouts] for _ in range(3)]
    rows = per_unit(network, size, passes)
    whole = total("total", rows)
    medians = [np.median([timed[part][1] for timed in passes], axis=0).sum() for part in range(len(layouts))]
    assert whole.seconds == pytest.approx(sum(medians))
    assert whole.macs == sum(batches) * network.macs(*size)
    assert whole.weight_bytes == 4 * len(batches) * parameters_of_convolutions(network)
    # Each unit has its own multiply-adds, all of them.
    points = network.end_points(*size)
    assert [row.name for row in rows] == ["root block", *(unit.name for unit in network.units), "head"]
    for row, unit in zip(rows[1:-1], network.units, strict=True):
        assert row.block == unit.block
        assert row.macs == sum(batches) * points[unit.name].macs
        assert row.seconds > 0
        assert row.activation_bytes > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_of_a_published_network_counts_once(name: str) -> None:
    network = NETWORKS[name]
    layout = layout_of(network, 8, 224, 224)
    rows = per_unit(network, (224, 224), [[(layout, np.ones(len(layout.steps)))]])
    assert sum(row.macs for row in rows) == 8 * network.macs(224, 224)
    assert sum(row.seconds for row in rows) == pytest.approx(len(layout.steps))


def test_the_times_of_a_pass_are_within_it() -> None:
    fashion = build("fashion", threads=1)
    result = measure(fashion, batch=2, size=(28, 28), steps=1, warmup=2, report=lambda line: None, units=True)
    assert 0 < total("total", result.units).seconds <= result.timing.durations[0]
    assert measure(fashion, batch=1, size=(28, 28), steps=1, warmup=0, report=lambda line: None).units == ()


def test_a_batch_that_runs_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_IMAGES_A_RUN", 2)
    fashion = build("fashion", threads=1)
    times = fashion.step_times(np.zeros((5, 28, 28, 1), np.float32))
    assert [next(iter(layout.shapes.values()))[0] for layout, _ in times] == [2, 2, 1]
    assert all(len(layout.steps) == len(seconds) and (seconds > 0).all() for layout, seconds in times)
    whole = total("total", per_unit(fashion.network, (28, 28), [times, times]))
    assert whole.macs == 5 * fashion.network.macs(28, 28)
    assert whole.seconds == pytest.approx(sum(seconds.sum() for _, seconds in times))
    assert whole.weight_bytes == 4 * 3 * parameters_of_convolutions(fashion.network)


@pytest.mark.parametrize("size", [8, 14, 28])
def test_a_step_that_the_core_runs_in_parts(size: int) -> None:
    """Winograd's method where weights are many: its parts have one time."""
    blocks = [Block("block1", bottleneck, [(512, 512, 1)])]
    deep = build(resnet_v2(blocks, 7, input_channels=64, include_root_block=False), threads=1)
    images = np.zeros((1, size, size, 64), np.float32)
    ((layout, seconds),) = deep.step_times(images)
    assert "winograd" in [step.kind for step in layout.steps]
    assert deep._plan(images.shape, ("logits",))[0].steps == len(layout.steps) == len(seconds)
    assert (seconds > 0).all()


def test_no_pass() -> None:
    with pytest.raises(InputError, match="no pass was timed"):
        per_unit(NETWORKS["fashion"], (28, 28), [])


# What belongs to whom


def test_a_step_of_two_units_is_shared_out_by_multiply_adds() -> None:
    """conv3 of one unit, then the projection and conv1 of the next, computed together."""
    network = NETWORKS["resnet_v2_50"]
    layout = layout_of(network, 1, 224, 224)
    before, after = UNIT("block1", 3), UNIT("block2", 1)
    seconds = np.array([float(step.name == f"{before}/conv3") for step in layout.steps])
    assert seconds.sum() == 1
    rows = {row.name: row.seconds for row in per_unit(network, (224, 224), [[(layout, seconds)]])}
    points = network.end_points(224, 224)
    own, others = points[f"{before}/conv3"].macs, sum(points[f"{after}/{name}"].macs for name in ("shortcut", "conv1"))
    assert rows[before] == pytest.approx(own / (own + others))
    assert rows[after] == pytest.approx(others / (own + others))
    assert sum(rows.values()) == pytest.approx(1)


def test_a_convolution_in_several_steps_counts_once() -> None:
    """Whatever a step's kind and name are: its convolution says where it belongs."""
    network = NETWORKS["fashion"]
    layout = layout_of(network, 1, 28, 28)
    (conv,) = (step for step in layout.steps if step.name == f"{UNIT('block2', 2)}/conv2")
    place = layout.steps.index(conv)
    read = conv.inputs[0]
    tiles = Value(read.n, 4, 4, read.c, floats=4096, offset=0)
    before = dataclasses.replace(conv, kind="conv", name=f"{conv.name}/tiles", linear=None, out=tiles, preact=None)
    after = dataclasses.replace(conv, inputs=[tiles])
    split = Layout([*layout.steps[:place], before, after, *layout.steps[place + 1 :]], 0, layout.shapes)
    plain = per_unit(network, (28, 28), [[(layout, np.ones(len(layout.steps)))]])
    rows = per_unit(network, (28, 28), [[(split, np.ones(len(split.steps)))]])
    for row, was in zip(rows, plain, strict=True):
        extra = row.name == UNIT("block2", 2)
        assert (row.macs, row.weight_bytes) == (was.macs, was.weight_bytes)
        assert row.seconds == pytest.approx(was.seconds + extra)
        assert row.activation_bytes == was.activation_bytes + (4 * 2 * 4096 if extra else 0)


def test_the_ends_of_a_pass() -> None:
    network = NETWORKS["resnet_v1_50"]
    layout = layout_of(network, 1, 224, 224)
    for name, row in {"images": 0, "conv1": 0, "pool1": 0, "global_pool": -1, "logits": -1}.items():
        steps = [step for step in layout.steps if name in [link.name for link in step.chain]]
        seconds = np.array([float(step in steps) for step in layout.steps])
        assert per_unit(network, (224, 224), [[(layout, seconds)]])[row].seconds == len(steps) > 0


def test_bytes_of_a_unit() -> None:
    """Its first convolution reads what the unit before has just written, in cache; its last adds a shortcut."""
    network = NETWORKS["resnet_v2_50"]
    layout = layout_of(network, 8, 224, 224)
    rows = {row.name: row for row in per_unit(network, (224, 224), [[(layout, np.ones(len(layout.steps)))]])}
    pixels = 8 * 56 * 56 + 1  # and one of zeros
    narrow, wide = 4 * 64 * pixels, 4 * 256 * pixels
    # conv1 writes, conv2 reads and writes, conv3 reads, and reads and writes the sum.
    assert rows[UNIT("block1", 2)].activation_bytes == 4 * narrow + 2 * wide
    # A step of 2 in conv2, and a shortcut that reads every fourth pixel; only the preact of the sum is wanted.
    quarter = 8 * 28 * 28 + 1
    sum_read = 4 * 256 * pixels // 4
    assert rows[UNIT("block1", 3)].activation_bytes == 2 * narrow + 2 * 4 * 64 * quarter + sum_read
    assert rows[UNIT("block1", 2)].weight_bytes == 4 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    images, margin = 4 * 8 * 224 * 224 * 3, 4 * 8 * 230 * 230 * 3
    pool1 = 4 * 64 * pixels  # of what conv1 writes, which is never stored
    assert rows["root block"].activation_bytes == images + 2 * margin + pool1
    assert rows["head"].activation_bytes == sum(
        4 * floats
        for floats in (
            2048 * (8 * 7 * 7 + 1),  # the mean reads the last preact
            *[2048 * (8 + 1)] * 2,  # what it writes is read by the logits
            *[1008 * (8 + 1)] * 2,  # which lie in sixteens,
            1001 * 8,  # and are handed out as they are
        )
    )


# The table


def measurement(units: tuple[UnitTime, ...], *durations: float, network: str = "n") -> Measurement:
    return Measurement(
        network=network,
        source="seed 0",
        parameters=1,
        batch=2,
        size=(8, 8),
        macs=1,
        timing=Timing(durations),
        warmup=0,
        peaks=(100.0,),
        isa="portable",
        threads=1,
        threads_reason="asked for",
        winograd=True,
        conditions={},
        units=units,
    )


TWO_BLOCKS = (
    UnitTime("root block", None, 0.010, 200_000_000, 1_000_000, 2_000_000),
    UnitTime("block1/unit_1/bottleneck_v2", "block1", 0.040, 1_900_000_000, 3_000_000, 40_000_000),
    UnitTime("block1/unit_2/bottleneck_v2", "block1", 0.030, 1_600_000_000, 3_000_000, 41_234_567),
    UnitTime("block2/unit_1/bottleneck_v2", "block2", 0.0196, 1_000_000_000, 5_000_000, 6_000_000),
    UnitTime("head", None, 0.0004, 0, 0, 100_000),
)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_units(measurement(TWO_BLOCKS, 0.1, 0.103, 0.104))
    assert (
        capsys.readouterr().out
        == """
                ms   share  GFLOP/s  of peak  lost ms     MB
root block   10.00   10.0%       40      40%     6.00    3.0  most lost
block1       70.00   70.0%      100     100%     0.00   87.2
  unit_1     40.00   40.0%       95      95%     2.00   43.0  slowest
  unit_2     30.00   30.0%      107     107%    -2.00   44.2
block2       19.60   19.6%      102     102%    -0.40   11.0
  unit_1     19.60   19.6%      102     102%    -0.40   11.0
head          0.40    0.4%                       0.40    0.1
total       100.00  100.0%       94      94%     6.00  101.3

ms       medians of 3 steps; a whole one takes 103.00, with the call itself and what disturbed it
         convolutions of two units that are computed together share their time by multiply-adds
lost ms  beyond its multiply-adds at the peak
MB       weights and feature maps that are read from memory and written there
"""
    )


def test_one_short_step(capsys: pytest.CaptureFixture[str]) -> None:
    print_units(measurement((UnitTime("a\x1b/unit_1/basic_v2", "a\x1b", 0.001, 0, 0, 0),), 0.0012))
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    assert table.splitlines()[1:] == [
        "             ms   share  GFLOP/s  of peak  lost ms   MB",
        r"a\x1b     1.000  100.0%                      1.000  0.0",
        "  unit_1  1.000  100.0%                      1.000  0.0  slowest, most lost",
        "total     1.000  100.0%                      1.000  0.0",
    ]
    assert notes.startswith("ms       one step; the whole of it takes 1.200, with the call itself\n")


def test_fifty_units_fit(capsys: pytest.CaptureFixture[str]) -> None:
    network = NETWORKS["resnet_v2_152"]
    layout = layout_of(network, 32, 224, 224)
    units = per_unit(network, (224, 224), [[(layout, np.full(len(layout.steps), 0.25))]])
    print_units(measurement(units, *[20.0] * 100, network=network.name))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("  unit_")] == [
        f"unit_{place}" for units in (3, 8, 36, 3) for place in range(1, units + 1)
    ]
    assert [line for line in lines if line.startswith("  unit_36 ")]


def test_json() -> None:
    told = measurement(TWO_BLOCKS, 0.1).as_dict()["units"]
    assert told[1] == {
        "name": "block1/unit_1/bottleneck_v2",
        "block": "block1",
        "seconds": 0.040,
        "share": pytest.approx(0.4),
        "seconds_lost": pytest.approx(0.002),
        "macs": 1_900_000_000,
        "gflops": pytest.approx(95),
        "peak_share": pytest.approx(0.95),
        "weight_bytes": 3_000_000,
        "activation_bytes": 40_000_000,
    }
    assert sum(row["share"] for row in told) == pytest.approx(1)
    assert "units" not in measurement((), 0.1).as_dict()
