"""The first mutants of every format, and that the fuzzer sees what it looks for."""

from __future__ import annotations

import faulthandler
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from fuzz_checkpoints import fuzz_against_h5py
from fuzzing import FORMATS, case, run
from fuzzing.damage import unchanged

import resforward.checkpoints as checkpoints
from resforward import load
from resforward.checkpoints import _FORMATS

COUNT = 60  # of each format: seconds for all of them; docs/checkpoints.md has the long run


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_mutants(name: str) -> None:
    faults: list[run.Fault] = []
    tally = run.run(name, 0, range(COUNT), faults)
    assert not faults
    assert tally.mutants == COUNT
    assert tally.kinds["refused"]
    assert tally.kinds["accepted"]
    assert len(tally.said) > 4


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_mutated_is_valid(name: str, tmp_path: Path) -> None:
    whole = 0
    for place, seed in enumerate(case.seeds(name)):
        folder = tmp_path / str(place)
        folder.mkdir()
        case.write(seed.files, folder)
        assert len(checkpoints.read_checkpoint(folder / seed.entry, **seed.options))
        if seed.write:
            case.compute(load(folder / seed.entry, **seed.options))
            whole += 1
    assert whole


def test_every_reader_is_fuzzed(tmp_path: Path) -> None:
    read = set()
    for name in FORMATS:
        for seed in case.seeds(name):
            case.write(seed.files, tmp_path)
            read.add(checkpoints.read_checkpoint(tmp_path / seed.entry, **seed.options).format)
            for each in seed.files:
                (tmp_path / each).unlink()
    assert read == {module.NAME for module in _FORMATS}


def test_the_same_numbers_make_the_same_mutant() -> None:
    for name in FORMATS:
        made = [case.mutant(name, 5, 17).files for _ in range(2)]
        assert made[0] == made[1]
        assert any(case.mutant(name, 5, 17 + i).files != made[0] for i in range(1, 9))


# --- faults are seen -------------------------------------------------------------------------------------------------

_CASE = 3


def _spin(path: Path) -> None:
    while True:
        pass


def _allocate(path: Path) -> None:
    np.ones(300 << 20, np.uint8)


def _allocate_slowly(path: Path) -> None:
    assert len([bytes(1 << 20) for _ in range(4000)])  # more than whatever else the tests' process has used and freed


def _catch_everything(path: Path) -> None:
    with pytest.raises(BaseException, match="passwd"):
        Path("/etc/passwd").read_bytes()


EVILS = {
    "kills the process by SIGSEGV": lambda path: faulthandler._sigsegv(),
    "kills the process by SIGABRT": lambda path: os.abort(),
    "exits with 9": lambda path: os._exit(9),
    "hangs, after 2": _spin,
    "it took 2": lambda path: _use(2.05),
    "KeyError: 'x'": lambda path: {}["x"],
    "RuntimeWarning: odd": lambda path: warnings.warn("odd", RuntimeWarning, stacklevel=1),
    "MemoryError": _allocate,
    "MemoryError: ": _allocate_slowly,
    "Forbidden: os.system": lambda path: os.system("true"),
    "Forbidden: read /etc/passwd": lambda path: Path("/etc/passwd").read_bytes(),
    "Forbidden: read /etc/passwd ": _catch_everything,
    "to write": lambda path: (path.parent / "new").write_bytes(b""),
}


def _use(seconds: float) -> None:
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass


@pytest.mark.parametrize("evil", EVILS)
def test_a_reader_that_breaks_a_promise_is_pinned_to_its_mutant(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, at = checkpoints.read_checkpoint, []

    def read(path: Path, **options: bool) -> checkpoints.Checkpoint:
        if at[-1] == _CASE:
            EVILS[evil](path)
        return original(path, **options)

    mutant = case.mutant
    monkeypatch.setattr(checkpoints, "read_checkpoint", read)
    monkeypatch.setattr(case, "mutant", lambda *which: at.append(which[2]) or mutant(*which))
    at.append(-1)
    faults: list[run.Fault] = []
    tally = run.run("own", 0, range(6), faults)
    assert [(fault.case, fault.format) for fault in faults] == [(_CASE, "own")]
    assert evil.strip() in faults[0].what
    assert tally.mutants == 6
    assert tally.kinds["fault"] == 1


def test_a_value_that_changes_under_a_checksum_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = case.seeds("v2")[-1]
    case.values(seed)
    monkeypatch.setitem(case._values, seed.label, {name: array + 1 for name, array in case.values(seed).items()})
    with case.scratch() as folder:
        case.write(seed.files, folder)
        outcome = case.check(case.Mutant(seed, unchanged, seed.files), True, folder)
    assert outcome.kind == "fault"
    assert "is read otherwise than it was written" in outcome.said


def test_mutants_that_fail_are_kept(tmp_path: Path) -> None:
    place = run.save(run.Fault("keras", 0, 7, "hangs"), tmp_path)
    made = case.mutant("keras", 0, 7)
    assert {name: (place / name).read_bytes() for name in made.files} == made.files
    assert (place / "fault.txt").read_text().startswith("hangs\n")


def test_h5py_reads_the_same_where_both_read() -> None:
    outcomes = fuzz_against_h5py(20, seed=0)
    assert sum(outcomes.values()) == 20
