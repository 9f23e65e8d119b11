"""What `import resforward` brings: these names, and none of what is slow to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import resforward as rf

PUBLIC = {
    "NETWORKS", "Block", "CheckpointError", "EndPointError", "ImageError", "InputError", "Model", "Network",
    "NetworkError", "ResforwardError", "TargetError", "UnsupportedIsaError", "basic", "bottleneck", "build", "convert",
    "load", "pull", "read_checkpoint", "resnet_v1", "resnet_v2", "with_output_stride",
}  # fmt: skip

# Base dependencies that only some commands need, extras, and what they bring.
SLOW = (
    *("PIL", "click", "h5py", "huggingface_hub", "onnx", "onnxruntime", "tqdm", "safetensors", "pyarrow", "ray"),
    *("sklearn", "starlette"),
)


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PYTHONPATH": str(Path(rf.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def loaded(program: str) -> set[str]:
    """Top-level modules that a program has loaded when it ends."""
    return set(run(f"{program}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})").split())


def test_public_names_are_these() -> None:
    assert set(rf.__all__) == PUBLIC
    assert len(rf.__all__) == len(PUBLIC)
    assert set(dir(rf)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_documented_and_comes_from_the_package(name: str) -> None:
    value = getattr(rf, name)
    if name not in ("NETWORKS", "basic", "bottleneck"):
        assert value.__doc__
        assert value.__module__.startswith("resforward")


def test_errors_are_resforward_errors() -> None:
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(rf, name), rf.ResforwardError)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        rf.nothing_of_ours  # noqa: B018


def test_star_import_brings_the_public_names() -> None:
    program = "from resforward import *\nprint(*[name for name in dir() if not name.startswith('__')])"
    assert set(run(program).split()) == PUBLIC


def test_import_brings_nothing_slow() -> None:
    modules = loaded("import resforward")
    assert "resforward" in modules
    assert not modules & {*SLOW, "numpy"}


def test_a_forward_pass_brings_nothing_slow() -> None:
    program = (
        "import resforward as rf, numpy as np\nrf.build(rf.NETWORKS['fashion'])(np.zeros((1, 28, 28, 1), np.float32))"
    )
    modules = loaded(program)
    assert "numpy" in modules
    assert not modules & set(SLOW)
