"""NumPy's archives are read to the bit; what NumPy would not write, and what can run code, is refused by name."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from resforward.checkpoints import read_checkpoint
from resforward.errors import CheckpointError

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def refusal(path: Path) -> str:
    """The message that a path is refused with."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def entry(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    body = io.BytesIO()
    npy.write_array(body, array, version=version, allow_pickle=True)
    return body.getvalue()


def header(
    text: str | bytes, version: tuple[int, int] = (1, 0), size: int | None = None, numbers: bytes = b""
) -> bytes:
    """An entry with a header of one's own."""
    raw = text.encode() if isinstance(text, str) else text
    length = struct.pack("<H" if version == (1, 0) else "<I", len(raw) if size is None else size)
    return b"\x93NUMPY" + bytes(version) + length + raw + numbers


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, body in members.items():
            file.writestr(name, body)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f8", "<i4", ">i8", "|u1", "<u2", "|i1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_what_numpy_wrote(tmp_path: Path, save: Any, dtype: str, order: Any) -> None:
    arrays = {
        "resnet/root_block/kernel": np.asarray(ARRAY.astype(dtype), order=order),
        "scalar": np.array(1).astype(dtype),
        "flat": np.array([1, 0, 1]).astype(dtype),
        "empty": np.zeros((0, 3), dtype),
    }
    save(tmp_path / "a.npz", **arrays)
    checkpoint = read_checkpoint(tmp_path / "a.npz")
    assert checkpoint.format == "NumPy archive"
    assert checkpoint.keys() == arrays.keys()
    for name, array in arrays.items():
        found = checkpoint[name]
        assert (found.dtype, found.shape) == (array.dtype.newbyteorder("="), array.shape)
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version(tmp_path: Path, version: tuple[int, int]) -> None:
    path = archive(tmp_path / "a.npz", {"w.npy": entry(ARRAY, version)})
    np.testing.assert_array_equal(read_checkpoint(path)["w"], ARRAY)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 12L), }", (2, 12)),  # Python 2
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,12), }\n", (2, 12)),  # cnpy
        ("{'descr':'<f4','fortran_order':True,'shape':(24,)}", (24,)),
        ("{'descr': 'f4', 'fortran_order': False, 'shape': (24,), }   \n", (24,)),
    ],
)
def test_headers_of_other_writers(tmp_path: Path, text: str, shape: tuple[int, ...]) -> None:
    path = archive(tmp_path / "a.npz", {"w.npy": header(text, numbers=ARRAY.tobytes())})
    assert read_checkpoint(path)["w"].shape == shape


def test_arrays_that_are_stored_are_views_of_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=ARRAY)
    assert not read_checkpoint(tmp_path / "a.npz")["w"].flags.owndata


