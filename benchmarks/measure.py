"""What every benchmark here needs: its conditions, whole processes measured, medians with spread, a JSON file.

Only the standard library is imported, so that a process that starts others and reads their peak memory stays small.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def conditions(packages: Sequence[str]) -> dict[str, Any]:
    """Machine, versions and command of a run.

    >>> conditions(["numpy"])["versions"]["numpy"]
    '2.4.6'

    Args:
        packages: distributions that the run depends on.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],  # of the minute before, which may be that of an earlier run
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@dataclass(frozen=True)
class Process:
    """What a process took from start to exit, and what it printed.

    Args:
        seconds: by the clock. cpu_seconds: of all its threads, user and system. peak_mib: largest resident memory.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def run_process(command: list[str]) -> Process:
    """Run a program and wait for it.

    >>> run_process([sys.executable, "-c", "print('done')"]).output
    'done'

    Args:
        command: absolute path of the program, and its arguments.

    Raises:
        SystemExit: the program failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "stdout"
        start = time.perf_counter()
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT, 0o600)],
        )
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - start
        if code := os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{shlex.join(command)} ended with {code}")
        # ru_maxrss is in KiB, and never less than what this process, which the new one began as a copy of, had used
        return Process(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output.read_text().strip())


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes.

    >>> summary([1, 2, 3, 4, 5])
    {'median': 3, 'q1': 2.0, 'q3': 4.0, 'min': 1, 'max': 5}
    """
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(values), "max": max(values)}


def write_json(result: dict[str, Any], path: str) -> None:
    """Keep a result where `path` says, making its folder; what was there stays until the new file is whole."""
    text = json.dumps(result, indent=2) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    beside = Path(f"{path}.{os.getpid()}.tmp")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
