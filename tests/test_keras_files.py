"""What Keras wrote is read to the bit, under its layers' names; what it would never write is refused, by name."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resforward.checkpoints import read_checkpoint
from resforward.checkpoints.files import Budget, File
from resforward.checkpoints.hdf5 import Tree
from resforward.checkpoints.hdf5_chunks import fletcher32
from resforward.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "keras"
KERNEL = np.arange(108, dtype=np.float32).reshape(3, 3, 3, 4)
BIAS = np.array([1, -2, 3, -4], np.float32)
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def golden_values(name="resnet"):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key.replace("|", "/"): file[key] for key in file.files if key != "versions"}


def assert_holds(checkpoint, values, *, ordered=True):
    if ordered:
        assert list(checkpoint) == list(values)
    assert set(checkpoint) == set(values)
    for name, value in values.items():
        assert checkpoint[name].dtype == value.dtype, name
        assert checkpoint[name].shape == value.shape, name
        assert not checkpoint[name].flags.writeable
        np.testing.assert_array_equal(checkpoint[name], value, err_msg=name)


def refusal(path):
    """The message that a path is refused with."""
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert time.process_time() - started < 2
    return str(caught.value)


def legacy(path, layers, *, root="", pieces=1, string=None, **options):
    """Write a legacy file: layer -> weight's name -> array."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        _set(group, "layer_names", list(layers), pieces, string)
        for layer, weights in layers.items():
            inside = group.create_group(layer)
            _set(inside, "weight_names", list(weights), pieces, string)
            for name, array in weights.items():
                inside.create_dataset(name, data=array, **options)
    return path


def _set(group, name, names, pieces, string):
    names = np.array([each.encode() for each in names], string) if string else [each.encode() for each in names]
    if pieces == 1:
        group.attrs[name] = names
    else:
        for number in range(pieces):
            group.attrs[f"{name}{number}"] = names[len(names) * number // pieces : len(names) * (number + 1) // pieces]


def conv(prefix="conv1/", suffix=""):
    return {f"{prefix}kernel{suffix}": KERNEL, f"{prefix}bias{suffix}": BIAS}


def edited(path, edit):
    """Write a good file, and let `edit` do something to it through h5py."""
    legacy(path, {"conv1": conv()})
    with h5py.File(path, "a") as file:
        edit(file)
    return path


def patched(path, old, new, count=1):
    """Change bytes of a file; the old ones must be there."""
    body = path.read_bytes()
    assert body.count(old) >= count
    path.write_bytes(body.replace(old, new))
    return path


# --- what Keras wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format", "skipped"),
    [
        ("weights.h5", "Keras HDF5", {}),
        ("model.h5", "Keras HDF5", {"optimizer_weights": "the optimizer's state"}),
        ("resnet.keras", "Keras zip", {"optimizer": "the optimizer's state"}),
    ],
)
def test_reads_what_keras_wrote(name, format, skipped):
    checkpoint = read_checkpoint(GOLDEN / name)
    assert_holds(checkpoint, golden_values())
    assert checkpoint.format == format
    assert checkpoint.skipped == skipped


def test_reads_what_tensorflow_wrote():
    values = golden_values("keras2")
    checkpoint = read_checkpoint(GOLDEN / "keras2.keras")  # its weights have no names: the configuration gives them
    assert_holds(checkpoint, values)
    assert checkpoint.skipped == {"optimizer": "the optimizer's state", "metrics": "state of metrics"}
    checkpoint = read_checkpoint(GOLDEN / "keras2_model.h5")
    assert_holds(checkpoint, values)
    assert checkpoint.skipped == {"optimizer_weights": "the optimizer's state"}


def test_weights_alone_of_tensorflow_keep_their_paths_in_the_models_order():
    checkpoint = read_checkpoint(GOLDEN / "keras2.weights.h5")
    wanted = golden_values("keras2")
    for kind, end in (("conv2d", "conv/kernel"), ("dense", "predictions/kernel")):
        paths = [name for name in checkpoint if re.fullmatch(rf".*/{kind}(_\d+)?/vars/0", name)]
        values = [value for name, value in wanted.items() if name.endswith(end)]
        for path, value in zip(paths, values, strict=True):
            np.testing.assert_array_equal(checkpoint[path], value)
    assert len(checkpoint) == len(wanted)
    assert checkpoint.skipped == {"optimizer": "the optimizer's state", "metrics": "state of metrics"}


