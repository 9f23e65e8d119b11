"""Run the real TF-slim and write what it computed: the one place where TensorFlow is imported.

    python -m venv slim && slim/bin/pip install -r tests/oracles/requirements-slim.txt
    slim/bin/python tests/oracles/slim_reference.py FOLDER [NETWORK/VARIANT ...]

`write_reference` makes FOLDER/NAME.ckpt* (a TensorFlow checkpoint) and FOLDER/NAME.npz: `input` (N, H, W, C), every end
point under slim's own key, `net`, what slim returned, and the tensors that slim does not collect, under
SCOPE/pool1, SCOPE/.../preact, SCOPE/postnorm and SCOPE/global_pool. The scope is NAME.

tf-slim 1.1.0 imports on TensorFlow 2.21 but cannot build a layer there: it looks for `tf_keras.legacy_tf_layers`, which
has moved to `tf_keras.src.legacy_tf_layers`. The alias below mends that.
"""

# ruff: noqa: E402
from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MOVED = "tf_keras.src.legacy_tf_layers"
for module in ("", ".base", ".convolutional", ".core", ".normalization", ".pooling"):
    sys.modules[f"tf_keras.legacy_tf_layers{module}"] = importlib.import_module(MOVED + module)

import numpy as np
import tensorflow as tf
import tf_slim as slim
from tf_slim.nets import resnet_utils, resnet_v1, resnet_v2

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]
from golden.networks import Case, checkpoint
from oracles.cases import CASES

tf1 = tf.compat.v1
tf1.disable_eager_execution()

VERSIONS = {package: importlib.metadata.version(package) for package in ("tensorflow", "tf_slim", "tf_keras")}
UNCOLLECTED = {
    "/pool1/MaxPool": "/pool1",
    "/preact/Relu": "/preact",
    "/postnorm/Relu": "/postnorm",
    "/pool5": "/global_pool",
}


def random_value(name: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """A value of a variable that keeps activations in a trained network's range, so that errors mean something."""
    if name.endswith("moving_variance"):
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("gamma"):
        value = rng.uniform(0.5, 1.0, shape)
    elif name.endswith(("moving_mean", "beta", "biases")):
        value = rng.normal(0, 0.1, shape)
    else:  # a kernel: He initialisation; the residual branch is damped, or 50 sums of it would grow without bound
        damping = 0.3 if "/conv3/" in name else 1.0
        value = rng.normal(0, damping * np.sqrt(2 / np.prod(shape[:-1])), shape)
    return value.astype(np.float32)


def build(case: Case, images: tf.Tensor, scope: str) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Build slim's graph; returns its net and end points."""
    nets, family = {"v1": (resnet_v1, resnet_v1.resnet_v1), "v2": (resnet_v2, resnet_v2.resnet_v2)}[case.version]
    fields = ("depth", "depth_bottleneck", "stride")
    blocks = [
        resnet_utils.Block(block.scope, nets.bottleneck, [dict(zip(fields, unit, strict=True)) for unit in block.args])
        for block in case.blocks
    ]
    with slim.arg_scope(resnet_utils.resnet_arg_scope()):
        return family(
            images,
            blocks,
            num_classes=case.num_classes or None,
            is_training=False,
            global_pool=case.global_pool,
            output_stride=case.output_stride,
            include_root_block=case.include_root_block,
            scope=scope,
        )


def write_reference(name: str, case: Case, folder: pathlib.Path) -> None:
    """Write NAME.ckpt* and NAME.npz into the folder, with values from the first seed that keeps every tensor alive."""
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default() as graph, tf1.Session() as session:
        images = tf1.placeholder(tf.float32, [None, *case.size, case.input_channels], name="input")
        net, end_points = build(case, images, name)
        for operation in graph.get_operations():
            for ending, canonical in UNCOLLECTED.items():
                if operation.name.startswith(f"{name}/") and operation.name.endswith(ending):
                    end_points[operation.name.removesuffix(ending) + canonical] = operation.outputs[0]
        variables = tf1.global_variables()
        dead, seed = ["not computed yet"], -1
        while dead:
            seed += 1
            rng = np.random.default_rng(seed)
            batch = rng.uniform(-1, 1, (case.batch, *case.size, case.input_channels)).astype(np.float32)
            values = {v.initializer.inputs[1]: random_value(v.op.name, v.shape.as_list(), rng) for v in variables}
            session.run([v.initializer for v in variables], values)
            tensors = session.run({**end_points, "net": net}, {images: batch})
            # What a ReLU left near zero is a remainder of larger numbers: its relative difference would say nothing.
            dead = [key for key, tensor in tensors.items() if np.abs(tensor).max() < 0.02 and key != "predictions"]
        if case.saver == "V1":  # as in the published resnet_v1_50.ckpt
            extra = {"global_step": np.int64(600000), f"{name}/mean_rgb": np.float32([123.68, 116.78, 103.94])}
            variables += [tf1.get_variable(key, initializer=value) for key, value in extra.items()]
            session.run([v.initializer for v in variables[-2:]])
        saver = tf1.train.Saver(variables, write_version=getattr(tf1.train.SaverDef, case.saver))
        saver.save(session, str(checkpoint(name, folder)), write_meta_graph=False, write_state=False)
    about = json.dumps({**VERSIONS, "seed": seed})
    unfinished = folder / f"{name}.unfinished.npz"
    np.savez_compressed(unfinished, input=batch, versions=about, **tensors)
    unfinished.rename(folder / f"{name}.npz")
    print(f"{name}: {len(variables)} variables, {len(tensors)} tensors, seed {seed}", flush=True)


if __name__ == "__main__":
    for place in sys.argv[2:] or CASES:
        write_reference(place.split("/")[0], CASES[place], pathlib.Path(sys.argv[1], place))
