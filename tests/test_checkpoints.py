"""What TensorFlow wrote is read to the bit; what nobody should have written is refused, by name and at no cost."""

import gzip
import io
import itertools
import os
import shutil
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tf_writer as w
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from resforward.checkpoints import foreign, read_checkpoint, snappy
from resforward.checkpoints.files import Budget, File
from resforward.checkpoints.protobuf import packed_varints
from resforward.checkpoints.tf_bundle import slice_key
from resforward.checkpoints.tf_tensor import Extent
from resforward.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def golden_values(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key.replace("|", "/"): file[key] for key in file.files}


def assert_holds(checkpoint, values):
    assert set(checkpoint) == set(values)
    for name, value in values.items():
        assert checkpoint[name].dtype == value.dtype, name
        assert not checkpoint[name].flags.writeable
        np.testing.assert_array_equal(checkpoint[name], value, err_msg=name)


def write(folder, files):
    """Write files; return the first, or `folder/m` for a bundle of suffixes."""
    paths = [folder / f"m{name}" if name.startswith(".") else folder / name for name in files]
    for path, body in zip(paths, files.values(), strict=True):
        path.write_bytes(body)
    return paths[0]


def refusal(path):
    """The message that a path is refused with."""
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert time.process_time() - started < 2
    return str(caught.value)


def v1_refusal(folder, records, **options):
    return refusal(write(folder, {"m": w.table(records, **options)}))


def v2_refusal(folder, records, data=b"", **options):
    return refusal(write(folder, {".index": w.table(records, **options), ".data-00000-of-00001": data}))


# --- what TensorFlow wrote -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "format"),
    [
        ("v1_dtypes", "v1_dtypes", "TensorFlow V1 table"),
        ("v1_dtypes", "v1_dtypes/model.ckpt", "TensorFlow V1 table"),
        ("v1_dtypes", "v1_dtypes/checkpoint", "TensorFlow V1 table"),
        ("v1_partitioned", "v1_partitioned", "TensorFlow V1 table"),
        ("v1_sharded", "v1_sharded", "TensorFlow V1 table"),
        ("v1_sharded", "v1_sharded/model.ckpt", "TensorFlow V1 table"),
        ("v1_sharded", "v1_sharded/model.ckpt-?????-of-00003", "TensorFlow V1 table"),
        ("v1_sharded", "v1_sharded/model.ckpt-00002-of-00003", "TensorFlow V1 table"),
        ("v2_dtypes", "v2_dtypes", "TensorFlow V2 bundle"),
        ("v2_dtypes", "v2_dtypes/model.ckpt", "TensorFlow V2 bundle"),
        ("v2_dtypes", "v2_dtypes/model.ckpt.index", "TensorFlow V2 bundle"),
        ("v2_dtypes", "v2_dtypes/model.ckpt.data-00000-of-00001", "TensorFlow V2 bundle"),
        ("v2_partitioned", "v2_partitioned", "TensorFlow V2 bundle"),
        ("v2_sharded", "v2_sharded", "TensorFlow V2 bundle"),
        ("v2_sharded", "v2_sharded/model.ckpt.data-00001-of-00003", "TensorFlow V2 bundle"),
        ("v2_objects", "v2_objects", "TensorFlow V2 bundle"),
    ],
)
def test_reads_what_tensorflow_wrote(name, path, format):
    checkpoint = read_checkpoint(GOLDEN / path)
    assert_holds(checkpoint, golden_values(name))
    assert checkpoint.format == format
    assert checkpoint.path == GOLDEN / path
    assert str(checkpoint.path) in repr(checkpoint)


def test_strings_are_skipped_and_counted():
    assert read_checkpoint(GOLDEN / "v1_dtypes").skipped == {"words": "string"}
    assert read_checkpoint(GOLDEN / "v2_objects").skipped == {"_CHECKPOINTABLE_OBJECT_GRAPH": "string"}


def test_paths_may_be_relative_or_linked(tmp_path, monkeypatch):
    monkeypatch.chdir(GOLDEN / "v2_dtypes")
    values = golden_values("v2_dtypes")
    for path in ("model.ckpt", "./model.ckpt.index", ".", Path("model.ckpt")):
        assert_holds(read_checkpoint(path), values)
    for file in (GOLDEN / "v2_dtypes").glob("model*"):  # as model hubs' caches lay files out
        (tmp_path / file.name).symlink_to(file)
    assert_holds(read_checkpoint(tmp_path / "model.ckpt"), values)


def test_a_saved_model_folder_gives_its_variables(tmp_path):
    (tmp_path / "variables").mkdir()
    write(tmp_path / "variables", {f"variables{suffix}": body for suffix, body in w.bundle({"w": WEIGHTS}).items()})
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    assert_holds(read_checkpoint(tmp_path), {"w": WEIGHTS})


def test_floats_are_views_of_the_file(tmp_path):
    tensors = {f"w{i}": np.full(1 << 20, i, np.float32) for i in range(6)}  # 24 MB
    v1 = write(tmp_path, {"v1": w.v1(tensors)})
    v2 = write(tmp_path, w.bundle(tensors, padding=1)).with_suffix("")
    tracemalloc.start()
    for path in (v1, v2):
        checkpoint = read_checkpoint(path)
        assert not any(array.flags.owndata for array in checkpoint.values())
        assert checkpoint["w5"].sum() == 5 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


