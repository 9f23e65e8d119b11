"""Models from checkpoints, with everything that can be concluded about them; and from seeds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import names
from .conclude import conclude
from .dialects import DIALECTS
from .errors import CheckpointError, NetworkError, nearest
from .model import Array, Model
from .network import Network
from .numbered import with_names
from .own_file import understand
from .published import NETWORKS
from .resnet import with_output_stride

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        threads: of the forward pass; None for all that this process may use.
        isa: instruction set; None for the best.
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
) -> Model:
    """Load a checkpoint, or the built-in model by its name, `fashion`.

    >>> load("fashion").network.num_classes
    10

    Format, family, depth, classes and preprocessing are concluded from the file; `model.evidence` says from what.

    Args:
        path: whatever `read_checkpoint` takes, or "fashion".
        network: the table that the checkpoint must fit, or the name of one of `NETWORKS`; None: concluded.
        num_classes: of `network`, where it is not its own; 0 leaves the classifier out.
        global_pool: False for a map of logits or features instead of one vector.
        output_stride: pixels of the image for one of the last Block's, by dilation.
        preprocess: another row than the family's, or the name of one of `preprocess.PRESETS`.
        labels: a name for each class, where it is not ImageNet's 1000 or 1001.
        threads: of the forward pass; None for `RESFORWARD_THREADS` or all that this process may use.
        isa: instruction set; None for `RESFORWARD_ISA` or the best.
        winograd: False computes every convolution directly: slower, with half the rounding errors.

    Raises:
        CheckpointError: a file that is damaged, or does not fit; every misfit is listed.
        NetworkError: options that the network cannot take.
    """
    from .checkpoints import read_checkpoint

    if network is not None and not isinstance(network, Network | str):
        raise NetworkError(f"network is a {type(network).__name__}", help="pass a Network or the name of one")
    wanted = NETWORKS[_network_name(network)] if isinstance(network, str) else network
    held: Network | None
    if str(path) in BUILT_IN:  # a file of that name is ./fashion
        wanted = wanted or NETWORKS[str(path)]
        path = checkpoint_path(path)
    elif str(path) in NETWORKS and not any(os.path.exists(f"{path}{suffix}") for suffix in ("", ".index")):
        raise CheckpointError(
            f"there is no checkpoint called {path}",
            help=f"name a file or a folder; built in is only {', '.join(BUILT_IN)}",
        )
    checkpoint = read_checkpoint(path)
    source = Path(path).name
    tensors, named = with_names(checkpoint, source)
    evidence: tuple[str, ...] = (
        f"format {checkpoint.format}: what its bytes say",
        *_left_out(checkpoint.skipped),
        *named,
    )
    told = understand(checkpoint.metadata, source)
    if wanted is None and told:
        wanted = held = told.network
        scope, dialect = "", DIALECTS[0]  # slim's names, which are ours
        evidence += ("network, preprocessing and labels: what the file says",)
    elif wanted is None:
        conclusion = conclude(tensors, source)
        wanted, scope, held = conclusion.network, conclusion.scope, conclusion.network
        dialect = conclusion.dialect
        evidence += conclusion.evidence
    else:
        scope, dialect = names.find_scope(tensors, wanted)
        held = _held(tensors, source)
        evidence += (f"network {wanted.name}: asked for",)
    if num_classes is not None:
        wanted = dataclasses.replace(wanted, num_classes=num_classes)
    if global_pool is not None:
        wanted = dataclasses.replace(wanted, global_pool=global_pool)
    wanted = with_output_stride(wanted, output_stride)
    weights, unused = names.rename(tensors, wanted, scope, source, held, dialect)
    own: dict[str, Any] = {"preprocess": told.preprocess, "labels": told.labels} if told else belongings(wanted)
    if not told and (row := _beside(Path(path))):
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


def checkpoint_path(name: str | os.PathLike[str]) -> Path:
    """The file that a name stands for: the package's own for a built-in model's, else itself.

    >>> checkpoint_path("fashion").name
    'fashion.safetensors'
    """
    return Path(__file__).parent / "builtin" / f"{name}.safetensors" if str(name) in BUILT_IN else Path(name)


_BESIDE = "config.json"
_MOST_CONFIG = 1 << 20  # bytes


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
        raise NetworkError(f"there is no preprocessing called {row!r}", help=f"there are {', '.join(PRESETS)}")
    return PRESETS[row]


def _held(checkpoint: Mapping[str, npt.NDArray[Any]], source: str) -> Network | None:
    """What a checkpoint seems to hold, to explain a misfit; None where nothing can be concluded."""
    try:
        return conclude(checkpoint, source).network
    except CheckpointError:
        return None


def belongings(network: Network) -> dict[str, Any]:
    """The preprocessing and the labels that come with a network's published weights, where they are known."""
    from . import labels, preprocess

    if network.name in BUILT_IN:
        return {"preprocess": preprocess.FASHION_28, "labels": labels.FASHION_10}
    row = preprocess.PRESETS[network.family.preprocess] if network.input_channels == 3 and network.stem else None
    return {"preprocess": row, "labels": labels.labels_for(network.num_classes) if network.num_classes else None}
