"""Timing a forward pass as TensorFlow's tutorials do: warm up, time every step, report mean and deviation.

The formula is `time_tensorflow_run` of tensorflow/models, tutorials/image/alexnet/alexnet_benchmark.py.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from . import __version__, _core, machine
from .errors import InputError
from .model import Model
from .per_unit import Pass, UnitTime, per_unit, total

PEAK_SECONDS = 0.02  # of one measurement of the peak
_PEAKS = 5  # measurements in a run


@dataclass(frozen=True)
class Timing:
    """The duration of every step, in seconds; warm-up not among them.

    >>> Timing((1.0, 3.0)).mean, Timing((1.0, 3.0)).std
    (2.0, 1.0)
    """

    durations: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Seconds a step."""
        return sum(self.durations) / len(self.durations)

    @property
    def std(self) -> float:
        """sqrt(mean of squares - square of mean), which rounding may take below 0."""
        mean_of_squares = sum(duration * duration for duration in self.durations) / len(self.durations)
        return math.sqrt(max(0.0, mean_of_squares - self.mean**2))


def time_forward_run(
    run: Callable[[], object],
    info_string: str = "Forward",
    *,
    steps: int = 100,
    warmup: int = 10,
    report: Callable[[str], object] = print,
    between: Callable[[int], object] | None = None,
) -> Timing:
    """Run a forward pass again and again; report every ten steps, and all of them at the end.

    >>> timing = time_forward_run(lambda: sum(range(1000)), steps=20, warmup=1)  # doctest: +SKIP
    2026-11-24 03:50:16.123456: step 0, duration = 0.000
    2026-11-24 03:50:16.123789: step 10, duration = 0.000
    2026-11-24 03:50:16.124012: Forward across 20 steps, 0.000 +/- 0.000 sec / batch

    Args:
        run: one forward pass over one batch.
        info_string: what is timed.
        steps: how many are timed. warmup: how many run before, untimed.
        report: takes each line.
        between: called after each step, outside its time, with the number of steps so far, warm-up included.

    Raises:
        InputError: less than one step, or less than no warm-up.
    """
    if steps < 1 or warmup < 0:
        raise InputError(f"{steps} steps after {warmup} of warm-up: there is nothing to time")
    durations = []
    for step in range(-warmup, steps):
        start = time.perf_counter()
        run()
        duration = time.perf_counter() - start
        if step >= 0:
            durations.append(duration)
            if step % 10 == 0:
                report(f"{_now()}: step {step}, duration = {duration:.3f}")
        if between:
            between(step + warmup + 1)
    timing = Timing(tuple(durations))
    report(f"{_now()}: {info_string} across {steps} steps, {timing.mean:.3f} +/- {timing.std:.3f} sec / batch")
    return timing


def _now() -> str:
    return datetime.now().isoformat(" ", "microseconds")


@dataclass(frozen=True)
class Measurement:
    """A timed model, with the conditions that its numbers hold under.

    Args:
        network, source, parameters: of the model. batch, size: of the images. macs: multiply-adds of one of them.
        timing: of the steps. warmup: steps before them.
        peaks: GFLOP/s of independent multiply-adds, measured between steps on the same threads.
        isa, threads, threads_reason: what it ran on. winograd: whether by Winograd's method, where that is faster.
        conditions: machine and versions.
        units: where the time went, if that was asked for.
    """

    network: str
    source: str
    parameters: int
    batch: int
    size: tuple[int, int]
    macs: int
    timing: Timing
    warmup: int
    peaks: tuple[float, ...]
    isa: str
    threads: int
    threads_reason: str
    winograd: bool
    conditions: dict[str, Any]
    units: tuple[UnitTime, ...] = ()

    @property
    def images_per_second(self) -> float:
        """From the mean."""
        return self.batch / self.timing.mean

    @property
    def gflops(self) -> float:
        """Two operations for each multiply-add of the convolutions as written, whatever a kernel saves of them."""
        return 2e-9 * self.macs * self.images_per_second

    @property
    def peak(self) -> float:
        """The median of `peaks`, GFLOP/s."""
        return statistics.median(self.peaks)

    @property
    def share(self) -> float:
        """Of the peak; Winograd's fewer multiplications and AMX may take it above what float32 alone could reach."""
        return self.gflops / self.peak

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; the keys are stable."""
        return {
            "network": self.network,
            "source": self.source,
            "parameters": self.parameters,
            "batch": self.batch,
            "height": self.size[0],
            "width": self.size[1],
            "macs_per_image": self.macs,
            "warmup": self.warmup,
            "winograd": self.winograd,
            "steps": len(self.timing.durations),
            "durations": list(self.timing.durations),
            "mean": self.timing.mean,
            "std": self.timing.std,
            "images_per_second": self.images_per_second,
            "gflops": self.gflops,
            "peak_gflops": self.peak,
            "peak_gflops_measured": list(self.peaks),
            "peak_share": self.share,
            "isa": self.isa,
            "threads": self.threads,
            "threads_reason": self.threads_reason,
            "conditions": self.conditions,
        } | ({"units": self._units()} if self.units else {})

    def _units(self) -> list[dict[str, Any]]:
        whole = total("total", self.units).seconds
        return [unit.as_dict(whole, self.peak) for unit in self.units]


def measure(
    model: Model,
    *,
    batch: int = 32,
    size: tuple[int, int] = (224, 224),
    steps: int = 100,
    warmup: int = 10,
    threads_asked: int | None = None,
    report: Callable[[str], object] = print,
    between: Callable[[int], object] | None = None,
    units: bool = False,
) -> Measurement:
    """Time a model on random images, and this machine's peak between its steps.

    >>> from resforward import NETWORKS, build
    >>> result = measure(build(NETWORKS["fashion"]), batch=1, size=(28, 28), steps=2, report=lambda line: None)
    >>> len(result.timing.durations), result.images_per_second > 0
    (2, True)

    Args:
        model: to be timed, from `load` or `build`.
        batch: images at once. size: their height and width, pixels.
        steps, warmup, report, between: as `time_forward_run` has them.
        threads_asked: the number of threads that was given to `load` or `build`, if one was: for the reason.
        units: whether to say where the time goes, by the root block, the units and the head.

    Raises:
        InputError: nothing to time.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} images has nothing to time")
    told = conditions()
    shape = (batch, *size, model.network.input_channels)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    peaks: list[float] = []
    every = -(-steps // _PEAKS)

    def after(done: int) -> None:
        if done > warmup and (done - warmup - 1) % every == 0:
            peaks.append(_core.fma_peak(model.isa, model.threads, PEAK_SECONDS))
        if between:
            between(done)

    passes: list[Pass] = []

    def run() -> None:
        if units:
            passes.append(model.step_times(images))
        else:
            model(images)

    timing = time_forward_run(run, steps=steps, warmup=warmup, report=report, between=after)
    return Measurement(
        network=model.network.name,
        source=model.source,
        parameters=model.network.parameters,
        batch=batch,
        size=size,
        macs=model.network.macs(*size),
        timing=timing,
        warmup=warmup,
        peaks=tuple(peaks),
        isa=model.isa,
        winograd=model.winograd,
        threads=model.threads,
        threads_reason=machine.threads(threads_asked).reason,
        conditions=told,
        units=per_unit(model.network, size, passes[warmup:]) if units else (),
    )


def conditions() -> dict[str, Any]:
    """Machine, load and versions of a measurement."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": machine.processor(),
        "processors_allowed": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],  # before the first step: well above 0, and others were at work
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "compiler": _core.COMPILER,
        "resforward": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
