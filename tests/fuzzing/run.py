"""Mutants by the hundred thousand: a child process loads them, and its parent watches it.

A child that dies, or is at one mutant for more than 2 s of its own processor time, is pinned to that mutant: it writes
the number of each to memory that both share before it begins. Times are the child's, so that a busy or a sleeping
machine is no hang; a child that waits for something and does nothing is one, too.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from fuzzing import FORMATS, case
from fuzzing.case import SECONDS, Outcome
from fuzzing.damage import unchanged

_CHUNK = 500  # mutants whose outcomes come back together
_POLL = 0.05  # s
_GRACE = 0.5  # s more, in which a child that is only slow says so itself
_WAITS = 1200  # polls in which a child sleeps at one mutant: a minute
_TICKS = os.sysconf("SC_CLK_TCK")
_AT = struct.Struct("<qdq")  # the mutant, the processor time when it began, and whether it is loaded or still made


class Fault(NamedTuple):
    """A mutant that broke a promise."""

    format: str
    seed: int
    case: int
    what: str


@dataclass
class Tally:
    """What came of the mutants of one format."""

    format: str
    kinds: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)  # s, case
    largest: tuple[int, int] = (0, -1)  # bytes, case
    seconds: float = 0.0

    @property
    def mutants(self) -> int:
        return sum(self.kinds.values())

    def add(self, number: int, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        if outcome.said and outcome.kind != "fault":
            self.said[outcome.said] += 1
        self.slowest = max(self.slowest, (outcome.seconds, number))
        self.largest = max(self.largest, (outcome.bytes, number))

    def merge(self, other: Tally) -> None:
        self.kinds += other.kinds
        self.said += other.said
        self.slowest, self.largest = max(self.slowest, other.slowest), max(self.largest, other.largest)


def run(name: str, seed: int, cases: range, faults: list[Fault]) -> Tally:
    """Load mutants of one format in a child, and another child wherever one is lost."""
    tally = Tally(name)
    started = time.perf_counter()
    skipped: set[int] = set()
    chunks = [range(at, min(at + _CHUNK, cases.stop)) for at in range(cases.start, cases.stop, _CHUNK)]
    child = None
    try:
        while chunks:
            child = child or _Child(name, seed)
            lost = child.load(chunks[0], skipped)
            if lost is None:
                part, found = child.answer
                tally.merge(part)
                faults += found
                chunks.pop(0)
                continue
            child = None
            skipped.add(lost.case)
            faults.append(lost)
            tally.kinds["fault"] += 1
    finally:
        if child:
            child.close()
    tally.seconds = time.perf_counter() - started
    return tally


class _Child:
    """A process that loads mutants."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self._place = mmap.mmap(-1, mmap.PAGESIZE)
        self._pipe, other = Pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._pipe.close()
                _serve(name, seed, other, self._place)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        other.close()

    def load(self, chunk: range, skipped: Iterable[int]) -> Fault | None:
        """Have a chunk loaded; return the mutant at which the child was lost, if it was."""
        self._pipe.send((chunk, sorted(skipped)))
        last, waits = -1, 0
        while not self._pipe.poll(_POLL):
            number, began, _ = _AT.unpack_from(self._place)
            state, used = self._state()
            waits = waits + 1 if state == "S" and number == last else 0
            last = number
            if state == "Z":
                return self._lost()
            if used - began > SECONDS + _GRACE or waits > _WAITS:
                time.sleep(_POLL)
                if _AT.unpack_from(self._place)[:2] == (number, began) and not self._pipe.poll():
                    os.kill(self._pid, signal.SIGKILL)
                    self._end()
                    return self._fault(f"hangs, after {used - began:.1f} s")
        try:
            self.answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return self._lost()
        return None

    def _state(self) -> tuple[str, float]:
        """The process's state, and the processor time that it has used (proc_pid_stat(5))."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS

    def _lost(self) -> Fault:
        end = self._end()
        return self._fault(f"kills the process by {signal.Signals(-end).name}" if end < 0 else f"exits with {end}")

    def _fault(self, what: str) -> Fault:
        number, _, loaded = _AT.unpack_from(self._place)
        if not loaded:
            raise RuntimeError(f"the fuzzer itself {what} while it makes case {number} of {self.name}")
        return Fault(self.name, self.seed, number, what)

    def close(self) -> None:
        self._pipe.close()  # the child then reads the end of it, and leaves
        if self._pid:
            self._end()

    def _end(self) -> int:
        status, self._pid = os.waitpid(self._pid, 0)[1], 0
        return os.waitstatus_to_exitcode(status)


def _serve(name: str, seed: int, pipe: Connection, place: mmap.mmap) -> None:
    """Load what is asked for until nobody asks."""
    faulthandler.enable()
    checked = FORMATS[name].damage
    with case.scratch() as folder:
        _warm_up(name, folder)
        while True:
            try:
                chunk, skipped = pipe.recv()
            except EOFError:
                return
            tally, faults = Tally(name), []
            for number in chunk:
                if number in skipped:
                    continue
                _AT.pack_into(place, 0, number, time.process_time(), False)
                made = case.mutant(name, seed, number)
                case.write(made.files, folder)
                _AT.pack_into(place, 0, number, time.process_time(), True)
                outcome = case.check(made, made.mutation is checked, folder)
                _AT.pack_into(place, 0, number, time.process_time(), False)
                for each in made.files:
                    (folder / each).unlink()  # a mapping keeps its file; a file written again would change under it
                tally.add(number, outcome)
                if outcome.kind == "fault":
                    faults.append(Fault(name, seed, number, outcome.said))
            pipe.send((tally, faults))


def _warm_up(name: str, folder: Path) -> None:
    """Load every seed, so that what is imported and kept once is counted for no mutant."""
    for seed in case.seeds(name):
        case.write(seed.files, folder)
        case.check(case.Mutant(seed, unchanged, seed.files), False, folder)
        for each in seed.files:
            (folder / each).unlink()


def save(fault: Fault, folder: Path) -> Path:
    """Keep a mutant that broke a promise, and what it did."""
    place = folder / f"{fault.format}-{fault.seed}-{fault.case}"
    place.mkdir(parents=True, exist_ok=True)
    made = case.mutant(fault.format, fault.seed, fault.case)
    case.write(made.files, place)
    told = f"{fault.what}\nmade by {made.mutation.__name__} from {made.victim.label}\n"
    (place / "fault.txt").write_text(told, errors="backslashreplace")
    return place


def table(tallies: Iterable[Tally]) -> Iterator[str]:
    """A row a format, and their sum."""
    rows = list(tallies)
    whole = Tally("all")
    for tally in rows:
        whole.merge(tally)
        whole.seconds += tally.seconds
    heads = ["format", "mutants", "accepted", "read, no network", "refused", "faults"]
    heads += ["reasons", "slowest, ms", "memory, MB", "s"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for tally in [*rows, whole]:
        row: list[object] = [tally.format, tally.mutants]
        row += [tally.kinds[kind] for kind in ("accepted", "read", "refused", "fault")]
        row += [len(tally.said), f"{tally.slowest[0] * 1000:.0f}", f"{tally.largest[0] / 1e6:.1f}"]
        yield f"| {' | '.join(map(str, [*row, f'{tally.seconds:.0f}']))} |"
