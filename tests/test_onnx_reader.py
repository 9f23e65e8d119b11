"""ONNX files are read to the bit, whatever field holds the numbers; what is hostile is refused, at no cost."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from test_checkpoints import refusal

from resforward import load
from resforward.checkpoints import _FORMATS, read_checkpoint
from resforward.checkpoints import onnx as reader
from resforward.checkpoints.files import Budget, File
from resforward.errors import CheckpointError

GOLDENS = Path(__file__).parent / "golden"
GOLDEN = GOLDENS / "onnx"
EXPORT = GOLDEN / "torchvision_basic.opset9.onnx"
EXTERNAL = GOLDEN / "torchvision_bottleneck.dynamo.onnx"


def model_of(*tensors: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> ModelProto:
    """A file of tensors, and of one node that reads none."""
    made = nodes or [helper.make_node("Relu", ["x"], ["y"], "relu")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, None, 4]) for name in "xy"]
    graph = helper.make_graph(made, "graph", value[:1], value[1:], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, model: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# --- what is read ----------------------------------------------------------------------------------------------------

NUMBERS = {
    TensorProto.FLOAT: [0.0, -1.5, 3e38, np.inf],
    TensorProto.DOUBLE: [0.1, -1e300],
    TensorProto.FLOAT16: [0.5, -65504.0, 6e-8],
    TensorProto.BFLOAT16: [0.5, -3e38, 1e-30],
    TensorProto.INT8: [-128, 127, 0],
    TensorProto.UINT8: [255, 0],
    TensorProto.INT16: [-32768, 32767],
    TensorProto.UINT16: [65535, 1],
    TensorProto.INT32: [-(1 << 31), (1 << 31) - 1],
    TensorProto.UINT32: [(1 << 32) - 1, 0],
    TensorProto.INT64: [-(1 << 63), (1 << 63) - 1],
    TensorProto.UINT64: [(1 << 64) - 1, 1],
    TensorProto.BOOL: [True, False],
}


@pytest.mark.parametrize("raw", [False, True], ids=["its own field", "raw"])
@pytest.mark.parametrize("kind", NUMBERS, ids=TensorProto.DataType.Name)
def test_numbers_of_every_type_are_read_to_the_bit(kind: int, raw: bool, tmp_path: Path) -> None:
    values = NUMBERS[kind]
    array = np.array(values, helper.tensor_dtype_to_np_dtype(kind)).reshape(1, -1, 1)
    tensor = numpy_helper.from_array(array, "w")
    if not raw:
        tensor = helper.make_tensor("w", kind, array.shape, array.ravel().tolist())
        assert not tensor.raw_data
    assert tensor.data_type == kind
    found = read_checkpoint(written(tmp_path, model_of(tensor)))["w"]
    wanted = array.astype(np.float32) if kind == TensorProto.BFLOAT16 else array  # exact: it is the upper half of one
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == wanted.tobytes()
    assert not found.flags.writeable


def test_numbers_may_be_written_one_by_one(tmp_path: Path) -> None:
    """As proto2 does unless told to pack them; the reader takes any mixture."""
    ints = b"\x08\x03" + b"\x10\x07" + b"\x42\x01i" + b"\x38\x01\x3a\x01\x7f\x38\x02"  # dims 3, int64, `i`, 1 [127] 2
    floats = b"\x08\x02\x10\x01\x42\x01f" + b"\x25\0\0\x80\x3f" + b"\x22\x04\0\0\0\x40"  # dims 2, float, `f`, 1 [2]
    model = model_of()
    graph = model.graph.SerializeToString()
    graph += b"".join(b"\x2a" + bytes([len(tensor)]) + tensor for tensor in (ints, floats))
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + b"\x3a" + bytes([len(graph)]) + graph)
    checkpoint = read_checkpoint(path)
    assert checkpoint["i"].tolist() == [1, 127, 2]
    assert checkpoint["f"].tolist() == [1, 2]


def test_what_a_file_holds(tmp_path: Path) -> None:
    attributes = {"i": 1, "f": 0.5, "s": "text", "t": numpy_helper.from_array(np.ones(2)), "is": [1, -2], "fs": [0.5]}
    nodes = [
        helper.make_node("Custom", ["x", "", "w"], ["a", "b"], "first", domain="other", **attributes),
        helper.make_node("Relu", ["a"], ["y"], domain="ai.onnx"),
    ]
    words = helper.make_tensor("words", TensorProto.STRING, [1], [b"word"])
    small = helper.make_tensor("small", TensorProto.UINT4, [2], [1, 2])
    model = model_of(numpy_helper.from_array(np.ones(3), "w"), words, small, nodes=nodes)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.DOUBLE, [3]))
    helper.set_model_props(model, {"author": "me"})
    model.training_info.add().algorithm.CopyFrom(model.graph)  # beside what is computed
    checkpoint = read_checkpoint(written(tmp_path, model))
    assert (checkpoint.format, list(checkpoint)) == ("ONNX", ["w"])
    assert checkpoint.skipped == {"words": "string", "small": "uint4"}
    assert checkpoint.metadata == {"author": "me"}
    graph = checkpoint.graph
    assert graph is not None
    assert (graph.inputs, graph.outputs, graph.opset) == ({"x": ("N", 3, None, 4)}, ("y",), 17)
    first, second = graph.nodes
    assert (first.op, first.name, first.inputs, first.outputs) == ("other:Custom", "first", ("x", "", "w"), ("a", "b"))
    assert {k: v for k, v in first.attributes.items() if k != "t"} == {k: tuple(v) if isinstance(v, list) else v
        for k, v in attributes.items() if k != "t"}  # fmt: skip
    np.testing.assert_array_equal(first.attributes["t"], np.ones(2))
    assert (second.op, second.name) == ("Relu", "y")


# --- files beside it -------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, **told: object) -> Path:
    """A file whose one tensor of 8 bytes is said to lie elsewhere."""
    tensor = numpy_helper.from_array(np.float32([1, 2]), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **told}.items():
        tensor.external_data.add(key=key, value=str(value))
    return written(folder, model_of(tensor))


def test_tensors_in_other_files_are_read_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"before" + np.float32([3, 4]).tobytes() + b"after")
    path = external(tmp_path, "sub/w.bin", offset=6, length=8)
    assert read_checkpoint(path, external_data=True)["w"].tolist() == [3, 4]
    assert "external_data=True, on the command line --external-data" in refusal(path)
    (tmp_path / "w.bin").write_bytes(np.float32([5, 6]).tobytes())
    assert read_checkpoint(external(tmp_path, "w.bin"), external_data=True)["w"].tolist() == [5, 6]
    assert read_checkpoint(external(tmp_path, "./w.bin", checksum="x"), external_data=True)["w"].tolist() == [5, 6]


OUTSIDE = [
    "../w.bin",
    "sub/../../w.bin",
    "/etc/passwd",
    "..\\w.bin",
    "C:\\w.bin",
    "c:w.bin",
    "sub\\w.bin",
    "",
    ".",
    "w\0",
]


@pytest.mark.parametrize("location", OUTSIDE)
def test_files_elsewhere_are_never_opened(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    (tmp_path / "models" / "sub").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="outside of its folder"):
        read_checkpoint(external(tmp_path / "models", location), external_data=True)


@pytest.mark.parametrize("link", ["file", "folder"])
def test_links_out_of_the_folder_are_refused(link: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(bytes(8))
    if link == "file":
        (models / "w.bin").symlink_to(tmp_path / "elsewhere" / "w.bin")
    else:
        (models / "sub").symlink_to(tmp_path / "elsewhere")
    path = external(models, "w.bin" if link == "file" else "sub/w.bin")
    with pytest.raises(CheckpointError, match="is a link out of its folder"):
        read_checkpoint(path, external_data=True)


def test_links_to_where_the_model_s_own_leads_are_followed(tmp_path: Path) -> None:
    """As caches of downloads have them: a folder of links to a folder of files."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    path = external(tmp_path / "blobs", "w.bin")
    path.rename(tmp_path / "blobs" / "1234")
    (tmp_path / "blobs" / "5678").write_bytes(np.float32([7, 8]).tobytes())
    (tmp_path / "snapshot" / "model.onnx").symlink_to("../blobs/1234")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../blobs/5678")
    found = read_checkpoint(tmp_path / "snapshot" / "model.onnx", external_data=True)
    assert found["w"].tolist() == [7, 8]


