"""The ways in which libraries export a network to ONNX, by name."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .libraries import Keras, Torch

Export = Callable[[Any, np.ndarray, Path], None]


def _torch(*, as_it_is: bool = False, **options: Any) -> Export:
    def export(net: Any, images: np.ndarray, path: Path) -> None:
        import torch

        mode = {"training": torch.onnx.TrainingMode.PRESERVE} if as_it_is else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs: of exporters that are older, and of functions within
            torch.onnx.export(net, (torch.from_numpy(images),), str(path), verbose=False, **options, **mode)

    return export


def _keras(**options: Any) -> Export:
    def export(net: Any, images: np.ndarray, path: Path) -> None:
        net(images)  # what was never called has no shapes to export
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.export(str(path), format="onnx", verbose=False, **options)

    return export


_ANY_SIZE = {0: "batch", 2: "height", 3: "width"}
# The exporter of `dynamo` is torch's default, and needs onnxscript.
_WITH_ONNXSCRIPT: Mapping[str, Export] = {
    "dynamo": _torch(dynamo=True),  # tensors in a file beside it
    "dynamo_one_file": _torch(dynamo=True, external_data=False),
    "dynamo_unoptimised": _torch(dynamo=True, external_data=False, optimize=False),
}
EXPORTS: Mapping[type, Mapping[str, Export]] = {
    Torch: {
        "script": _torch(dynamo=False),  # batch norm folded
        "script_opset17": _torch(dynamo=False, opset_version=17),
        "script_any_size": _torch(dynamo=False, input_names=["images"], dynamic_axes={"images": _ANY_SIZE}),
        "script_as_it_is": _torch(dynamo=False, as_it_is=True, do_constant_folding=False),
        **(_WITH_ONNXSCRIPT if importlib.util.find_spec("onnxscript") else {}),
    },
    Keras: {"export": _keras(), "export_opset17": _keras(opset_version=17)},
}
