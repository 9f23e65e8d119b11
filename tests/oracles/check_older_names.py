"""Compare resforward with the libraries whose files have older names, or none, at full size and on random weights.

    KERAS_BACKEND=torch python tests/oracles/check_older_names.py keras_2015 big_transfer
    python tests/oracles/check_older_names.py ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 ResNet152V2

The first line needs keras-applications 1.0.8 (installed with --no-deps) beside Keras 3 and torch, and timm; the second
TensorFlow 2.12 to 2.15, whose `.weights.h5` has numbers for its layers. Compared are the logits, or their softmax, and
every tensor of the library that is an end point. Exits with 1 where a difference, over the largest value, is above what
is promised.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from oracles.check_families import PROMISED, PROMISED_BIT, compare
from oracles.libraries import TIMM, Tensors

import resforward
from resforward.aliases import aliases
from resforward.dialects import KERAS_2015

SIZE = (1, 224, 236, 3)


def keras_2015(folder: Path, images: np.ndarray) -> tuple[Path, Tensors]:
    """keras-applications' ResNet50 in a legacy `.h5`."""
    import keras
    from keras_applications import resnet50

    parts = {"backend": keras.backend, "layers": keras.layers, "models": keras.models, "utils": keras.utils}
    net = randomised(resnet50.ResNet50(weights=None, input_shape=SIZE[1:], **parts))
    path = folder / "keras_2015.h5"
    net.save(path)
    names = {"predictions": "fc1000", "global_pool": "avg_pool", "pool1": "max_pooling2d"}
    for point in resforward.load(path).end_points:
        if point.endswith(("/conv3", "/shortcut")):
            names[point] = str(KERAS_2015.scope(f"{point}/BatchNorm"))
    return path, outputs(net, names, images)


def numbered(name: str) -> Callable[[Path, np.ndarray], tuple[Path, Tensors]]:
    """One of keras.applications of TensorFlow 2.12 to 2.15."""

    def run(folder: Path, images: np.ndarray) -> tuple[Path, Tensors]:
        from tensorflow import keras

        make = getattr(keras.applications, name)
        net = randomised(make(weights=None, classifier_activation=None, input_shape=SIZE[1:]))
        path = folder / f"{name}.weights.h5"
        net.save_weights(path)
        known = aliases(resforward.load(path).network).known
        names = {layer.name: layer.name for layer in net.layers if layer.name in known}
        return path, outputs(net, names | {"logits": "predictions"}, images)

    return run


def randomised(net: Any) -> Any:
    """Norms and biases that are not trivial, damped at the end of each residual path, as training leaves them."""
    rng = np.random.default_rng(0)
    for layer in net.layers:
        values = layer.get_weights()
        if len(values) == 4:
            damped = 0.3 if layer.name.endswith(("_3_bn", "_branch2c")) else 1
            gamma, *_, variance = (rng.uniform(0.5, 1.5, value.shape) for value in values)
            beta, mean = (rng.normal(0, 0.1, value.shape) for value in values[1:3])
            layer.set_weights([gamma * damped, beta, mean, variance])
        elif len(values) == 2:
            layer.set_weights([values[0], rng.normal(0, 0.1, values[1].shape)])
    return net


def outputs(net: Any, names: dict[str, str], images: np.ndarray) -> Tensors:
    """What the layers of these names return, by ours."""
    found = type(net)(net.input, [net.get_layer(layer).output for layer in names.values()])(images)
    arrays = [np.asarray(each.detach().cpu() if hasattr(each, "detach") else each) for each in found]
    return dict(zip(names, arrays, strict=True))


def big_transfer(folder: Path, images: np.ndarray) -> tuple[Path, Tensors]:
    """timm's BiT, its weights read by timm from an `.npz` with BiT's own names."""
    import torch
    from golden.make_big_transfer import write

    path = folder / "big_transfer.npz"
    write(TIMM.make("resnetv2_50x1_bit", SIZE[1:3]).state_dict(), path)
    net = TIMM.create("resnetv2_50x1_bit").eval()
    with torch.no_grad():
        net.load_pretrained(path)
    known = aliases(resforward.load(path).network).known
    return path, TIMM.run(net, images, [layer for layer in TIMM.layers(net) if layer in known])


def main() -> int:
    too_far = 0
    images = np.random.default_rng(1).standard_normal(SIZE, np.float32)
    for name in sys.argv[1:]:
        run = {"keras_2015": keras_2015, "big_transfer": big_transfer}.get(name) or numbered(name)
        with tempfile.TemporaryDirectory() as folder:
            path, expected = run(Path(folder), images)
            _, difference, where = compare(resforward.load(path), images, expected, name)
        too_far += difference > (PROMISED_BIT if name == "big_transfer" else PROMISED)
        print(f"{name:16} {len(expected):4} tensors  {difference:.1e} at {where}", flush=True)
    return 1 if too_far else 0


if __name__ == "__main__":
    sys.exit(main())
