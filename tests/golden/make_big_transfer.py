"""Write the weights of the golden network `bit` by the names that BiT was published with: families/big_transfer.npz.

    python tests/golden/make_big_transfer.py        # torch 2.13.0, torchvision 0.28.0, timm 1.0.31

timm reads the file as it reads BiT's own, and must come to the weights that they were made from.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from oracles.torchvision_on_cpu import torchvision

FOLDER = Path(__file__).parent / "families"


def name_of(name: str) -> str:
    """BiT's name for one of timm's.

    >>> name_of("stages.0.blocks.1.norm2.weight")
    'resnet/block1/unit02/b/group_norm/gamma'
    """
    *scope, layer, leaf = name.split(".")
    norm = "norm" in layer
    leaf = {"weight": "gamma" if norm else "kernel", "bias": "beta" if norm else "bias"}[leaf]
    if scope[:1] != ["stages"]:
        word = {"conv": "root_block/standardized_conv2d", "norm": "group_norm", "fc": "head/conv2d"}[layer]
        return f"resnet/{word}/{leaf}"
    _, block, _, unit, *_ = scope
    part = "a/proj" if layer == "conv" else "abc"[int(layer[-1]) - 1]
    kind = "group_norm" if norm else "standardized_conv2d"
    return f"resnet/block{int(block) + 1}/unit{int(unit) + 1:02d}/{part}/{kind}/{leaf}"


def write(state: dict[str, Any], path: Path) -> None:
    """Save a state dict of timm's as BiT's arrays: height, width, in, out."""
    arrays = {name_of(name): tensor.numpy() for name, tensor in state.items()}
    arrays = {name: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array for name, array in arrays.items()}
    np.savez(path, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})


if __name__ == "__main__":
    state = torch.load(FOLDER / "bit.pth")
    write(state, FOLDER / "big_transfer.npz")
    torchvision()  # timm imports it
    from timm.models.resnetv2 import ResNetV2

    loaded = ResNetV2([2, 1], channels=(128, 128), num_classes=5, stem_chs=32, stem_type="fixed")
    with torch.no_grad():
        loaded.load_pretrained(FOLDER / "big_transfer.npz")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