def test_weights_alone_have_names_but_not_the_order_of_classes():
    values = golden_values()
    for layer in ("conv2_block2_1_bn", "conv2_block3_1_bn"):  # without gamma, without beta: the file does not say which
        names = [name for name in values if name.startswith(f"{layer}/")]
        for number, name in enumerate(names):
            values[f"{layer}/{number}"] = values.pop(name)
    checkpoint = read_checkpoint(GOLDEN / "resnet.weights.h5")
    assert_holds(checkpoint, values, ordered=False)
    for end in ("kernel", "moving_variance"):  # of one class, in the model's order: block 10 after block 9
        inside = [name for name in checkpoint if name.endswith(f"_{'bn' if end != 'kernel' else 'conv'}/{end}")]
        assert inside == [name for name in values if name in inside]
    assert checkpoint.skipped == {"optimizer": "the optimizer's state"}


def test_nothing_but_numpy_is_needed():
    code = f"import sys\nfrom resforward import read_checkpoint\nread_checkpoint({str(GOLDEN / 'resnet.keras')!r})\n"
    code += "assert not {'h5py', 'keras', 'zipfile'} & sys.modules.keys()\n"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_folders_and_archives(tmp_path):
    values = golden_values()
    for name in ("model.h5", "resnet.keras"):
        folder = tmp_path / f"only {name}"
        folder.mkdir()
        (folder / name).write_bytes((GOLDEN / name).read_bytes())
        (folder / "notes.txt").write_text("hello")
        assert_holds(read_checkpoint(folder), values)
        for mode in ("w", "w:gz"):
            with tarfile.open(tmp_path / "m.tar", mode) as archive:
                archive.add(GOLDEN / name, arcname=name)
            assert_holds(read_checkpoint(tmp_path / "m.tar"), values)
    assert "8 checkpoints" in refusal(GOLDEN)


def test_weights_are_views_of_the_file(tmp_path):
    big = {"dense": {"dense/kernel": np.ones((1 << 10, 1 << 12), np.float32)}}  # 16 MB
    legacy(tmp_path / "m.h5", big)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/dense/vars/0"] = big["dense"]["dense/kernel"]
    keras_zip(tmp_path / "m.keras", (tmp_path / "w.h5").read_bytes(), [("Dense", {"name": "dense"})])
    tracemalloc.start()
    for name in ("m.h5", "m.keras"):
        array = read_checkpoint(tmp_path / name)["dense/kernel"]
        assert array.sum() == 1 << 22
        assert not array.flags.owndata
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


# --- what h5py writes in other ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["", "model_weights"])
@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("string", [None, "S"])
def test_lists_of_names(tmp_path, root, pieces, string):
    layers = {"input_1": {}, "conv1": conv(), "drop": {}, "conv2": conv("conv2/"), "fc": conv("fc/")}
    checkpoint = read_checkpoint(legacy(tmp_path / "m.h5", layers, root=root, pieces=pieces, string=string))
    assert list(checkpoint) == [f"{layer}/{name}" for layer in ("conv1", "conv2", "fc") for name in ("kernel", "bias")]


def test_lists_that_keras_has_to_cut(tmp_path):
    layers = {f"block{i}_{'x' * 60}": conv(f"block{i}_{'x' * 60}/") for i in range(1500)}  # 100 kB of names
    checkpoint = read_checkpoint(legacy(tmp_path / "m.h5", layers, pieces=2, string="S"))
    assert [name.partition("/")[0] for name in checkpoint][::2] == list(layers)


