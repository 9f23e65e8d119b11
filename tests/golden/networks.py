"""The tiny networks whose every tensor TF-slim once computed, and how to read what it wrote.

`make_slim.py` writes, for each case, NAME.ckpt* (a TensorFlow checkpoint) and NAME.npz (the batch and all tensors).
Tests walk `GOLDENS`, and `read_golden` gives what must come out.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resforward.network import Block, Network, bottleneck
from resforward.resnet import resnet_block, resnet_v1, resnet_v2

FOLDER = pathlib.Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """What slim is asked to compute: a network of one of its two kinds, and the batch it reads.

    Args:
        version: "v1" or "v2", of the network.
        blocks: its table.
        size: of the images: height, width, pixels.
        batch: number of images.
        num_classes, global_pool, output_stride, include_root_block, input_channels: slim's options.
        saver: TensorFlow's checkpoint format, "V1" (one file) or "V2" (an index and its data).
    """

    version: Literal["v1", "v2"]
    blocks: tuple[Block, ...]
    size: tuple[int, int]
    batch: int = 1
    num_classes: int = 0
    global_pool: bool = True
    output_stride: int | None = None
    include_root_block: bool = True
    input_channels: int = 3
    saver: Literal["V1", "V2"] = "V2"

    def network(self, name: str) -> Network:
        """The same as our table, under the scope `name`."""
        make = {"v1": resnet_v1, "v2": resnet_v2}[self.version]
        return make(
            self.blocks,
            self.num_classes,
            global_pool=self.global_pool,
            output_stride=self.output_stride,
            include_root_block=self.include_root_block,
            input_channels=self.input_channels,
            name=name,
        )


# Depths that fill no vector, none a multiple of another; a subsampling shortcut, and a strided projection in block3.
ODD = (
    Block("block1", bottleneck, [(5, 3, 1), (5, 2, 2)]),
    Block("block2", bottleneck, [(9, 4, 1), (9, 3, 1), (9, 3, 2)]),
    Block("block3", bottleneck, [(18, 7, 2), (18, 5, 1)]),
    Block("block4", bottleneck, [(33, 6, 1), (33, 9, 1)]),
)
# slim's own test network.
SMALL = (
    resnet_block("block1", base_depth=1, num_units=3, stride=2),
    resnet_block("block2", base_depth=2, num_units=3, stride=2),
    resnet_block("block3", base_depth=4, num_units=3, stride=2),
    resnet_block("block4", base_depth=8, num_units=2, stride=1),
)
ONE_UNIT = (Block("block1", bottleneck, [(12, 3, 2)]),)

CASES = {
    # The pool reads 17 x 24 pixels: SAME pads the odd axis on both sides and the even one behind only.
    "slim_v2": Case("v2", ODD, (33, 47), num_classes=11),
    "slim_v1": Case("v1", ODD, (19, 30), num_classes=10, saver="V1"),
    "slim_v2_batch": Case("v2", SMALL, (10, 15), batch=3, num_classes=7, saver="V1"),
    # Rates up to 8 on a map of 3 x 9 pixels: the outermost taps still meet.
    "slim_v2_output_stride_4": Case("v2", SMALL, (11, 35), num_classes=5, global_pool=False, output_stride=4),
    "slim_v2_output_stride_8": Case("v2", ODD, (11, 35), num_classes=5, output_stride=8),
    "slim_v2_output_stride_16": Case("v2", ODD, (11, 35), global_pool=False, output_stride=16),
    "slim_v1_output_stride_8": Case("v1", ODD, (11, 35), num_classes=5, global_pool=False, output_stride=8),
    "slim_v2_no_root_block": Case("v2", ODD, (14, 15), num_classes=4, include_root_block=False, input_channels=4),
    "slim_v1_no_root_block": Case("v1", SMALL, (14, 15), include_root_block=False, input_channels=4),
    # The first unit reads as many channels as it writes: its shortcut subsamples the image itself.
    "slim_v2_one_unit": Case("v2", ONE_UNIT, (9, 6), batch=2, include_root_block=False, input_channels=12),
    "slim_v1_one_unit": Case("v1", ONE_UNIT, (17, 22), num_classes=3, input_channels=1),
    "slim_v1_no_classifier": Case("v1", SMALL, (12, 11), batch=2),
}

GOLDENS: dict[str, Network] = {name: case.network(name) for name, case in CASES.items()}


def checkpoint(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """The path to load: the prefix of a V2 checkpoint, the file of a V1 one."""
    return folder / f"{name}.ckpt"


def read_golden(name: str, folder: pathlib.Path = FOLDER) -> dict[str, NDArray[Any]]:
    """Read what slim computed, under canonical names: `input`, every end point, and `net`, what slim returned."""
    with np.load(folder / f"{name}.npz") as stored:
        return {key.removeprefix(f"{name}/"): stored[key] for key in stored.files if key != "versions"}


def difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference over the largest value: the number that accuracy is promised in."""
    if found.shape != wanted.shape:
        raise AssertionError(f"shape {found.shape}, slim has {wanted.shape}")
    largest = float(np.abs(found.astype(np.float64) - wanted).max() / np.abs(wanted).max())
    return largest if np.isfinite(largest) else np.inf  # NaN would win no comparison
