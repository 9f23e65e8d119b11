"""One mutant: made from three values, loaded, and held to what is promised of every file.

Whatever a file holds, `load` returns a model that computes, or raises a ResforwardError, and warns of nothing; in 2 s
of this process's time; in no more memory than 1.1 times the file's size and 200 MB; and it does nothing but read files
of the checkpoint's folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import resforward.checkpoints as checkpoints
from fuzzing import FORMATS
from fuzzing.seeds import Files, Mutation, Seed, Tensors
from fuzzing.watch import watched
from resforward import Model, load
from resforward.errors import ResforwardError

SECONDS = 2.0
FREE_BYTES = 200 << 20
_IMAGE = (9, 7)  # pixels
_MODELS = 0.4  # of the mutants are of whole models, and some more by chance: what comes after reading sees them
_PAGE = resource.getpagesize()


class Mutant(NamedTuple):
    """A file, or several, and what they were made from."""

    victim: Seed
    mutation: Mutation
    files: Files

    @property
    def bytes(self) -> int:
        return sum(map(len, self.files.values()))


class Outcome(NamedTuple):
    """What came of a mutant.

    Args:
        kind: "accepted", a model came of it; "read", arrays, but of no network that is known; "refused"; and "fault".
        said: an error's first line without its particulars; for a fault all of it.
        seconds: of this process. bytes: by which its memory in use grew at most.
    """

    kind: str
    said: str
    seconds: float
    bytes: int


@functools.cache
def seeds(name: str) -> list[Seed]:
    """The valid files of a format; each must be read as it is."""
    return FORMATS[name].seeds()


def mutant(name: str, seed: int, case: int) -> Mutant:
    """Make a mutant; the same arguments make the same one."""
    rng = random.Random(f"{name}/{seed}/{case}")
    models = [each for each in seeds(name) if each.write]
    victim = rng.choice(models if rng.random() < _MODELS else seeds(name))
    mutation = rng.choice(FORMATS[name].mutations)
    if victim.write is None and mutation.__name__ == "mutate_model":
        mutation = rng.choice([each for each in FORMATS[name].mutations if each.__name__ != "mutate_model"])
    return Mutant(victim, mutation, mutation(victim, rng))


def write(files: Files, folder: Path) -> None:
    """Put files into an empty folder."""
    for name, body in files.items():
        (folder / name).write_bytes(body)


def check(made: Mutant, exact: bool, folder: Path) -> Outcome:
    """Load a mutant that lies in a folder.

    Args:
        exact: what is read must be what the unmutated file holds.
    """
    read: list[checkpoints.Checkpoint] = []
    before = _start_of_peak()
    started = time.process_time()
    kind, said = "accepted", ""
    try:
        with limit(made.bytes), _noticed(read), watched(folder), warnings.catch_warnings():
            warnings.simplefilter("error")
            compute(load(folder / made.victim.entry, threads=1, **made.victim.options))
    except ResforwardError as error:
        kind, said = "read" if read else "refused", template(error.message, folder)
        str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, said = "fault", f"{type(error).__name__}: {error}"
    seconds = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    wrong = _wrong(read[0], made.victim, exact) if read and kind != "fault" else ""
    allowed = FREE_BYTES + made.bytes * 11 // 10
    if seconds > SECONDS:
        wrong = f"it took {seconds:.1f} s"
    if grown > allowed:
        wrong = f"its memory grew by {grown} bytes, {allowed} are allowed"
    return Outcome("fault", wrong, seconds, grown) if wrong else Outcome(kind, said, seconds, grown)


def compute(model: Model) -> None:
    """Run a model on one small image: what a file says of strides, kernels and pools is in no variable's shape."""
    model(np.ones((1, *_IMAGE, model.network.input_channels), np.float32))


def _wrong(checkpoint: checkpoints.Checkpoint, victim: Seed, exact: bool) -> str:
    """Say what is wrong with arrays that were read; empty where nothing is."""
    arrays = dict(checkpoint)
    if any(array.flags.writeable for array in arrays.values()):
        return "an array can be written to"
    if exact:
        expected = values(victim)
        if arrays.keys() != expected.keys():
            return f"other names are read than were written: {sorted(arrays.keys() ^ expected.keys())[:3]}"
        for name, array in arrays.items():
            if _content(array) != _content(expected[name]):
                return f"`{name}` is read otherwise than it was written"
    return ""


def _content(array: np.ndarray) -> tuple[np.dtype, tuple[int, ...], bytes]:
    return array.dtype, array.shape, array.tobytes()


_values: dict[str, Tensors] = {}


def values(seed: Seed) -> Tensors:
    """What a seed holds, by the reader itself: mutants are compared with it."""
    if seed.label not in _values:
        with scratch() as folder:
            write(seed.files, folder)
            read = checkpoints.read_checkpoint(folder / seed.entry, **seed.options)
            _values[seed.label] = {name: array.copy() for name, array in read.items()}
    return _values[seed.label]


@contextlib.contextmanager
def _noticed(read: list[checkpoints.Checkpoint]) -> Iterator[None]:
    """Keep the checkpoint that `load` reads on its way."""
    original = checkpoints.read_checkpoint

    def kept(path: str | os.PathLike[str], **options: Any) -> checkpoints.Checkpoint:
        read.append(original(path, **options))
        return read[-1]

    checkpoints.read_checkpoint = kept
    try:
        yield
    finally:
        checkpoints.read_checkpoint = original


@contextlib.contextmanager
def limit(size: int) -> Iterator[None]:
    """Let the process grow by no more than a checkpoint may cost, so that a larger allocation is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + FREE_BYTES + size * 11 // 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _start_of_peak() -> int:
    """Let the peak of memory begin anew, and return what is in use now (Linux: proc_pid_clear_refs(5))."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of our own, in memory where there is such a place; mutants are not worth a disk's time."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def template(message: str, folder: Path) -> str:
    """An error's first line without what is particular to one file, so that equal reasons are equal texts.

    >>> template("`m` is damaged: tensor `w` has 3 bytes, expected (1, 2)", Path("/tmp"))
    '`…` is damaged: tensor `…` has N bytes, expected (N, N)'
    """
    line = message.partition("\n")[0].replace(str(folder), "")
    line = re.sub(r"`[^`]*`", "`…`", line)
    line = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", line)
    return re.sub(r"\d+(?:[.,]\d+)*", "N", line)[:160]
