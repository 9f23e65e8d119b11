"""onnxruntime: `model.onnx`, its default CPU provider with every optimisation, sizes made known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Array = npt.NDArray[np.float32]


def version() -> str:
    """Of the installed package."""
    return str(ort.__version__)


def load(folder: Path, images: Array, threads: int) -> Callable[[], Array]:
    """A session on NCHW images."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    for axis, size in zip("NHW", images.shape, strict=False):
        options.add_free_dimension_override_by_name(axis, size)
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    feed = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}

    def run() -> Array:
        logits: Array = session.run(None, feed)[0]
        return logits

    return run
