"""What PyTorch wrote is read to the bit, from each of its containers; code and lies are refused, and nothing is run."""

import gzip
import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch_writer as t
from hypothesis import given, settings
from hypothesis import strategies as st

from resforward import load
from resforward.checkpoints import read_checkpoint
from resforward.checkpoints.torch_weights import _AVERAGE_KEYS, _MODEL_KEYS
from resforward.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "torch"
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
COUNT = np.array(5)
ARRAYS = {"conv1.weight": WEIGHTS, "bn1.num_batches_tracked": COUNT}
MODEL = t.model(ARRAYS)
ZIP, STREAM, TAR = "PyTorch zip archive", "PyTorch stream", "PyTorch tar archive"
CONTAINERS = [t.zipped, t.stream]


def golden_values(name):
    with np.load(GOLDEN / "values.npz", allow_pickle=False) as file:
        return {key.partition("|")[2]: file[key] for key in file.files if key.partition("|")[0] == name}


def write(folder, body):
    path = folder / "m.pth"
    path.write_bytes(body)
    return path


def read(folder, body):
    return read_checkpoint(write(folder, body))


def assert_holds(checkpoint, values):
    assert set(checkpoint) == set(values)
    for name, value in values.items():
        found = checkpoint[name]
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes()), name
        assert not found.flags.writeable


def refusal(folder, body):
    """The message that a file is refused with."""
    path = write(folder, body)
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert time.process_time() - started < 2
    return str(caught.value)


def named(value, storages):
    """The storages that an object names: a stream must not have others."""
    return {key: storage for key, storage in storages.items() if t.text(key) in value}


def refused_by_both(folder, value, storages=MODEL.storages):
    """The message that an object is refused with, the same in a zip archive and in a stream."""
    said = {refusal(folder, container(value, named(value, storages))) for container in CONTAINERS}
    heads = {message.splitlines()[0].partition(", at byte")[0] for message in said}
    assert len(heads) == 1
    return said.pop()


# --- what PyTorch wrote ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *[(name, ZIP) for name in ("network", "parameters", "dtypes", "layouts", "training", "unread")],
        *[(f"{name}_stream", STREAM) for name in ("network", "parameters", "dtypes", "layouts", "training")],
        *[("protocol_5", ZIP), ("protocol_4_stream", STREAM), ("attributes", ZIP), ("no_checksums", ZIP), ("tar", TAR)],
    ],
)
def test_reads_what_pytorch_wrote(name, format):
    checkpoint = read_checkpoint(GOLDEN / f"{name}.pth")
    values = golden_values(name)
    assert values
    assert_holds(checkpoint, values)
    assert checkpoint.format == format


@pytest.mark.parametrize("name", ["training", "training_stream"])
def test_what_training_left_is_skipped_by_name(name):
    skipped = read_checkpoint(GOLDEN / f"{name}.pth").skipped
    assert skipped["optimizer"] == "a dict"
    assert skipped["epoch"] == "an int"
    assert skipped["args"] == "argparse.Namespace"
    assert skipped["best_acc1"] == "a tensor beside the model"
    assert skipped["state_dict_ema"] == "a running average of the model"
    assert "state_dict" not in skipped


def test_tensors_without_a_like_in_numpy_are_skipped_by_name():
    assert read_checkpoint(GOLDEN / "unread.pth").skipped == {
        "quantised": "a quantised tensor",
        "per channel": "a quantised tensor",
        "sparse": "a sparse tensor",
        "rows": "a sparse tensor",
        "complex": "complex64",
        "conjugated": "complex64, negated or conjugated",
        "negated": "float32, negated or conjugated",
        "float8": "float8_e4m3fn",
        "meta": "a meta tensor, which has no values",
    }


def test_programs_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="TorchScript archive") as caught:
        read_checkpoint(GOLDEN / "script.pt")
    assert "torch.jit.load" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"holds code, `torch\.nn\.modules\.activation\.ReLU`; nothing was exec"):
        read_checkpoint(GOLDEN / "module.pth")


def test_numbers_are_views_of_the_file(tmp_path):
    tensors = {f"w{i}": np.full(1 << 20, i, np.float32) for i in range(6)}  # 24 MB
    made = t.model(tensors)
    for container in CONTAINERS:
        path = write(tmp_path, container(t.state_dict(made), made.storages))
        tracemalloc.start()
        checkpoint = read_checkpoint(path)
        assert not any(array.flags.owndata for array in checkpoint.values())
        assert checkpoint["w5"].sum() == 5 << 20
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_shared_and_repeated_numbers_are_one_storage():
    checkpoint = read_checkpoint(GOLDEN / "layouts.pth")
    assert np.shares_memory(checkpoint["whole"], checkpoint["transposed"])
    assert np.shares_memory(checkpoint["whole"], checkpoint["repeated"])
    assert checkpoint["repeated"].strides == (0,)


# --- what our own writer wrote ---------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def models(draw):
    """Tensors of every dtype, and how they lie: axes in any order, in a storage that begins earlier."""
    arrays = {}
    for name in draw(st.sets(NAMES, min_size=1, max_size=6)):
        dtype = np.dtype(draw(st.sampled_from(sorted(t.CLASSES))))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        data = np.frombuffer(draw(st.binary(min_size=2048, max_size=2048)), np.uint8)
        data = (data & 1 if dtype == np.bool_ else data)[: int(np.prod(shape)) * dtype.itemsize]
        arrays[name] = data.view(dtype).reshape(shape).transpose(draw(st.permutations(range(len(shape)))))
    return arrays


