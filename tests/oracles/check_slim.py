"""Compare resforward with the real TF-slim at full size, every end point of every case in `cases.py`.

    python tests/oracles/check_slim.py [CASE ...] [--with reference amx avx512 avx2 portable] [--folder build/oracles]

What slim computes is kept in FOLDER/reference and computed once, in an environment of its own in FOLDER/slim; both are
made when missing (2 GB to install, 7 GB of references). Prints a table of the largest difference over the largest
value, and exits with 1 when one is above 1e-5.
"""

# ruff: noqa: E402  (tests/ goes on the path first)
from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import venv

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from golden.networks import checkpoint, difference, read_golden
from oracles.cases import CASES

import resforward
from resforward import reference
from resforward.checkpoints import read_checkpoint
from resforward.errors import UnsupportedIsaError

PROMISED = 1e-5  # in float32: design and README promise it for every end point
PROGRAMS = (
    "reference",
    "amx",
    "avx512",
    "avx2",
    "portable",
)  # the NumPy reference, and the engine on each instruction set


def make_references(cases: list[str], folder: pathlib.Path) -> None:
    """Let slim compute the cases that are not there yet."""
    missing = [case for case in cases if not (folder / "reference" / case / f"{scope(case)}.npz").exists()]
    if not missing:
        return
    python = folder / "slim" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "slim", with_pip=True)
    requirements = TESTS / "oracles" / "requirements-slim.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    script = TESTS / "oracles" / "slim_reference.py"
    subprocess.run([str(python), str(script), str(folder / "reference"), *missing], check=True, stdout=sys.stderr)


def scope(case: str) -> str:
    """The network's name, which is slim's scope, from NETWORK/VARIANT."""
    return case.split("/")[0]


def measure(case: str, program: str, folder: pathlib.Path) -> tuple[float, str]:
    """The largest relative difference to slim in one case, and the end point that has it."""
    name, row = scope(case), CASES[case]
    network, path = row.network(name), folder / "reference" / case
    golden = read_golden(name, path)
    if program == "reference":
        stored = read_checkpoint(checkpoint(name, path))
        weights = {key.removeprefix(f"{name}/"): array for key, array in stored.items()}
        _, found = reference.forward(network, weights, golden["input"])
    else:
        # The rest is in the checkpoint; these two are not.
        model = resforward.load(checkpoint(name, path), output_stride=row.output_stride, global_pool=row.global_pool)
        found = model.forward(golden["input"], end_points=list(network.end_points(*row.size)))
    return max((difference(found[key], golden[key]), key) for key in network.end_points(*row.size))


def measure_apart(case: str, program: str, folder: pathlib.Path) -> tuple[float, str] | None:
    """The same in a process of its own, since an instruction set is chosen once a process.

    None where the CPU lacks it; a process that dies counts as infinitely far.
    """
    command = [sys.executable, __file__, case, "--with", program, "--folder", str(folder), "--measure"]
    environment = os.environ if program == "reference" else {**os.environ, "RESFORWARD_ISA": program}
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if answer.returncode:
        return math.inf, f"exit code {answer.returncode}"
    result: tuple[float, str] | None = json.loads(answer.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all of: {', '.join(CASES)}")
    parser.add_argument("--with", dest="programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--folder", type=pathlib.Path, default=TESTS.parent / "build" / "oracles")
    parser.add_argument("--measure", action="store_true", help="one case with one program, as JSON")
    args = parser.parse_args()
    cases = args.cases or list(CASES)
    if unknown := [case for case in cases if case not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    if args.measure:
        try:
            print(json.dumps(measure(cases[0], args.programs[0], args.folder)))
        except UnsupportedIsaError as error:
            print(error, file=sys.stderr)
            print(json.dumps(None))
        return 0

    make_references(cases, args.folder)
    print(f"| largest difference / largest value | {' | '.join(args.programs)} |")
    print(f"|---|{'---|' * len(args.programs)}")
    above, compared = [], 0
    for case in cases:
        cells = []
        for program in args.programs:
            result = measure_apart(case, program, args.folder)
            cells.append("not on this CPU" if result is None else f"{result[0]:.1e}")
            compared += result is not None
            if result and not result[0] <= PROMISED:
                above.append(f"{case} {program}: {result[0]:.1e}, {result[1]}")
        print(f"| {case} | {' | '.join(cells)} |", flush=True)
    for line in above:
        print(f"above {PROMISED:g}: {line}", file=sys.stderr)
    if not compared:
        print("nothing was compared: this CPU has none of these instruction sets", file=sys.stderr)
    return 1 if above or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
