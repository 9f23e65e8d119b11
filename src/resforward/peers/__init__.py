"""Other engines on the same network, weights and images, each in a process of its own.

`ENGINES` is the table of them, `files` writes the network for them, `worker` runs one, `compare` lets them take turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import ResforwardError, nearest


@dataclass(frozen=True)
class Engine:
    """One row: how an engine is started and what it is given.

    Args:
        adapter: the file of `adapters` that loads it.
        format: of the network, a key of `files.WRITERS`.
        modules: what must be importable, by the name of the package that pip installs.
        options: of the adapter's `load`.
    """

    adapter: str
    format: str
    modules: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)


ENGINES = {
    "onnxruntime": Engine("onnxruntime_", "onnx", {"onnxruntime": "onnxruntime"}),
    "openvino": Engine("openvino_", "onnx", {"openvino": "openvino"}),
    "ncnn": Engine("ncnn_", "ncnn", {"ncnn": "ncnn"}),
    "torch": Engine("torch_", "table", {"torch": "torch"}),
    "torch-compiled": Engine("torch_", "table", {"torch": "torch"}, options={"mode": "compiled"}),
    "tensorflow-slim": Engine(
        "tensorflow_slim_",
        "table",
        {"tensorflow-cpu": "tensorflow", "tf-slim": "tf_slim", "tf_keras": "tf_keras"},
    ),
}
OURS = Engine("resforward_", "pickle", {})


def engine_names(text: str) -> list[str]:
    """The engines of a list separated by commas.

    >>> engine_names("onnxruntime,ncnn")
    ['onnxruntime', 'ncnn']

    Raises:
        ResforwardError: names that are none of `ENGINES`.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in ENGINES]
    if unknown or not names:
        close = {name: nearest(name, ENGINES) for name in unknown}
        raise ResforwardError(
            "nothing to compare with" if not unknown else "no such engine",
            found=[f"{name}; {words}" if words else name for name, words in close.items()],
            help=f"the engines are {', '.join(ENGINES)}",
        )
    return names


def check_installed(names: Iterable[str]) -> None:
    """Refuse engines that this environment does not have.

    Raises:
        ResforwardError: with the command that installs what is missing.
    """
    from importlib.util import find_spec

    missing: dict[str, Sequence[str]] = {}
    for name in names:
        modules = dict(ENGINES[name].modules) | ({"onnx": "onnx"} if ENGINES[name].format == "onnx" else {})
        if lacking := [package for package, module in modules.items() if find_spec(module) is None]:
            missing[name] = lacking
    if missing:
        packages = dict.fromkeys(package for lacking in missing.values() for package in lacking)
        note = "; a build of torch for CPUs is enough" if "torch" in packages else ""
        raise ResforwardError(
            "engines to compare with are not installed",
            found=[f"{name} needs {', '.join(lacking)}" for name, lacking in missing.items()],
            help=f"pip install {' '.join(packages)}{note}",
        )
