"""The README's table: engines in turn, each in a process of its own, and the machine's limits beside them.

    python benchmarks/environments.py                        once: an environment for every engine
    python benchmarks/run.py                                 everything, about 30 minutes on two cores
    python benchmarks/run.py 'resnet_v2_50/batch*' --rounds 5
    python benchmarks/run.py --list

What is measured replaces the run of the same name in benchmarks/results/engines.json and leaves the others there; with
--engines, a run that misses some of its own goes to build/engines.json, and one that has none of them is left out.
report.py makes the README's table and the picture from the results.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import environments
import numpy as np
from measure import conditions, summary, write_json
from networks import MEASURED

import resforward as rf
from resforward import _core
from resforward.peers import ENGINES, OURS
from resforward.peers.compare import RESFORWARD, logits_differences, rest, rows, turns, workers

RESULTS = Path(__file__).parent / "results" / "engines.json"
IN_PART = Path(__file__).parent.parent / "build" / "engines.json"  # runs without some of their engines
SIZE = 224
READ_BYTES = 1 << 28  # of a thread: no cache holds it


@dataclass(frozen=True)
class Speed:
    """Images a second of several engines.

    Args:
        network, batch: what all compute. calls: timed in a turn. rounds: of turns.
        engines: beside resforward, of `ENGINES`; in runs of several numbers of threads, each with all of them.
        threads: of every engine, or several numbers to compare.
        isa: of resforward, the best one where None. environment: variables of every engine's process.
    """

    network: str
    batch: int
    calls: int
    rounds: int
    engines: tuple[str, ...]
    threads: tuple[int, ...] = (2,)
    isa: str | None = None
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FirstAnswer:
    """From process start to the label of one photograph, and what memory that takes."""

    network: str
    rounds: int
    engines: tuple[str, ...] = ("onnxruntime",)


IMAGES_IN_A_TURN = {  # half a second to a second
    "resnet_v2_50": 24, "resnet_v2_152": 16, "torchvision/resnet18": 64, "torchvision/resnet50": 24,
}  # fmt: skip
AVX2 = (("ONEDNN_MAX_CPU_ISA", "AVX2"),)  # obeyed by OpenVINO, torch and TensorFlow; onnxruntime cannot be told


def _runs() -> dict[str, Speed | FirstAnswer]:
    table: dict[str, Speed | FirstAnswer] = {}
    for network, images in IMAGES_IN_A_TURN.items():
        if network.startswith("torchvision/"):
            engines: tuple[str, ...] = ("onnxruntime", "openvino", "torch")
            table[f"{network}/batch8"] = Speed(network, 8, images // 8, 15, engines)
            continue
        for batch in (8, 1):
            # TensorFlow is measured with batches only, to keep the whole short.
            engines = tuple(name for name in ENGINES if batch > 1 or name != "tensorflow-slim")
            table[f"{network}/batch{batch}"] = Speed(network, batch, images // batch, 15, engines)
        table[f"{network}/avx2/batch8"] = Speed(
            network, 8, images // 8, 11, ("openvino",), isa="avx2", environment=AVX2
        )
        table[f"{network}/avx512/batch8"] = Speed(network, 8, images // 8, 11, ("onnxruntime",), isa="avx512")
        table[f"{network}/first_answer"] = FirstAnswer(network, 11)
    for batch in (1, 2, 4, 8, 16, 32, 64):
        network = "resnet_v2_50"
        calls = max(1, IMAGES_IN_A_TURN[network] // batch)
        table[f"{network}/growth/batch{batch}"] = Speed(network, batch, calls, 5, ("onnxruntime",), threads=(1, 2))
    return table


RUNS = _runs()


def measure_speed(run: Speed, say: Callable[[str], object]) -> dict[str, Any]:
    """One alternating run; in every round, before the engines, what the machine can do at most."""
    most = max(run.threads)
    model = rf.build(MEASURED[run.network], threads=most, isa=run.isa)
    images = np.random.default_rng(0).standard_normal((run.batch, SIZE, SIZE, 3), np.float32)
    of_threads = {
        (name if len(run.threads) == 1 else f"{name} on {number}"): (name, number)
        for number in reversed(run.threads)
        for name in (RESFORWARD, *run.engines)
    }
    memory = [np.ones(READ_BYTES // 4, np.float32) for _ in range(most)]
    result = conditions(["resforward", "numpy"])
    found: list[dict[str, float]] = []
    machine: list[dict[str, float]] = []
    with workers(
        model,
        images,
        {label: OURS if name == RESFORWARD else ENGINES[name] for label, (name, _) in of_threads.items()},
        pythons={label: environments.python(name) for label, (name, _) in of_threads.items() if name != RESFORWARD},
        environment=dict(run.environment),
        threads={label: number for label, (_, number) in of_threads.items()},
    ) as engines:
        differences = logits_differences(engines)
        for number in range(1, run.rounds + 1):
            rest(list(engines.values()))
            machine.append(
                {"fma_gflops": _core.fma_peak(model.isa, most, 0.1), "read_gb_per_second": read_speed(memory)}
            )
            found.append(turns(engines, run.calls))
            speeds = (f"{name} {run.batch / seconds:.1f}" for name, seconds in found[-1].items())
            say(f"{number:3}  {machine[-1]['fma_gflops']:.0f} GFLOP/s  {', '.join(speeds)}")
        table = rows(engines, found, run.batch, differences)
        loads = {name: worker.load_seconds for name, worker in engines.items()}
    gflop = 2e-9 * model.network.macs(SIZE, SIZE)
    peak = {key: summary([row[key] for row in machine]) for key in machine[0]}
    return result | {
        "settings": {
            "network": run.network,
            "batch": run.batch,
            "size": SIZE,
            "threads": list(run.threads),
            "rounds": run.rounds,
            "calls": run.calls,
            "environment": dict(run.environment),
        },
        "isa": model.isa,
        "gflop_per_image": gflop,
        "machine": peak,
        "engines": {
            row.engine: row.as_dict()
            | {
                "load_seconds": loads[row.engine],
                "share_of_fma_peak": gflop * row.speed.median / peak["fma_gflops"]["median"],
            }
            for row in table
        },
        "rounds": [dict(row) | seconds for row, seconds in zip(machine, found, strict=True)],
    }


def read_speed(memory: Sequence[Any]) -> float:
    """GB/s at which as many threads as there are arrays read theirs; np.max waits for nothing but memory."""
    with ThreadPoolExecutor(len(memory)) as pool:
        list(pool.map(lambda array: array[:1].max(), memory))  # so that the threads are there
        start = time.perf_counter()
        list(pool.map(np.max, memory))
        return float(sum(array.nbytes for array in memory) / (time.perf_counter() - start) / 1e9)


def measure(run: Speed | FirstAnswer, say: Callable[[str], object] = print) -> dict[str, Any]:
    """Of either kind."""
    if isinstance(run, FirstAnswer):
        result = conditions(["resforward", "numpy", "Pillow"])
        python = environments.python("onnxruntime")
        result["onnxruntime_versions"] = environments.versions(python, ["onnxruntime", "numpy", "Pillow"])
        program = [sys.executable, str(Path(__file__).with_name("first_answer.py"))]
        arguments = [run.network, str(run.rounds), str(python)]
        answer = subprocess.run([*program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
        return result | dict(json.loads(answer))
    return measure_speed(run, say)


def selected(patterns: Sequence[str], engines: Sequence[str], rounds: int | None) -> dict[str, Speed | FirstAnswer]:
    """The runs whose names match, with fewer engines or other rounds where that is asked for.

    Raises:
        SystemExit: nothing matches a pattern, or no run that does has one of the engines.
    """
    for pattern in patterns:
        if not fnmatch.filter(RUNS, pattern):
            raise SystemExit(f"no run is called {pattern}; they are {', '.join(RUNS)}")
    chosen: dict[str, Speed | FirstAnswer] = {}
    for name, run in RUNS.items():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns or ["*"]):
            continue
        if rounds is not None:
            run = with_changes(run, rounds=rounds)
        if engines:
            run = with_changes(run, engines=tuple(engine for engine in run.engines if engine in engines))
        if run.engines:
            chosen[name] = run
    if not chosen:
        raise SystemExit(f"none of these runs has {' or '.join(engines)}")
    return chosen


def lesser_isas() -> list[str]:
    """The instruction sets that this processor has, all but the best."""
    return [name for name, supported in _core.isas() if supported][1:]


def place(name: str, run: Speed | FirstAnswer) -> Path:
    """Where its result is kept: among the others only with every engine that the run is meant to have."""
    return RESULTS if run.engines == RUNS[name].engines else IN_PART


def keep(path: Path, name: str, result: Mapping[str, Any]) -> None:
    """Put a result among those that the file has."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = result
    write_json({name: results[name] for name in sorted(results)}, str(path))


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names or patterns of runs (default: all)")
    parser.add_argument("--list", action="store_true", help="say what the runs are called, and stop")
    parser.add_argument("--engines", nargs="+", default=[], choices=ENGINES, help="only these, beside resforward")
    parser.add_argument("--rounds", type=int, help="of every run, instead of its own number")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where results are kept, instead")
    args = parser.parse_args()
    if args.list:
        print("\n".join(RUNS))
        return
    for name, run in selected(args.runs, args.engines, args.rounds).items():
        print(f"\n{name}", flush=True)
        if isinstance(run, Speed) and run.isa and run.isa not in lesser_isas():
            print(f"left out: {run.isa} is not below what this processor has")
            continue
        start = time.perf_counter()
        result = measure(run, lambda line: print(line, flush=True))
        keep(args.json or place(name, run), name, result)
        print_result(result)
        print(f"{time.perf_counter() - start:.0f} s")


def print_result(result: Mapping[str, Any]) -> None:
    """The figures of one run."""
    for name, row in result.get("engines", {}).items():
        speed, ratio, difference = row["speed"], row["ratio"], row["difference"]
        compared = "" if ratio is None else f"ours / theirs {ratio['median']:.3f} [{ratio['q1']:.3f} {ratio['q3']:.3f}]"
        exact = "" if difference is None else f"logits {difference:.1e}"
        print(f"{name:20} {row['version']:26} {speed['median']:7.2f} images/s  {compared}  {exact}")
    for name, column in result.get("summary", {}).items():
        seconds = column["seconds"]
        spread = f"[{seconds['q1']:.3f} {seconds['q3']:.3f}]"
        print(f"{name:20} {seconds['median']:.3f} s {spread}, {column['peak_mib']['median']:.0f} MiB")


if __name__ == "__main__":
    main()
