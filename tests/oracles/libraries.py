"""The libraries that published ResNets come from: networks with random weights, their files, and what they compute.

Needs torch, torchvision and timm, or Keras 3, which runs on torch. Tensors go in and come out as NHWC.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .torchvision_on_cpu import torchvision

Tensors = dict[str, np.ndarray]

LOGITS = "logits"  # what a network returns, whatever the layer is called


class Library(Protocol):
    """One way from a network's name to its weights in a file, and to what the library computes with them."""

    def make(self, name: str, size: tuple[int, int]) -> Any:
        """A network for images of (height, width), with the same random weights for every size."""

    def randomise(self, net: Any) -> Any:
        """Give biases and norms values that are not trivial, and return the network."""

    def save(self, net: Any, stem: Path) -> Path:
        """Write the weights; the ending is the library's."""

    def layers(self, net: Any) -> list[str]:
        """The names under which the library has tensors."""

    def run(self, net: Any, images: np.ndarray, layers: Iterable[str]) -> Tensors:
        """What these layers return, and the logits."""

    def feed(self, images: np.ndarray) -> np.ndarray:
        """Images with the axes that the network itself takes."""


def _damping(last: bool) -> float:
    """Of what ends a residual path, as training leaves it: else activations grow, and what is large hides roundings."""
    return 0.3 if last else 1


@dataclass(frozen=True)
class Torch:
    """torchvision's or timm's networks, saved as a state dict."""

    create: Callable[[str], Any]

    def make(self, name: str, size: tuple[int, int]) -> Any:
        import torch

        torch.manual_seed(0)
        return self.randomise(self.create(name).eval())

    def randomise(self, net: Any) -> Any:
        import torch

        rng = np.random.default_rng(0)
        state = net.state_dict()
        for key, tensor in state.items():
            if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith(".weight")):
                scale = _damping(key.endswith(("norm3.weight", "bn3.weight")))
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape) * scale))
            elif key.endswith(("running_mean", ".bias")):
                tensor.copy_(torch.from_numpy(rng.normal(0, 0.1, tensor.shape)))
        net.load_state_dict(state)
        return net

    def save(self, net: Any, stem: Path) -> Path:
        import torch

        path = stem.with_name(f"{stem.name}.pth")
        torch.save(net.state_dict(), path)
        return path

    def layers(self, net: Any) -> list[str]:
        return [name for name, _ in net.named_modules() if name]

    def run(self, net: Any, images: np.ndarray, layers: Iterable[str]) -> Tensors:
        import torch

        found: Tensors = {}

        def keep(layer: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                found[layer] = output.numpy().copy()  # the next layer may write into it

            return hook

        hooks = [net.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
        with torch.inference_mode():
            found[LOGITS] = net(torch.from_numpy(self.feed(images))).numpy()
        for hook in hooks:
            hook.remove()
        return {name: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for name, a in found.items()}

    def feed(self, images: np.ndarray) -> np.ndarray:
        return images.transpose(0, 3, 1, 2).copy()


@dataclass(frozen=True)
class Keras:
    """Keras' networks, saved in the format of an ending; `_weights.h5` is that of the published files."""

    ending: str = ".keras"
    create: Callable[[str, tuple[int, int]], Any] | None = None

    def make(self, name: str, size: tuple[int, int]) -> Any:
        keras = _keras()
        keras.utils.set_random_seed(0)
        return self.randomise((self.create or self._published)(name, size))

    def _published(self, name: str, size: tuple[int, int]) -> Any:
        make = getattr(_keras().applications, name)
        return make(weights=None, classifier_activation=None, input_shape=(*size, 3))

    def randomise(self, net: Any) -> Any:
        keras, rng = _keras(), np.random.default_rng(0)
        for layer in net.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                gamma, beta, mean, variance = (weight.shape for weight in layer.weights)
                scale = rng.uniform(0.5, 1.5, gamma) * _damping(layer.name.endswith("_3_bn"))
                shift, centre = rng.normal(0, 0.1, beta), rng.normal(0, 0.1, mean)
                layer.set_weights([scale, shift, centre, rng.uniform(0.5, 1.5, variance)])
            elif getattr(layer, "bias", None) is not None:
                kernel, bias = layer.get_weights()
                layer.set_weights([kernel, rng.normal(0, 0.1, bias.shape)])
        return net

    def save(self, net: Any, stem: Path) -> Path:
        path = stem.with_name(stem.name + self.ending)
        if self.ending == "_weights.h5":  # what `save_weights` wrote to `.h5` before Keras 3
            import h5py
            from keras.src.legacy.saving import legacy_h5_format

            with h5py.File(path, "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, net)
        else:
            (net.save_weights if self.ending == ".weights.h5" else net.save)(path)
        return path

    def layers(self, net: Any) -> list[str]:
        return [layer.name for layer in net.layers]

    def run(self, net: Any, images: np.ndarray, layers: Iterable[str]) -> Tensors:
        outputs = {name: net.get_layer(name).output for name in layers} | {LOGITS: net.output}
        found = _keras().Model(net.input, outputs)(images)
        return {name: _keras().ops.convert_to_numpy(tensor) for name, tensor in found.items()}

    def feed(self, images: np.ndarray) -> np.ndarray:
        return images


@cache
def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"  # read at its first import
    import keras

    return keras


def _torchvision_net(name: str) -> Any:
    return torchvision().models.get_model(name, weights=None)


def _timm_net(name: str) -> Any:
    torchvision()  # timm imports it
    import timm

    return timm.create_model(name, pretrained=False)


TORCHVISION, TIMM = Torch(_torchvision_net), Torch(_timm_net)
