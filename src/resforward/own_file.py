"""Our own file: weights as safetensors, and in its metadata everything else that a model is; docs/format.md.

The network is written as what it is made from, a family's row and Blocks, and made again by `resnet`, which checks it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, NetworkError
from .families import Family, Stem
from .network import Block, Network, UnitKind, basic, bottleneck
from .preprocess import Preprocess
from .resnet import resnet

VERSION = 1  # of what the metadata means; a file says the oldest that can read it
KEY = "resforward"
WRITER, WRITER_NAME = "writer", "resforward"  # in the metadata of an ONNX file that `convert` wrote
_KINDS: Mapping[str, UnitKind] = {kind.name: kind for kind in (bottleneck, basic)}
_OPTIONS = {"num_classes": int, "input_channels": int, "global_pool": bool, "epsilon": float}
_AGAIN = "it was changed by hand, or damaged; convert the original again"
_MOST = 4096  # Blocks, units of all of them, items of a list

Storage = Literal["float32", "bfloat16"]
Row = TypeVar("Row")


class Description(NamedTuple):
    """What a file says beside its weights."""

    network: Network
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None


def describe(network: Network, preprocess: Preprocess | None, labels: Sequence[str] | None) -> dict[str, str]:
    """The metadata of a file.

    >>> from resforward import NETWORKS
    >>> understand(describe(NETWORKS["fashion"], None, ["coat"] * 10), "my.safetensors").labels[0]
    'coat'

    Raises:
        NetworkError: a network that its family and its Blocks do not make: one with an output stride, which is said
            when it is loaded, or with a unit replaced.
    """
    if network.output_stride is not None:
        raise NetworkError(
            f"{network.name} was made with output_stride={network.output_stride}",
            help="convert it without; `load` takes output_stride for whatever it loads",
        )
    # Weights are standardised at load, so what is written are standardised ones.
    network = replace(network, family=replace(network.family, weight_epsilon=None))
    table = {
        "name": network.name,
        "family": asdict(network.family),
        "stem": asdict(network.stem) if network.stem else None,
        "blocks": [
            [name, units[0].kind.name, [[unit.depth, unit.depth_bottleneck, unit.stride] for unit in units]]
            for name, units in network.blocks.items()
        ],
        **{key: getattr(network, key) for key in _OPTIONS},
    }
    if _network(json.loads(json.dumps(table))) != network:
        raise NetworkError(f"{network.name} is not what its family and its Blocks make", help="convert it to .onnx")
    told = {
        "version": VERSION,
        "network": table,
        "preprocess": asdict(preprocess) if preprocess else None,
        "labels": list(labels) if labels is not None else None,
    }
    return {KEY: json.dumps(told)}


def own_bytes(weights: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str], storage: Storage) -> bytes:
    """A safetensors file: the size of the header, the header, and the tensors one after another.

    The library writes bfloat16 only from other libraries' arrays, and from memory addresses; that its reader takes
    what is written here, the tests see to.

    Raises:
        NetworkError: an unknown storage.
    """
    if storage not in get_args(Storage):
        raise NetworkError(f"there is no storage called {storage!r}", help=f"there are {', '.join(get_args(Storage))}")
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    pieces, end = [], 0
    for name, array in weights.items():
        pieces.append(array.astype("<f4").tobytes() if storage == "float32" else _bfloat16(array).tobytes())
        begin, end = end, end + len(pieces[-1])
        dtype = "F32" if storage == "float32" else "BF16"
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)  # tensors begin on a cache line, and what is mapped is aligned
    return b"".join([(len(text)).to_bytes(8, "little"), text, *pieces])


def _bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to the nearest, ties to even; for finite values."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    rounded: npt.NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    return rounded


def understand(metadata: Mapping[str, str], source: str) -> Description | None:
    """What a file's metadata says; None where it is no file of ours.

    Args:
        metadata: of a safetensors file.
        source: its name, for messages.

    Raises:
        CheckpointError: metadata that is not as docs/format.md has it, or is of a later version.
    """
    if KEY not in metadata:
        return None
    try:
        told = json.loads(metadata[KEY])
        version = _typed(told["version"], int)
        if version > VERSION:
            raise CheckpointError(
                f"{source} is of version {version}, and up to {VERSION} is known here",
                help="pip install --upgrade resforward",
            )
        network = _network(told["network"])
        preprocess = None if told["preprocess"] is None else _row(Preprocess, told["preprocess"])
        labels = None if told["labels"] is None else tuple(_typed(label, str) for label in told["labels"])
    except NetworkError as error:
        raise CheckpointError(f"{source} describes no network: {error.message}", found=error.found) from error
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise _changed(source, error) from error
    return fitting(network, preprocess, labels, source)


def fitting(
    network: Network, preprocess: Preprocess | None, labels: tuple[str, ...] | None, source: str
) -> Description:
    """What a file says, where its parts fit one another.

    Raises:
        CheckpointError: labels for another number of classes, or preprocessing for another number of channels.
    """
    if labels is not None and network.num_classes and len(labels) != network.num_classes:
        raise CheckpointError(f"{source} says {len(labels)} labels for {network.num_classes} classes", help=_AGAIN)
    if preprocess is not None and preprocess.input_channels != network.input_channels:
        raise CheckpointError(
            f"{source} says {network.input_channels} channels, and preprocessing for {preprocess.input_channels}",
            help=_AGAIN,
        )
    return Description(network, preprocess, labels)


def understand_onnx(metadata: Mapping[str, str], source: str) -> tuple[str, Preprocess | None, tuple[str, ...] | None]:
    """Name, preprocessing and labels of a network that `convert` wrote as ONNX; empty and None where it did not.

    Args:
        metadata: of an ONNX file. source: its name, for messages.

    Raises:
        CheckpointError: metadata of ours that was changed.
    """
    if metadata.get(WRITER) != WRITER_NAME:
        return "", None, None
    try:
        preprocess = _row(Preprocess, json.loads(metadata["preprocess"])) if "preprocess" in metadata else None
        labels = tuple(_typed(x, str) for x in json.loads(metadata["labels"])) if "labels" in metadata else None
    except NetworkError as error:
        raise CheckpointError(f"{source}: {error.message}", found=error.found) from error
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise _changed(source, error) from error
    return metadata.get("network", ""), preprocess, labels


def _changed(source: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{source}: its metadata is not what resforward writes",
        found=[f"{type(error).__name__}: {error}"[:200]],
        help=_AGAIN,
    )


def _network(table: Any) -> Network:
    blocks = table["blocks"]
    if len(blocks) > _MOST or sum(len(units) for _, _, units in blocks) > _MOST:
        raise ValueError(f"more than {_MOST} Blocks or units")
    return resnet(
        _row(Family, table["family"]),
        [Block(_typed(name, str), _KINDS[kind], units) for name, kind, units in blocks],
        include_root_block=table["stem"] is not None,
        stem=None if table["stem"] is None else _row(Stem, table["stem"]),
        name=_typed(table["name"], str),
        **{key: _typed(table[key], kind) for key, kind in _OPTIONS.items()},
    )


def _row(row: type[Row], value: Any) -> Row:
    """One of our tables' rows from JSON: every field there, of its type, and no other."""
    hints = get_type_hints(row)
    if not isinstance(value, dict) or set(value) != set(hints):
        raise TypeError(f"{row.__name__} has the fields {', '.join(hints)}")
    return row(**{field: _typed(value[field], hint) for field, hint in hints.items()})


def _typed(value: Any, hint: Any) -> Any:
    """A value of a type that our rows have, from JSON."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments and isinstance(value, str | int) and not isinstance(value, bool):
            return value
    elif origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return _typed(value, hint)
    elif origin is tuple:
        if isinstance(value, list):
            length = len(value) if arguments[-1] is Ellipsis else len(arguments)
            if len(value) == length <= _MOST:
                kinds = arguments[:1] * length if arguments[-1] is Ellipsis else arguments
                return tuple(_typed(item, kind) for item, kind in zip(value, kinds, strict=True))
    elif is_dataclass(hint):
        row: Any = hint
        return _row(row, value)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif type(value) is hint:
        return value
    raise TypeError(f"{value!r:.80} is no {getattr(hint, '__name__', hint)}")