# --- what our own writer wrote ---------------------------------------------------------------------------------------

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(sorted(w.DATA_TYPES))))
    shape = draw(SHAPES)
    data = draw(st.binary(min_size=int(np.prod(shape)) * dtype.itemsize, max_size=int(np.prod(shape)) * dtype.itemsize))
    if dtype == np.bool_:
        return (np.frombuffer(data, np.uint8) & 1).astype(bool).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape)


@st.composite
def sliced(draw):
    """Tensors, and for some of them a division into boxes."""
    tensors = draw(st.dictionaries(NAMES, arrays(), min_size=1, max_size=8))
    slices = {}
    for name, array in tensors.items():
        boxes = [[(0, size) for size in array.shape]]
        for axis in range(array.ndim):
            cuts = sorted(draw(st.sets(st.integers(1, max(1, array.shape[axis] - 1)), max_size=2)))
            edges = [0, *(cut for cut in cuts if cut < array.shape[axis]), array.shape[axis]]
            parts = list(itertools.pairwise(edges))
            boxes = [
                [*box[:axis], (start, end - start), *box[axis + 1 :]]
                for box in boxes
                for start, end in (parts if array.shape[axis] else [(0, 0)])
            ]
        if len(boxes) > 1:
            slices[name] = draw(st.permutations(boxes))
    return tensors, slices


@settings(deadline=None, max_examples=100)
@given(sliced(), st.sampled_from([1, 50, 300, 262144]), st.sampled_from([0, 1]))
def test_v1_round_trip(tmp_path_factory, content, block_size, compression):
    tensors, slices = content
    folder = tmp_path_factory.mktemp("v1")
    path = write(folder, {"m": w.v1(tensors, slices, block_size=block_size, compression=compression)})
    assert_same_bits(read_checkpoint(path), tensors)
    shutil.rmtree(folder)


@settings(deadline=None, max_examples=100)
@given(sliced(), st.sampled_from([1, 50, 262144]), st.integers(1, 4), st.booleans(), st.integers(0, 5))
def test_v2_round_trip(tmp_path_factory, content, block_size, shards, big_endian, padding):
    tensors, slices = content
    folder = tmp_path_factory.mktemp("v2")
    options = {"block_size": block_size, "shards": shards, "big_endian": big_endian, "padding": padding}
    path = write(folder, w.bundle(tensors, slices, **options))
    assert_same_bits(read_checkpoint(path), tensors)
    shutil.rmtree(folder)


def assert_same_bits(checkpoint, tensors):
    assert set(checkpoint) == set(tensors)
    for name, value in tensors.items():
        found = checkpoint[name]
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_v1_slices_may_lie_in_several_files(tmp_path):
    top, bottom = [((0, 2), (0, 4))], [((2, 1), (0, 4))]
    write(
        tmp_path,
        {
            "m-00000-of-00002": w.v1({"w": WEIGHTS, "a": WEIGHTS}, {"w": top}),
            "m-00001-of-00002": w.v1({"w": WEIGHTS}, {"w": bottom}),
        },
    )
    assert_holds(read_checkpoint(tmp_path / "m"), {"w": WEIGHTS, "a": WEIGHTS})


def test_v1_unpacked_values(tmp_path):
    floats = b"".join(w.message((5, w.Fixed32(int.from_bytes(np.float32(v).tobytes(), "little")))) for v in range(12))
    ints = w.message(*((7, value) for value in (3, -1)))
    for values, shape, kind, wanted in ((floats, (3, 4), 1, WEIGHTS), (ints, (2,), 3, np.array([3, -1], "i4"))):
        path = write(tmp_path, {"m": w.table(v1_with(values, shape, kind))})
        assert_holds(read_checkpoint(path), {"w": wanted})


def v1_with(values, shape, kind, *, extents=None, name=b"w", versions=(1, 1)):
    """The records of a V1 file with one tensor of these values."""
    whole = w.slice_message(extents, len(shape))
    meta = w.message((1, name), (2, w.shape_message(shape)), (3, kind), (4, whole))
    saved = w.message((1, name), (2, whole), (3, values))
    listed = w.message((1, meta), (2, w.message(versions)))
    return [(b"", w.message((1, listed))), (b"\0" + name, w.message((2, saved)))]


def v2_with(shape=(3, 4), kind=1, data=None, name=b"w", head=None, **fields):
    """The records of an index with one tensor; `fields` are shard, offset, size, crc."""
    data = WEIGHTS.tobytes() if data is None else data
    crc = fields.get("crc", w.masked(data))
    body = w.message(
        (1, kind),
        (2, w.shape_message(shape)),
        (3, fields.get("shard", 0)),
        (4, fields.get("offset", 0)),
        (5, fields.get("size", len(data))),
        (6, w.Fixed32(crc)),
    )
    return [(b"", w.header() if head is None else head), (name, body)]


def test_bfloat16_becomes_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, np.inf], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    for big_endian in (False, True):
        path = write(tmp_path, w.bundle({"w": bits}, kinds={"w": w.BFLOAT16}, big_endian=big_endian))
        assert_holds(read_checkpoint(path), {"w": values})
    path = write(tmp_path, {"v1": w.table(v1_with(w.message((13, b"".join(map(w.varint, bits.tolist())))), (4,), 14))})
    assert_holds(read_checkpoint(path), {"w": values})


@given(st.integers(-(2**62), 2**62), st.integers(-1, 2**40))
def test_slice_keys_are_tensorflows_ordered_code(start, length):
    assert slice_key(b"w", (Extent(start, length),)) == w.slice_key("w", [(start, length)])


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_packed_varints(values):
    data = memoryview(b"".join(map(w.varint, values)))
    assert packed_varints(data, File("x", data, Budget()), "here").tolist() == values


