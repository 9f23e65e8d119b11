"""What every benchmark here needs: the conditions it ran under, medians with their spread, and a JSON file.

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
from collections.abc import Sequence
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
        "load_average": os.getloadavg()[0],  # above 0.5 at the start: others were at work on this machine
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes.

    >>> summary([1, 2, 3, 4, 5])
    {'median': 3, 'q1': 2.0, 'q3': 4.0, 'min': 1, 'max': 5}
    """
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(values), "max": max(values)}


def write_json(result: dict[str, Any], path: str) -> None:
    """Keep a result where `path` says, making its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(result, indent=2) + "\n")
