"""Make a virtual environment for every engine that run.py measures, in build/peers/NAME.

    python benchmarks/environments.py            all of them; what exists already is kept
    python benchmarks/environments.py ncnn torch

Each engine has its own, because what they depend on excludes one another; 3.5 GB in all, half of it TensorFlow. From
PyPI, torch for Linux brings another 3 GB of CUDA libraries; a build for CPUs does not, where pip is told of one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "build" / "peers"


@dataclass(frozen=True)
class Environment:
    """What pip installs, pinned; `alone` without what it depends on, after the rest."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


ENVIRONMENTS = {
    "onnxruntime": Environment(("onnxruntime==1.32.0", "numpy==2.4.6", "Pillow==12.3.0")),
    "openvino": Environment(("openvino==2026.4.1", "numpy==2.4.6")),
    "ncnn": Environment(("ncnn==1.0.20261020", "numpy==2.4.6")),
    "torch": Environment(("torch==2.13.0", "numpy==2.4.6")),
    # tf_keras asks for `tensorflow`, of which `tensorflow-cpu` is the same without GPUs.
    "tensorflow-slim": Environment(
        ("tensorflow-cpu==2.21.0", "tf-slim==1.1.0", "numpy==2.4.6"), alone=("tf_keras==2.21.0",)
    ),
}


def python(engine: str) -> Path:
    """The interpreter of an engine's environment.

    Raises:
        SystemExit: it has not been made.
    """
    name = engine.removesuffix("-compiled")
    path = FOLDER / name / "bin" / "python"
    if not (FOLDER / name / "complete").exists():
        raise SystemExit(f"{name} has no environment: python benchmarks/environments.py {name}")
    return path


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Of the interpreter of an environment, and of what is installed there."""
    program = (
        "import importlib.metadata, json, platform, sys;"
        "found = {package: importlib.metadata.version(package) for package in sys.argv[1:]};"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    answer = subprocess.run([str(python), "-c", program, *packages], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(answer.stdout))


def make(name: str) -> None:
    """Make an environment, from nothing when it was left half made; an existing one of the same packages is kept."""
    environment, folder = ENVIRONMENTS[name], FOLDER / name
    mark = folder / "complete"  # holds what was installed
    wanted = "\n".join([*environment.packages, *environment.alone]) + "\n"
    if mark.exists() and mark.read_text() == wanted:
        print(f"{name}: exists")
        return
    start = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *environment.packages], check=True)
    if environment.alone:
        subprocess.run([*pip, "--no-deps", *environment.alone], check=True)
    mark.write_text(wanted)
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    print(f"{name}: {size / 1e9:.1f} GB, {time.perf_counter() - start:.0f} s")


def main() -> None:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)} (default: all)")
    args = parser.parse_args()
    if unknown := set(args.names) - set(ENVIRONMENTS):
        parser.error(f"no such environment: {', '.join(sorted(unknown))}")
    for name in args.names or ENVIRONMENTS:
        make(name)


if __name__ == "__main__":
    main()
