"""Write a small network of the blocks that Keras' ResNet50 of 2015 has, and what it computes: tests/golden/families/.

    pip install --no-deps keras-applications==1.0.8     # beside keras 3.15.1, h5py 3.16.0, torch 2.13.0
    KERAS_BACKEND=torch python tests/golden/make_keras_2015.py

The blocks are those of keras_applications/resnet50.py, called with few channels. The file is a legacy `.h5`; the .npz
has the images and every end point by our name.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format
from keras_applications import resnet50

FOLDER = Path(__file__).parent / "families"
PACKAGES = ("keras", "keras-applications", "h5py", "torch")
SIZE = (1, 37, 22, 3)  # odd, and not square
BLOCKS = {2: "ab", 3: "abc", 4: "a"}
WIDTHS = {2: (4, 4, 16), 3: (6, 6, 24), 4: (7, 7, 32)}

resnet50.backend, resnet50.layers = keras.backend, keras.layers


def network() -> tuple[keras.Model, dict[str, Any]]:
    """The network, and its end points by our names."""
    layers, points = keras.layers, {}
    images = keras.Input(SIZE[1:])
    x = layers.ZeroPadding2D((3, 3), name="conv1_pad")(images)
    x = layers.Conv2D(8, (7, 7), strides=(2, 2), name="conv1")(x)
    points["conv1"] = layers.Activation("relu")(layers.BatchNormalization(name="bn_conv1")(x))
    x = layers.ZeroPadding2D(padding=(1, 1), name="pool1_pad")(points["conv1"])
    x = points["pool1"] = layers.MaxPooling2D((3, 3), strides=(2, 2))(x)
    for stage, letters in BLOCKS.items():
        for letter in letters:
            if letter == "a":
                strides = (1, 1) if stage == 2 else (2, 2)
                x = resnet50.conv_block(x, 3, WIDTHS[stage], stage=stage, block=letter, strides=strides)
            else:
                x = resnet50.identity_block(x, 3, WIDTHS[stage], stage=stage, block=letter)
            points[f"block{stage - 1}/unit_{ord(letter) - ord('a') + 1}/bottleneck_v1"] = x
        points[f"block{stage - 1}"] = x
    x = points["global_pool"] = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    points["logits"] = layers.Dense(5, name="fc1000")(x)
    points["predictions"] = layers.Activation("softmax")(points["logits"])
    model = keras.Model(images, points["logits"])
    following = {}  # the activation behind a norm
    for layer in model.layers:
        if isinstance(layer, layers.Activation):
            following[layer.input._keras_history.operation.name] = layer.output
    for unit in [name for name in points if name.endswith("bottleneck_v1")]:
        block, number, _ = unit.split("/")
        bn = f"bn{int(block[5:]) + 1}{chr(ord('a') + int(number[5:]) - 1)}_branch"
        points |= {f"{unit}/conv1": following[f"{bn}2a"], f"{unit}/conv2": following[f"{bn}2b"]}
        points[f"{unit}/conv3"] = model.get_layer(f"{bn}2c").output
        if number == "unit_1":
            points[f"{unit}/shortcut"] = model.get_layer(f"{bn}1").output
    return model, points


def main() -> None:
    rng = np.random.default_rng(0)
    model, points = network()
    for layer in model.layers:
        for weight in layer.weights:
            positive = weight.name in ("gamma", "moving_variance")
            fan_in = np.prod(weight.shape[:-1])
            spread = np.sqrt(2 / fan_in) if weight.name == "kernel" else 0.1
            weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(0, spread, weight.shape))
    with h5py.File(FOLDER / "keras_2015.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    images = rng.standard_normal(SIZE, np.float32)
    arrays = keras.Model(model.input, list(points.values()))(images)
    found = {name: keras.ops.convert_to_numpy(array) for name, array in zip(points, arrays, strict=True)}
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    np.savez_compressed(FOLDER / "keras_2015.npz", images=images, versions=np.array(versions), **found)


if __name__ == "__main__":
    main()
