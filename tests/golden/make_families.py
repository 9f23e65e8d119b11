"""Write small files of torchvision's, timm's and Keras' own network code, and what it computes: tests/golden/families/.

    python tests/golden/make_families.py [NAME ...]   # torch 2.13.0, torchvision 0.28.0, timm 1.0.31, Keras 3.15.1

Real units, root blocks and heads of the libraries, with few and narrow ones of them. Each case is a file as its library
saves weights, and an .npz: for each of two sizes, as HEIGHTxWIDTH/NAME, the images, the logits and every tensor that is
an end point here, by the name of its layer; and `versions`, of the libraries.
"""

# ruff: noqa: E402  (tests/ goes on the path first)
from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from oracles.libraries import Keras, Library, Torch
from oracles.torchvision_on_cpu import torchvision

from resforward import load
from resforward.aliases import aliases

FOLDER = Path(__file__).parent / "families"
SIZES = ((24, 20), (21, 30))  # the pool reads maps of even sides, as at 224, and of odd ones
KERAS_SIZES = ((32, 36), (37, 33))  # it takes no side below 32
PACKAGES = ("torch", "torchvision", "timm", "keras", "h5py")

library = torchvision()
from timm.layers import BatchNormAct2d, GroupNormAct, StdConv2d, create_conv2d
from timm.models import resnet as timm_resnet
from timm.models import resnetv2 as timm_resnetv2


def torchvision_net(unit: Any, widths: tuple[int, ...]) -> Any:
    """Torchvision's network from its own parts; its constructor has no say in the widths."""
    net = library.models.resnet.ResNet(unit, [1, 1, 1, 1], num_classes=5)
    net.inplanes = widths[0]
    net.conv1 = torch.nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(widths[0])
    for index, (width, units) in enumerate(zip(widths, (2, 2, 1, 1), strict=True), start=1):
        setattr(net, f"layer{index}", net._make_layer(unit, width, units, stride=1 if index == 1 else 2))
    net.fc = torch.nn.Linear(widths[-1] * unit.expansion, 5)
    return net


def timm_v1(unit: Any, **options: Any) -> Any:
    return timm_resnet.ResNet(unit, [2, 1, 1, 1], num_classes=5, channels=(4, 8, 8, 12), **options)


def timm_v2(**options: Any) -> Any:
    layers = {"conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    options = {"layers": [2, 1, 1, 1], "channels": (16, 16, 32, 32), "num_classes": 5, **layers, **options}
    return timm_resnetv2.ResNetV2(**options)


def bit(layers: list[int], **options: Any) -> Any:
    norm, conv = partial(GroupNormAct, num_groups=32), partial(StdConv2d, eps=1e-8)
    options = {"stem_chs": 32, "stem_type": "fixed", "conv_layer": conv, "norm_layer": norm, **options}
    return timm_v2(layers=layers, channels=(128,) * len(layers), **options)


TORCH: Mapping[str, Callable[[], Any]] = {
    "torchvision_basic": lambda: torchvision_net(library.models.resnet.BasicBlock, (6, 8, 12, 16)),
    "torchvision_bottleneck": lambda: torchvision_net(library.models.resnet.Bottleneck, (4, 6, 8, 8)),
    "timm_v1c": lambda: timm_v1(timm_resnet.Bottleneck, stem_width=4, stem_type="deep"),
    "timm_v1d": lambda: timm_v1(timm_resnet.Bottleneck, stem_width=4, stem_type="deep", avg_down=True),
    "timm_v1s": lambda: timm_v1(timm_resnet.BasicBlock, stem_width=4, stem_type="deep"),
    "timm_v1t": lambda: timm_v1(timm_resnet.Bottleneck, stem_width=4, stem_type="deep_tiered", avg_down=True),
    "timm_v2": lambda: timm_v2(stem_chs=8),
    "timm_v2_basic": lambda: timm_v2(stem_chs=16, basic=True),
    "timm_v2d": lambda: timm_v2(stem_chs=8, stem_type="deep", avg_down=True),
    "timm_v2t": lambda: timm_v2(stem_chs=8, stem_type="tiered", avg_down=True),
    # Groups of one channel each in most of its norms: no narrower network has 32 of them.
    "timm_v2d_gn": lambda: bit([1, 1], stem_chs=64, stem_type="deep", avg_down=True, conv_layer=create_conv2d),
    "bit": lambda: bit([2, 1]),
    "bit_x2": lambda: bit([1], width_factor=2),
}


def keras_net(version: int, **options: Any) -> Callable[[str, tuple[int, int]], Any]:
    """Keras' own `ResNet` around its own stacks; only the root block's 64 channels cannot be fewer."""

    def create(name: str, size: tuple[int, int]) -> Any:
        from keras.src.applications import resnet

        stack = {1: resnet.stack_residual_blocks_v1, 2: resnet.stack_residual_blocks_v2}[version]
        strides = {1: (1, 2, 2), 2: (2, 2, 1)}[version]  # as in ResNet50 and in ResNet50V2, of fewer stacks

        def stacks(x: Any) -> Any:
            for place, (units, stride) in enumerate(zip((3, 2, 2), strides, strict=True)):
                x = stack(x, 4 + 2 * place, units, stride1=stride, name=f"conv{place + 2}")
            return x

        kept = {"weights": None, "input_shape": (*size, 3), "classes": 5, "classifier_activation": None}
        return resnet.ResNet(stacks, version == 2, True, name=name, **kept, **options)

    return create


KERAS: Mapping[str, Keras] = {
    "keras_v1": Keras("_weights.h5", keras_net(1)),
    "keras_v1_no_top": Keras(".keras", keras_net(1, include_top=False)),
    "keras_v2": Keras(".h5", keras_net(2)),
    "keras_v2_no_top": Keras(".weights.h5", keras_net(2, include_top=False, pooling="avg")),
}
CASES: Mapping[str, Library] = {name: Torch(lambda name: TORCH[name]()) for name in TORCH} | KERAS


def write(name: str) -> None:
    """One case."""
    its, sizes = CASES[name], (KERAS_SIZES if name in KERAS else SIZES)
    path = its.save(its.make(name, sizes[0]), FOLDER / name)
    known = aliases(load(path).network).known
    golden = {"versions": np.array(", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES))}
    ends = ("_out", "post_relu", "avg_pool") if name.endswith("_no_top") else ""  # the rest is the same as with a top
    for size in sizes:
        net = its.make(name, size)
        images = np.random.default_rng(1).standard_normal((1, *size, 3), np.float32)
        found = its.run(net, images, [layer for layer in its.layers(net) if layer in known and layer.endswith(ends)])
        golden |= {f"{size[0]}x{size[1]}/{key}": array for key, array in {"images": images, **found}.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **golden)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or CASES:
        write(name)
