"""Models from checkpoints, with everything that can be concluded about them; and from seeds."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import names
from .conclude import conclude
from .dialects import DIALECTS, Dialect
from .errors import CheckpointError, NetworkError, nearest
from .hub import local_path
from .model import Array, Model
from .network import Network
from .numbered import with_names
from .own_file import Description, fitting, understand, understand_onnx
from .published import NETWORKS
from .resnet import with_output_stride
from .weights import WEIGHTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .checkpoints import Checkpoint
    from .checkpoints.onnx import OnnxGraph
    from .preprocess import Preprocess


def build(
    network: Network | str,
    seed: int = 0,
    *,
    threads: int | None = None,
    isa: str | None = None,
    winograd: bool = True,
) -> Model:
    """Make a model with random weights: to measure, to test, to look at shapes.

    >>> build(NETWORKS["fashion"], seed=1).source
    'seed 1'

    Convolutions are He-initialised, the last of each residual path damped so that activations keep their range through
    any depth; batch norm's statistics are near those of a trained network, and not trivial.

    Args:
        network: the table, from `resnet_v1` or `resnet_v2`, or the name of one of `NETWORKS`.
        seed: of the random weights; the same seed gives the same weights.
        threads: of the forward pass; None for `RESFORWARD_THREADS` or all that this process may use.
        isa: `amx`, `avx512`, `avx2` or `portable`; None for `RESFORWARD_ISA` or the best that this processor has.
        winograd: False computes every convolution directly, as `load` has it.
    """
    if isinstance(network, str):
        network = NETWORKS[_network_name(network)]
    rng = np.random.default_rng(seed)
    damped = {f"{unit.convs[-1].name}/weights" for unit in network.units}

    def value(name: str, shape: tuple[int, ...]) -> Array:
        part = name.rpartition("/")[2]
        if part == "moving_variance":
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if part == "gamma":
            return rng.uniform(0.5, 1.0, shape).astype(np.float32)
        if part in ("beta", "biases", "moving_mean"):
            return rng.normal(0, 0.1, shape).astype(np.float32)
        fan_in = shape[0] * shape[1] * shape[2]
        spread = np.float32(np.sqrt(2.0 / fan_in) * (0.3 if name in damped else 1.0))
        return rng.standard_normal(shape, np.float32) * spread

    weights = {name: value(name, shape) for name, shape in network.variables.items()}
    own = belongings(network)
    return Model(network, weights, source=f"seed {seed}", threads=threads, isa=isa, winograd=winograd, **own)


def load(
    path: str | os.PathLike[str],
    *,
    network: Network | str | None = None,
    num_classes: int | None = None,
    global_pool: bool | None = None,
    output_stride: int | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | None = None,
    threads: int | None = None,
    isa: str | None = None,
    winograd: bool = True,
    external_data: bool = False,
) -> Model:
    """Load a checkpoint, or the built-in model by its name, `fashion`.

    >>> load("fashion").network.num_classes
    10

    Format, family, depth, classes and preprocessing are concluded from the file; `model.evidence` says from what.

    Args:
        path: whatever `read_checkpoint` takes, such as a file or "hf://timm/resnet50.a1_in1k", or "fashion".
        network: the table that the checkpoint must fit, or the name of one of `NETWORKS`; None: concluded.
        num_classes: of `network`, where it is not its own; 0 leaves the classifier out.
        global_pool: False for a map of logits or features instead of one vector.
        output_stride: pixels of the image for one of the last Block's, by dilation.
        preprocess: another row than the family's, or the name of one of `preprocess.PRESETS`.
        labels: a name for each class, where it is not ImageNet's 1000 or 1001.
        threads: of the forward pass; None for `RESFORWARD_THREADS` or all that this process may use.
        isa: `amx`, `avx512`, `avx2` or `portable`; None for `RESFORWARD_ISA` or the best that this processor has.
        winograd: False computes every convolution directly: slower, with half the rounding errors.
        external_data: read the tensors that an `.onnx` file keeps in other files of its folder.

    Raises:
        CheckpointError: a file that is damaged, or does not fit; every misfit is listed.
        NetworkError: options that the network cannot take.
    """
    from .checkpoints import read_checkpoint

    if network is not None and not isinstance(network, Network | str):
        raise NetworkError(f"network is a {type(network).__name__}", help="pass a Network or the name of one")
    wanted = NETWORKS[_network_name(network)] if isinstance(network, str) else network
    if str(path) in BUILT_IN:  # a file of that name is ./fashion
        wanted = wanted or NETWORKS[str(path)]
        path = checkpoint_path(path)
    elif str(path) in {*NETWORKS, *WEIGHTS} and not any(os.path.exists(f"{path}{suffix}") for suffix in ("", ".index")):
        pulled = f"resforward.pull({str(path)!r}) downloads one; " if str(path) in WEIGHTS else ""
        raise CheckpointError(
            f"there is no checkpoint called {path}",
            help=f"{pulled}name a file or a folder; built in is only {', '.join(BUILT_IN)}",
        )
    source = Path(path).name
    file = local_path(path)
    checkpoint = read_checkpoint(file, external_data=external_data)
    evidence: tuple[str, ...] = (f"format {checkpoint.format}: what its bytes say", *_left_out(checkpoint.skipped))
    if file is not path:
        evidence += (f"file {os.fspath(file)}",)  # names the commit
    held = _held(checkpoint, wanted, source)
    evidence += held.evidence
    wanted, told = wanted or held.network, held.told
    assert wanted is not None
    if num_classes is not None:
        wanted = dataclasses.replace(wanted, num_classes=num_classes)
    if global_pool is not None:
        wanted = dataclasses.replace(wanted, global_pool=global_pool)
    wanted = with_output_stride(wanted, output_stride)
    weights, unused = names.rename(held.tensors, wanted, held.scope, source, held.network, held.dialect)
    own: dict[str, Any] = {"preprocess": told.preprocess, "labels": told.labels} if told else belongings(wanted)
    if not told and (row := _beside(Path(file))):
        own["preprocess"] = row
        evidence += (f"preprocessing: {_BESIDE} beside it",)
    if not wanted.num_classes:
        own["labels"] = None
    return Model(
        wanted,
        weights,
        preprocess=_preprocess(preprocess) or own["preprocess"],
        labels=labels if labels is not None else own["labels"],
        source=source,
        evidence=evidence,
        unused=unused,
        threads=threads,
        isa=isa,
        winograd=winograd,
    )


def _left_out(skipped: Mapping[str, str]) -> list[str]:
    """What lies beside the weights, such as a running average of them."""
    told = [f"{name[:80]} ({what})" for name, what in list(skipped.items())[:_TOLD]]
    more = f" and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
    return [f"left out: {', '.join(told)}{more}"] if told else []


_TOLD = 6
BUILT_IN = ("fashion",)


def checkpoint_path(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The file that a name stands for: the package's own for a built-in model's, else itself.

    >>> checkpoint_path("fashion").name
    'fashion.safetensors'
    """
    return Path(__file__).parent / "builtin" / f"{name}.safetensors" if str(name) in BUILT_IN else name