@pytest.mark.parametrize(
    ("layer", "weight", "name"),
    [
        ("conv1_conv", "conv1_conv/kernel", "conv1_conv/kernel"),  # Keras 3
        ("conv1_conv", "conv1_conv/kernel:0", "conv1_conv/kernel"),  # Keras 2
        ("conv1_conv", "conv1_conv/conv1_conv/kernel:0", "conv1_conv/kernel"),
        ("conv1", "conv1_W:0", "conv1/kernel"),  # Keras 1 on TensorFlow, twice in a session, and on Theano
        ("conv1", "conv1_W_1:0", "conv1/kernel"),
        ("conv1", "conv1_b", "conv1/bias"),
        ("conv1", "conv1/conv1_W_1:0", "conv1/kernel"),
        ("bn_conv1", "bn_conv1_running_mean", "bn_conv1/moving_mean"),
        ("bn_conv1", "bn_conv1_running_std_1:0", "bn_conv1/moving_variance"),
        ("lstm", "lstm_W_i:0", "lstm/lstm_W_i"),  # not of a layer that a ResNet has
        ("param_0", "param_0", "param_0/param_0"),
        ("resnet50", "conv1_conv/kernel:0", "resnet50/conv1_conv/kernel"),  # a network inside another
        ("conv1", "conv1_1/kernel:0", "conv1/conv1_1/kernel"),
        ("conv1", "kernel:1", "conv1/kernel:1"),
        ("a/b", "a/b/kernel:0", "a/b/kernel"),
    ],
)
def test_names(tmp_path, layer, weight, name):
    assert_holds(read_checkpoint(legacy(tmp_path / "m.h5", {layer: {weight: KERNEL}})), {name: KERNEL})


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8", "<i4", ">i8", "u1", "<u2", "i1"])
@pytest.mark.parametrize("options", [{}, {"chunks": (2, 3, 1, 4)}, {"chunks": True, "compression": "gzip"}])
def test_types(tmp_path, dtype, options):
    array = (KERNEL + 1).astype(dtype)
    checkpoint = read_checkpoint(legacy(tmp_path / "m.h5", {"conv1": {"kernel": array}}, **options))
    assert_holds(checkpoint, {"conv1/kernel": array.astype(array.dtype.newbyteorder("="))})


def test_scalars_and_empty_arrays(tmp_path):
    arrays = {"step": np.array(7, np.int64), "none": np.empty((0, 3), np.float32), "one": np.ones((1,) * 8, np.float32)}
    checkpoint = read_checkpoint(legacy(tmp_path / "m.h5", {"x": arrays}))
    assert_holds(checkpoint, {f"x/{name}": array for name, array in arrays.items()})
    empty = legacy(tmp_path / "m.h5", {"x": {"none": np.empty((0, 3), np.float32)}}, chunks=(2, 2), maxshape=(None, 3))
    assert read_checkpoint(empty)["x/none"].shape == (0, 3)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    data=st.data(),
    dtype=st.sampled_from(["<f4", ">f8", "<f2", "u1"]),
    filters=st.fixed_dictionaries(
        {}, optional={"compression": st.just("gzip"), "shuffle": st.just(True), "fletcher32": st.just(True)}
    ),
)
def test_chunks_and_filters(tmp_path_factory, shape, data, dtype, filters):
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    rng = np.random.default_rng(0)
    array = rng.integers(0, 5, shape).astype(dtype)
    folder = tmp_path_factory.mktemp("chunks")
    path = legacy(folder / "m.h5", {"x": {"w": array}}, chunks=chunks, **filters)
    assert_holds(read_checkpoint(path), {"x/w": array.astype(array.dtype.newbyteorder("="))})


def test_many_chunks(tmp_path):
    array = np.arange(40000, dtype=np.int32).reshape(200, 200)  # a B-tree of more than one level
    assert_holds(read_checkpoint(legacy(tmp_path / "m.h5", {"x": {"w": array}}, chunks=(2, 3))), {"x/w": array})


def test_filters_that_did_not_pay_are_left_out(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8)
    path = tmp_path / "m.h5"
    legacy(path, {"x": {"w": noise}}, chunks=(64,), compression="gzip")
    with h5py.File(path, "a") as file:
        dataset = file["x/w"].id
        dataset.write_direct_chunk((0,), noise.tobytes(), filter_mask=1)
    assert_holds(read_checkpoint(path), {"x/w": noise})


def test_bfloat16(tmp_path):
    bits = np.array([0x3F80, 0xC000], np.uint16)
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        dataset = file.create_dataset("layers/dense/vars/0", data=bits.view("V2"))  # as h5py stores ml_dtypes.bfloat16
        dataset.attrs["dtype"] = "bfloat16"
    checkpoint = read_checkpoint(tmp_path / "m.weights.h5")
    assert checkpoint["layers/dense/vars/0"].tolist() == [1, -2]


