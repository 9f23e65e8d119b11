"""Write the golden Keras files: a small residual network, saved in every format, and its weights in order.

    python -m venv keras3 && keras3/bin/pip install keras==3.15.1 h5py==3.16.0 torch==2.13.0
    KERAS_BACKEND=torch keras3/bin/python tests/golden/make_keras.py
    python -m venv keras2 && keras2/bin/pip install tensorflow-cpu==2.15.1
    keras2/bin/python tests/golden/make_keras.py

`numbered.json` has the layers of keras.applications' ResNets in the order that files without names have them in, found
by values: class -> [name, shapes of its variables]. TensorFlow 2.12.1 has the same.

Each `.npz` holds the values by `layer|variable`, in the model's order, and a note of the `versions` that wrote them.
The tests read these files and need no Keras.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

FOLDER = Path(__file__).parent / "keras"
KERAS_2 = keras.__version__.startswith("2.")
PACKAGES = ("keras", "h5py", "tensorflow-cpu" if KERAS_2 else "torch")
VERSIONS = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)


def residual_network(units: int = 12, width: int = 3) -> keras.Model:
    """A stem, units with identity shortcuts, and a head: more than ten convolutions, so that `conv2d_10` is there."""
    images = keras.Input((16, 16, 3), name="images")
    x = layers.Conv2D(width, 3, padding="same", name="conv1_conv")(images)
    x = layers.BatchNormalization(epsilon=1.001e-5, name="conv1_bn")(x)
    x = layers.ReLU(name="conv1_relu")(x)
    for unit in range(1, units + 1):
        name = f"conv2_block{unit}"
        y = layers.Conv2D(width, 3, padding="same", use_bias=unit % 2 == 1, name=f"{name}_1_conv")(x)
        y = layers.BatchNormalization(epsilon=1.001e-5, scale=unit != 2, center=unit != 3, name=f"{name}_1_bn")(y)
        x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(images, layers.Dense(5, name="predictions")(layers.Dropout(0.5, name="drop")(x)), name="small")


def filled(model: keras.Model) -> keras.Model:
    """Give a model random weights, and an optimizer with a state to be left alone."""
    rng = np.random.default_rng(0)
    model.compile(optimizer="adam", loss="mse")
    model.fit(rng.normal(size=(2, 16, 16, 3)), rng.normal(size=(2, 5)), verbose=0)
    model.set_weights([rng.normal(size=value.shape).astype("f4") for value in model.get_weights()])
    return model


def save_values(model: keras.Model, name: str) -> None:
    names = [(weight.name.removesuffix(":0") if KERAS_2 else weight.path) for weight in model.weights]
    values = zip((each.replace("/", "|") for each in names), model.get_weights(), strict=True)
    np.savez(FOLDER / f"{name}.npz", versions=np.array(VERSIONS), **dict(values))


def keras_2() -> None:
    """Paths without names, and `:0` after names: as TensorFlow 2.15 wrote."""
    model = filled(residual_network(units=3))
    model.save(FOLDER / "keras2_model.h5")
    model.save_weights(FOLDER / "keras2.weights.h5")
    model.save(FOLDER / "keras2.keras")
    save_values(model, "keras2")
    numbered = {name: numbered_layers(name) for name in NUMBERED}
    (FOLDER / "numbered.json").write_text(json.dumps({"versions": VERSIONS} | numbered, separators=(",", ":")))


NUMBERED = [f"ResNet{depth}{version}" for depth in (50, 101, 152) for version in ("", "V2")]


def numbered_layers(name: str) -> dict[str, list[tuple[str, list[list[int]]]]]:
    """The layers of one of Keras' own networks by class, in the order of their numbers in a file without names."""
    model = getattr(keras.applications, name)(weights=None, classes=5)
    known = [layer for layer in model.layers if layer.weights]
    for place, layer in enumerate(known):
        layer.set_weights([np.full(value.shape, place, "f4") for value in layer.get_weights()])
    found: dict[str, list[tuple[int, keras.layers.Layer]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_weights(f"{folder}/model.weights.h5")
        with h5py.File(f"{folder}/model.weights.h5") as file:
            for path, group in file["layers"].items():
                if "0" in group["vars"]:
                    kind, _, number = path.rpartition("_") if path[-1].isdigit() and "_" in path else (path, "", "0")
                    layer = known[int(group["vars/0"][()].flat[0])]
                    found.setdefault(kind, []).append((int(number), layer))
    return {
        kind: [
            (layer.name, [list(value.shape) for value in layer.get_weights()])
            for _, layer in sorted(rows, key=lambda row: row[0])
        ]
        for kind, rows in found.items()
    }


def keras_3() -> None:
    model = filled(residual_network())
    model.save(FOLDER / "model.h5")
    model.save_weights(FOLDER / "resnet.weights.h5")
    model.save(FOLDER / "resnet.keras")
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(FOLDER / "weights.h5", "w") as file:  # what `save_weights` wrote to `.h5` before Keras 3
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    with h5py.File(FOLDER / "chunks.h5", "w") as file:  # as Keras does not write, and a user's script may
        file.attrs["layer_names"] = np.array([b"dense"])
        dense = file.create_group("dense")
        dense.attrs["weight_names"] = np.array([b"kernel"])
        kernel = np.arange(600, dtype=">f4").reshape(20, 30)
        dense.create_dataset("kernel", data=kernel, chunks=(7, 8), compression=9, shuffle=True, fletcher32=True)
    save_values(model, "resnet")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    keras_2() if KERAS_2 else keras_3()
