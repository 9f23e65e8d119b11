"""The timing of a forward pass, and the figures that follow from it."""

import itertools
import json
import math
import re

import pytest

from resforward import NETWORKS, InputError, bench, build
from resforward.bench import Measurement, Timing, measure, time_forward_run

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"


@pytest.fixture
def clock(monkeypatch):
    """Make every step last a quarter of a second, and every fourth of them half a second."""
    now = [0.0]
    starts = itertools.count()

    def perf_counter():
        call = next(starts)
        if call % 2:  # the end of a step
            now[0] += 0.5 if call // 2 % 4 == 3 else 0.25
        return now[0]

    monkeypatch.setattr(bench.time, "perf_counter", perf_counter)


def test_reports_every_ten_steps_and_the_sum_of_them(clock):
    lines = []
    time_forward_run(lambda: None, steps=21, warmup=4, report=lines.append)
    assert len(lines) == 4
    for line, step in zip(lines, (0, 10, 20), strict=False):
        assert re.fullmatch(rf"{STAMP}: step {step}, duration = 0\.250", line)
    # 5 of the 21 steps took half a second
    assert re.fullmatch(rf"{STAMP}: Forward across 21 steps, 0\.310 \+/- 0\.106 sec / batch", lines[-1])


def test_warm_up_runs_but_does_not_count(clock):
    runs = []
    timing = time_forward_run(lambda: runs.append(1), steps=3, warmup=5, report=lambda line: None)
    assert len(runs) == 8
    assert timing.durations == (0.25, 0.25, 0.5)  # the sixth to the eighth


def test_what_runs_between_steps_is_outside_their_time(monkeypatch):
    now = [0.0]

    def spend(seconds):
        now[0] += seconds

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    done = []

    def between(number):
        done.append(number)
        spend(100)

    timing = time_forward_run(lambda: spend(0.125), steps=2, warmup=1, report=lambda line: None, between=between)
    assert timing.durations == (0.125, 0.125)
    assert done == [1, 2, 3]


def test_another_name_in_the_last_line(capsys):
    time_forward_run(lambda: None, "Backbone", steps=1, warmup=0)
    assert "Backbone across 1 steps, 0.000 +/- 0.000 sec / batch" in capsys.readouterr().out


def test_deviation_is_that_of_the_whole_and_never_imaginary():
    assert Timing((1.0, 2.0, 4.0)).std == pytest.approx(math.sqrt(7 - (7 / 3) ** 2))
    assert Timing((0.1,) * 1000).std == pytest.approx(0, abs=1e-7)  # the square root of a rounding error


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (-1, 3), (5, -1)])
def test_nothing_to_time(steps, warmup):
    with pytest.raises(InputError, match="nothing to time"):
        time_forward_run(lambda: None, steps=steps, warmup=warmup)


def test_figures():
    result = Measurement(
        network="n",
        source="s",
        parameters=1,
        batch=32,
        size=(224, 224),
        macs=4_000_000_000,
        timing=Timing((0.2, 0.2)),
        warmup=1,
        peaks=(3000.0, 2560.0, 2000.0),
        isa="avx512",
        threads=2,
        threads_reason="asked for",
        winograd=True,
        conditions={},
    )
    assert result.images_per_second == pytest.approx(160)
    assert result.gflops == pytest.approx(1280)
    assert result.peak == 2560
    assert result.share == pytest.approx(0.5)


@pytest.mark.parametrize(("steps", "peaks"), [(1, 1), (5, 5), (6, 3), (20, 5), (21, 5)])
def test_the_peak_is_measured_between_steps_a_few_times(monkeypatch, steps, peaks):
    asked = []

    def fma_peak(*arguments):
        asked.append(arguments)
        return 100.0

    monkeypatch.setattr(bench._core, "fma_peak", fma_peak)
    model = build(NETWORKS["fashion"], threads=1)
    result = measure(model, batch=1, size=(8, 8), steps=steps, warmup=1, report=lambda line: None)
    assert asked == [(model.isa, 1, bench.PEAK_SECONDS)] * peaks
    assert len(result.timing.durations) == steps


def test_a_measurement_says_its_conditions():
    model = build(NETWORKS["fashion"], threads=2)
    result = measure(model, batch=3, size=(28, 30), steps=2, warmup=0, threads_asked=2, report=lambda line: None)
    told = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (told["batch"], told["height"], told["width"]) == (3, 28, 30)
    assert told["macs_per_image"] == NETWORKS["fashion"].macs(28, 30)
    assert (told["threads"], told["threads_reason"], told["isa"]) == (2, "asked for", model.isa)
    assert told["peak_gflops"] > 0
    assert told["mean"] == pytest.approx(sum(told["durations"]) / 2)
    assert {"date", "processor", "compiler", "resforward", "python", "numpy"} <= told["conditions"].keys()
    assert re.fullmatch(r"Linux \d+\.\d+", told["conditions"]["system"])  # a release, not somebody's build of it


def test_no_images():
    with pytest.raises(InputError, match="batch of 0"):
        measure(build(NETWORKS["fashion"]), batch=0)