def test_packed_varints_across_chunks():
    values = (np.arange(300_000) * 37).tolist()
    data = memoryview(b"".join(map(w.varint, values)))
    assert packed_varints(data, File("x", data, Budget()), "here").tolist() == values


# --- Snappy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (bytes([0]), b""),
        (bytes([3, 2 << 2]) + b"abc", b"abc"),
        (bytes([70, 60 << 2, 69]) + b"x" * 70, b"x" * 70),
        (bytes([7, 2 << 2]) + b"abc" + bytes([0 << 2 | 1, 3]), b"abcabca"),  # a copy of 4 to 11 bytes
        (bytes([9, 2 << 2]) + b"abc" + bytes([5 << 2 | 2, 3, 0]), b"abcabcabc"),
        (bytes([9, 2 << 2]) + b"abc" + bytes([5 << 2 | 3, 3, 0, 0, 0]), b"abcabcabc"),
        (bytes([65, 0]) + b"a" + bytes([63 << 2 | 2, 1, 0]), b"a" * 65),  # a copy that overlaps itself
    ],
)
def test_snappy(packed, plain):
    data = memoryview(packed)
    assert snappy.unpack(data, File("x", data, Budget()), "block") == plain


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        bytes([5, 2 << 2]) + b"abc",  # too short
        bytes([2, 2 << 2]) + b"abc",  # too long
        bytes([9, 8 << 2]) + b"abc",  # cut off
        bytes([9, 61 << 2, 1]),
        bytes([7, 2 << 2]) + b"abc" + bytes([1, 4]),  # from before the beginning
        bytes([7, 2 << 2]) + b"abc" + bytes([1, 0]),
        b"\xff\xff\xff\xff\x7f\0",
        w.varint(1 << 62) + b"\0a",
    ],
)
def test_snappy_refuses(packed):
    data = memoryview(packed)
    with pytest.raises(CheckpointError):
        snappy.unpack(data, File("x", data, Budget()), "block")


def test_snappy_bomb(tmp_path):
    copies = bytes([63 << 2 | 2, 1, 0]) * 2_000_000
    packed = w.varint(1 + 64 * 2_000_000) + b"\0a" + copies
    stored = packed + b"\1"
    block = stored + w.masked(stored).to_bytes(4, "little")
    index = w.block(w.contents([(b"", w.varint(0) + w.varint(len(packed)))]))
    table = block + index + w.footer((len(block), 0), (len(block), len(index) - 5))
    assert "would take" in refusal(write(tmp_path, {"m": table}))


# --- archives --------------------------------------------------------------------------------------------------------


