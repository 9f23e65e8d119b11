"""The committed stub of the core says what the built module is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import resforward


def without_build(stub: str) -> str:
    """A stub without the values that differ from one compiler to another."""
    return re.sub(r"^(COMPILER|FLAGS): str = .*$", r"\1: str", stub, flags=re.MULTILINE)


def test_the_stub_is_what_nanobind_writes(tmp_path: Path) -> None:
    package = Path(resforward.__file__).parent
    written = tmp_path / "_core.pyi"
    subprocess.run(
        [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "resforward._core", "-o", written],
        env={"PYTHONPATH": str(package.parent)},
        check=True,
    )
    assert without_build(written.read_text()) == without_build((package / "_core.pyi").read_text())