def test_fletcher32():
    assert fletcher32(memoryview(b"")) == 0
    assert fletcher32(memoryview(bytes(8))) == 0
    assert fletcher32(memoryview(b"\xff" * 4)) == 0xFFFFFFFF  # folded sums are 65535, not 0
    assert fletcher32(memoryview(b"abcde")) == fletcher32(memoryview(b"abcde\0"))


# --- Keras 3 paths ---------------------------------------------------------------------------------------------------


def by_path(path, layers, **root):
    """Write a `.weights.h5`: path of a layer -> (its name or None, its variables)."""
    with h5py.File(path, "w") as file:
        for owner, (name, arrays) in layers.items():
            group = file.create_group(f"{owner}/vars")
            if name is not None:
                group.attrs["name"] = name
            for number, array in enumerate(arrays):
                group[str(number)] = array
    return path


def keras_zip(path, weights, layers, members=(), compression=zipfile.ZIP_STORED):
    """Write a `.keras` file: layers are (class, configuration)."""
    config = {"class_name": "Functional", "config": {"name": "m", "layers": entries(layers)}}
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
        for name, body in members:
            archive.writestr(name, body)
    return path


def entries(layers):
    return [{"module": "keras.layers", "class_name": kind, "config": config} for kind, config in layers]


def weights_of(layers):
    body = io.BytesIO()
    by_path(body, layers)
    return body.getvalue()


def test_paths_without_names_are_kept(tmp_path):
    layers = {f"layers/conv2d{suffix}": (None, [KERNEL * n]) for n, suffix in enumerate(["", "_1", "_2", "_10"])}
    layers["layers/batch_normalization"] = (None, [BIAS] * 4)
    layers["optimizer"] = (None, [BIAS])
    checkpoint = read_checkpoint(by_path(tmp_path / "m.weights.h5", layers))
    assert list(checkpoint) == [
        *(f"layers/batch_normalization/vars/{number}" for number in range(4)),
        *(f"layers/conv2d{suffix}/vars/0" for suffix in ("", "_1", "_2", "_10")),
    ]
    assert checkpoint["layers/conv2d_10/vars/0"].max() == KERNEL.max() * 3


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
@pytest.mark.parametrize("named", [True, False])
def test_configurations_name_paths(tmp_path, container, named):
    layers = {
        f"{container}/conv2d": ("stem", [KERNEL, BIAS]),
        f"{container}/conv2d_1": ("last", [KERNEL * 2]),
        f"{container}/batch_normalization": ("stem_bn", [BIAS, BIAS + 1, BIAS + 2]),
        f"{container}/functional": ("inner", []),
        f"{container}/functional/{container}/dense": ("fc", [KERNEL[0, 0]]),
        f"{container}/normalization": ("norm", [BIAS]),
        f"{container}/dropout/seed_generator": ("seed_generator", [np.arange(2)]),
        f"{container}/dropout": ("drop", []),
    }
    inner = {"name": "inner", "layers": entries([("InputLayer", {"name": "in"}), ("Dense", {"name": "fc"})])}
    config = [
        ("InputLayer", {"name": "images"}),
        ("Conv2D", {"name": "stem"}),
        ("BatchNormalization", {"name": "stem_bn", "center": False, "scale": True}),
        ("Dropout", {"name": "drop"}),
        ("Functional", inner),
        ("Conv2D", {"name": "last"}),
        ("Normalization", {"name": "norm"}),
    ]
    if not named:
        layers = {path: (None, arrays) for path, (_, arrays) in layers.items()}
    checkpoint = read_checkpoint(keras_zip(tmp_path / "m.keras", weights_of(layers), config))
    wanted = {
        "stem/kernel": KERNEL,
        "stem/bias": BIAS,
        "stem_bn/gamma": BIAS,
        "stem_bn/moving_mean": BIAS + 1,
        "stem_bn/moving_variance": BIAS + 2,
        "inner/fc/kernel": KERNEL[0, 0],
        "last/kernel": KERNEL * 2,
        "norm/0": BIAS,
    }
    assert_holds(checkpoint, wanted)
    assert checkpoint.skipped == {f"{container}/dropout/seed_generator": "the state of a random number generator"}