_BESIDE = "config.json"
_MOST_CONFIG = 1 << 20  # bytes
# Their variables are a ResNet's, and their strides are means of pixels: timm/models/resnet.py, `aa_layer`.
_SMOOTHED = re.compile(r"resnet(aa|blur)[0-9].*")


def _beside(path: Path) -> Preprocess | None:
    """The preprocessing that timm's config.json says, where it lies beside the weights."""
    from .preprocess import from_timm

    config = (path if path.is_dir() else path.parent) / _BESIDE
    if not config.is_file() or config.stat().st_size > _MOST_CONFIG:
        return None
    try:
        told = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # somebody else's: most programs have a file of that name
    if not isinstance(told, dict) or "pretrained_cfg" not in told:
        return None
    if _SMOOTHED.fullmatch(architecture := str(told.get("architecture", ""))):
        raise CheckpointError(
            f"{config} says that the network is {architecture[:80]}, which smooths where a ResNet has strides;"
            " that is not computed here",
            help="timm computes it",
        )
    try:
        return from_timm(told)
    except NetworkError as error:
        raise CheckpointError(
            f"{config}: {error.message}", found=error.found, help="pass preprocess=, or move the file away"
        ) from error


def _network_name(name: str) -> str:
    if name not in NETWORKS:
        close = nearest(name, NETWORKS)
        raise NetworkError(
            f"there is no network called {name}",
            found=[close] if close else [],
            help=f"there are {', '.join(NETWORKS)}",
        )
    return name