def test_what_is_no_weight_is_skipped_by_name(tmp_path: Path) -> None:
    arrays = {
        "names": np.array(["a", "b"]),
        "bytes": np.array([b"a"]),
        "day": np.array("2020-01-01", "M8[D]"),
        "record": np.zeros(2, [("a", "f4"), ("b", "i4")]),
        "complex": np.zeros(2, np.complex64),
        "half": np.zeros(2, "V2"),
        "long": np.zeros(2, np.longdouble),
        "w": ARRAY,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
        file.writestr("notes.txt", b"hello")
    checkpoint = read_checkpoint(tmp_path / "a.npz")
    assert list(checkpoint) == ["w"]
    assert checkpoint.skipped == {
        "names": "text",
        "bytes": "text",
        "day": "dates",
        "record": "records",
        "complex": "complex numbers",
        "half": "values of no known kind",
        "long": "numbers of a size that is not read",
        "notes.txt": "no array",
    }


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    np.savez(tmp_path / "a.npz", w=ARRAY, bomb=np.array([Bomb()], object))
    said = refusal(tmp_path / "a.npz")
    assert "entry `bomb.npy` holds Python objects, a pickle, which can run code" in said
    assert not (tmp_path / "ran").exists()


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (24,), }\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no NumPy array"),
        (b"\x93NUMPX", "no NumPy array"),
        (b"\x93NUMPY\1", "cut short"),
        (header(GOOD, (4, 0), numbers=ARRAY.tobytes()), "version 4.0"),
        (b"\x93NUMPY\1\0\1", "cut short"),
        (header(GOOD, size=60000), "claims a header of 60000 bytes"),
        (header(GOOD, (2, 0), size=(1 << 32) - 1), "claims a header of 4294967295 bytes"),
        (header(GOOD, numbers=ARRAY.tobytes()[:-1]), "has 95 bytes"),
        (header(GOOD, numbers=ARRAY.tobytes() + b"\0"), "has 97 bytes"),
        (header(GOOD.replace("24", "9" * 18)), "impossible shape"),
        (header(GOOD.replace("24", "9" * 19)), "that NumPy does not write"),
        (header(GOOD.replace("24,", "-24,")), "that NumPy does not write"),
        (header(GOOD.replace("24,", "2,,12")), "that NumPy does not write"),
        (header(GOOD.replace("24,", "24,,")), "that NumPy does not write"),
        (header(GOOD.replace("24,", ",")), "that NumPy does not write"),
        (header(GOOD.replace("24,", "1," * 9)), "9 dimensions"),
        (header(GOOD.replace("(24,)", "__import__('os').system('true')")), "that NumPy does not write"),
        (header(GOOD.replace("False", "0")), "that NumPy does not write"),
        (header(GOOD.replace("<f4", "<q9")), "a type that NumPy does not know"),
        (header(GOOD.replace("<f4", "(3,)f4,i4")), "a type that NumPy does not know"),
        (header(GOOD.replace("'descr': '<f4', ", "")), "that NumPy does not write"),
        (header(GOOD + "x"), "that NumPy does not write"),
        (header(GOOD + " " * 10_000, numbers=ARRAY.tobytes()), "at most 10000"),
        (header(GOOD.replace("<f4", "|b1"), numbers=b"\2" * 24), "neither 0 nor 1"),
        (header(b"\xff" * 100, (3, 0)), "that NumPy does not write"),
        (header("[" * 9000), "that NumPy does not write"),
    ],
)
def test_what_numpy_would_not_write(tmp_path: Path, body: bytes, message: str) -> None:
    assert message in refusal(archive(tmp_path / "a.npz", {"w.npy": body}))


def test_damage_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=ARRAY)
    body = bytearray((tmp_path / "a.npz").read_bytes())
    body[200] ^= 1  # among the numbers
    (tmp_path / "a.npz").write_bytes(body)
    assert "entry `w.npy` fails its checksum" in refusal(tmp_path / "a.npz")


def test_bombs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", entry(np.zeros(1 << 25, np.float32)))
    assert "it unpacks to too much" in refusal(tmp_path / "a.npz")


def test_a_long_first_name(tmp_path: Path) -> None:
    """As BiT's are: an archive is told by how its first name ends."""
    np.savez(tmp_path / "a.npz", **{"resnet/" * 100 + "kernel": ARRAY})
    assert read_checkpoint(tmp_path / "a.npz").format == "NumPy archive"


def test_folders_and_archives(tmp_path: Path) -> None:
    """The only one of a folder is meant; beside a checkpoint it is something else's."""
    np.savez(tmp_path / "a.npz", w=ARRAY)
    assert list(read_checkpoint(tmp_path)) == ["w"]
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "a.npz", arcname="a.npz")
    assert list(read_checkpoint(tmp_path / "a.tar")) == ["w"]
    (tmp_path / "a.tar").unlink()
    golden = Path(__file__).parent / "golden" / "keras" / "weights.h5"
    (tmp_path / "b.h5").write_bytes(golden.read_bytes())
    assert read_checkpoint(tmp_path).format == "Keras HDF5"
