"""Write the golden checkpoints beside this file with the real TensorFlow, and what they hold as an .npz each.

    python -m venv tf && tf/bin/pip install tensorflow-cpu==2.21.0
    tf/bin/python tests/golden/make_checkpoints.py

`versions.json` records what wrote them. The tests read these files and need no TensorFlow.
"""

import json
import os
import pathlib
import platform
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
V1, V2 = tf1.train.SaverDef.V1, tf1.train.SaverDef.V2
HERE = pathlib.Path(__file__).parent / "checkpoints"

rng = np.random.default_rng(0)


def numbers(dtype: tf.DType, shape: tuple[int, ...]) -> np.ndarray:
    """Values that use the whole range of a dtype."""
    if dtype == tf.bool:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_floating or dtype.is_complex:
        values = rng.normal(0, 3, shape)
        return (values + 1j * rng.normal(0, 3, shape) if dtype.is_complex else values).astype(dtype.as_numpy_dtype)
    return rng.integers(dtype.min, dtype.max, shape, dtype=dtype.as_numpy_dtype, endpoint=True)


def save(name: str, variables: dict[str, tf.Variable], session: tf1.Session, version: int, **options) -> None:
    """Save some variables of a session, and their values."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    session.run(tf1.global_variables_initializer())
    saver = tf1.train.Saver(variables or None, write_version=version, **options)
    saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False, write_state=True)
    values = {}
    for variable in tf1.global_variables():
        if variable.dtype.base_dtype != tf.string:
            info = variable._get_save_slice_info()
            values.setdefault(info.full_name if info else variable.op.name, []).append((info, session.run(variable)))
    whole = {name: join(parts) for name, parts in values.items()}
    np.savez_compressed(HERE / f"{name}.npz", **{name.replace("/", "|"): value for name, value in whole.items()})
    # The writer's folder is no one's business, and an absolute path is what the reader has to cope with.
    state = folder / "checkpoint"
    if state.exists():
        state.write_text(state.read_text().replace(str(folder), "/training/run"))


def join(parts: list) -> np.ndarray:
    """Put the slices of a partitioned variable together."""
    info, first = parts[0]
    if info is None:
        value = first
    else:
        value = np.empty(info.full_shape, first.dtype)
        for info, part in parts:
            value[tuple(slice(o, o + s) for o, s in zip(info.var_offset, info.var_shape, strict=True))] = part
    return value.astype(np.float32) if value.dtype == tf.bfloat16.as_numpy_dtype else value


def every_dtype(name: str, version: int, dtypes: list[tf.DType]) -> None:
    """One matrix of every dtype, a scalar, an empty tensor, a string, and names in need of care."""
    with tf.Graph().as_default(), tf1.Session() as session:
        for dtype in dtypes:
            tf1.get_variable(f"dtypes/{dtype.name}", initializer=tf.constant(numbers(dtype, (3, 5)), dtype))
        tf1.get_variable("scalar", initializer=np.float32(1.5))
        tf1.get_variable("global_step", initializer=np.int64(123456789012))
        tf1.get_variable("empty", initializer=np.zeros((0, 3), np.float32))
        tf1.get_variable("block1/unit_1/conv1/weights", initializer=numbers(tf.float32, (3, 3, 2, 4)))
        tf1.get_variable("block1/unit_1/conv1/BatchNorm/gamma", initializer=numbers(tf.float32, (4,)))
        tf1.get_variable("words", initializer=tf.constant(["one", "two", ""]))
        save(name, {}, session, version)


def partitioned(name: str, version: int) -> None:
    """Variables in slices along either axis, and one slice that is not."""
    with tf.Graph().as_default(), tf1.Session() as session:
        for axis, shape in enumerate([(140, 3), (5, 200)]):  # past 64, where a slice's key takes longer numbers
            tf1.get_variable(
                f"sliced_{axis}",
                shape,
                initializer=tf1.random_normal_initializer(seed=axis),
                partitioner=tf1.fixed_size_partitioner(3, axis=axis),
            )
        tf1.get_variable("whole", initializer=numbers(tf.float32, (2, 3)))
        save(name, {}, session, version)


def sharded(name: str, version: int) -> None:
    """Variables on three devices, so that each device writes its own file."""
    config = tf1.ConfigProto(device_count={"CPU": 3})
    with tf.Graph().as_default(), tf1.Session(config=config) as session:
        for i in range(7):
            with tf.device(f"/cpu:{i % 3}"):
                tf1.get_variable(f"layer_{i}/weights", initializer=numbers(tf.float32, (i + 1, 4)))
        save(name, {}, session, version, sharded=True)


def objects() -> None:
    """TF2's own: an object graph, with an optimizer's slots."""
    folder = HERE / "v2_objects"
    shutil.rmtree(folder, ignore_errors=True)
    module = tf.Module()
    module.kernel = tf.Variable(numbers(tf.float32, (3, 3, 2, 4)))
    module.layers = [tf.Variable(numbers(tf.float32, (4,))) for _ in range(2)]
    tf.train.Checkpoint(model=module, step=tf.Variable(7, dtype=tf.int64)).write(str(folder / "model.ckpt"))
    values = {"model/kernel": module.kernel.numpy(), "step": np.int64(7)}
    values |= {f"model/layers/{i}": layer.numpy() for i, layer in enumerate(module.layers)}
    named = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE".replace("/", "|"): value for name, value in values.items()}
    np.savez_compressed(HERE / "v2_objects.npz", **named)


if __name__ == "__main__":
    objects()
    common = [tf.float32, tf.float64, tf.int32, tf.uint8, tf.int16, tf.int8, tf.int64, tf.bool, tf.float16]
    every_dtype("v1_dtypes", V1, common)
    every_dtype("v2_dtypes", V2, [*common, tf.bfloat16, tf.complex64, tf.uint16, tf.uint32, tf.uint64])
    for label, version in (("v1", V1), ("v2", V2)):
        partitioned(f"{label}_partitioned", version)
        sharded(f"{label}_sharded", version)
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__, "python": platform.python_version()}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
