"""Checkpoints: files in, named arrays out.

`read_checkpoint` finds out what a path is by looking at its bytes, and returns what it holds: names untouched, arrays
as stored. Nothing here knows of networks, runs code from a file, or believes a number before comparing it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resforward.checkpoints import (
    archive,
    foreign,
    keras_h5,
    keras_zip,
    locate,
    npz,
    onnx,
    safetensors,
    tf_bundle,
    tf_table,
    tf_v1,
    torch_stream,
    torch_tar,
    torch_zip,
)
from resforward.checkpoints.arrays import Array, Contents, as_numpy
from resforward.checkpoints.files import DiskFolder, File, Folder
from resforward.checkpoints.onnx import OnnxGraph
from resforward.errors import CheckpointError
from resforward.hub import local_path

__all__ = ["Checkpoint", "read_checkpoint"]


class _Format(Protocol):
    """A module that reads one format."""

    NAME: str

    def recognises(self, file: File) -> bool: ...

    def read(self, folder: Folder, name: str) -> Contents: ...


_FORMATS: tuple[_Format, ...] = (
    tf_v1,
    tf_bundle,
    safetensors,
    keras_h5,
    keras_zip,
    npz,
    torch_zip,
    torch_stream,
    torch_tar,
    onnx,
)


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(Mapping[str, Array]):
    """The tensors of one checkpoint: a read-only mapping from the file's own names to arrays.

    >>> checkpoint = read_checkpoint("resnet_v2_50.ckpt")  # doctest: +SKIP
    >>> checkpoint["resnet_v2_50/logits/biases"].shape  # doctest: +SKIP
    (1001,)
    >>> checkpoint.format  # doctest: +SKIP
    'TensorFlow V1 table'

    Arrays are read-only, and wherever the file holds a tensor's bytes in one run they are views of the mapped file and
    may be unaligned. bfloat16, and tensors of the other byte order, are converted each time they are asked for: to
    float32, and to this machine's byte order.

    Attributes:
        path: what was read, as it was given; of hf://, the file in the cache.
        format: the format's name, for messages.
        skipped: names that hold no numbers or lie beside the model, such as `_CHECKPOINTABLE_OBJECT_GRAPH` or
            `optimizer`, and what they hold.
        metadata: what the file says of itself, where its format has a place for that: texts by key.
        graph: what is computed with the tensors, where the format says that: ONNX.
    """

    path: Path
    format: str
    skipped: Mapping[str, str]
    metadata: Mapping[str, str]
    graph: OnnxGraph | None
    _stored: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        return as_numpy(self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __repr__(self) -> str:
        size = sum(array.nbytes for array in self._stored.values())
        return f"<Checkpoint {self.path}: {self.format}, {len(self)} tensors, {size / 1e6:.1f} MB>"


def read_checkpoint(path: str | os.PathLike[str], *, external_data: bool = False) -> Checkpoint:
    """Read a checkpoint, whatever its format.

    >>> for name, array in read_checkpoint("resnet_v1_50_2016_08_28.tar.gz").items():  # doctest: +SKIP
    ...     print(name, array.shape, array.dtype)

    Args:
        path: a TensorFlow V1 file or any of its shards; a V2 bundle by its prefix, its `.index` or any of its
            `.data-?????-of-?????`; a `.safetensors` file; a PyTorch file (`.pth`, `.pt`) of a state
            dict, alone or with what training kept beside it; a `.h5`, `.weights.h5` or `.keras` file of Keras; an
            `.onnx` file; a `.npz` file of NumPy; a tar archive of these, plain or gzipped; or a folder, where a
            `checkpoint` file names the one to read, or there is just one. Or, with huggingface_hub installed,
            hf://owner/name[@revision][/path/in/repository].
        external_data: read the tensors that an `.onnx` file keeps in other files of its folder.

    Raises:
        CheckpointError: there is no such file, it is of another kind, damaged, holds code, or part of it is missing.
            What is returned has been compared with the checksums that the format has.
    """
    if not os.fspath(path):  # else an unset variable would mean the current folder
        raise CheckpointError("the path is empty", help="pass a checkpoint file or its folder")
    path = Path(local_path(path))
    folder: Folder
    if os.path.isdir(path) and not os.path.isfile(f"{path}.index"):
        folder = DiskFolder(path, external_data)
        name = locate.only(folder)
    else:
        folder = DiskFolder(path.parent, external_data)
        name = locate.resolve(folder, path.name)
        if name == locate.STATE_FILE and folder.has(name):
            name = locate.latest(folder, name) or name
    file = folder.open(name)
    if not tf_table.is_table(file) and archive.recognises(file):
        folder = archive.unpack(file)
        name = locate.only(folder)
        file = folder.open(name)
    for module in _FORMATS:
        if module.recognises(file):
            contents = module.read(folder, name)
            return Checkpoint(path, module.NAME, contents.skipped, contents.metadata, contents.graph, contents.tensors)
    raise _unknown(file)


_KINDS = "a TensorFlow, PyTorch, Keras, ONNX, .safetensors or .npz file"


def _unknown(file: File) -> CheckpointError:
    if not len(file.data):
        return CheckpointError(f"`{file.name}` is empty", help="copy or download it again")
    kind = foreign.describe(bytes(file.data[:512]))
    if kind:
        return CheckpointError(f"`{file.name}` is {kind.what}", help=kind.help)
    if file.name.endswith(".meta"):
        return CheckpointError(
            f"`{file.name}` is a TensorFlow graph, which holds no weights",
            help=f"pass `{file.name.removesuffix('.meta')}`",
        )
    if tf_table.is_table(file):
        return CheckpointError(
            f"`{file.name}` is a table, but of no TensorFlow checkpoint",
            found=["its first record is neither a list of tensors (V1) nor a header (V2)"],
            help=f"pass {_KINDS}",
        )
    first, last = bytes(file.data[:8]).hex(" "), bytes(file.data[-8:]).hex(" ")
    return CheckpointError(
        f"`{file.name}` is no checkpoint of a known format",
        found=[
            f"{len(file.data)} bytes; the first are {first}, the last {last}",
            f"a TensorFlow checkpoint ends in {tf_table.MAGIC.hex(' ')}: without it, it is cut short",
        ],
        help=f"copy or download it again, or pass {_KINDS}",
    )
