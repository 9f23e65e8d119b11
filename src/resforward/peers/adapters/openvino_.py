"""OpenVINO: `model.onnx` with fixed sizes, in float32, one stream of all threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

Array = npt.NDArray[np.float32]


def version() -> str:
    """Of the installed package, without the build."""
    return str(ov.__version__).split("-")[0]


def load(folder: Path, images: Array, threads: int) -> Callable[[], Array]:
    """An inference request on NCHW images, which it reads where they are."""
    core = ov.Core()
    network = core.read_model(folder / "model.onnx")
    batch, height, width, channels = images.shape
    network.reshape({0: ov.PartialShape([batch, channels, height, width])})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",  # the batch is one request, so one stream
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 is its own choice where the processor has it
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    request.set_input_tensor(ov.Tensor(planes, shared_memory=True))

    def run(planes: Array = planes) -> Array:  # which the request does not keep alive
        request.infer()
        return np.array(request.get_output_tensor(0).data)

    return run