def test_operations_are_numbered_apart_from_layers(tmp_path):
    layers = {"layers/conv2d": (None, [KERNEL])}
    config = entries([("Conv2D", {"name": "stem"})])
    config.insert(0, {"module": "keras.src.ops.nn", "class_name": "Conv2D", "config": {"name": "not a layer"}})
    body = json.dumps({"config": {"layers": config}})
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", body)
        archive.writestr("model.weights.h5", weights_of(layers))
    assert list(read_checkpoint(tmp_path / "m.keras")) == ["stem/kernel"]


def test_compressed_members(tmp_path):
    weights = weights_of({"layers/conv2d": (None, [KERNEL])})
    path = keras_zip(tmp_path / "m.keras", weights, [("Conv2D", {"name": "stem"})], compression=zipfile.ZIP_DEFLATED)
    assert_holds(read_checkpoint(path), {"stem/kernel": KERNEL})


def test_names_that_disagree(tmp_path):
    weights = weights_of({"layers/conv2d": ("stem", [KERNEL])})
    said = refusal(keras_zip(tmp_path / "m.keras", weights, [("Conv2D", {"name": "other"})]))
    assert "named `stem`, and `other`" in said
    twice = {"layers/conv2d": ("stem", [KERNEL]), "layers/conv2d_1": ("stem", [KERNEL])}
    assert "two weights are named `stem/kernel`" in refusal(by_path(tmp_path / "m.h5", twice))


# --- what Keras would never write ------------------------------------------------------------------------------------


def _compound(file):
    del file["conv1/conv1/bias"]
    file["conv1/conv1/bias"] = np.zeros(4, [("a", "f4"), ("b", "i8")])


def _replace(**options):
    def edit(file):
        del file["conv1/conv1/bias"]
        file.create_dataset("conv1/conv1/bias", **options)

    return edit


def _virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    del file["conv1/conv1/bias"]
    file.create_virtual_dataset("conv1/conv1/bias", layout)


def _reference(file):
    del file["conv1/conv1/bias"]
    file.create_dataset("conv1/conv1/bias", data=file["conv1"].ref, dtype=h5py.ref_dtype)


def _deep(file):
    file.create_group("/".join("x" * 40))


def _groups(file):
    for number in range(20000):
        file.create_group(f"g{number:05d}")


def _lie(owner, name, value):
    def edit(file):
        file[owner].attrs[name] = value

    return edit


def _twice(file):
    file["conv1"].attrs["weight_names"] = [b"conv1/kernel", b"conv1/kernel:0"]
    file["conv1/conv1/kernel:0"] = KERNEL