@settings(deadline=None, max_examples=100)
@given(models(), st.sampled_from(CONTAINERS), st.integers(0, 3))
def test_round_trip(tmp_path_factory, arrays, container, ahead):
    made = t.Model({}, {})
    for key, (name, array) in enumerate(arrays.items()):
        count = ahead + array.size
        place = t.storage(str(key), t.CLASSES[array.dtype.name], count)
        strides = [step // array.itemsize for step in array.strides]
        made.tensors[name] = t.tensor(place, array.shape, strides, ahead)
        in_memory = array.ravel(order="K").tobytes()
        made.storages[str(key)] = (count, bytes(ahead * array.itemsize) + in_memory)
    checkpoint = read(tmp_path_factory.mktemp("torch"), container(t.state_dict(made), made.storages))
    assert_holds(checkpoint, arrays)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("key", [*_MODEL_KEYS, *_AVERAGE_KEYS])
def test_where_the_state_dict_is(tmp_path, container, key):
    inner = t.state_dict(MODEL)
    assert_holds(read(tmp_path, container(inner, MODEL.storages)), ARRAYS)
    assert_holds(read(tmp_path, container(t.dict_of({"epoch": t.number(1), key: inner}), MODEL.storages)), ARRAYS)


def test_an_average_that_is_left_out_is_told_in_the_evidence(tmp_path):
    arrays = dict(read_checkpoint(Path(__file__).parent / "golden" / "families" / "timm_v2.pth"))
    arrays = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    made = t.model(arrays | {"average": WEIGHTS})
    average = t.dict_of({"w": made.tensors.pop("average")})
    body = t.zipped(t.dict_of({"state_dict": t.dict_of(made.tensors), "state_dict_ema": average}), made.storages)
    (tmp_path / "last.pth").write_bytes(body)
    evidence = load(tmp_path / "last.pth").evidence
    assert "left out: state_dict_ema (a running average of the model)" in evidence


def test_the_model_before_its_average(tmp_path):
    made = t.model({"w": WEIGHTS, "average": WEIGHTS * 2})
    model, average = (t.dict_of({"w": made.tensors[key]}) for key in ("w", "average"))
    for order in ({"model": model, "model_ema": average}, {"model_ema": average, "model": model}):
        checkpoint = read(tmp_path, t.zipped(t.dict_of(order), made.storages))
        assert_holds(checkpoint, {"w": WEIGHTS})
        assert checkpoint.skipped == {"model_ema": "a running average of the model"}
    said = refused_by_both(tmp_path, t.dict_of({"model": model, "net": average}), made.storages)
    assert "holds 2 state dicts" in said
    assert "`net`: 1 values" in said
    assert "torch.load(path)[key]" in said
    said = refused_by_both(tmp_path, t.dict_of({"model_ema": model, "state_dict_ema": average}), made.storages)
    assert "holds 2 state dicts" in said


def test_an_optimizer_is_no_model(tmp_path):
    tensor = MODEL.tensors["conv1.weight"]
    slots = t.dict_of([(t.number(0), t.dict_of({"momentum_buffer": tensor}))])
    optimizer = t.dict_of({"state": slots, "param_groups": t.list_of(t.dict_of({"lr": t.number(1)}))})
    said = refused_by_both(tmp_path, t.dict_of({"optimizer": optimizer, "best_acc1": tensor}))
    assert "holds no state dict" in said
    assert "`optimizer` is a dict" in said
    assert "`best_acc1` is a tensor" in said
    assert "model.state_dict()" in said
    for value, kind in ((tensor, "a tensor"), (t.list_of(tensor), "a list"), (t.number(3), "an int"), (b"N", "None")):
        assert f"but {kind}" in refused_by_both(tmp_path, value)
    assert "but a dict of 0" in refused_by_both(tmp_path, b"}")


def test_names_stay_the_files_own(tmp_path):
    made = t.model({"module.fc.weight": WEIGHTS, "é": COUNT})
    assert_holds(read(tmp_path, t.zipped(t.state_dict(made), made.storages)), {"module.fc.weight": WEIGHTS, "é": COUNT})


def test_big_endian_numbers(tmp_path):
    values = WEIGHTS.astype(">f4")
    for order, stored in ((b"big", values), (b"little", WEIGHTS)):
        members = t.zip_members(t.pickled(t.state_dict(MODEL)), MODEL.storages, order)
        members |= {
            "m/data/0": stored.tobytes(),
            "m/data/1": np.array(5, stored.dtype.byteorder + "i8").tobytes(),
        }
        assert_holds(read(tmp_path, t.archive(members)), ARRAYS)
    del members["m/byteorder"]
    assert_holds(read(tmp_path, t.archive(members)), ARRAYS)
    assert "neither little nor big" in refusal(tmp_path, t.archive(members | {"m/byteorder": b"middle"}))


@pytest.mark.parametrize("order", [b"little", b"big"])
def test_bfloat16_becomes_float32(tmp_path, order):
    values = np.array([1.0, -2.5, 3.140625, np.inf], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2" if order == b"little" else ">u2")
    value = t.dict_of({"w": t.tensor(t.storage("0", "BFloat16", 4), (2, 2), (1, 2))})
    members = t.zip_members(t.pickled(value), {"0": (4, bits.tobytes())}, order)
    np.testing.assert_array_equal(read(tmp_path, t.archive(members))["w"], values.reshape(2, 2).T)


def test_python_2_wrote_dicts_as_lists(tmp_path):
    pairs = t.list_of(*(t.list_of(t.text(key), value) for key, value in MODEL.tensors.items()))
    value = t.call(t.name("collections", "OrderedDict"), pairs) + t.dict_of({"_metadata": b"}"}) + b"b"
    assert_holds(read(tmp_path, t.stream(value, MODEL.storages)), ARRAYS)
    short = t.text("conv1.weight").replace(b"X\x0c\0\0\0", b"U\x0c")
    value = b"}(" + short + MODEL.tensors["conv1.weight"] + b"u"
    assert_holds(read(tmp_path, t.zipped(value, MODEL.storages)), {"conv1.weight": WEIGHTS})


@pytest.mark.parametrize("key", [b"I94529839388000\n", t.number(0x2E0A2E0A2E0A), t.text("."), t.number(1)])
def test_keys_in_a_tar(tmp_path, key):
    members = t.tar_members({"w": WEIGHTS})
    for name in ("storages", "tensors"):
        place = {"storages": b"(K\0X", "tensors": b"(KdK\0"}[name]
        assert place in members[name]
        members[name] = members[name].replace(place, place.replace(b"K\0", key))
    assert_holds(read(tmp_path, t.tarred(members)), {"w": WEIGHTS})


def test_memo_may_count_from_one(tmp_path):
    value = b"}q\1(" + t.text("w") + b"q\2" + MODEL.tensors["conv1.weight"] + b"q\3" + t.text("v") + b"h\3u"
    assert_holds(read(tmp_path, t.zipped(value, MODEL.storages)), {"w": WEIGHTS, "v": WEIGHTS})


def test_views_of_storages_in_a_stream(tmp_path):
    view = t.tuple_of(t.text("view"), t.number(4), t.number(8))
    place = t.storage("0", "Float", 12, view)
    value = t.dict_of({"w": t.tensor(place, (2, 2), (2, 1), 4)})
    storages = {"0": MODEL.storages["0"]}
    assert_holds(read(tmp_path, t.stream(value, storages)), {"w": WEIGHTS[2].reshape(2, 2)})
    for offset in (5, -1):
        value = t.dict_of({"w": t.tensor(place, (2, 2), (2, 1), offset)})
        refusal(tmp_path, t.stream(value, storages))
    for start, size in ((-1, 3), (5, 8), (13, 0), (1, -1)):
        lying = t.storage("0", "Float", 12, t.tuple_of(t.text("view"), t.number(start), t.number(size)))
        value = t.dict_of({"w": t.tensor(lying, (), ())})
        assert "persistent id is none of a storage" in refusal(tmp_path, t.stream(value, storages))


def test_tar_and_its_unpacked_members(tmp_path):
    members = t.tar_members(ARRAYS)
    assert_holds(read(tmp_path, t.tarred(members)), ARRAYS)
    assert_holds(read(tmp_path, gzip.compress(t.tarred(members))), ARRAYS)
    (tmp_path / "m.pth").unlink()
    for name, body in members.items():
        (tmp_path / name).write_bytes(body)
    for path in (tmp_path, tmp_path / "storages"):
        assert_holds(read_checkpoint(path), ARRAYS)
    (tmp_path / "tensors").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint `.*tensors"):
        read_checkpoint(tmp_path)


def test_folders_and_archives_of_pytorch_files(tmp_path):
    for container in CONTAINERS:
        write(tmp_path, container(t.state_dict(MODEL), MODEL.storages))
        (tmp_path / "readme.txt").write_text("hello")
        assert_holds(read_checkpoint(tmp_path), ARRAYS)
        packed = t.tarred({"run/m.pth": (tmp_path / "m.pth").read_bytes()})
        (tmp_path / "m.pth").unlink()
        assert_holds(read(tmp_path, packed), ARRAYS)
    write(tmp_path, t.zipped(t.state_dict(MODEL), MODEL.storages))
    (tmp_path / "old.pth").write_bytes(t.stream(t.state_dict(MODEL), MODEL.storages))
    with pytest.raises(CheckpointError, match="2 checkpoints"):
        read_checkpoint(tmp_path)


# --- pickles that do more than hold data -----------------------------------------------------------------------------

LS = t.tuple_of(t.text("touch ran"))
SYSTEM = t.name("posix", "system")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (SYSTEM + LS + b"R", "posix.system"),
        (t.name("os", "system") + LS + b"R", "os.system"),
        (t.name("__builtin__", "eval") + t.tuple_of(t.text("open('ran', 'w')")) + b"R", "builtins.eval"),
        (t.name("builtins", "getattr") + LS + b"R", "builtins.getattr"),
        (t.name("torch", "load") + LS + b"R", "torch.load"),
        (t.name("torch._utils", "__builtins__.eval") + LS + b"R", "torch._utils.__builtins__.eval"),
        (t.name("collections", "OrderedDict.__init__") + LS + b"R", "collections.OrderedDict.__init__"),
        (t.name("torch.nn.modules.container", "Sequential") + b")\x81}b", "torch.nn.modules.container.Sequential"),
        (t.text("posix") + t.text("system") + b"\x93" + LS + b"R", "posix.system"),
        (b"\x8c\x05posix\x94\x8c\x06system\x94\x93" + LS + b"R", "posix.system"),
        (b"(" + t.text("touch ran") + b"iposix\nsystem\n", "posix.system"),
        (b"(" + SYSTEM + t.text("touch ran") + b"o", "posix.system"),
        (t.dict_of({"w": MODEL.tensors["conv1.weight"], "x": SYSTEM}), "posix.system"),
        (t.tuple_of(t.text("storage"), SYSTEM, t.text("0"), t.text("cpu"), t.number(1)) + b"Q", "posix.system"),
        (SYSTEM + b"0N", "posix.system"),  # even one that is thrown away
        (t.name("", ""), "."),
    ],
)
def test_code_is_refused_by_its_name(tmp_path, monkeypatch, value, named):
    monkeypatch.chdir(tmp_path)
    said = refused_by_both(tmp_path, value)
    assert f"holds code, `{named}`; nothing was executed" in said
    assert "model.state_dict()" in said
    assert os.listdir(tmp_path) == ["m.pth"]


class Runs:
    def __reduce__(self):
        return eval, ("open('ran', 'w').close()",)


class Built:
    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("value", "named"), [(Runs(), "builtins.eval"), (Built(), "test_torch_files.Built")])
def test_what_pickle_itself_writes_is_refused(tmp_path, monkeypatch, protocol, value, named):
    monkeypatch.chdir(tmp_path)
    body = pickle.dumps({"state_dict": {}, "extra": value}, protocol)
    assert f"holds code, `{named}`" in refusal(tmp_path, t.archive({"m/data.pkl": body}))
    assert os.listdir(tmp_path) == ["m.pth"]


@pytest.mark.parametrize(
    ("value", "opcode"),
    [
        (b"(lI1\n", "LIST"),
        (b"(d", "DICT"),
        (b"L1L\n", "LONG"),
        (b"S'x'\n", "STRING"),
        (b"Pstorage\n", "PERSID"),
        (b"Np0\n", "PUT"),
        (b"N2", "DUP"),
        (b"\x8b\xff\xff\xff\x7f", "LONG4"),
        (b"\x82\x01", "EXT1"),
        (b"(" + t.name("collections", "OrderedDict") + b"o", "OBJ"),
        (b"(icollections\nOrderedDict\n", "INST"),
        (t.name("collections", "OrderedDict") + b")}\x92", "NEWOBJ_EX"),
        (b"\x97", "NEXT_BUFFER"),
    ],
)
def test_opcodes_that_no_file_of_weights_needs(tmp_path, value, opcode):
    assert f"has the opcode {opcode}," in refused_by_both(tmp_path, value)


FLOATS = t.storage("0", "Float", 12)
REBUILD = t.name("torch._utils", "_rebuild_tensor_v2")
FROM_TYPE = t.name("torch._tensor", "_rebuild_from_type_v2")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"0", "takes more from its stack"),
        (b"t", "a mark that is not there"),
        (b"u", "a mark that is not there"),
        (b"NN", "ends with more than one value"),
        (b"(N", "ends with more than one value"),
        (b"\xff", "an opcode 0xff"),
        (b"I0x10\n", "a number that is none"),
        (b"I" + b"9" * 200 + b"\n", "a number that is none"),
        (b"I\xd9\xa3\n", "a number that is none"),  # an Arabic digit
        (b"h\0", "asks for value 0"),
        (b"Nq\7", "remembers value 7, out of turn"),
        (b"Nr\xff\xff\xff\xff", "remembers value 4294967295, out of turn"),
        (b"Nq\0q\0", "remembers value 0, out of turn"),
        (b"q\0", "takes more from its stack"),
        (b"NNa", "puts 1 values into None"),
        (b"}(NNNu", "puts 3 values into a dict"),
        (b"}Na", "puts 1 values into a dict"),
        (b"](NNu", "puts 2 values into a list"),
        (b")NNs", "puts 2 values into a tuple"),
        (b"NNb", "gives attributes to None"),
        (b"K\1}b", "gives attributes to an int"),
        (t.text("x") + b"}b", "gives attributes to a str"),
        (b")}b", "gives attributes to a tuple"),
        (b"]}b", "gives attributes to a list"),
        (REBUILD + b"}b", "gives attributes to a function"),
        (t.name("torch", "FloatStorage") + b"}b", "gives attributes to a kind"),
        (t.text("eval") + LS + b"R", "calls a str with a tuple"),
        (b"K\1)R", "calls an int with a tuple"),
        (REBUILD + b"NR", "calls a function with None"),
        (REBUILD + b"]R", "calls a function with a list"),
        (FLOATS + b")R", "calls a storage with a tuple"),
        (t.name("torch", "FloatStorage") + b")\x81", "calls a kind with a tuple"),
        (b"K\1K\2\x93", "names an int in an int"),
        (b"c" + b"x" * 5000, "a name of more than 256 bytes"),
        (b"c\xff\xfe\nx\n", "not UTF-8"),
        (b"X\2\0\0\0\xff\xfe", "not UTF-8"),
        (b"X\xff\xff\xff\xff", "cut short"),
        (b"\x8d" + b"\xff" * 8, "cut short"),
        (b"\x8e" + b"\xff" * 8, "cut short"),
        (b"T\xff\xff\xff\x7f", "cut short"),
        (b"N" * 70_000, "more than 65536 values on its stack"),
        (b"(" * 1000, "nested more than 256 deep"),
        (t.call(t.name("collections", "OrderedDict"), b"N"), "an OrderedDict of other than one list"),
        (t.call(t.name("torch", "Size"), b"K\1"), "a torch.Size of other than one tuple"),
        (t.text("0") + b"Q", "persistent id is none of a storage"),
        (t.storage("0", "Float", -1), "persistent id is none of a storage"),
        (t.tuple_of(t.text("module"), b"N", t.text("0"), t.text("cpu"), t.number(1)) + b"Q", "none of a storage"),
        (t.call(REBUILD), "a tensor of 0 arguments"),
        (t.call(REBUILD, FLOATS, t.number(0), b"N", b"N"), "a tensor of a storage, an int, None, None"),
        (t.call(REBUILD, b"N", t.number(0), b")", b")"), "a tensor of None"),
        (t.call(REBUILD, FLOATS, b"\x88", b")", b")"), "a tensor of a storage, a bool"),
        (t.call(REBUILD, FLOATS, t.number(0), t.tuple_of(b"N"), t.numbers([1])), "a tensor of a storage, an int"),
        (t.tensor(FLOATS, (1,), (1, 1)), "1 dimensions and 2 strides"),
        (t.tensor(FLOATS, (1,) * 9, (1,) * 9), "a tensor of a storage"),
        (t.call(t.name("torch._utils", "_rebuild_parameter"), b"K\1"), "a tensor made of an int"),
        (t.call(t.name("torch._utils", "_rebuild_parameter")), "a tensor made of nothing"),
        (t.call(FROM_TYPE, FROM_TYPE, t.name("torch", "Tensor"), b")", b"}"), "by another function"),
        (t.call(FROM_TYPE, t.name("argparse", "Namespace"), t.name("torch", "Tensor"), b")", b"}"), "by another"),
        (
            t.call(t.name("torch._utils", "_rebuild_tensor_v3"), FLOATS, t.number(0), b")", b")", t.FALSE, b"}"),
            "whose dtype is None",
        ),
        (t.dict_of([(b"N", MODEL.tensors["conv1.weight"])]), "a tensor has no name"),
        (t.dict_of([(t.text("w"), b"N")] * 2), "`w` is there twice"),
        (t.dict_of({"\ud800": b"N"}), "not Unicode"),
        (t.call(t.name("collections", "OrderedDict"), b"]K\1a"), "a dict has an int for an item"),
    ],
)
def test_pickles_refused(tmp_path, value, said):
    assert said in refused_by_both(tmp_path, value)


# --- pickles that would cost too much --------------------------------------------------------------------------------


def cheap(folder, value):
    """The message that an object is refused with, in little time and memory, if it is; else None."""
    for container in CONTAINERS:
        body = container(value, named(value, MODEL.storages))
        path = write(folder, body)
        started = time.process_time()
        said = outcome(path)
        assert time.process_time() - started < 2
        tracemalloc.start()
        assert outcome(path) == said
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < (100 << 20) + 1.1 * len(body)
    return said


def outcome(path):
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return None


def test_billion_laughs(tmp_path):
    bomb = b")q\0" + b"".join(b"0(" + bytes([ord("h"), i]) * 10 + b"tq" + bytes([i + 1]) for i in range(200))
    assert "but a tuple" in cheap(tmp_path, bomb)  # 10 ** 200 of them, in 4 kB: built, and never walked through
    key = t.dict_of([(bomb, b"N"), (t.text("w"), MODEL.tensors["conv1.weight"])])
    assert "holds no state dict" not in (cheap(tmp_path, key) or "")  # as a key of a dict it is not hashed either


def test_lists_that_hold_themselves(tmp_path):
    loop = b"]q\0h\0a"
    value = t.dict_of({"loop": loop, "w": MODEL.tensors["conv1.weight"]})
    assert_holds(read(tmp_path, t.zipped(value, MODEL.storages)), {"w": WEIGHTS})
    refused_by_both(tmp_path, b"}q\0" + t.text("state_dict") + b"h\0s")


def test_nesting_without_marks(tmp_path):
    depth = 60_000
    assert "but a list" in cheap(tmp_path, b"]" * depth + b"a" * (depth - 1))
    assert "but a tuple" in cheap(tmp_path, b")" + b"\x85" * 100_000)
    assert "but a dict" in cheap(tmp_path, (b"}" + t.text("a")) * 30_000 + b"N" + b"s" * 30_000)


def test_more_opcodes_than_any_checkpoint(tmp_path):
    assert "too many small pieces" in cheap(tmp_path, b"}0" * 300_000 + b"N")


def test_one_long_tuple_passed_a_hundred_thousand_times(tmp_path):
    long = b"(" + b"K\1" * 60_000 + b"tq\0"
    arguments = FLOATS + b"K\0h\0h\0"
    assert "a tensor of" in cheap(tmp_path, long + REBUILD + b"(" + arguments + b"tR")
    items = b"](" + b"N" * 60_000 + b"e"
    many = items + b"\x85q\0" + t.name("collections", "OrderedDict") + b"q\1" + b"0h\1h\0R" * 60_000
    cheap(tmp_path, many)


def test_strings_longer_than_memory_allows(tmp_path):
    body = t.text("\U0001f600" + "x" * (40 << 20))  # stored at four bytes a character
    assert "would take" in refusal(tmp_path, t.zipped(body, {}))


@pytest.mark.parametrize("size", [2, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 200, -1, -(1 << 63)])
def test_absurd_shapes_and_strides(tmp_path, size):
    for shape, strides in (((size,), (1,)), ((size, 0), (1, 1)), ((size, size), (1, 1)), ((3, 4, size), (4, 1, 12))):
        value = t.dict_of({"w": t.tensor(FLOATS, shape, strides)})
        if shape in ((2,), (2, 0), (2, 2), (1 << 31, 0), (1 << 40, 0)):
            assert read(tmp_path, t.zipped(value, {"0": MODEL.storages["0"]}))["w"].shape == shape
        else:
            refused_by_both(tmp_path, value, {"0": MODEL.storages["0"]})
    for strides in ((size, 12 if size == 2 else 1), (12, size), (4, size * 3)):
        value = t.dict_of({"w": t.tensor(FLOATS, (3, 4), strides)})
        said = refused_by_both(tmp_path, value, {"0": MODEL.storages["0"]})
        assert "outside of its storage" in said or "negative" in said


@pytest.mark.parametrize("offset", [1, 12, 13, 1 << 40, 1 << 63, -1, -12, -(1 << 62)])
def test_absurd_offsets(tmp_path, offset):
    value = t.dict_of({"w": t.tensor(FLOATS, (3, 4), (4, 1), offset)})
    said = refused_by_both(tmp_path, value, {"0": MODEL.storages["0"]})
    assert "tensor `w`" in said


def test_repeated_numbers_are_bounded_by_the_file(tmp_path):
    ones = {"0": (1, np.float32(1).tobytes())}
    place = t.storage("0", "Float", 1)
    small = t.dict_of({"w": t.tensor(place, (2, 3), (0, 0))})
    for container in CONTAINERS:
        assert_holds(read(tmp_path, container(small, ones)), {"w": np.ones((2, 3), np.float32)})
    for shape in ((1 << 20,), (1 << 30,), (1 << 20, 1 << 20)):
        value = t.dict_of({"w": t.tensor(place, shape, (0,) * len(shape))})
        assert "repeats its numbers" in refused_by_both(tmp_path, value, ones)
    # Each tensor is no larger than the file, all of them together are 100 times as large.
    base = {"0": (1 << 18, bytes(1 << 20))}
    many = t.dict_of({f"w{i}": t.tensor(t.storage("0", "Float", 1 << 18), (1 << 18,), (1,)) for i in range(100)})
    assert "would take" in refused_by_both(tmp_path, many, base)


def test_bools_are_zero_or_one(tmp_path):
    for shape, strides in (((4,), (1,)), ((2, 2), (1, 2))):
        value = t.dict_of({"w": t.tensor(t.storage("0", "Bool", 4), shape, strides)})
        assert "neither 0 nor 1" in refused_by_both(tmp_path, value, {"0": (4, b"\0\1\2\0")})


# --- zip archives ----------------------------------------------------------------------------------------------------

PICKLE = t.pickled(t.state_dict(MODEL))
MEMBERS = t.zip_members(PICKLE, MODEL.storages)


def test_zip_archives(tmp_path):
    for members in (
        MEMBERS,
        dict(reversed(MEMBERS.items())),
        {key: t.deflated(body) for key, body in MEMBERS.items()},
        {key: t.Odd(body, wide=True) for key, body in MEMBERS.items()},
        {key: t.Odd(body, crc=0) for key, body in MEMBERS.items()},  # written without checksums
        MEMBERS | {"m/.data/serialization_id": b"0", "m/code.txt": b"x", "other/version": b"1"},
    ):
        for wide in (True, False):
            assert_holds(read(tmp_path, t.archive(members, wide=wide)), ARRAYS)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (MEMBERS | {"n/data.pkl": PICKLE}, "it has 2 pickles"),
        ([*MEMBERS.items(), ("m/data.pkl", PICKLE)], "entry `m/data.pkl` is there twice"),
        ([*MEMBERS.items(), ("m/data/0", WEIGHTS.tobytes())], "entry `m/data/0` is there twice"),
        (MEMBERS | {"m/constants.pkl": b""}, "TorchScript archive"),
        (MEMBERS | {"m/data/0": b""}, "storage `0` has 0 bytes"),
        (MEMBERS | {"m/data/0": bytes(52)}, "storage `0` has 52 bytes"),
        ({key: body for key, body in MEMBERS.items() if key != "m/data/0"}, "lacks the entry `m/data/0`"),
        (MEMBERS | {"m/data.pkl": PICKLE + b"."}, "its pickle ends at byte"),
        (MEMBERS | {"m/data.pkl": t.Odd(PICKLE, crc=1)}, "entry `m/data.pkl` fails its checksum"),
        (MEMBERS | {"m/data/0": t.Odd(WEIGHTS.tobytes(), crc=0)}, "entry `m/data/0` fails its checksum"),
        (MEMBERS | {"m/data/0": t.deflated(WEIGHTS.tobytes())._replace(crc=7)}, "fails its checksum"),
        (MEMBERS | {"m/data/0": t.deflated(bytes(1000), size=48)}, "unpacks to too much"),
        (MEMBERS | {"m/data/0": t.deflated(bytes(10), size=48)}, "unpacks to 10 bytes"),
        (MEMBERS | {"m/data/0": t.Odd(b"\xff" * 48, 8, size=48)}, "cannot be unpacked"),
        (MEMBERS | {"m/data/0": t.Odd(t.deflated(bytes(48)).data[:-1], 8, size=48)}, "cut short after"),
        (MEMBERS | {"m/data/0": t.deflated(bytes(300 << 20))}, "would unpack to 314572800"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), size=49)}, "claims 48 bytes, stored, for 49"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), packed=1 << 20)}, "claims 1048576 bytes"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), packed=1 << 62, wide=True)}, "claims 4611686018427387904 bytes"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), flags=1)}, "is encrypted"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), method=12)}, "has compression 12"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), at=1 << 30)}, "has no header"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), at=1 << 63, wide=True)}, "has no header"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), at=1)}, "has no header"),
        (MEMBERS | {"m/data/0": t.Odd(PICKLE, at=0)}, "is something else at its place"),
        (MEMBERS | {"m/data/0": t.Odd(bytes(48), local_name=b"m/data/x")}, "is something else at its place"),
        (MEMBERS | {"m/data/" + "x" * 2000: b""}, "does not fit into its directory"),
    ],
)
def test_zip_archives_refused(tmp_path, members, said):
    for wide in (True, False):
        assert said in refusal(tmp_path, t.archive(members, wide=wide))


def test_zip_entries_may_not_overlap(tmp_path):
    inner = t.archive({"m/data/0": WEIGHTS.tobytes()}, wide=False)
    body = t.archive({"m/data.pkl": PICKLE, "m/x": inner}, wide=False)
    at = body.index(b"PK\3\4", body.index(b"m/x"))
    members = {"m/data.pkl": PICKLE, "m/x": inner, "m/data/0": t.Odd(WEIGHTS.tobytes(), at=at)}
    assert "begins inside" in refusal(tmp_path, t.archive(members))


def test_zip_bomb_of_many_entries_over_the_same_bytes(tmp_path):
    packed = t.deflated(bytes(1 << 20))
    names = [f"m/data/{i}" for i in range(3000)]
    members = [("m/data.pkl", PICKLE), (names[0], packed)]
    at = t.archive(members).index(b"PK\3\4", 4)
    refusal(tmp_path, t.archive([*members, *((name, packed._replace(at=at)) for name in names[1:])]))


def test_more_entries_than_any_checkpoint(tmp_path):
    body = t.archive({"m/data.pkl": PICKLE}, wide=False)
    at, end = body.rindex(b"PK\1\2"), body.rindex(b"PK\5\6")
    directory = body[at:end] * 60_000
    assert "too many small pieces" in refusal(tmp_path, body[:at] + directory + t.ends(60_000, len(directory), at))


def test_zip_directories_refused(tmp_path):
    body = t.archive(MEMBERS, wide=False)
    end = body.rindex(b"PK\5\6")
    size, offset = struct.unpack_from("<II", body, end + 12)
    count = len(MEMBERS)
    for said, record in {
        "does not fit": t.ends(count, size, offset + 1, wide=False),
        f"directory of {size - 1} bytes": t.ends(count, size - 1, offset, wide=False),
        "no header": t.ends(count + 1, size, offset, wide=False),
        "entries take": t.ends(count - 1, size, offset, wide=False),
        "too many small pieces": t.ends(1 << 40, size, offset, narrow=(0xFFFF, size, offset)),
        "contradict each other": t.ends(count, size, offset, narrow=(count, size, offset + 1)),
        "without its end": b"",
        "end record of its zip archive does not fit": t.ends(count, size, offset, wide=False) + b"tail",
    }.items():
        assert said in refusal(tmp_path, body[:end] + record)
    assert "does not fit" in refusal(tmp_path, b"PK\3\4" + body)  # bytes before the archive move its directory
    wide = t.archive(MEMBERS)
    locator = wide.rindex(b"PK\6\7")
    moved = wide[: locator + 8] + struct.pack("<Q", locator) + wide[locator + 16 :]
    assert "does not lie before its locator" in refusal(tmp_path, moved)


def test_other_zip_archives_are_named(tmp_path):
    assert "a zip file, but of no format" in refusal(tmp_path, t.archive({"notes.txt": b"x"}))
    assert "is damaged: it is a zip archive without its end" in refusal(tmp_path, b"PK\3\4" + bytes(100))


# --- streams and tars ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tail", "said"),
    [
        ({"version": 1000}, b"", "protocol version is 1000"),
        ({"keys": b"N"}, b"", "keys of storages are None"),
        ({"keys": t.list_of(t.text("0"))}, b"", "bytes follow its last storage"),
        ({"keys": t.list_of(t.text("0"), t.text("0"))}, b"", "has `0`, which no tensor names, or twice"),
        ({"keys": t.list_of(t.text("0"), t.text("9"))}, b"", "has `9`"),
        ({"keys": t.list_of(t.number(0))}, b"", "has an int"),
        ({}, b"\0", "1 bytes follow its last storage"),
    ],
)
def test_streams_refused(tmp_path, options, tail, said):
    assert said in refusal(tmp_path, t.stream(t.state_dict(MODEL), MODEL.storages, **options) + tail)


@pytest.mark.parametrize("count", [0, 11, 13, -1, 1 << 40, (1 << 63) - 1, -(1 << 63)])
def test_streams_with_an_absurd_storage(tmp_path, count):
    storages = MODEL.storages | {"0": (count, MODEL.storages["0"][1])}
    said = refusal(tmp_path, t.stream(t.state_dict(MODEL), storages))
    assert "storage `0`" in said


def test_streams_lack_storages_or_describe_them_twice(tmp_path):
    value = t.dict_of({"w": t.tensor(FLOATS, (12,), (1,))})
    assert "storage `0` is not there" in refusal(tmp_path, t.stream(value, {}))
    for other in (t.storage("0", "Float", 11), t.storage("0", "Int", 12)):
        value = t.dict_of({"w": t.tensor(FLOATS, (2,), (1,)), "x": t.tensor(other, (2,), (1,))})
        assert "described in two ways" in refusal(tmp_path, t.stream(value, {"0": MODEL.storages["0"]}))
    assert "storage outside of the object" in refusal(tmp_path, t.MAGIC + t.pickled(b"NQ"))


@pytest.mark.parametrize(
    ("member", "body", "said"),
    [
        ("storages", None, "no `tensors`"),
        ("tensors", t.pickled(t.number(1)), "cut short"),
        ("tensors", t.pickled(t.text("1")), "begins with a str"),
        ("tensors", t.pickled(t.number(1)) + t.pickled(t.number(1)), "a tensor is not described as PyTorch does"),
        ("tensors", t.pickled(t.number(0)) + b"x", "1 bytes follow what it lists"),
        ("tensors", t.pickled(t.number(0)), "persistent id is neither"),
        ("pickle", t.pickled(b"}") + b"x", "its pickle ends at byte 4"),
        ("pickle", t.pickled(b"NQ"), "persistent id is neither"),
        ("pickle", t.pickled(SYSTEM + LS + b"R"), "holds code, `posix.system`"),
        ("tensors", t.pickled(SYSTEM + LS + b"R"), "holds code, `posix.system`"),
    ],
)
def test_tars_refused(tmp_path, member, body, said):
    members = t.tar_members(ARRAYS)
    if body is None:
        del members["tensors"]
    else:
        members[member] = body
    assert said in refusal(tmp_path, t.tarred(members))


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ((5, 0, 4, 9), "outside of it"),
        ((5, 0, -1, 9), "not described"),
        ((5, 0, 1, -2), "not described"),
        ((5, 9, 1, 2), "not described"),
        ((1, 0, 1, 2), "not described"),
        ((5, 0, 1), "not described"),
    ],
)
def test_views_in_tars_refused(tmp_path, view, said):
    members = t.tar_members(ARRAYS, t.list_of(t.numbers(view)))
    assert said in refusal(tmp_path, t.tarred(members))


def test_tensors_in_tars_refused(tmp_path):
    for shape in ((3, 5), (1 << 62, 4), (-3, 4)):
        assert "tensor `w`" in refusal(tmp_path, t.tarred(t.tar_members({"w": WEIGHTS}, shape=shape)))
    members = t.tar_members({"w": WEIGHTS})
    for rank in (9, 1 << 31, 0xFFFFFFFF):
        body = members["tensors"].replace(struct.pack("<ii", 2, 7), struct.pack("<Ii", rank, 7))
        assert f"has {rank} dimensions" in refusal(tmp_path, t.tarred(members | {"tensors": body}))


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_truncation_is_refused(tmp_path, container):
    body = container(t.state_dict(MODEL), MODEL.storages)
    for size in range(len(body)):
        refusal(tmp_path, body[:size])
    assert_holds(read(tmp_path, body), ARRAYS)


def test_every_truncation_of_a_tars_members_is_refused(tmp_path):
    members = t.tar_members(ARRAYS)
    for name in ("storages", "tensors", "pickle"):
        for size in range(len(members[name])):
            refusal(tmp_path, t.tarred(members | {name: members[name][:size]}))


def test_every_flipped_bit_of_a_zip_archives_entries_is_noticed(tmp_path):
    body = t.archive(MEMBERS)
    for name, data in MEMBERS.items():
        start = body.index(data, body.index(name.encode()))
        for at in range(start, start + len(data)):
            damaged = bytearray(body)
            damaged[at] ^= 1 << at % 8
            if name == "m/version":  # is never used
                assert_holds(read(tmp_path, bytes(damaged)), ARRAYS)
            else:
                assert "fails its checksum" in refusal(tmp_path, bytes(damaged))
