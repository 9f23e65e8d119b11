"""What this machine offers: instruction sets and threads, what was chosen, and why."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from . import _core
from .errors import ResforwardError, UnsupportedIsaError, nearest


class Choice(NamedTuple):
    """A value and the reason for it, as `resforward doctor` prints them."""

    value: str | int
    reason: str


def instruction_set(asked: str | None = None) -> Choice:
    """Choose the instruction set: what was asked for, `RESFORWARD_ISA`, or the best that this processor has.

    >>> instruction_set("portable")
    Choice(value='portable', reason='asked for')

    Args:
        asked: its name, or None.

    Raises:
        UnsupportedIsaError: one that this processor or this build does not have.
    """
    isas = dict(_core.isas())
    supported = [name for name, present in isas.items() if present]
    if asked is not None:
        given, what, reason, advice = asked, "isa is", "asked for", "leave it out, or take"
    elif given := os.environ.get("RESFORWARD_ISA", ""):
        what, reason = "RESFORWARD_ISA asks for", "RESFORWARD_ISA asks for it"
        advice = "unset RESFORWARD_ISA, or set it to"
    else:
        return Choice(supported[0], "the best that this processor has")
    if given in supported:
        return Choice(given, reason)
    if given in isas:
        raise UnsupportedIsaError(
            f"{what} {given}, which this processor does not have",
            found=[f"it has {', '.join(supported)}"],
            help=f"{advice} {supported[0]}",
        )
    close = nearest(given, isas)
    raise UnsupportedIsaError(
        f"{what} {given}, which this build does not know",
        found=[f"it knows {', '.join(isas)}"] + ([close] if close else []),
        help=f"{advice} {supported[0]}",
    )


def threads(asked: int | None = None) -> Choice:
    """Choose the number of threads: what was asked for, `RESFORWARD_THREADS`, or what this process may use.

    >>> threads(2)
    Choice(value=2, reason='asked for')

    Args:
        asked: number of threads, or None.

    Raises:
        ResforwardError: a number below 1 or above 1024.
    """
    if asked is not None:
        return Choice(_checked(str(asked), "threads"), "asked for")
    if given := os.environ.get("RESFORWARD_THREADS"):
        return Choice(_checked(given, "RESFORWARD_THREADS"), "RESFORWARD_THREADS asks for it")
    affinity = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    if quota is not None and quota < affinity:
        return Choice(max(1, int(quota)), f"the control group may use {quota:g} processors of {affinity}")
    return Choice(affinity, "the processors that this process may run on")


def _checked(text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 1024:
        raise ResforwardError(f"{what} is {text!r}", help="give a whole number from 1 to 1024")
    return number


@functools.cache
def cgroup_quota() -> float | None:
    """Processors that this process's control group may use at once, or None where nothing limits it.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and cgroup-v1 (cpu.cfs_quota_us).
    """
    return tightest_quota(cgroup_folders())


def tightest_quota(folders: Iterable[Path]) -> float | None:
    """The lowest quota in the folders of these control groups, processors, or None where there is none."""
    quotas = []
    for folder in folders:
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            try:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            except OSError:
                continue
        if quota not in ("max", "-1") and quota.isdigit() and period.isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cgroup_folders(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """The control groups of this process that may limit its processors, with all their parents."""
    folders = [root, root / "cpu"]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else root / "cpu"
        group = base / path.lstrip("/")
        folders += [group, *(p for p in group.parents if root in p.parents or p == root)]
    return list(dict.fromkeys(folders))


def processor() -> str:
    """The processor's own name, or its architecture where it tells none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return os.uname().machine
