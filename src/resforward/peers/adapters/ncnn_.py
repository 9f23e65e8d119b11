"""ncnn: `model.param` and `model.bin`, float32, with the settings of its own benchmark; images one after the other.

A call has one image, as ncnn has no batches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ncnn
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def version() -> str:
    """Of the installed package."""
    return str(ncnn.__version__)


def load(folder: Path, images: Array, threads: int) -> Callable[[], Array]:
    """An extractor for each image, all on the same memory."""
    ncnn.set_cpu_powersave(2)
    ncnn.set_omp_dynamic(0)
    ncnn.set_omp_num_threads(threads)
    network = ncnn.Net()
    option = network.opt
    option.lightmode = True
    option.num_threads = threads
    option.use_winograd_convolution = True
    option.use_sgemm_convolution = True
    option.use_packing_layout = True
    # Halves of any kind off: the others compute in float32 too.
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        if hasattr(option, f"use_{name}"):
            setattr(option, f"use_{name}", False)
    option.use_vulkan_compute = False
    pools = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    option.blob_allocator, option.workspace_allocator = pools
    if network.load_param(str(folder / "model.param")) or network.load_model(str(folder / "model.bin")):
        raise SystemExit("ncnn does not read the file that was written for it")
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # outlives the Mats, which only point there
    inputs = [ncnn.Mat(image).clone() for image in planes]

    def run(pools: object = pools) -> Array:  # which nothing else keeps alive
        logits = []
        for image in inputs:
            extractor = network.create_extractor()
            extractor.input("images", image)
            code, output = extractor.extract("output")
            if code:
                raise SystemExit(f"ncnn's extract returned {code}")
            logits.append(np.array(output))
        return np.stack(logits)

    return run