HOSTILE = {
    "external link": (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/x")), "an external link"),
    "name beyond ASCII": (lambda file: file.create_group("\xe9t\xe9"), "as h5py uses for names beyond ASCII"),
    "soft link": (lambda file: file.__setitem__("x", h5py.SoftLink("/conv1")), "a soft link"),
    "soft link, in a circle": (lambda file: file.__setitem__("x", h5py.SoftLink("/x")), "a soft link"),
    "hard link, in a circle": (lambda file: file.__setitem__("conv1/x", file["/"]), "linked twice, or in a circle"),
    "hard link, twice": (lambda file: file.__setitem__("x", file["conv1/conv1/bias"]), "linked twice"),
    "external storage": (
        _replace(shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]),
        "`/conv1/conv1/bias` has external storage: its values lie in another file",
    ),
    "virtual": (_virtual, "`/conv1/conv1/bias` is a virtual dataset"),
    "filter": (_replace(data=np.zeros(4, "f4"), compression="lzf"), "uses filter 32000"),
    "scale and offset": (_replace(data=np.zeros(4, "i4"), scaleoffset=2), "uses filter 6"),
    "compound": (_compound, "holds values of a compound type"),
    "reference": (_reference, "holds object or region references"),
    "bool": (_replace(data=np.array([True])), "holds an enumeration"),
    "strings": (_replace(data=["a", "b"]), "holds strings"),
    "variable length": (_replace(shape=(1,), dtype=h5py.vlen_dtype(np.float32)), "holds values of variable length"),
    "complex": (_replace(data=np.zeros(4, "c8")), "holds "),
    "nothing": (_replace(data=h5py.Empty("f4")), "holds nothing"),
    "never written": (_replace(shape=(1 << 40,), dtype="f4"), "was never written"),
    "never written, impossible": (_replace(shape=(1 << 60,), dtype="u1"), "impossible shape"),
    "never written, in chunks": (_replace(shape=(1 << 40,), dtype="f4", chunks=(1 << 20,)), "was never written"),
    "deep": (_deep, "more than 32 deep"),
    "20,000 groups": (_groups, "more than 16384 groups and datasets"),
    "no such layer": (_lie("/", "layer_names", [b"conv1", b"conv2"]), "layer `conv2` has no group"),
    "layer is no layer": (_lie("/", "layer_names", [b"conv1", b"conv1/conv1"]), "`conv1/conv1` has no `weight_names`"),
    "no such weight": (_lie("conv1", "weight_names", [b"conv1/gamma"]), "weight `conv1/conv1/gamma` is not there"),
    "weight is a group": (_lie("conv1", "weight_names", [b"conv1"]), "weight `conv1/conv1` is not there"),
    "same weight twice": (_lie("conv1", "weight_names", [b"conv1/bias"] * 2), "two weights are named `conv1/bias`"),
    "same name twice": (_twice, "two weights are named `conv1/kernel`"),
    "path out": (_lie("conv1", "weight_names", [b"../conv1/conv1/bias"]), "is not there"),
    "names are numbers": (_lie("/", "layer_names", [1.5, 2.5]), "holds float64 of shape (2,)"),
    "names in a table": (_lie("/", "layer_names", np.array([[b"a"], [b"b"]])), "holds strings of shape (2, 1)"),
    "name is no text": (_lie("/", "layer_names", np.array([b"\xff\xfe"])), "text that is not UTF-8"),
    "name with a NUL": (_lie("/", "layer_names", np.array([b"a\0b"])), "text with a NUL in it"),
    "more names than weights": (_lie("/", "layer_names", [b"conv1"] * 3000), "two weights are named"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(tmp_path, case):
    edit, said = HOSTILE[case]
    assert said in refusal(edited(tmp_path / "m.h5", edit))


def test_a_layer_may_be_called_metrics(tmp_path):
    checkpoint = read_checkpoint(legacy(tmp_path / "m.h5", {"metrics": {"kernel": BIAS}}))
    assert_holds(checkpoint, {"metrics/kernel": BIAS})
    assert checkpoint.skipped == {}


def test_what_no_layer_lists_is_skipped_unread(tmp_path):
    def edit(file):
        file["x"] = np.dtype("f4")
        file["y"] = np.zeros(4, "c8")
        file.create_dataset("z", (1 << 40,), "f4")

    checkpoint = read_checkpoint(edited(tmp_path / "m.h5", edit))
    assert_holds(checkpoint, {"conv1/kernel": KERNEL, "conv1/bias": BIAS})
    assert checkpoint.skipped == dict.fromkeys("xyz", "an array that no layer lists")


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"track_order": True}])
def test_newer_layouts(tmp_path, options):
    with h5py.File(tmp_path / "m.h5", "w", **options) as file:
        file.attrs["layer_names"] = [b"conv1"]
        file["x"] = BIAS
    assert "save its weights again" in refusal(tmp_path / "m.h5")


