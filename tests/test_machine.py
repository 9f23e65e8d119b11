"""What this machine offers, and what is made of RESFORWARD_ISA, RESFORWARD_THREADS, affinity and control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resforward import NETWORKS, _core, build, machine
from resforward.errors import ResforwardError, UnsupportedIsaError

ISAS = dict(_core.isas())


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESFORWARD_ISA", raising=False)
    monkeypatch.delenv("RESFORWARD_THREADS", raising=False)
    monkeypatch.setattr(machine, "cgroup_quota", lambda: None)


def test_the_best_instruction_set_is_the_first_present() -> None:
    assert machine.instruction_set().value == next(name for name, present in ISAS.items() if present)
    assert ISAS["portable"]


@pytest.mark.parametrize("isa", [name for name, present in ISAS.items() if present])
def test_an_instruction_set_that_is_asked_for_is_taken(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.instruction_set(isa) == (isa, "asked for")
    monkeypatch.setenv("RESFORWARD_ISA", isa)
    assert machine.instruction_set() == (isa, "RESFORWARD_ISA asks for it")
    assert build(NETWORKS["fashion"]).isa == isa


def test_what_is_asked_for_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESFORWARD_ISA", "nonsense")
    assert machine.instruction_set("portable").value == "portable"
    monkeypatch.setenv("RESFORWARD_THREADS", "nonsense")
    assert machine.threads(3) == (3, "asked for")


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESFORWARD_ISA", "portible")
    with pytest.raises(UnsupportedIsaError, match=r"RESFORWARD_ISA asks for portible.*does not know") as caught:
        machine.instruction_set()
    assert "the nearest is `portable`" in str(caught.value)
    with pytest.raises(UnsupportedIsaError, match="isa is AVX512") as caught:
        machine.instruction_set("AVX512")
    if "avx512" in ISAS:
        assert "`avx512`" in str(caught.value)


def test_an_instruction_set_of_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine._core, "isas", lambda: [("avx512", False), ("portable", True)])
    monkeypatch.setenv("RESFORWARD_ISA", "avx512")
    with pytest.raises(UnsupportedIsaError, match="this processor does not have") as caught:
        machine.instruction_set()
    assert "set it to portable" in str(caught.value)


def test_threads_are_the_processors_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5})
    assert machine.threads().value == 3


@pytest.mark.parametrize(("quota", "threads"), [(None, 8), (0.5, 1), (1.0, 1), (2.5, 2), (7.9, 7), (8.0, 8), (64.0, 8)])
def test_threads_are_no_more_than_the_quota(quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(machine, "cgroup_quota", lambda: quota)
    assert machine.threads().value == threads


def test_threads_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESFORWARD_THREADS", "3")
    assert machine.threads() == (3, "RESFORWARD_THREADS asks for it")
    assert build(NETWORKS["fashion"]).threads == 3


@pytest.mark.parametrize("text", ["0", "-1", "1025", "two", "1.5", " "])
def test_an_impossible_number_of_threads_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESFORWARD_THREADS", text)
    with pytest.raises(ResforwardError, match=f"RESFORWARD_THREADS is '{text}'") as caught:
        machine.threads()
    assert "from 1 to 1024" in str(caught.value)


# Control groups: {file: contents} below the mount point, what /proc/self/cgroup says, processors.
CGROUPS = {
    "no limit": ({"cpu.max": "max 100000\n"}, "0::/\n", None),
    "version 2": ({"cpu.max": "250000 100000\n"}, "0::/\n", 2.5),
    "version 2, a group of its own": ({"a/b/cpu.max": "150000 100000\n"}, "0::/a/b\n", 1.5),
    "a parent is tighter": ({"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 1.0),
    "version 1": ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu,cpuacct:/\n", 0.5),
    "version 1, a group of its own": (
        {"cpu/docker/x/cpu.cfs_quota_us": "300000\n", "cpu/docker/x/cpu.cfs_period_us": "100000\n"},
        "5:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
        3.0,
    ),
    "version 1, no limit": ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu:/\n", None),
    "another controller's group": (
        {"cpu/x/cpu.cfs_quota_us": "1\n", "cpu/x/cpu.cfs_period_us": "9\n"},
        "3:io:/x",
        None,
    ),
    "a group out of sight": ({"cpu.max": "max 100000\n"}, "0::/../../else\n", None),
    "nothing": ({}, "", None),
    "nonsense": ({"cpu.max": "a b\n", "a/cpu.max": "1\n"}, "nonsense\n0::/a\n", None),
    "a period of nothing": ({"cpu.max": "100000 0\n"}, "0::/\n", None),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_the_tightest_control_group_counts(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, membership, quota = CGROUPS[case]
    root = tmp_path / "sys" / "fs" / "cgroup"
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(contents)
    (tmp_path / "membership").write_text(membership)
    folders = machine.cgroup_folders(root, tmp_path / "membership")
    assert machine.tightest_quota(folders) == quota


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert machine.tightest_quota(machine.cgroup_folders(tmp_path, tmp_path / "missing")) is None


def test_the_processor_has_a_name() -> None:
    assert machine.processor().strip()