WRONG_PLACES: dict[str, tuple[dict[str, object], str]] = {
    "behind the end": ({"offset": 1, "length": 8}, "claims 8 bytes at byte 1 of `w.bin`"),
    "far behind the end": ({"offset": 1 << 62}, "bytes at byte 4611686018427387904"),
    "before the beginning": ({"offset": -1, "length": 8}, "no number"),
    "of negative length": ({"length": -1}, "no number"),
    "of another length": ({"length": 4}, "has 4 bytes"),
    "at a word": ({"offset": "first"}, "no number"),
    "at no number": ({"offset": "٣"}, "no number"),
    "at an endless number": ({"offset": "9" * 5000}, "no number"),
}


@pytest.mark.parametrize("place", WRONG_PLACES)
def test_tensors_that_do_not_lie_where_it_is_said(place: str, tmp_path: Path) -> None:
    told, why = WRONG_PLACES[place]
    (tmp_path / "w.bin").write_bytes(bytes(8))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(external(tmp_path, "w.bin", **told), external_data=True)
    assert why in str(caught.value)


def test_a_file_that_is_missing_or_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint `.*w\.bin`"):
        read_checkpoint(external(tmp_path, "w.bin"), external_data=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_checkpoint(external(tmp_path, "pipe"), external_data=True)


def test_a_real_export_with_its_tensors_beside_it(tmp_path: Path) -> None:
    for path in GOLDEN.glob(f"{EXTERNAL.name}*"):
        shutil.copy(path, tmp_path)
    assert load(tmp_path / EXTERNAL.name, external_data=True).network.num_classes == 5
    assert load(tmp_path, external_data=True).network.num_classes == 5
    with pytest.raises(CheckpointError, match="external_data=True"):
        load(tmp_path / EXTERNAL.name)


# --- archives and folders --------------------------------------------------------------------------------------------


def packed(path: Path, members: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_of_it(mode: str, tmp_path: Path) -> None:
    """What a member names is another member, so nobody needs to be asked."""
    body = EXPORT.read_bytes()
    assert load(packed(tmp_path / "one.tar", {"model.onnx": body}, mode)).network.num_classes == 5
    members = {f"export/{path.name}": path.read_bytes() for path in GOLDEN.glob(f"{EXTERNAL.name}*")}
    assert len(members) == 2
    assert load(packed(tmp_path / "two.tar", members, mode)).network.num_classes == 5


def test_folders_of_it(tmp_path: Path) -> None:
    shutil.copy(EXPORT, tmp_path / "model.onnx")
    assert load(tmp_path).network.num_classes == 5
    (tmp_path / "config.json").write_text(
        '{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 160, 160], "crop_pct": 1.0,'
        ' "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}'
    )
    preprocess = load(tmp_path).preprocess
    assert preprocess is not None
    assert preprocess.size == (160, 160)
    shutil.copy(EXPORT, tmp_path / "again.onnx")
    with pytest.raises(CheckpointError, match="2 checkpoints"):
        load(tmp_path)


# --- which files are ONNX --------------------------------------------------------------------------------------------


def opened(path: Path) -> File:
    return File(path.name, memoryview(path.read_bytes()), Budget())


def test_files_are_told_apart_by_their_bytes() -> None:
    for path in GOLDENS.rglob("*"):
        if path.is_file():
            file = opened(path)
            is_onnx = path.suffix == ".onnx"
            assert reader.recognises(file) == is_onnx, path
            assert reader.begins(bytes(file.data[:512])) == is_onnx, path
            others = [module.NAME for module in _FORMATS if module is not reader and module.recognises(file)]
            assert not (is_onnx and others), (path, others)


@pytest.mark.parametrize(
    "body",
    [
        b":-)",
        b":\x05graph",
        b"\x08\x08",
        b"\x08\x08\x12\xff\xff\xff\x7f",
        b"\x08\x01\x12\x03abc",
        b"\x08" * 600,
        b"",
        b"\x08\x08:",
    ],
)
def test_files_that_only_begin_alike(body: bytes) -> None:
    file = File("x", memoryview(body), Budget())
    assert reader.recognises(file) == (body == b"\x08\x08:")
    assert reader.begins(body[:512]) == (body == b"\x08\x08:")


def test_a_long_note_before_the_graph() -> None:
    model = model_of()
    model.doc_string = "note " * 1000
    body = model.SerializeToString()
    assert reader.recognises(File("x", memoryview(body), Budget()))
    assert reader.begins(body[:512])


# --- what is refused -------------------------------------------------------------------------------------------------


def branch(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=model.graph))


def loops(model: ModelProto) -> None:
    node = helper.make_node("Loop", ["x"], ["z"])
    node.attribute.append(helper.make_attribute("bodies", [model.graph]))
    model.graph.node.append(node)


def function(model: ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], [node], model.opset_import))


