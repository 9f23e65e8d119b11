"""ResNet inference without TensorFlow, Keras or PyTorch.

>>> import resforward as rf
>>> model = rf.load("fashion")
"""

from .checkpoints import read_checkpoint
from .errors import (
    CheckpointError,
    EndPointError,
    ImageError,
    InputError,
    NetworkError,
    ResforwardError,
    UnsupportedIsaError,
)
from .model import Model, build, load
from .network import NETWORKS, Block, Network, bottleneck, resnet_v1, resnet_v2, with_output_stride

__all__ = [
    "NETWORKS",
    "Block",
    "CheckpointError",
    "EndPointError",
    "ImageError",
    "InputError",
    "Model",
    "Network",
    "NetworkError",
    "ResforwardError",
    "UnsupportedIsaError",
    "bottleneck",
    "build",
    "load",
    "read_checkpoint",
    "resnet_v1",
    "resnet_v2",
    "with_output_stride",
]