def _preprocess(row: Preprocess | str | None) -> Preprocess | None:
    from .preprocess import PRESETS, Preprocess

    if row is None or isinstance(row, Preprocess):
        return row
    if row not in PRESETS:
        close = nearest(row, PRESETS)
        raise NetworkError(
            f"there is no preprocessing called {row!r}",
            found=[close] if close else [],
            help=f"there are {', '.join(PRESETS)}",
        )
    return PRESETS[row]


class _Held(NamedTuple):
    """What a checkpoint holds.

    Args:
        network: its table; None where only whoever asked for one knows.
        tensors: of its variables, called as `dialect` has them behind `scope`.
        told: what the file itself says of preprocessing and labels, where it does.
        evidence: one sentence for each decision.
    """

    network: Network | None
    tensors: Mapping[str, npt.NDArray[Any]]
    scope: str = ""
    dialect: Dialect = DIALECTS[0]  # slim's names, which are ours
    told: Description | None = None
    evidence: tuple[str, ...] = ()


def _held(checkpoint: Checkpoint, wanted: Network | None, source: str) -> _Held:
    """Find out what a checkpoint holds, and under which names it may hold the network that is wanted."""
    if checkpoint.graph is not None:
        held = _in_graph(checkpoint.graph, checkpoint, source)
    elif told := understand(checkpoint.metadata, source):
        evidence = ("network, preprocessing and labels: what the file says",)
        held = _Held(told.network, checkpoint, told=told, evidence=evidence)
    else:
        tensors, named = with_names(checkpoint, source)
        try:
            found = conclude(tensors, source)
            held = _Held(found.network, tensors, found.scope, found.dialect, evidence=(*named, *found.evidence))
        except CheckpointError:
            if wanted is None:
                raise
            held = _Held(None, tensors, evidence=named)
        if wanted is not None:
            scope, dialect = names.find_scope(tensors, wanted)
            return held._replace(scope=scope, dialect=dialect, evidence=(*named, f"network {wanted.name}: asked for"))
    return held if wanted is None else held._replace(evidence=(f"network {wanted.name}: asked for",))


def _in_graph(graph: OnnxGraph, checkpoint: Checkpoint, source: str) -> _Held:
    """A network recognised by what its nodes compute."""
    from .onnx_graph import plain_operations
    from .recognise import recognise

    found = recognise(plain_operations(graph, checkpoint, source), source)
    name, preprocess, labels = understand_onnx(checkpoint.metadata, source)
    network = dataclasses.replace(found.network, name=name or found.network.name)
    told = fitting(network, preprocess, labels, source) if name else None
    return _Held(network, found.weights, told=told, evidence=found.evidence)


def belongings(network: Network) -> dict[str, Any]:
    """The preprocessing and the labels that come with a network's published weights, where they are known."""
    from . import labels, preprocess

    if network.name in BUILT_IN:
        return {"preprocess": preprocess.FASHION_28, "labels": labels.FASHION_10}
    known = network.family.preprocess if network.input_channels == 3 and network.stem else None
    row = preprocess.PRESETS[known] if known else None
    return {"preprocess": row, "labels": labels.labels_for(network.num_classes) if network.num_classes else None}
