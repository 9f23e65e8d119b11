"""TensorFlow 2 and the real tf-slim: the published network of `model.npz`'s name, with its weights, in a session.

tf-slim 1.1.0 imports on current TensorFlow but cannot build a layer there: it looks for `tf_keras.legacy_tf_layers`,
which has moved to `tf_keras.src.legacy_tf_layers`. `_mend` gives it the old name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

MOVED = "tf_keras.src.legacy_tf_layers"


def version() -> str:
    """TensorFlow's; tf-slim has had one release that starts on it."""
    tensorflow: str = importlib.import_module("tensorflow").__version__
    return f"{tensorflow} + tf-slim {importlib.metadata.version('tf-slim')}"


def _mend() -> None:
    for part in ("", ".base", ".convolutional", ".core", ".normalization", ".pooling"):
        sys.modules[f"tf_keras.legacy_tf_layers{part}"] = importlib.import_module(MOVED + part)


def load(folder: Path, images: Array, threads: int) -> Callable[[], Array]:
    """A session on NHWC images, the order in which TensorFlow computes on CPUs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _mend()
    import tensorflow as tf
    import tf_slim as slim
    from tf_slim.nets import resnet_utils, resnet_v1, resnet_v2

    tf1 = tf.compat.v1
    tf1.disable_eager_execution()
    session = tf1.Session(config=tf1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1))
    with np.load(folder / "model.npz") as arrays:
        name = json.loads(str(arrays["graph"]))["name"]
        placeholder = tf1.placeholder(tf.float32, images.shape, "images")
        nets = resnet_v1 if "_v1_" in name else resnet_v2
        with slim.arg_scope(resnet_utils.resnet_arg_scope()):
            logits, _ = getattr(nets, name)(placeholder, num_classes=len(arrays["logits/biases"]), is_training=False)
        variables = tf1.global_variables()
        values = {
            variable.initializer.inputs[1]: arrays[variable.op.name.removeprefix(f"{name}/")].reshape(variable.shape)
            for variable in variables
        }
        session.run([variable.initializer for variable in variables], values)  # in one run: each takes as long
    call = session.make_callable(logits, [placeholder])

    def run() -> Array:
        return np.reshape(call(images), (len(images), -1))

    return run
