"""Mutate checkpoints and load them: nothing may come of one but a model or a ResforwardError, quickly and cheaply.

    python tests/fuzz_checkpoints.py --count 1000000 --seed 0         all formats, as many mutants of each
    python tests/fuzz_checkpoints.py --count 10000 --format h5 keras
    python tests/fuzz_checkpoints.py --format h5 --case 4711          one mutant, in this process
    python tests/fuzz_checkpoints.py --count 3000 --h5py

A mutant is a valid file with something changed: a byte, but mostly a field of its format, with the checksums and sizes
around it made right, so that the change is met by what reads the field. It goes all the way: read, concluded, renamed,
and run on one small image. What is promised of every file is in `fuzzing/case.py`; the process that loads is watched
from outside, so that a mutant that kills or stops it is known. Those that break a promise are kept in `build/fuzz/`.

With `--h5py`, mutants of HDF5 are read by h5py, too, in a child process: an array that both return must be the same,
and crashes and hangs of libhdf5, which this project does not use, are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import random
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from fuzzing import FORMATS, case, run
from fuzzing.hdf5_files import mutate_hdf5
from fuzzing.seeds import Files, Seed

from resforward.checkpoints.files import Budget, File
from resforward.checkpoints.hdf5 import Tree
from resforward.errors import CheckpointError


def fuzz(names: list[str], count: int, seed: int, first: int, save: Path | None) -> int:
    """Load `count` mutants of each format, print what came of them, and return how many broke a promise."""
    tallies, faults = [], []
    for name in names:
        found: list[run.Fault] = []
        tallies.append(run.run(name, seed, range(first, first + count), found))
        faults += found
        print(f"{name}: {count} in {tallies[-1].seconds:.0f} s, {len(found)} faults", file=sys.stderr, flush=True)
        for fault in found:
            where = f", kept in {run.save(fault, save)}" if save else ""
            print(f"  case {fault.case} of seed {seed}: {fault.what}{where}", file=sys.stderr, flush=True)
    print("\n".join(run.table(tallies)))
    return len(faults)


def replay(name: str, seed: int, number: int) -> None:
    """Load one mutant here, and print what comes of it."""
    made = case.mutant(name, seed, number)
    print(f"{made.mutation.__name__} of {made.victim.label}: {made.bytes} bytes")
    with case.scratch() as folder:
        case.write(made.files, folder)
        print(case.check(made, made.mutation is FORMATS[name].damage, folder))
        print(case.load(folder / made.victim.entry))


# --- the other reader of HDF5 ----------------------------------------------------------------------------------------


def with_h5py(path: Path) -> tuple[str, dict[str, bytes]]:
    """Read every array of a file by h5py in a child; return how the child ended, and the arrays' bytes by path."""
    import h5py

    read, write = os.pipe()
    child = os.fork()
    if not child:
        found: dict[str, bytes] = {}
        try:
            os.close(read)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libhdf5 prints its own stack
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)

            def visit(name: str, item: object) -> None:
                for each in (item, *item.attrs):
                    with contextlib.suppress(Exception):
                        if each is not item:
                            item.attrs[each]
                        elif isinstance(item, h5py.Dataset) and item.nbytes < 1 << 26:
                            found[name] = np.ascontiguousarray(item[()]).tobytes()

            with contextlib.suppress(Exception), h5py.File(path) as file:
                file.visititems(visit)
            with os.fdopen(write, "wb") as stream:
                pickle.dump(found, stream)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        answer = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end = "hung" if status == -signal.SIGALRM else f"killed by signal {-status}" if status < 0 else "ended"
    return end, pickle.loads(answer) if answer else {}


def compare_with_h5py(seed: Seed, files: Files) -> str:
    """Read a mutant by both readers; an array that both return must be the same."""
    with case.scratch() as folder:
        case.write(files, folder)
        end, theirs = with_h5py(folder / seed.entry)
    file = File("m", memoryview(files[seed.entry]), Budget())
    same = 0
    try:
        tree = Tree(file)
        for path in tree.datasets():
            ours = np.ascontiguousarray(tree.array(path)).tobytes()
            assert theirs.get(path, ours) == ours, f"h5py reads other values for {path}"
            same += path in theirs
    except CheckpointError:
        return f"h5py {end}, ours refused after {'some' if same else 'no'} equal arrays"
    return f"h5py {end}, ours read"


def fuzz_against_h5py(count: int, seed: int) -> Counter[str]:
    """Count how both readers end; raise for the first mutant that they read differently."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"h5py/{seed}/{number}")
        victim = rng.choice(case.seeds("h5"))
        try:
            outcome = compare_with_h5py(victim, mutate_hdf5(victim, rng))
        except BaseException as error:
            error.add_note(f"case {number} of seed {seed}: {victim.label}")
            raise
        if "killed" in outcome or "hung" in outcome:
            print(f"case {number}: {victim.label}, {outcome}")
        outcomes[outcome] += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=11_000, help="mutants, over all formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant of each format")
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS), help="only these formats")
    parser.add_argument("--case", type=int, help="load this mutant of one format alone")
    parser.add_argument("--save", type=Path, default=Path("build/fuzz"), help="where mutants that fail are kept")
    parser.add_argument("--h5py", action="store_true", help="read mutants of HDF5 by h5py, too, and compare")
    args = parser.parse_args()
    if args.case is not None:
        replay(args.format[0], args.seed, args.case)
        return 0
    started = time.perf_counter()
    if args.h5py:
        for outcome, number in sorted(fuzz_against_h5py(args.count, args.seed).items()):
            print(f"{number:7d}  {outcome}")
        return 0
    faults = fuzz(args.format, -(-args.count // len(args.format)), args.seed, args.first, args.save)
    print(f"{faults} faults, seed {args.seed}, {time.perf_counter() - started:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
