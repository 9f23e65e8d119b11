"""A model as a file, for other engines or for us: the ending of its name says the format; it is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .errors import NetworkError, ResforwardError, TargetError, nearest
from .graph import INPUT, Graph, plain_graph
from .model import Model
from .own_file import WRITER, WRITER_NAME, Storage, describe, own_bytes
from .whole_file import put

REPLACES = "overwrite=True replaces it"  # what helps, to whoever calls `convert`


class Options(NamedTuple):
    """What `convert` was asked for."""

    end_points: Sequence[str]
    size: tuple[int, int] | None
    storage: Storage


class Written(NamedTuple):
    """The bytes of a file, and what it gives and says."""

    data: bytes
    outputs: tuple[str, ...]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote.

    Args:
        path: of the file. format: its name. bytes: its size.
        outputs: names of the tensors that come out, in order.
        metadata: what the file says about itself.
    """

    path: str
    format: str
    bytes: int
    outputs: tuple[str, ...]
    metadata: dict[str, str]


def convert(
    model: Model,
    path: str | os.PathLike[str],
    *,
    end_points: Iterable[str] = (),
    size: tuple[int, int] | None = None,
    storage: Storage = "float32",
    overwrite: bool = False,
) -> Conversion:
    """Write a model as a file: for other engines as `.onnx`, or as a `.safetensors` that says all that the model is.

    >>> convert(load("fashion"), "fashion.onnx", end_points=["block1", "predictions"]).outputs
    ('logits', 'block1', 'predictions')

    In `.onnx`, batch norm and ReLU stay as they are, operations of their own, and preprocessing and labels are in the
    metadata. A `.safetensors` file is described in docs/format.md; `load` reads it without any inference.
    The file takes its name when it is complete, so a full disk leaves nothing behind, and nothing of an older file is
    lost: without `overwrite`, none that somebody else writes in the meantime either.

    Args:
        model: with its weights.
        path: of the file.
        end_points: of further outputs, by canonical name or full slim key; one may be a string. Of `.onnx` only.
        size: height and width of the images, pixels; None leaves them free. The number of images is always free. Of
            `.onnx` only.
        storage: how weights are stored: "float32", or "bfloat16" in half the space, rounded. Of `.safetensors` only.
        overwrite: replace a file that is there already.

    Raises:
        TargetError: an ending that stands for no format, a folder, or a file that is there already.
        NetworkError: a network that the format cannot hold.
        EndPointError: names that are no end points of this network; the nearest are suggested.
        ResforwardError: a file that cannot be written, or a package that is not installed.
    """
    path = os.fspath(path)
    check_target(path, overwrite)
    name, write = FORMATS[_ending(path)]
    end_points = [end_points] if isinstance(end_points, str) else list(end_points)
    data, outputs, metadata = write(model, Options(end_points, size, storage))
    try:
        put(data, os.path.realpath(path) if overwrite else path, overwrite)
    except FileExistsError as error:
        raise _there_already(path) from error
    except OSError as error:
        raise ResforwardError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    return Conversion(path, name, len(data), outputs, metadata)


def check_target(path: str, overwrite: bool) -> None:
    """Refuse a file that could not be written, before any work is done.

    >>> check_target("fashion.pb", overwrite=False)
    Traceback (most recent call last):
    resforward.errors.TargetError: `fashion.pb` ends like no format that is written here
    help: the endings are .onnx, .safetensors

    Raises:
        TargetError: as `convert`.
    """
    if (ending := _ending(path)) not in FORMATS:
        close = nearest(ending, FORMATS)
        raise TargetError(
            f"`{path}` ends like no format that is written here",
            found=[close] if close else [],
            help=f"the endings are {', '.join(FORMATS)}",
        )
    if os.path.isdir(path):
        raise TargetError(f"{path} is a folder")
    if os.path.lexists(path) and not overwrite:
        raise _there_already(path)


def _there_already(path: str) -> TargetError:
    return TargetError(f"{path} is there already", help=REPLACES)


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _onnx(model: Model, options: Options) -> Written:
    if options.storage != "float32":
        raise NetworkError("an ONNX file holds float32", help="storage is for a .safetensors file")
    graph = plain_graph(model.network, model.weights, options.end_points, size=options.size)
    metadata = _metadata(model, graph)
    try:
        from .onnx_file import onnx_bytes
    except ImportError as error:
        raise ResforwardError(
            "the package that ONNX files are written with cannot be imported",
            found=[str(error)],
            help="pip install 'resforward[onnx]'",
        ) from error
    return Written(onnx_bytes(graph, metadata), graph.outputs, metadata)


def _safetensors(model: Model, options: Options) -> Written:
    if options.end_points or options.size:
        raise NetworkError(
            "a .safetensors file has no outputs and no size", help="end points and sizes are for an .onnx file"
        )
    metadata = describe(model.network, model.preprocess, model.labels)
    return Written(own_bytes(model.weights, metadata, options.storage), (), metadata)


# By ending: the format's name, and what makes the bytes of a file.
FORMATS: dict[str, tuple[str, Callable[[Model, Options], Written]]] = {
    ".onnx": ("onnx", _onnx),
    ".safetensors": ("safetensors", _safetensors),
}


def _metadata(model: Model, graph: Graph) -> dict[str, str]:
    """What whoever runs the file needs to know, as text."""
    height, width, channels = graph.shape
    row = model.preprocess
    order = f", {row.channels}" if row else ""
    known = {
        WRITER: WRITER_NAME,
        "network": model.network.name,
        "source": model.source,
        "input": f"{INPUT} (N, {channels}, {height or 'H'}, {width or 'W'}) float32{order}",
        "pictures": row.describe() if row else "",
        "preprocess": json.dumps(dataclasses.asdict(row)) if row else "",
        "labels": json.dumps(model.labels) if model.labels else "",
    }
    # A path need not be Unicode, and metadata must.
    return {key: text.encode(errors="backslashreplace").decode() for key, text in known.items() if text}
