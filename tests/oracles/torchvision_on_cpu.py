"""torchvision from PyPI beside a torch for CPUs."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def torchvision() -> Any:
    """The module. PyPI's is built for GPUs; its import asks for two operators, which no ResNet and no picture uses."""
    import torch
    from torch import library as operators

    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            operators.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision
    import torchvision.models

    return torchvision