def sparse() -> onnx.SparseTensorProto:
    values, places = numpy_helper.from_array(np.ones(1), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "p")
    return helper.make_sparse_tensor(values, places, [1 << 40])


def sparse_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("value", sparse()))


def segments(model: ModelProto) -> None:
    model.graph.initializer.add(name="w", data_type=1, dims=[4]).segment.end = 2


def tensor(**fields: object) -> Callable[[ModelProto], None]:
    def add(model: ModelProto) -> None:
        model.graph.initializer.add(**fields)

    return add


def twice(model: ModelProto) -> None:
    model.graph.initializer.extend([numpy_helper.from_array(np.ones(1), "w")] * 2)


def same_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute.extend([helper.make_attribute("a", 1)] * 2)


def parameter(model: ModelProto) -> None:
    model.graph.node[0].attribute.add(name="a", ref_attr_name="b", type=1)


def many(count: int, field: str) -> Callable[[ModelProto], None]:
    def add(model: ModelProto) -> None:
        getattr(model.graph, field).extend([getattr(model.graph, field).add()] * count)

    return add


REFUSED: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "a branch": (branch, "is control flow"),
    "a loop": (loops, "is control flow"),
    "a function": (function, "onnx.inliner"),
    "a parameter of a function": (parameter, "onnx.inliner"),
    "a sparse tensor": (lambda m: m.graph.sparse_initializer.append(sparse()), "sparse tensors"),
    "a sparse attribute": (sparse_attribute, "a sparse tensor"),
    "segments": (segments, "in segments"),
    "a tensor twice": (twice, "`w` is there twice"),
    "an attribute twice": (same_attribute, "an attribute twice"),
    "an attribute of types": (
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("a", onnx.TypeProto())),
        "an attribute `a` of type",
    ),
    "a type from the future": (tensor(name="w", data_type=99), "has data type 99"),
    "too few bytes": (tensor(name="w", data_type=1, dims=[3], raw_data=bytes(8)), "has 8 bytes"),
    "too few numbers": (tensor(name="w", data_type=1, dims=[3], float_data=[1, 2]), "has 2 values"),
    "a huge tensor": (tensor(name="w", data_type=1, dims=[1 << 62, 1 << 62]), "impossible shape"),
    "a huge tensor of nothing": (tensor(name="w", data_type=1, dims=[1 << 62, 0]), "impossible shape"),
    "a negative dimension": (tensor(name="w", data_type=1, dims=[-1]), "negative dimension"),
    "many dimensions": (tensor(name="w", data_type=1, dims=[1] * 9), "9 dimensions"),
    "very many dimensions": (tensor(name="w", data_type=1, dims=[1] * 100_000), "100000"),
    "a bool that is none": (tensor(name="w", data_type=9, dims=[1], int32_data=[2]), "neither 0 nor 1"),
    "no version of operators": (lambda m: m.ClearField("opset_import"), "no version"),
    "many tensors": (many(17_000, "initializer"), "17001 tensors"),
    "many nodes": (many(17_000, "node"), "nodes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_resnet_has_is_refused(what: str, tmp_path: Path) -> None:
    edit, why = REFUSED[what]
    model = model_of()
    edit(model)
    found = refusal(written(tmp_path, model))
    assert why in found
    assert len(found) < 2000


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    """Where a field ends before the graph it is of no known format, and within the graph damaged."""
    model = model_of(numpy_helper.from_array(np.arange(4.0), "w"))
    whole = model.SerializeToString()
    helper.set_model_props(model, {"author": "me"})
    body = model.SerializeToString()
    assert body.startswith(whole)
    path = tmp_path / "model.onnx"
    for size in (size for size in range(len(body)) if size != len(whole)):
        path.write_bytes(body[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
