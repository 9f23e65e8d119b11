"""`resforward doctor`."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from ..errors import ResforwardError
from .console import debug_option, facts, out, out_json, say_error

_TOLERANCE = 1e-5  # largest difference over largest value, between instruction sets


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One document.")
@debug_option
def command(as_json: bool) -> int:
    """Say what this machine offers, what was chosen, and why.

    Every instruction set that is present computes a small network, and all have to agree. Exit code 1 where anything
    is wrong.

    Keys of --json: version, python, processor, instruction_set, threads, memory, build, packages, extras, problems.
    """
    report, problems = _examine()
    if as_json:
        told = [{"message": error.message, "found": error.found, "help": error.help} for error in problems]
        out_json({**report, "problems": told}, indent=2)
    else:
        _print(report)
        out()
        out(f"problems: {len(problems)}" if problems else "all fine")
        for error in problems:
            say_error(error.message, error.found, error.help)
    return 1 if problems else 0


def _examine() -> tuple[dict[str, Any], list[ResforwardError]]:
    from .. import __version__

    report: dict[str, Any] = {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}",
    }
    problems: list[ResforwardError] = []
    try:
        from .. import _core, machine
    except ImportError as error:
        advice = "install resforward again, for this Python and this processor"
        return report, [ResforwardError(f"the engine cannot be loaded: {error}", help=advice)]

    isas = _core.isas()
    report["processor"] = machine.processor()
    report["instruction_set"] = {
        "chosen": None,
        "reason": None,
        "present": [name for name, present in isas if present],
        "compiled_in": [name for name, _ in isas],
        "RESFORWARD_ISA": os.environ.get("RESFORWARD_ISA"),
    }
    report["threads"] = {
        "chosen": None,
        "reason": None,
        "affinity": len(os.sched_getaffinity(0)),
        "cgroup": machine.cgroup_quota(),
        "RESFORWARD_THREADS": os.environ.get("RESFORWARD_THREADS"),
    }
    for name, choose in (("instruction_set", machine.instruction_set), ("threads", machine.threads)):
        try:
            report[name]["chosen"], report[name]["reason"] = choose()
        except ResforwardError as error:
            problems.append(error)
    report["memory"] = _memory()
    report["build"] = {"compiler": _core.COMPILER, "flags": _core.FLAGS.strip()}
    report["packages"], report["extras"] = _packages()
    if not problems:
        problems += _disagreements(report["instruction_set"]["present"])
    return report, problems


def _memory() -> dict[str, int | None]:
    """Bytes: of the machine, of them free for use, and the control group's limit."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(rows[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return {"total": None, "available": None, "limit": None}
    limits = []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # version 2, version 1
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < total:  # version 1 says 2^63 for "no limit"
            limits.append(int(text))
    return {"total": total, "available": available, "limit": min(limits, default=None)}


def _packages() -> tuple[dict[str, str | None], dict[str, dict[str, str | None]]]:
    """Versions of what we need, and of what our extras need; None where it is not installed."""
    try:
        requirements = metadata.requires("resforward") or []
    except metadata.PackageNotFoundError:  # run from its sources
        requirements = []
    packages: dict[str, str | None] = {}
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", requirement)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        if not extra:
            packages[name] = version
        elif extra[1] != "dev":
            extras.setdefault(extra[1], {})[name] = version
    return packages, extras


def _disagreements(isas: list[str]) -> list[ResforwardError]:
    """Compute one small network with every instruction set, and compare."""
    import numpy as np

    from ..loading import build
    from ..published import NETWORKS

    images = np.random.default_rng(0).standard_normal((2, 28, 28, 1), np.float32)
    *others, wanted = [build(NETWORKS["fashion"], isa=isa)(images) for isa in isas]
    problems = []
    for isa, logits in zip(isas, others, strict=False):
        difference = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
        if not difference <= _TOLERANCE:
            found = [f"they differ by {difference:.1e} of the largest value; {_TOLERANCE:.0e} is rounding"]
            advice = f"set RESFORWARD_ISA={isas[-1]}, and please report this"
            problems.append(ResforwardError(f"{isa} and {isas[-1]} do not agree", found=found, help=advice))
    return problems


def _print(report: dict[str, Any]) -> None:
    rows = [("resforward", report["version"]), ("python", report["python"]), ("", sys.executable)]
    if "processor" in report:
        isa, threads, memory = report["instruction_set"], report["threads"], report["memory"]
        present = ", ".join(isa["present"])
        absent = ", ".join(name for name in isa["compiled_in"] if name not in isa["present"])
        rows += [
            ("processor", report["processor"]),
            ("instructions", f"{isa['chosen']}: {isa['reason']}" if isa["chosen"] else "none chosen"),
            ("", f"present {present}" + (f"; built, but not present: {absent}" if absent else "")),
            ("threads", f"{threads['chosen']}: {threads['reason']}" if threads["chosen"] else "none chosen"),
            ("", f"affinity {threads['affinity']}, control group {_or(threads['cgroup'], '{:g}', 'without limit')}"),
            ("memory", f"{_gib(memory['available'])} free of {_gib(memory['total'])}"),
            ("", f"control group {_gib(memory['limit']) if memory['limit'] else 'without limit'}"),
            ("build", f"{report['build']['compiler']}, {report['build']['flags']}"),
        ]
        rows.append(("packages", _versions(report["packages"]) or "not known: run from its sources"))
        rows += [
            ("extras" if place == 0 else "", f"{extra}: {_versions(packages)}{_to_install(extra, packages)}")
            for place, (extra, packages) in enumerate(report["extras"].items())
        ]
    facts(rows)


def _or(value: float | None, form: str, otherwise: str) -> str:
    return otherwise if value is None else form.format(value)


def _gib(size: int | None) -> str:
    return _or(size and size / 2**30, "{:.1f} GiB", "unknown")


def _to_install(extra: str, packages: dict[str, str | None]) -> str:
    return "" if all(packages.values()) else f"; pip install 'resforward[{extra}]'"


def _versions(packages: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'is not installed'}" for name, version in packages.items())
