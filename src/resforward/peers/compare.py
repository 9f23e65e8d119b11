"""Engines in turn on the same images: each in a process of its own, of which one computes and the others sleep.

    with workers(model, images, ["onnxruntime", "ncnn"]) as engines:
        difference = logits_differences(engines)
        rows = [turns(engines, calls=3) for _ in range(15)]     # seconds a call, by engine

On a machine that others use too, the ratio of two engines within a round holds; figures of different rounds do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ResforwardError
from ..graph import plain_graph
from ..model import Model
from . import ENGINES, OURS, Engine
from .files import WRITERS

Array = npt.NDArray[np.float32]

RESFORWARD = "resforward"
WORKER = Path(__file__).parent / "worker.py"
TOLERANCE = 1e-5  # of the largest logit; engines that all compute in float32 differ by 1e-6 to 3e-6
PAUSE = 0.1  # seconds: whoever uses no CPU time in it is asleep
PATIENCE = 10.0  # seconds that an engine's threads may spin after their work
PARTING = 5.0  # seconds that an engine may take to end
IDLE_SHARE = 0.02  # of one processor that an engine may use while another computes

_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Worker:
    """A process with one engine loaded.

    Attributes:
        name: for messages. version: the engine's. load_seconds: what loading the network took it.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        folder: Path,
        threads: int,
        *,
        python: str | os.PathLike[str] = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start and load; `environment` is added to this process's.

        Raises:
            ResforwardError: it ended instead, or there is no such interpreter.
        """
        self.name = name
        self._folder = folder
        self._error: ResforwardError | None = None  # how it ended
        self._closing = contextlib.ExitStack()
        options = [f"{key}={value}" for key, value in engine.options.items()]
        try:
            self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  till `close`
            self._closing.callback(self._errors.close)
            self._process = subprocess.Popen(
                [str(python), str(WORKER), engine.adapter, str(folder), str(threads), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )
            self._closing.callback(self._end)
            hello = self._answer()
            self.version: str = hello["version"]
            self.load_seconds: float = hello["load_seconds"]
        except OSError as error:
            self.close()
            raise ResforwardError(f"{name} cannot be started: {error}") from error
        except BaseException:
            self.close()
            raise

    def turn(self, calls: int) -> list[float]:
        """Seconds of each of `calls` calls, after one that is not timed."""
        durations: list[float] = self._ask(f"turn {calls}")["durations"]
        return durations

    def logits(self) -> Array:
        """What it computes: (N, classes), or (N, H, W, classes) without a global pool."""
        path = self._folder / f"logits of {self.name}.npy"
        self._ask(f"logits {path}")
        logits: Array = np.load(path)
        path.unlink()
        return logits

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far."""
        if self._error:  # another process may have its number by now
            raise self._error
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            raise self._ended() from None
        return (int(fields[11]) + int(fields[12])) * _TICK

    def close(self) -> None:
        """End the process."""
        self._closing.close()

    def _end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._wait()
        self._process.stdout.close()

    def _wait(self) -> bool:
        """Whether it ended by itself."""
        try:
            self._process.wait(timeout=PARTING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _ask(self, request: str) -> dict[str, Any]:
        assert self._process.stdin
        if self._error:
            raise self._error
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> ResforwardError:
        if self._error is None:
            how = f"ended with {self._process.returncode}" if self._wait() else "runs on, but answers no more"
            self._errors.seek(0)
            last = [line for line in self._errors.read().splitlines() if line.strip()][-3:]
            self._error = ResforwardError(f"{self.name} {how}", found=last)
            self.close()
        return self._error


@contextlib.contextmanager
def workers(
    model: Model,
    images: Array,
    engines: Mapping[str, Engine],
    *,
    pythons: Mapping[str, str | os.PathLike[str]] | None = None,
    environment: Mapping[str, str] | None = None,
    threads: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Worker]]:
    """Write the model for every engine and start a worker each; all end with the block.

    Args:
        model: whose network, weights, instruction set and threads are those of all. images: (N, H, W, channels).
        engines: by name. pythons, threads: of an engine, where they are not this process's and the model's.
        environment: variables that all get.
    """
    graph = plain_graph(model.network, model.weights, size=(images.shape[1], images.shape[2]))
    with tempfile.TemporaryDirectory(prefix="resforward-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        np.save(folder / "images.npy", images)
        for kind in dict.fromkeys(engine.format for engine in engines.values()):
            WRITERS[kind](model, graph, folder)
        running: dict[str, Worker] = {}
        for label, engine in engines.items():
            worker = Worker(
                label,
                engine,
                folder,
                (threads or {}).get(label, model.threads),
                python=(pythons or {}).get(label, sys.executable),
                environment=environment,
            )
            stack.callback(worker.close)
            running[label] = worker
        yield running


def rest(engines: Sequence[Worker]) -> None:
    """Sleep until no engine uses CPU time: threads that spin for more work would slow down the next one.

    Raises:
        ResforwardError: some thread never goes to sleep.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        before = [worker.cpu_seconds() for worker in engines]
        time.sleep(PAUSE)
        awake = [
            worker.name for worker, used in zip(engines, before, strict=True) if worker.cpu_seconds() - used > _TICK / 2
        ]
        if not awake:
            return
        if time.monotonic() > deadline:
            raise ResforwardError(f"threads of {', '.join(awake)} never sleep, so no other engine can be measured")


def turns(engines: Mapping[str, Worker], calls: int) -> dict[str, float]:
    """One round: every engine's mean seconds a call, in turn.

    Raises:
        ResforwardError: an engine used CPU time while another computed.
    """
    seconds = {}
    for name, worker in engines.items():
        others = [other for other in engines.values() if other is not worker]
        rest(list(engines.values()))
        before = [other.cpu_seconds() for other in others]
        start = time.monotonic()
        seconds[name] = statistics.fmean(worker.turn(calls))
        elapsed = time.monotonic() - start
        for other, used in zip(others, before, strict=True):
            if other.cpu_seconds() - used > max(IDLE_SHARE * elapsed, 2 * _TICK):
                raise ResforwardError(f"{other.name} used the processor while {name} computed")
    return seconds


def logits_differences(engines: Mapping[str, Worker]) -> dict[str, float]:
    """Each engine's largest difference from the first's logits over the largest of them.

    Raises:
        ResforwardError: more than `TOLERANCE`: they did not compute the same, so their speeds cannot be compared.
    """
    (_, first), *others = engines.items()
    ours = first.logits()
    differences = {}
    for name, worker in others:
        theirs = worker.logits()
        if theirs.ndim == 4:
            theirs = theirs.transpose(0, 2, 3, 1)
            theirs = theirs[:, 0, 0] if ours.ndim == 2 and theirs.shape[1:3] == (1, 1) else theirs
        if theirs.shape != ours.shape:
            raise ResforwardError(f"logits of {name} have shape {theirs.shape}, {first.name}'s {ours.shape}")
        differences[name] = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    wrong = [f"{name}: {value:.1e}" for name, value in differences.items() if not value <= TOLERANCE]
    if wrong:
        raise ResforwardError(f"logits differ from {first.name}'s by more than rounding explains", found=wrong)
    return differences


@dataclass(frozen=True)
class Spread:
    """Median and quartiles.

    >>> Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
    Spread(median=3.0, q1=2.0, q3=4.0)
    """

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        return cls(median, q1, q3)


@dataclass(frozen=True)
class Row:
    """One engine's figures.

    Args:
        speed: images a second. ratio: ours over its own, within a round; None in our own row.
        difference: of its logits from ours, largest over largest; None in our own row.
    """

    engine: str
    version: str
    speed: Spread
    ratio: Spread | None
    difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the keys are stable."""
        return dataclasses.asdict(self)


def rows(
    engines: Mapping[str, Worker], rounds: Sequence[Mapping[str, float]], batch: int, differences: Mapping[str, float]
) -> list[Row]:
    """The figures of rounds in which the first engine is ours; a round is the seconds a call of each."""
    first = next(iter(engines))
    return [
        Row(
            engine=name,
            version=worker.version,
            speed=Spread.of([batch / row[name] for row in rounds]),
            ratio=None if name == first else Spread.of([row[name] / row[first] for row in rounds]),
            difference=differences.get(name),
        )
        for name, worker in engines.items()
    ]


def compare(
    model: Model,
    names: Sequence[str],
    *,
    batch: int,
    size: tuple[int, int],
    rounds: int,
    calls: int,
    between: Callable[[int], object] | None = None,
) -> list[Row]:
    """Let this engine and others take turns.

    Args:
        model: its network, weights, instruction set and threads. names: of `ENGINES`, installed here.
        batch, size: of random images. rounds: turns of every engine. calls: timed calls in a turn.
        between: called with the number of rounds done.

    Returns:
        A row for each, ours first.

    Raises:
        ResforwardError: an engine does not start, computes something else, or never sleeps.
    """
    images = np.random.default_rng(0).standard_normal((batch, *size, model.network.input_channels), np.float32)
    table = {RESFORWARD: OURS} | {name: ENGINES[name] for name in names}
    with workers(model, images, table) as engines:
        differences = logits_differences(engines)
        found = []
        for number in range(1, rounds + 1):
            found.append(turns(engines, calls))
            if between:
                between(number)
        return rows(engines, found, batch, differences)
