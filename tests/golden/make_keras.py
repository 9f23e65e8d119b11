"""Write the golden Keras files: one small residual network, saved in every format, and its weights in order.

    KERAS_BACKEND=torch python tests/golden/make_keras.py    # keras 3.15.1, h5py 3.16.0, torch 2.13.0

`resnet.npz` holds `model.get_weights()` under `layer|variable`, in the model's order, and a `versions` note.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import keras
import numpy as np
from keras import layers

FOLDER = Path(__file__).parent / "keras"
VERSIONS = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("keras", "h5py", "torch"))


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


def main() -> None:
    keras.utils.set_random_seed(0)
    model = residual_network()
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(rng.normal(size=variable.shape).astype("f4"))
    model.compile(optimizer=keras.optimizers.Adam(), loss="mse")
    model.fit(rng.normal(size=(2, 16, 16, 3)), rng.normal(size=(2, 5)), verbose=0)  # so that Adam has variables
    FOLDER.mkdir(exist_ok=True)
    model.save(FOLDER / "model.h5")
    model.save_weights(FOLDER / "resnet.weights.h5")
    model.save(FOLDER / "resnet.keras")
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(FOLDER / "weights.h5", "w") as file:  # what `save_weights` wrote to `.h5` before Keras 3
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    values = {variable.path.replace("/", "|"): np.asarray(variable.value.detach()) for variable in model.weights}
    np.savez(FOLDER / "resnet.npz", versions=np.array(VERSIONS), **values)


if __name__ == "__main__":
    main()
