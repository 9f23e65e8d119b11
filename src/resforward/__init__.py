"""ResNet inference without TensorFlow, Keras or PyTorch.

>>> import resforward as rf
>>> model = rf.load("fashion")
"""

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .checkpoints import read_checkpoint
    from .conversion import convert
    from .download import pull
    from .errors import (
        CheckpointError,
        EndPointError,
        ImageError,
        InputError,
        NetworkError,
        ResforwardError,
        TargetError,
        UnsupportedIsaError,
    )
    from .loading import build, load
    from .model import Model
    from .network import Block, Network, basic, bottleneck
    from .published import NETWORKS
    from .resnet import resnet_v1, resnet_v2, with_output_stride

__version__ = "0.1.0"

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
    "TargetError",
    "UnsupportedIsaError",
    "basic",
    "bottleneck",
    "build",
    "convert",
    "load",
    "pull",
    "read_checkpoint",
    "resnet_v1",
    "resnet_v2",
    "with_output_stride",
]

# Where the names live. They are imported when first asked for: `resforward --help` needs no NumPy.
_HOMES = {
    "convert": "conversion",
    "pull": "download",
    "read_checkpoint": "checkpoints",
    "Model": "model",
    "NETWORKS": "published",
    **dict.fromkeys(("build", "load"), "loading"),
    **dict.fromkeys(("Block", "Network", "basic", "bottleneck"), "network"),
    **dict.fromkeys(("resnet_v1", "resnet_v2", "with_output_stride"), "resnet"),
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "errors"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
