"""ONNX graphs of the real exporters, and what happens to graphs that are nearly ResNets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fuzz_onnx
import numpy as np
import onnx
import pytest
from fuzz_onnx import rename
from onnx import ModelProto, helper, numpy_helper
from plain_networks import CASES, random_images, random_weights

from resforward import CheckpointError, Model, convert, load
from resforward.graph import plain_graph
from resforward.onnx_file import onnx_bytes
from resforward.preprocess import PRESETS

GOLDEN = Path(__file__).parent / "golden" / "onnx"
TOLERANCE = 1e-5  # of the largest value: what resforward promises; folding norms in float32 rounds to about 1e-6

# What the exports are recognised as, and whose preprocessing they get.
KERAS_V1 = "Keras v1 or Keras v1 of 2015, norms folded"
KNOWN = {
    "bit.as_it_is": ("BiT", "bit_448"),
    "bit.dynamo_unoptimised": ("BiT", "bit_448"),
    "keras_2_v1.tf2onnx": (KERAS_V1, "keras_caffe_224"),
    # Channels first is nobody's mark, and the families that are left want different pictures.
    "keras_2_v1.tf2onnx_nchw": ("Keras v1 or Keras v1 of 2015 or ONNX zoo v1, norms folded", None),
    "keras_2_v2.tf2onnx": ("Keras v2, norms folded", "inception_299"),
    "keras_2_v2.tf2onnx_nchw": ("Keras v2, norms folded", "inception_299"),
    "keras_v1.export": (KERAS_V1, "keras_caffe_224"),
    "keras_v2.export": ("Keras v2, norms folded", "inception_299"),
    "slim_v1.tf2onnx": ("slim v1, norms folded", "vgg_224"),
    "slim_v1.tf2onnx_nchw": ("slim v1, norms folded", "vgg_224"),
    "slim_v2.tf2onnx": ("slim v2, norms folded", "inception_299"),
    "slim_v2.tf2onnx_nchw": ("slim v2, norms folded", "inception_299"),
    "timm_v1d.any_size": ("timm v1d, norms folded", "timm_224"),
    "timm_v1d.as_it_is": ("timm v1d", "timm_224"),
    "timm_v1d.dynamo": ("timm v1d, norms folded", "timm_224"),
    "timm_v2.dynamo_unoptimised": ("timm v2", "timm_v2_224"),
    "timm_v2.opset17": ("timm v2, norms folded", "timm_v2_224"),
    "timm_v2_basic.any_size": ("timm v2, norms folded", "timm_v2_224"),
    "torchvision_basic.as_it_is": ("torch v1.5 or ONNX zoo v1", "torchvision_224"),
    "torchvision_basic.onnxruntime": ("torch v1.5 or ONNX zoo v1, norms folded", "torchvision_224"),
    "torchvision_basic.opset13_any_size": ("torch v1.5 or ONNX zoo v1, norms folded", "torchvision_224"),
    "torchvision_basic.opset9": ("torch v1.5 or ONNX zoo v1, norms folded", "torchvision_224"),
    "torchvision_bottleneck.as_it_is_opset11_any_size": ("torch v1.5", "torchvision_224"),
    "torchvision_bottleneck.dynamo": ("torch v1.5, norms folded", "torchvision_224"),
    "torchvision_bottleneck.dynamo_unoptimised": ("torch v1.5", "torchvision_224"),
    "torchvision_bottleneck.opset17": ("torch v1.5, norms folded", "torchvision_224"),
    "zoo_caffe2.by_hand": ("torch v1.5", "torchvision_224"),
    "zoo_v1.by_hand": ("ONNX zoo v1", "onnx_zoo_224"),
    "zoo_v2.by_hand": ("ONNX zoo v2", "onnx_zoo_224"),
}


def golden(export: str) -> tuple[Model, np.ndarray, dict[str, np.ndarray]]:
    """A model, the images, and what its library computes."""
    with np.load(GOLDEN / "images.npz") as stored:
        images = stored["images"]
    with np.load(GOLDEN / f"{export.partition('.')[0]}.npz") as stored:
        wanted = {name: stored[name] for name in stored.files}
    return load(GOLDEN / f"{export}.onnx", external_data=True), images, wanted


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_every_golden_export_is_known() -> None:
    assert set(KNOWN) == {path.stem for path in GOLDEN.glob("*.onnx")}


@pytest.mark.parametrize("export", KNOWN)
def test_exports_compute_what_their_library_does(export: str) -> None:
    model, images, wanted = golden(export)
    probabilities = any("softmax at the end" in sentence for sentence in model.evidence)
    assert probabilities == (export in ("keras_v2.export", "zoo_caffe2.by_hand"))
    found = model.forward(images, ["predictions"])["predictions"][:, 0, 0] if probabilities else model(images)
    assert_close(found, wanted.pop("logits"))
    pyramid = model.features(images[:1])
    assert set(pyramid) == {int(stride) for stride in wanted}
    for stride, maps in wanted.items():
        assert_close(pyramid[int(stride)], maps)


@pytest.mark.parametrize("export", KNOWN)
def test_families_and_their_preprocessing_are_known(export: str) -> None:
    model, *_ = golden(export)
    family, preprocess = KNOWN[export]
    assert (model.network.family.name, model.network.family.preprocess) == (family, preprocess)
    assert (model.preprocess is None) == (preprocess is None)


def test_mutants_are_refused_or_compute_the_same() -> None:
    """The first few of `python tests/fuzz_onnx.py`, which runs as many as it is told to."""
    ends = fuzz_onnx.fuzz(fuzz_onnx.seeds(), 400, seed=0)
    assert ends["agrees"] > 40
    assert ends["refused"] > 200


# --- what is accepted ------------------------------------------------------------------------------------------------


def exported(case: str, **options: object) -> ModelProto:
    network = CASES[case]
    return onnx.load_from_string(onnx_bytes(plain_graph(network, random_weights(network), **options)))


def loaded(model: ModelProto, folder: Path) -> Model:
    path = folder / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    return load(path)


def nodes(model: ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def constant(model: ModelProto, name: str, values: object, kind: type = np.float32) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, kind), name))
    return name


def attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def after(model: ModelProto, node: onnx.NodeProto, op: str, *constants: str, **attributes: object) -> None:
    """A further node behind one."""
    more = helper.make_node(op, [node.output[0], *constants], ["more"], "more", **attributes)
    rename(model, node.output[0], "more")
    model.graph.node.insert(list(model.graph.node).index(node) + 1, more)


def gone(model: ModelProto, node: onnx.NodeProto) -> None:
    rename(model, node.output[0], node.input[0])
    model.graph.node.remove(node)


def sums_by_sum(model: ModelProto) -> None:
    for node in nodes(model, "Add"):
        node.op_type = "Sum"


def squeezed_twice(model: ModelProto) -> None:
    (node,) = nodes(model, "Flatten")
    node.op_type = "Squeeze"
    node.input.append(constant(model, "last", [3], np.int64))
    after(model, node, "Squeeze", constant(model, "before", [-1], np.int64))


def viewed(model: ModelProto) -> None:
    """As tracing writes `x.view(x.size(0), -1)`."""
    (node,) = nodes(model, "Flatten")
    node.op_type = "Reshape"
    at = list(model.graph.node).index(node)
    made = [
        helper.make_node("Shape", [node.input[0]], ["shape"]),
        helper.make_node("Gather", ["shape", constant(model, "first", 0, np.int64)], ["images_there"], axis=0),
        helper.make_node("Unsqueeze", ["images_there", constant(model, "axes", [0], np.int64)], ["row"]),
        helper.make_node("Concat", ["row", constant(model, "rest", [-1], np.int64)], ["view"], axis=0),
    ]
    node.input.append("view")
    for each in reversed(made):
        model.graph.node.insert(at, each)


def called_images(model: ModelProto) -> None:
    model.graph.input[0].name = "x"
    rename(model, "images", "x")
    node = nodes(model, "Relu")[3]
    old, node.output[0] = node.output[0], "images"
    rename(model, old, "images")


def scaled_twice(model: ModelProto) -> None:
    after(model, nodes(model, "Conv")[2], "Mul", constant(model, "two", 2))
    nodes(model, "Mul")[0].output[0] = "doubled"
    rename(model, "more", "doubled")
    after(model, nodes(model, "Mul")[0], "Mul", constant(model, "half", 0.5))


def probabilities_of_a_map(model: ModelProto) -> None:
    after(model, model.graph.node[-1], "Softmax", axis=1)


def an_end_point_more(model: ModelProto) -> None:
    model.graph.output.insert(0, onnx.ValueInfoProto(name=nodes(model, "Add")[1].output[0]))


def dead_nodes(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["logits", "nowhere"], ["unused"]))


def pooled_as_subsampled(model: ModelProto) -> None:
    for node in nodes(model, "MaxPool")[1:]:
        attribute(node, "auto_pad", "SAME_UPPER")
        attribute(node, "ceil_mode", 1)


SAME: dict[str, tuple[str, Callable[[ModelProto], None]]] = {
    "sums by Sum": ("torch", sums_by_sum),
    "one pixel squeezed away axis by axis": ("torch", squeezed_twice),
    "a view of what is pooled": ("torch", viewed),
    "another tensor is called as our images are": ("torch", called_images),
    "constants that cancel out": ("torch", scaled_twice),
    "probabilities at every pixel": ("v1 dense", probabilities_of_a_map),
    "a second output": ("torch", an_end_point_more),
    "nodes that no output needs": ("torch", dead_nodes),
    "subsampling with a padding that adds nothing": ("v2", pooled_as_subsampled),
}


@pytest.mark.parametrize("change", SAME)
def test_spellings_of_the_same(change: str, tmp_path: Path) -> None:
    case, edit = SAME[change]
    network, model = CASES[case], exported(case)
    edit(model)
    images = random_images(network, (33, 47), 2)
    wanted = Model(network, random_weights(network))(images)
    assert_close(loaded(model, tmp_path)(images), wanted)


def test_a_fixed_size_may_leave_open_how_a_pool_pads(tmp_path: Path) -> None:
    """On a map of odd sides TensorFlow's SAME is torch's padding: what else is there decides."""
    for case, family in {"v1": "slim v1", "v2": "slim v2", "torch": "torch v1.5"}.items():
        network = loaded(exported(case, size=(33, 46)), tmp_path).network  # the pool reads 17 x 23
        assert (network.family.name, network.stem) == (family, CASES[case].stem)


def test_blocks_of_one_width_are_told_apart_by_their_strides(tmp_path: Path) -> None:
    model, *_ = golden("bit.as_it_is")
    assert [[unit.stride for unit in units] for units in model.network.blocks.values()] == [[1], [2]]


# --- what is refused -------------------------------------------------------------------------------------------------


def strides(node: onnx.NodeProto, value: int) -> None:
    attribute(node, "strides", [value, value])


def strides_at_second_convolution(model: ModelProto) -> None:
    """Of every basic unit that strides; everybody has them at the first."""
    for block in (2, 3):
        convs = {node.output[0]: node for node in nodes(model, "Conv")}
        unit = f"block{block}/unit_1/basic_v1"
        strides(convs[f"{unit}/conv1/Conv"], 1)
        strides(convs[f"{unit}/conv2/Conv"], 2)


def mean_instead_of_projection(model: ModelProto) -> None:
    (shortcut, *_) = [node for node in nodes(model, "MaxPool") if node.output[0].endswith("subsample")]
    shortcut.op_type = "AveragePool"
    attribute(shortcut, "kernel_shape", [2, 2])
    attribute(shortcut, "ceil_mode", 1)


def group_reads(op: str) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        node = nodes(model, "Conv")[3]
        after(model, node, "Reshape", constant(model, "groups", [0, 32, -1], np.int64))
        last = nodes(model, "Reshape")[0]
        last.output[0] = "grouped"
        rename(model, "more", "grouped")
        after(model, last, op, *([constant(model, "one", 1.0)] if op in ("Add", "Mul") else []))

    return edit


def other_version(model: ModelProto) -> None:
    model.opset_import[0].version = 6


def images_turned(model: ModelProto) -> None:
    node = nodes(model, "Conv")[0]
    turn = helper.make_node("Transpose", ["images"], ["turned"], "turn", perm=[0, 1, 3, 2])
    node.input[0] = "turned"
    model.graph.node.insert(0, turn)


def logits_turned(model: ModelProto) -> None:
    after(model, model.graph.node[-1], "Transpose", perm=[1, 0])


def biases_along_the_images(model: ModelProto) -> None:
    (node,) = nodes(model, "Gemm")
    (tensor,) = [each for each in model.graph.initializer if each.name == node.input[2]]
    tensor.dims.append(1)


def twice_the_same_tensor(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Relu", ["images"], [nodes(model, "Relu")[5].output[0]]))


def last_window_cut_off(model: ModelProto) -> None:
    attribute(nodes(model, "MaxPool")[0], "ceil_mode", 1)


def endless_constants(model: ModelProto) -> None:
    """A chain of them, each larger than all that is stored."""
    made = [helper.make_node("ConstantOfShape", [constant(model, "size", [1 << 16], np.int64)], ["c0"])]
    made += [helper.make_node("Sqrt", [f"c{place}"], [f"c{place + 1}"]) for place in range(1500)]
    for node in reversed(made):
        model.graph.node.insert(0, node)
    nodes(model, "Conv")[3].input.append("c1500")


REFUSED: dict[str, tuple[str, Callable[[ModelProto], None], str]] = {
    "a group norm is missing": ("BiT", lambda m: gone(m, nodes(m, "GroupNormalization")[2]), "group norms after some"),
    "a deep root block without ReLU": ("timm v1d", lambda m: gone(m, nodes(m, "Relu")[0]), "a ReLU between"),
    "a root block that strides twice": ("timm v1d", lambda m: strides(nodes(m, "Conv")[1], 2), "strides once"),
    "basic units that stride late": ("torch, basic units", strides_at_second_convolution, "follow no rule"),
    "means where a projection is": ("v2", mean_instead_of_projection, "projects nothing"),
    "a classifier that strides": ("v1 dense", lambda m: strides(nodes(m, "Conv")[-1], 2), "a classifier's is 1x1"),
    "zeros, and a last window cut off": ("pool over zeros", last_window_cut_off, "lets the last window be cut off"),
    "padding, and a last window cut off": ("torch", last_window_cut_off, "lets the last window be cut off"),
    "groups that are activated": ("BiT", group_reads("Relu"), "reads groups of channels"),
    "groups that are scaled": ("BiT", group_reads("Mul"), "reads groups of channels"),
    "groups that are added to": ("BiT", group_reads("Add"), "reads groups of channels"),
    "an old version": ("torch", other_version, "is of version 6"),
    "images turned": ("torch", images_turned, "NCWH"),
    "logits turned": ("torch", logits_turned, "moves the axis of the images"),
    "biases along the images": ("torch", biases_along_the_images, "its biases have the shape (7, 1)"),
    "a tensor made twice": ("torch", twice_the_same_tensor, "already"),
    "flattened with the images": ("torch", lambda m: attribute(nodes(m, "Flatten")[0], "axis", 0), "from axis 0"),
    "an attribute that nobody knows": ("torch", lambda m: attribute(nodes(m, "Relu")[0], "slope", 0.1), "slope"),
    "a sigmoid": ("torch", lambda m: after(m, nodes(m, "Conv")[3], "Sigmoid"), "squeeze-and-excitation"),
    "statistics of the batch": (
        "torch",
        lambda m: attribute(nodes(m, "BatchNormalization")[0], "training_mode", 1),
        "normalises as in training",
    ),
    "a division by zero": (
        "torch",
        lambda m: after(m, nodes(m, "Conv")[3], "Div", constant(m, "zero", 0)),
        "values are NaN or infinite",
    ),
    "an infinite scale": (
        "BiT",
        lambda m: after(m, nodes(m, "Conv")[3], "Mul", constant(m, "endless", np.inf)),
        "values are NaN or infinite",
    ),
    "constants without end": ("torch", endless_constants, "more is made of its constants"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_is_no_resnet_is_refused_with_the_reason(change: str, tmp_path: Path) -> None:
    case, edit, why = REFUSED[change]
    model = exported(case)
    edit(model)
    with pytest.raises(CheckpointError) as caught:
        loaded(model, tmp_path)
    assert why in str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_what_we_write_is_read_again(case: str, tmp_path: Path) -> None:
    """By way of both formats, with preprocessing and labels."""
    network = CASES[case]
    labels = [f"class {i}" for i in range(network.num_classes)] if network.num_classes else None
    preprocess = PRESETS["bit_448"] if network.input_channels == 3 else None  # few of them would get it otherwise
    model = Model(network, random_weights(network), labels=labels, preprocess=preprocess)
    images = random_images(network, (33, 47), 2)
    wanted = model(images)
    convert(model, tmp_path / "model.onnx", end_points=["predictions"] if network.num_classes else [])
    again = load(tmp_path / "model.onnx")
    assert_again(again, model, images, wanted)
    if network.output_stride is None:  # which no file of ours says
        convert(again, tmp_path / "model.safetensors")
        assert_again(load(tmp_path / "model.safetensors"), model, images, wanted)
    convert(again, tmp_path / "second.onnx")
    assert_again(load(tmp_path / "second.onnx"), model, images, wanted)


def assert_again(found: Model, model: Model, images: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_array_equal(found(images), wanted)  # nothing was folded: not a bit differs
    assert (found.network.name, found.labels, found.preprocess) == (
        model.network.name,
        model.labels and tuple(model.labels),
        model.preprocess,
    )