def test_hdf5_that_is_not_keras(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["data"] = KERNEL
        file["data"].attrs["units"] = "m"
    said = refusal(tmp_path / "m.h5")
    assert "holds no Keras weights" in said
    assert "`data`" in said


def test_bombs(tmp_path):
    zeros = np.zeros(1 << 28, np.uint8)  # 256 MB of zeros, 260 kB in the file
    path = legacy(tmp_path / "m.h5", {"x": {"w": zeros}}, chunks=(1 << 24,), compression="gzip", compression_opts=9)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    said = refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "would take 268435456 bytes of memory" in said
    assert peak < 8 << 20


def test_chunks_that_unpack_to_more_or_less(tmp_path):
    for body, said in (
        (zlib.compress(bytes(1 << 20)), "unpacks to more than its 64 bytes"),
        (zlib.compress(bytes(60)), "has 60 bytes, expected 64"),
        (zlib.compress(bytes(64))[:-6], "breaks off"),
        (b"\x78\x9c" + b"\xff" * 20, "cannot be unpacked"),
    ):
        path = legacy(tmp_path / "m.h5", {"x": {"w": np.zeros(64, "u1")}}, chunks=(64,), compression="gzip")
        with h5py.File(path, "a") as file:
            file["x/w"].id.write_direct_chunk((0,), body)
        assert said in refusal(path)


def test_chunk_that_fails_its_checksum(tmp_path):
    marked = np.frombuffer(b"find these bytes", np.uint8)
    path = legacy(tmp_path / "m.h5", {"x": {"w": marked}}, chunks=(16,), fletcher32=True)
    assert_holds(read_checkpoint(path), {"x/w": marked})
    assert "fails its checksum" in refusal(patched(path, b"find these", b"kind these"))


def test_shuffle_of_another_size(tmp_path):
    path = legacy(tmp_path / "m.h5", {"x": {"w": BIAS}}, chunks=(4,), shuffle=True)
    name = b"shuffle\0"
    assert "shuffles values of (5,) bytes" in refusal(patched(path, name + b"\4", name + b"\5"))


def test_headers_say_how_many_messages_they_have(tmp_path):
    path = legacy(tmp_path / "m.h5", {"x": {"w": BIAS}})
    with h5py.File(path) as file:
        at = h5py.h5o.get_info(file["x/w"].id).addr
    body = bytearray(path.read_bytes())
    for change in (1, -1):
        body[at + 2] += change
        path.write_bytes(body)
        assert "messages, and says that it has" in refusal(path)
        body[at + 2] -= change


def test_chunks_that_are_missing(tmp_path):
    path = legacy(tmp_path / "m.h5", {"x": {}})
    with h5py.File(path, "a") as file:
        file["x"].attrs["weight_names"] = [b"w"]
        dataset = file["x"].create_dataset("w", (8,), "f4", chunks=(2,))
        dataset[:4] = 1
    assert "has 2 of its 4 chunks" in refusal(path)


def test_shapes_beyond_their_bytes(tmp_path):
    for size in (3, 5, 1 << 31, 1 << 62, (1 << 64) - 1):
        path = legacy(tmp_path / "m.h5", {"x": {"w": np.full(4, 7, np.float32)}})
        old, new = (np.array([1, 1] + [length] * 2, "<u8").tobytes()[8:] for length in (4, size))
        patched(path, old[8:], new[8:])
        said = refusal(path)
        assert "takes" in said or "impossible shape" in said


def test_two_datasets_may_not_share_bytes(tmp_path):
    path = legacy(tmp_path / "m.h5", {"x": {"v": BIAS, "w": BIAS + 1}})
    with h5py.File(path) as file:
        at = {name: file[f"x/{name}"].id.get_offset() for name in "vw"}
    for offset in (0, 4):
        body = legacy(tmp_path / "m.h5", {"x": {"v": BIAS, "w": BIAS + 1}}).read_bytes()
        old = at["w"].to_bytes(8, "little") + (16).to_bytes(8, "little")
        new = (at["v"] + offset).to_bytes(8, "little") + (16).to_bytes(8, "little")
        assert body.count(old) == 1
        path.write_bytes(body.replace(old, new))
        said = refusal(path)
        assert ("overlap" if offset else "in use") in said


@pytest.mark.parametrize("step", [64])
def test_every_truncation_is_refused(tmp_path, step):
    path = legacy(tmp_path / "m.h5", {"conv1": conv(), "bn": dict.fromkeys(NORM, BIAS)})
    body = path.read_bytes()
    for size in range(8, len(body), step):
        path.write_bytes(body[:size])
        assert "damaged" in refusal(path)
    body = (GOLDEN / "resnet.keras").read_bytes()
    for size in range(64, len(body), 997 * step // 64):
        path.write_bytes(body[:size])
        assert "cut short" in refusal(path)


def test_every_changed_byte_of_the_metadata_is_survived(tmp_path):
    path = legacy(tmp_path / "m.h5", {"x": {"w": BIAS}}, chunks=(2,), shuffle=True)
    body = path.read_bytes()
    for at in range(8, len(body)):
        for value in {0, 0xFF, body[at] ^ 1, body[at] ^ 0x80} - {body[at]}:
            mutant = memoryview(body[:at] + bytes([value]) + body[at + 1 :])
            try:
                tree = Tree(File("m.h5", mutant, Budget()))
                for dataset in tree.datasets():
                    tree.array(dataset)
            except CheckpointError:
                continue


# --- zips ------------------------------------------------------------------------------------------------------------

WEIGHTS = weights_of({"layers/conv2d": ("stem", [KERNEL])})
CONFIG = [("Conv2D", {"name": "stem"})]


def raw_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return path


def test_zip_bombs(tmp_path):
    bomb = bytes(300 << 20)
    members = [("config.json", json.dumps({"config": {}})), ("model.weights.h5", bomb)]
    path = raw_zip(tmp_path / "m.keras", members, zipfile.ZIP_DEFLATED)
    assert "would take 314572800 bytes of memory" in refusal(path)
    path = raw_zip(tmp_path / "m.keras", [("config.json", bomb), ("model.weights.h5", b"")], zipfile.ZIP_DEFLATED)
    assert "its config.json has 314572800 bytes" in refusal(path)
    # A member that says it is small, and is not.
    lying = raw_zip(tmp_path / "m.keras", [*members[:1], ("model.weights.h5", bytes(1 << 20))], zipfile.ZIP_DEFLATED)
    body = lying.read_bytes()
    size = (1 << 20).to_bytes(4, "little")
    assert body.count(size) == 2
    lying.write_bytes(body.replace(size, (1000).to_bytes(4, "little")))
    assert "unpacks to more than the 1000 bytes" in refusal(lying)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"[" * (1 << 18) + b"]" * (1 << 18), "cannot be read"),
        (b'{"config":' * 3000 + b"1" + b"}" * 3000, "cannot be read"),
        (b"[" * 500_000, "in too many pieces"),
        (b"[]", "not an object"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'{"config": {"layers": 7}}', "without a list of layers"),
        (b'{"config": 7}', "without a list of layers"),
        (b'{"config": {"layers": [7]}}', "a layer without a class"),
        (b'{"config": {"layers": [{"class_name": "Conv2D"}]}}', "a layer without a class or a configuration"),
    ],
)
def test_configurations_refused(tmp_path, config, said):
    assert said in refusal(raw_zip(tmp_path / "m.keras", [("config.json", config), ("model.weights.h5", WEIGHTS)]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_refused(tmp_path):
    path = tmp_path / "m.keras"
    assert "without `model.weights.h5`" in refusal(raw_zip(path, [("config.json", "{}")]))
    assert "without `config.json`" in refusal(raw_zip(path, [("model.weights.h5", WEIGHTS)]))
    twice = keras_zip(path, WEIGHTS, CONFIG, [("model.weights.h5", WEIGHTS)])
    assert "member `model.weights.h5` is there twice" in refusal(twice)
    assert "has 1027 members" in refusal(keras_zip(path, WEIGHTS, CONFIG, [(f"a{i}", "") for i in range(1024)]))
    assert "compression 12" in refusal(keras_zip(path, WEIGHTS, CONFIG, compression=zipfile.ZIP_BZIP2))
    keras_zip(path, WEIGHTS, CONFIG)
    assert "fails its checksum" in refusal(patched(path, KERNEL.tobytes(), (KERNEL + 1).tobytes()))
    keras_zip(path, WEIGHTS, CONFIG)
    body = bytearray(path.read_bytes())
    body[body.index(b"model.weights.h5")] ^= 1  # in its own header
    path.write_bytes(body)
    assert "in its own header" in refusal(path)
    keras_zip(path, WEIGHTS, CONFIG)
    path.write_bytes(path.read_bytes() + b"trailing")
    assert "the directory at its end cannot be" in refusal(path)


def test_other_zips_are_named(tmp_path):
    assert "a zip file, but of no format" in refusal(raw_zip(tmp_path / "m.zip", [("notes.txt", b"hello")]))
