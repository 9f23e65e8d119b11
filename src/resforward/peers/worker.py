"""One engine in a process of its own, that computes when it is told to and sleeps otherwise.

    python worker.py ADAPTER FOLDER THREADS [OPTION=VALUE ...]

It runs under the interpreter of the engine's environment, so it imports nothing but the standard library, NumPy and one
adapter: a file of the folder `adapters`, with

    version() -> str                                  the engine's
    load(folder, images, threads, **options) -> run   and run() returns the logits

FOLDER holds `images.npy`, (N, H, W, C) float32, and the network in the format that the adapter reads. A request is a
line on stdin, the answer a line of JSON on stdout; when stdin ends, so does the process.

    request       answer
    (start)       {"version": ..., "load_seconds": ...}
    turn N        {"durations": [...]}    of N calls, seconds, after one that is not timed: it wakes the threads
    logits PATH   {"shape": [...]}        written there as .npy
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def main(adapter_name: str, folder: str, threads: str, *options: str) -> None:
    """Load, and answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an engine prints must not get among the answers

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    sys.path[0] = str(Path(__file__).parent / "adapters")
    adapter = importlib.import_module(adapter_name)
    images = np.load(Path(folder) / "images.npy")
    start = time.perf_counter()
    run = adapter.load(Path(folder), images, int(threads), **dict(option.split("=", 1) for option in options))
    answer(version=adapter.version(), load_seconds=time.perf_counter() - start)
    for line in sys.stdin:
        request, _, argument = line.rstrip("\n").partition(" ")
        if request == "turn":
            run()
            answer(durations=[_timed(run) for _ in range(int(argument))])
        elif request == "logits":
            logits = np.asarray(run())
            np.save(argument, logits)
            answer(shape=logits.shape)
        else:
            raise SystemExit(f"no such request: {request!r}")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