def tar(members, format=tarfile.PAX_FORMAT):
    """A tar archive of names and bytes, or of names and prepared headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, body in members:
            if isinstance(body, tarfile.TarInfo):
                archive.addfile(body)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return (name, info)


def bundle_members(folder=""):
    return [(f"{folder}m{suffix}", body) for suffix, body in w.bundle({"w": WEIGHTS}).items()]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("folder", ["", "./", "2016/08/", "x" * 120 + "/"])
def test_archives(tmp_path, format, pack, folder):
    for members in (
        [(f"{folder}resnet.ckpt", w.v1({"w": WEIGHTS})), ("train.graph", b"\x0a\x00")],
        bundle_members(folder),
    ):
        path = write(tmp_path, {"any name": pack(tar(members, format))})
        assert_holds(read_checkpoint(path), {"w": WEIGHTS})
    assert os.listdir(tmp_path) == ["any name"]  # nothing is ever unpacked onto the disk


def test_archive_with_a_state_file_and_several_checkpoints(tmp_path):
    members = [*bundle_members("run/"), ("run/old.ckpt", w.v1({"a": WEIGHTS}))]
    assert "2 checkpoints" in refusal(write(tmp_path, {"m.tar": tar(members)}))
    state = b'model_checkpoint_path: "/elsewhere/m"\n'
    assert_holds(
        read_checkpoint(write(tmp_path, {"m.tar": tar([*members, ("run/checkpoint", state)])})), {"w": WEIGHTS}
    )


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([special("m.ckpt", tarfile.SYMTYPE, "/etc/passwd")], "`m.ckpt` is a symbolic link"),
        ([special("m.ckpt", tarfile.LNKTYPE, "other")], "a hard link"),
        ([special("m.ckpt", tarfile.CHRTYPE)], "a device"),
        ([special("m.ckpt", tarfile.BLKTYPE)], "a device"),
        ([special("m.ckpt", tarfile.FIFOTYPE)], "a pipe"),
        ([("readme", b"hello")], "no checkpoint in"),
        ([("m", b"1"), ("./m", b"2")], "there twice"),
        ([("inner.tar.gz", gzip.compress(tar(bundle_members())))], "no checkpoint in"),
        ([("m.safetensors", save({"w": WEIGHTS}))], "unpack it"),
        ([(f"m{suffix}", body) for suffix, body in w.bundle({"w": WEIGHTS}).items() if suffix == ".index"], "missing"),
    ],
)
def test_archives_refused(tmp_path, members, said):
    for pack in (bytes, gzip.compress):
        assert said in refusal(write(tmp_path, {"m": pack(tar(members))}))


def test_gzip_damage(tmp_path):
    packed = gzip.compress(tar([("m.ckpt", w.v1({"w": np.random.default_rng(0).normal(size=5000)}))]), mtime=0)
    for size in (2, 10, 18, 100, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        refusal(write(tmp_path, {"m.tgz": packed[:size]}))
    for at in range(10, len(packed), 997):
        damaged = bytearray(packed)
        damaged[at] ^= 16
        refusal(write(tmp_path, {"m.tgz": bytes(damaged)}))


def test_gzip_bomb(tmp_path):
    packed = gzip.compress(bytes(300 << 20), 1)
    tracemalloc.start()
    assert "unpacks to too much" in refusal(write(tmp_path, {"m.tgz": packed}))
    lying = packed[:-4] + (1000).to_bytes(4, "little")
    assert "unpacks to too much" in refusal(write(tmp_path, {"m.tgz": lying}))
    assert tracemalloc.get_traced_memory()[1] < 1.1 * len(packed) + (200 << 20)
    tracemalloc.stop()


@pytest.mark.parametrize("size", [b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"77777777777\0", b"garbage here"])
def test_tar_with_an_absurd_size(tmp_path, size):
    body = bytearray(tar(bundle_members(), tarfile.USTAR_FORMAT))
    body[124:136] = size
    body[148:156] = b" " * 8
    body[148:156] = b"%06o\0 " % sum(body[:512])
    refusal(write(tmp_path, {"m.tar": bytes(body)}))


def test_tar_that_turns_into_garbage(tmp_path):
    body = tar(bundle_members(), tarfile.USTAR_FORMAT)
    second = body.index(b"m.data")
    damaged = body[:second] + b"garbage" + body[second + 7 :]
    assert f"no tar header at byte {second}" in refusal(write(tmp_path, {"m.tar": damaged}))


def test_tar_with_an_absurd_name(tmp_path):
    info = tarfile.TarInfo("m")
    info.pax_headers = {"path": "x" * 300_000}
    assert "name takes" in refusal(write(tmp_path, {"m.tar": tar([("m", info)])}))


# --- paths -----------------------------------------------------------------------------------------------------------


def test_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path, {f"resnet.ckpt-20000{suffix}": body for suffix, body in w.bundle({"w": WEIGHTS}).items()})
    said = refusal(tmp_path / "resnet.ckpt-2000")
    assert "no checkpoint" in said
    assert "`resnet.ckpt-20000`" in said
    assert "there is no folder" in refusal(tmp_path / "nowhere" / "m.ckpt")
    for name in ("\0", "x" * 5000, "a\udc80b"):
        refusal(tmp_path / name)
    assert "path is empty" in refusal("")


def test_data_file_without_its_index(tmp_path):
    write(tmp_path, {"m.data-00000-of-00001": b"1234"})
    said = refusal(tmp_path / "m.data-00000-of-00001")
    assert "index is missing" in said
    assert "`m.index`" in said


@pytest.mark.parametrize("gone", [0, 2])
def test_missing_data_files_are_named(tmp_path, gone):
    path = write(tmp_path, w.bundle({f"w{i}": WEIGHTS for i in range(3)}, shards=3))
    (tmp_path / f"m.data-0000{gone}-of-00003").unlink()
    assert f"`m.data-0000{gone}-of-00003` is missing" in refusal(path)
    write(tmp_path, w.bundle({"w": WEIGHTS}))
    (tmp_path / "m.index").rename(tmp_path / "n.index")
    assert "`m`" in refusal(tmp_path / "n")


def test_missing_v1_shards_are_named(tmp_path):
    write(tmp_path, {"m-00001-of-00003": w.v1({"w": WEIGHTS})})
    for name in ("m", "m-00001-of-00003", "m-00000-of-00003", "m-?????-of-00003"):
        said = refusal(tmp_path / name)
        assert "`m-00000-of-00003` is missing" in said
        assert "`m-00002-of-00003` is missing" in said
    write(tmp_path, {"m-00001-of-00002": w.v1({"w": WEIGHTS})})
    assert "more than one set" in refusal(tmp_path / "m")
    assert "one of 99999" in refusal(write(tmp_path, {"x-00000-of-99999": w.v1({"w": WEIGHTS})}))


def test_folders(tmp_path):
    assert "it is empty" in refusal(tmp_path)
    write(tmp_path, {"weights.gguf": b"GGUF" + bytes(600), "notes.txt": b"hello"})
    assert "`weights.gguf` is a GGUF file" in refusal(tmp_path)
    write(tmp_path, w.bundle({"w": WEIGHTS}))
    assert_holds(read_checkpoint(tmp_path), {"w": WEIGHTS})
    write(tmp_path, {"other.ckpt": w.v1({"a": WEIGHTS})})
    said = refusal(tmp_path)
    assert "2 checkpoints" in said
    assert "`other.ckpt`" in said
    write(tmp_path, {"checkpoint": b'model_checkpoint_path: "other.ckpt"\nall_model_checkpoint_paths: "m"\n'})
    assert_holds(read_checkpoint(tmp_path), {"a": WEIGHTS})


@pytest.mark.parametrize(
    "path", [rb"m", rb"./m", rb"/home/x/m", rb"C:\\\\train\\\\m", rb"\\155", rb"\155", rb"\x6d", rb"/a/\"b\"/m"]
)
def test_state_files(tmp_path, path):
    write(tmp_path, w.bundle({"w": WEIGHTS}))
    write(tmp_path, {"checkpoint": b'all: "x"\n  model_checkpoint_path : "' + path.replace(b"\\\\", b"\\") + b'"\n'})
    assert_holds(read_checkpoint(tmp_path), {"w": WEIGHTS})


@pytest.mark.parametrize("path", [b"../m", b"a/../../m", b"", b"..", b"/", b"a\\0b", b"..\\\\m", b"nothing"])
def test_state_files_refused(tmp_path, path):
    folder = tmp_path / "inner"
    folder.mkdir()
    write(tmp_path, w.bundle({"w": WEIGHTS}))
    refusal(write(folder, {"checkpoint": b'model_checkpoint_path: "' + path + b'"'}).parent)


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "not a regular file" in refusal("/dev/zero")
    assert "is empty" in refusal(write(tmp_path, {"m": b""}))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "an XML file"),
        (b"PK\x03\x04", "a zip archive without its end"),
        (b"\x80\x02}q\x00.", "a Python pickle, but no PyTorch file"),
        (b"\x80\x04\x95\x02\x00", "a Python pickle, but no PyTorch file"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX"),
        (b"\x93NUMPY\x01", "a NumPy array"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (b'{"weights": 1}', "a JSON file"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"BZh9", "a bzip2 file"),
        (bytes(4000), "a file of zeros"),
    ],
)
def test_foreign_files_are_named(tmp_path, body, said):
    for padding in (b"", b" " * 1000) if any(body) else (b"",):
        assert said in refusal(write(tmp_path, {"weights.ckpt": body + padding}))


def test_foreign_files_are_named_by_bytes_alone():
    assert foreign.describe(b"") is None
    assert foreign.describe(w.v1({"w": WEIGHTS})) is None


def test_graph_files_and_unknown_files(tmp_path):
    assert "holds no weights" in refusal(write(tmp_path, {"m.ckpt.meta": b"\x0a\x05hello"}))
    assert "cut short" in refusal(write(tmp_path, {"m": w.v1({"w": WEIGHTS})[:-1]}))
    assert "no TensorFlow checkpoint" in refusal(write(tmp_path, {"m": w.table([(b"key", b"value")])}))
    assert "no TensorFlow checkpoint" in refusal(write(tmp_path, {"m": w.table([])}))


# --- damage ----------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_v1_file_is_noticed(tmp_path):
    body = w.v1({"conv1/weights": WEIGHTS, "step": np.int64(7)}, block_size=60)
    path = tmp_path / "m"
    start = body.rindex(w.block(w.contents([])))
    metaindex = range(start, start + 13)  # is never used
    for at in range(len(body) - 48):
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        if at in metaindex:
            assert_holds(read_checkpoint(path), {"conv1/weights": WEIGHTS, "step": np.int64(7)})
        else:
            refusal(path)


def test_every_flipped_bit_of_a_data_file_is_noticed(tmp_path):
    files = w.bundle({"conv1/weights": WEIGHTS, "step": np.int64(7)})
    path = write(tmp_path, files)
    data = files[".data-00000-of-00001"]
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "m.data-00000-of-00001").write_bytes(damaged)
        assert "fails its checksum" in refusal(path)


@pytest.mark.parametrize("files", [{"m": w.v1({"w": WEIGHTS, "b": WEIGHTS}, block_size=60)}, w.bundle({"w": WEIGHTS})])
def test_every_truncation_is_refused(tmp_path, files):
    path = write(tmp_path, files)
    for name, body in files.items():
        victim = path if name == "m" else tmp_path / f"m{name}"
        for size in range(len(body)):
            victim.write_bytes(body[:size])
            refusal(path)
        victim.write_bytes(body)
    assert_holds(read_checkpoint(path), {"w": WEIGHTS} | ({"b": WEIGHTS} if "m" in files else {}))


ABSURD = [-1, 1 << 31, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63)]


@pytest.mark.parametrize("size", [0, 1, 2, *ABSURD])
def test_absurd_shapes(tmp_path, size):
    values = w.message((5, WEIGHTS.tobytes()))
    for shape in ((size,), (size, 0), (size, size), (size, 4), (3, 4, size) if size != 1 else (3, 4, 2), (1,) * 9):
        v1_refusal(tmp_path, v1_with(values, shape, 1))
        v2_refusal(tmp_path, v2_with(shape), WEIGHTS.tobytes())


def test_shapes_that_multiply_past_64_bits(tmp_path):
    shape = (1 << 32, 1 << 32, 12)  # 12 << 64: 12 again in 64 bits, and WEIGHTS' own size
    assert "impossible shape" in v2_refusal(tmp_path, v2_with(shape), WEIGHTS.tobytes())
    assert "impossible shape" in v1_refusal(tmp_path, v1_with(w.message((5, WEIGHTS.tobytes())), shape, 1))


@pytest.mark.parametrize("number", ABSURD)
@pytest.mark.parametrize("field", ["offset", "size", "shard"])
def test_absurd_places(tmp_path, field, number):
    said = v2_refusal(tmp_path, v2_with(**{field: number}), WEIGHTS.tobytes())
    assert "outside" in said or "data file" in said


def test_tensor_beyond_its_data_file(tmp_path):
    said = v2_refusal(tmp_path, v2_with(offset=1), WEIGHTS.tobytes())
    assert "48 bytes at byte 1" in said
    assert "the file has 48" in said


@pytest.mark.parametrize("shards", [0, -1, 1025, 1 << 31, (1 << 63) - 1])
def test_absurd_number_of_shards(tmp_path, shards):
    assert "data files" in v2_refusal(tmp_path, v2_with(head=w.message((1, shards))), WEIGHTS.tobytes())


def test_headers_refused(tmp_path):
    data = WEIGHTS.tobytes()
    assert "byte order 2" in v2_refusal(tmp_path, v2_with(head=w.header(1, 2)), data)
    newer = w.message((1, 1), (3, w.message((1, 9), (2, 2))))
    assert "another version" in v2_refusal(tmp_path, v2_with(head=newer), data)
    bad = w.message((1, 1), (3, w.message((1, 9), (3, b"\x05\x01"))))
    assert "another version" in v2_refusal(tmp_path, v2_with(head=bad), data)
    assert "another version" in v1_refusal(tmp_path, v1_with(w.message((5, data)), (3, 4), 1, versions=(2, 7)))


def test_two_tensors_may_not_share_bytes(tmp_path):
    records = [*v2_with(), (b"x", v2_with()[1][1])]
    assert "belongs to another" in v2_refusal(tmp_path, records, WEIGHTS.tobytes())


def test_names(tmp_path):
    data = WEIGHTS.tobytes()
    assert "not UTF-8" in v2_refusal(tmp_path, v2_with(name=b"\xff\xfe"), data)
    assert "not UTF-8" in v1_refusal(tmp_path, v1_with(w.message((5, data)), (3, 4), 1, name=b"\xff\xfe"))
    assert "keys do not rise" in v2_refusal(tmp_path, [*v2_with(), v2_with()[1]], data)
    assert "keys do not rise" in v2_refusal(tmp_path, [*v2_with(name=b"b"), v2_with(name=b"a")[1]], data, sort=False)
    for block_size in (1, 1 << 20):
        twice = [*v1_with(w.message((5, data)), (3, 4), 1), (b"\1", v1_with(w.message((5, data)), (3, 4), 1)[1][1])]
        assert "the same one twice" in v1_refusal(tmp_path, twice, block_size=block_size)


@pytest.mark.parametrize("kind", [0, 34, 101, 1 << 62])
def test_unknown_data_types(tmp_path, kind):
    assert f"data type {kind}" in v2_refusal(tmp_path, v2_with(kind=kind), WEIGHTS.tobytes())
    assert f"data type {kind}" in v1_refusal(tmp_path, v1_with(w.message((5, WEIGHTS.tobytes())), (3, 4), kind))


def test_values_that_do_not_fit(tmp_path):
    for kind, field, value in ((6, 7, 128), (6, 7, -129), (4, 7, -1), (10, 11, 2), (3, 7, 1 << 31), (19, 13, 65536)):
        assert "holds a value that is no" in v1_refusal(tmp_path, v1_with(w.message((field, value)), (), kind))
    assert "neither 0 nor 1" in v2_refusal(tmp_path, v2_with((2,), 10, b"\0\2"), b"\0\2")
    for values in (b"", w.message((7, 1)), w.message((5, b"\0" * 3)), w.message((5, b"\0" * 52))):
        v1_refusal(tmp_path, v1_with(values, (3, 4), 1))
    v1_refusal(tmp_path, v1_with(w.message((10, b"\xff" * 10)), (1,), 9))
    v1_refusal(tmp_path, v1_with(w.message((10, b"\xff" * 11 + b"\0")), (1,), 9))


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([((0, 2), (0, 4))], "leave a gap"),
        ([((0, 2), (0, 4)), ((1, 2), (0, 4))], "overlap"),
        ([((0, 3), (0, 4)), ((0, 1), (0, 4))], "overlap"),
        ([((0, 2), (0, 2)), ((0, 2), (0, 2)), ((0, 1), (0, 4))], None),
        ([((0, 2), (0, 4)), ((0, 1), (0, 4))], "overlap"),  # the volumes add up
        ([((0, 4), (0, 3))], "leaves a dimension of 3"),
        ([((-1, 2), (0, 4))], "leaves a dimension"),
        ([((0, 1 << 62), (0, 4))], "leaves a dimension"),
        ([((0, 3),)], "1 dimensions, its tensor 2"),
        ([((0, 3), (0, 4), (0, 1))], "3 dimensions, its tensor 2"),
        ([((0, 3), (0, -2))], "leaves a dimension"),
    ],
)
def test_slices_refused(tmp_path, boxes, said):
    records, data = [(b"", w.header())], b""
    listed = [(7, w.slice_message(box, len(box))) for box in boxes]
    records.append((b"w", w.message((1, 1), (2, w.shape_message((3, 4))), *listed)))
    for box in {tuple(box): box for box in boxes}.values():
        part = np.zeros([max(0, min(length, 9)) for _, length in box], np.float32)
        records.append((w.slice_key("w", box), w.entry(part, part.shape, 1, offset=len(data))))
        data += part.tobytes()
    message = v2_refusal(tmp_path, records, data)
    assert said is None or said in message

    metas = [(4, w.slice_message(box, len(box))) for box in boxes]
    meta = w.message((1, b"w"), (2, w.shape_message((3, 4))), (3, 1), *metas)
    v1 = [(b"", w.message((1, w.message((1, meta)))))]
    for i, box in enumerate(boxes):
        part = np.zeros([max(0, min(length, 9)) for _, length in box], np.float32)
        saved = w.message((1, b"w"), (2, w.slice_message(box, len(box))), (3, w.v1_values(part)))
        v1.append((b"\0w%d" % i, w.message((2, saved))))
    v1_refusal(tmp_path, v1)


def test_slices_that_are_not_there(tmp_path):
    listed = w.message((1, 1), (2, w.shape_message((3, 4))), (7, w.slice_message([(0, 3), (0, 4)], 2)))
    assert "a slice that is not there" in v2_refusal(tmp_path, [(b"", w.header()), (b"w", listed)])
    only_meta = w.v1_records({"w": WEIGHTS})[:1]
    assert "slices that it lists are not there" in v1_refusal(tmp_path, only_meta)
    only_data = [w.v1_records({})[0], *w.v1_records({"w": WEIGHTS})[1:]]
    assert "not in its list" in v1_refusal(tmp_path, only_data)


def block_of(*entries, restarts=(0,)):
    """A table of one block: entries of (shared, unshared, value length, bytes that follow)."""
    body = b"".join(b"".join(map(w.varint, entry[:3])) + entry[3] for entry in entries)
    trailer = b"".join(number.to_bytes(4, "little") for number in (*restarts, len(restarts)))
    return w.table_of_blocks([(b"", body + trailer)])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (w.MAGIC, "footer alone takes 48"),
        (bytes(10) + w.MAGIC, "footer alone takes 48"),
        (w.footer((0, 0), (0, 0)), "does not fit"),
        (bytes(100) + w.footer((0, 1 << 62), (0, 0)), "does not fit"),
        (bytes(100) + w.footer((0, 0), ((1 << 64) - 1, 1)), "does not fit"),
        (b"\xff" * 100 + b"\xff" * 40 + w.MAGIC, "longer than ten bytes"),
        (b"\xff" * 100 + b"\xff" * 9 + b"\2" + bytes(30) + w.MAGIC, "does not fit in 64 bits"),
        (block_of((0, 0, 1 << 30, b"\x0a")), "claims 0 + 1073741824 bytes"),
        (block_of((0, (1 << 64) - 1, 1, b"\x0a")), "claims"),
        (block_of((5, 0, 1, b"\x0a")), "shares 5 bytes of a key of 0"),
        (block_of((0, 0, 1, b"\x0a"), restarts=(1,)), "do not rise from 0"),
        (block_of((0, 0, 1, b"\x0a"), restarts=(0, 0)), "do not rise from 0"),
        (block_of((0, 0, 1, b"\x0a"), restarts=(0, 1 << 31)), "do not rise from 0"),
        (w.table_of_blocks([(b"", b"")]), "restarts do not fit"),
        (w.table_of_blocks([(b"", b"\xff" * 8)]), "4294967295 restarts do not fit"),
    ],
)
def test_tables_refused(tmp_path, table, said):
    assert said in refusal(write(tmp_path, {"m": table}))


def test_unknown_compression(tmp_path):
    body = w.contents([(b"", w.header())]) + b"\2"
    first = body + w.masked(body).to_bytes(4, "little")
    index = w.block(w.contents([(b"", w.varint(0) + w.varint(len(body) - 1))]))
    table = first + index + w.footer((len(first), 0), (len(first), len(index) - 5))
    assert "has compression 2" in refusal(write(tmp_path, {"m": table}))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (b"\x00\x01", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x08", "cut off"),
        (b"\x12\x05\x12", "claims 5 bytes"),
        (b"\x35\x01", "claims 4 bytes"),
        (b"\x0a\x00", "field 1 is a length-delimited field, expected a varint"),
        (b"\x10\x01", "field 2 is a varint"),
        (b"\x30\x01", "field 6 is a varint"),
        (b"\x08\x01\x12\x02\x18\x01", "unknown rank"),
        (b"\x08\x01\x12\x02\x10\x01", "field 2 is a varint"),
    ],
)
def test_messages_refused(tmp_path, entry, said):
    assert said in v2_refusal(tmp_path, [(b"", w.header()), (b"w", entry)], b"1234")


def test_records_refused(tmp_path):
    assert "data type 0" in v2_refusal(tmp_path, [(b"", w.header()), (b"w", b"")])

    array = np.zeros((2, 4), np.float32)
    boxes = [[(0, 3), (0, 4)]]
    listed = w.message((1, 1), (2, w.shape_message((3, 4))), (7, w.slice_message(boxes[0], 2)))
    records = [(b"", w.header()), (b"w", listed), (w.slice_key("w", boxes[0]), w.entry(array, (2, 4), 1))]
    assert "does not match its list" in v2_refusal(tmp_path, records, array.tobytes())

    meta = w.message((1, b"w"), (2, w.shape_message((3, 4))), (3, 1))
    assert "listed twice" in v1_refusal(tmp_path, [(b"", w.message((1, w.message((1, meta), (1, meta)))))])
    parts = {"m-00000-of-00002": w.v1({"w": WEIGHTS}), "m-00001-of-00002": w.v1({"w": WEIGHTS.T})}
    assert "listed twice" in refusal(write(tmp_path, parts))
    parts["m-00001-of-00002"] = parts["m-00000-of-00002"]
    assert "overlap" in refusal(write(tmp_path, parts))
    assert "takes 3" in v1_refusal(tmp_path, v1_with(w.message((7, b"\1\2")), (3,), 3))


def test_a_data_file_of_empty_tensors_alone(tmp_path):
    empty = {"w": np.zeros((0, 3), np.float32)}
    path = write(tmp_path, w.bundle(empty))
    assert (tmp_path / "m.data-00000-of-00001").stat().st_size == 0
    assert_holds(read_checkpoint(path), empty)


# --- what would cost too much ----------------------------------------------------------------------------------------


def test_one_slice_listed_ten_thousand_times(tmp_path):
    array = np.zeros(1 << 20, np.float32)
    box = [(0, 1 << 20)]
    listed = [(7, w.slice_message(box, 1))] * 10_000
    records = [(b"", w.header()), (b"w", w.message((1, 1), (2, w.shape_message(array.shape)), *listed))]
    records.append((w.slice_key("w", box), w.entry(array, array.shape, 1)))
    assert "10000 slices" in v2_refusal(tmp_path, records, array.tobytes())


def test_one_block_named_ten_thousand_times(tmp_path):
    body = w.block(w.contents([(b"", w.header() + w.message((15, bytes(1 << 20))))]))
    index = w.block(w.contents([(b"%05d" % i, w.varint(0) + w.varint(len(body) - 5)) for i in range(10_000)]))
    table = body + index + w.footer((len(body), 0), (len(body), len(index) - 5))
    assert "begins before" in refusal(write(tmp_path, {"m": table}))


def test_an_index_that_names_itself(tmp_path):
    size = len(w.contents([(b"a", b"\0\0")]))
    index = w.block(w.contents([(b"a", w.varint(0) + w.varint(size))]))
    refusal(write(tmp_path, {"m": index + w.footer((0, size), (0, size))}))


def test_keys_that_grow_out_of_their_prefix(tmp_path):
    key = b"k" * 100_000
    records = b"".join(w.varint(0 if i == 0 else 100_000 + i - 1) + b"\1\0k" for i in range(20_000))
    first = w.varint(0) + w.varint(len(key)) + b"\0" + key
    contents = first + records[4:] + b"\0\0\0\0\1\0\0\0"
    assert "would take" in refusal(
        write(tmp_path, {"m": w.table_of_blocks([(b"", w.contents([(b"", w.header())])), (b"z", contents)])})
    )


def test_more_fields_than_any_checkpoint(tmp_path):
    assert "too many small pieces" in v2_refusal(tmp_path, [(b"", w.header()), (b"w", b"\x08\x01" * 500_000)])
    assert "too many small pieces" in v1_refusal(tmp_path, v1_with(b"\x38\x01" * 500_000, (500_000,), 3))


def test_more_integers_than_memory(tmp_path):
    count = 40 << 20
    assert "would take" in v1_refusal(tmp_path, v1_with(w.message((10, bytes(count))), (count,), 9))


# --- safetensors -----------------------------------------------------------------------------------------------------


def safetensors(header, data=b""):
    return len(header).to_bytes(8, "little") + header + data


def test_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {np.dtype(kind).name: rng.integers(0, 2, (2, 3)).astype(kind) for kind in "efdbhilBHILq?"}
    tensors |= {"scalar": np.array(2, np.float32), "empty": np.zeros((0, 3), np.float32)}
    path = write(tmp_path, {"named.bin": save(tensors, {"made by": "{tests}"})})
    checkpoint = read_checkpoint(path)
    assert_holds(checkpoint, tensors)
    assert checkpoint.format == "safetensors"
    assert not checkpoint["float32"].flags.owndata
    assert_holds(read_checkpoint(tmp_path), tensors)


def test_safetensors_bfloat16_and_float8(tmp_path):
    header = "{" + entry_text("[2]", dtype="BF16") + "," + entry_text("[1]", "[4,5]", "F8_E4M3", "q") + "}"
    checkpoint = read_checkpoint(write(tmp_path, {"m": safetensors(header.encode(), b"\x80\x3f\0\xc0\0")}))
    assert_holds(checkpoint, {"w": np.array([1, -2], np.float32)})
    assert checkpoint.skipped == {"q": "F8_E4M3"}


def entry_text(shape="[1]", offsets="[0,4]", dtype="F32", name="w"):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "{}extra",
        "{" + entry_text() + "," + entry_text() + "}",  # a name twice
        "{" + entry_text(offsets="[0,8]") + "}",  # beyond the file
        "{" + entry_text(offsets="[4,0]") + "}",
        "{" + entry_text(offsets="[-4,0]") + "}",
        "{" + entry_text(offsets="[0,18446744073709551615]") + "}",
        "{" + entry_text(shape="[2]") + "}",
        "{" + entry_text(shape="[4611686018427387904,4]") + "}",
        "{" + entry_text(shape="[1,1,1,1,1,1,1,1,1]") + "}",
        "{" + entry_text(dtype="F31") + "}",
        "{" + entry_text() + "," + entry_text(name="x") + "}",  # overlap
        "{" + entry_text(offsets="[1,4]", dtype="I8", shape="[3]") + "}",  # hole
        '{"w":1}',
        '{"w":' + "[" * 100_000,
        '{"w":' + '{"a":' * 60_000,
        "{" + ",".join(entry_text("[0]", "[0,0]", name=f"w{i}") for i in range(8193)) + "}",
        '{"__metadata__":{"a":' + "[]," * 100_000 + "0}}",
    ],
)
def test_safetensors_refused(tmp_path, header):
    refusal(write(tmp_path, {"m.safetensors": safetensors(header.encode(), b"\0\0\x80\x3f")}))


def test_safetensors_header_beyond_the_file_or_too_long(tmp_path):
    assert "header claims" in refusal(write(tmp_path, {"m": (1 << 30).to_bytes(8, "little") + b"{}"}))
    long = b'{"__metadata__":{"a":"' + b"x" * (9 << 20) + b'"}}'
    assert "header claims" in refusal(write(tmp_path, {"m": safetensors(long)}))
    assert "refuses it" in refusal(write(tmp_path, {"m": save({"w": WEIGHTS})[:-1]}))
