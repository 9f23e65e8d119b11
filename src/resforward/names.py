"""From a checkpoint's names to a network and to our names: what it holds, and every misfit reported at once.

Our names are slim's without the scope, so slim's own checkpoints only lose a prefix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, NetworkError, nearest
from .families import SLIM_V1, SLIM_V2, Stem
from .network import UNITS, Block, Network, block_strides, bottleneck, resnet

Tensors = Mapping[str, npt.NDArray[Any]]

_LONGEST_NAME = 1024  # characters; longer ones are no variable's, and matching them would take for ever

_FAMILIES = {family.version: family for family in (SLIM_V1, SLIM_V2)}
_UNIT = re.compile(
    r"^(?P<scope>(?:.*/)?)(?P<block>[^/]+)/unit_(?P<unit>[0-9]{1,9})/bottleneck_(?P<version>v[12])/(?P<rest>.+)$"
)

# What training leaves in a checkpoint beside the weights. Sources: tf.train.Saver with slim's train_image_classifier.py
# (optimizer slots, moving averages) and the released resnet_v1 files (mean_rgb).
_BYSTANDERS = re.compile(
    r"(^|/)(global_step|mean_rgb|beta[12]_power|save_counter|learning_rate)(:0)?$"
    r"|/(Momentum|RMSProp|Adam|Adagrad|Adadelta|Ftrl|ExponentialMovingAverage)(_\d+)?$"
    r"|^_CHECKPOINTABLE_OBJECT_GRAPH$"
)


@dataclass(frozen=True)
class Conclusion:
    """What a checkpoint holds, and from what that was concluded.

    Args:
        network: its table. scope: the prefix of its variables, "resnet_v2_50/" or "".
        evidence: one sentence for each decision, for `resforward inspect`.
    """

    network: Network
    scope: str
    evidence: tuple[str, ...]


def conclude(tensors: Tensors, source: str) -> Conclusion:
    """Infer the network from the names and shapes of a checkpoint's variables.

    >>> conclusion = conclude(read_checkpoint("resnet_v2_50.ckpt"), "resnet_v2_50.ckpt")  # doctest: +SKIP
    >>> conclusion.network.name  # doctest: +SKIP
    'resnet_v2_50'

    Args:
        tensors: of `read_checkpoint`.
        source: the file's name, for messages.

    Raises:
        CheckpointError: variables that are of no ResNet of slim's, or of several.
    """
    tensors = _without_bystanders(tensors)
    parsed = [match for name in tensors if len(name) <= _LONGEST_NAME and (match := _UNIT.match(name))]
    if not parsed:
        raise CheckpointError(
            f"{source} holds no network that is known here",
            found=[
                f"{len(tensors)} variables, such as {', '.join(name[:80] for name in sorted(tensors)[:3]) or 'none'}"
            ],
            help="a slim ResNet's variables are called SCOPE/block1/unit_1/bottleneck_v2/conv1/weights",
        )
    kinds = Counter((match["scope"], match["version"]) for match in parsed)
    if len(kinds) > 1:
        raise CheckpointError(
            f"{source} holds {len(kinds)} networks",
            found=[
                f"{scope or 'no scope'}: bottleneck_{version}, {n} variables" for (scope, version), n in kinds.items()
            ],
            help="save one network a checkpoint",
        )
    ((scope, version),) = kinds
    family = _FAMILIES[version]
    evidence = [f"family {family.name}: its units are called bottleneck_{version}"]

    counts: dict[str, int] = {}
    for match in parsed:
        counts[match["block"]] = max(counts.get(match["block"], 0), int(match["unit"]))
    counts = dict(sorted(counts.items(), key=lambda item: _natural(item[0])))

    def shape(name: str) -> tuple[int, ...]:
        if scope + name not in tensors:
            raise CheckpointError(
                f"{source} is incomplete: {scope + name} is missing",
                found=[f"it has {_join_units(counts)}"],
                help="a shard or part of the training graph was left out when it was saved",
            )
        return tuple(tensors[scope + name].shape)

    blocks = []
    for (block, count), stride in zip(counts.items(), block_strides(family, len(counts)), strict=True):
        if count > len(tensors):
            raise CheckpointError(f"{source}: {scope}{block} has units up to unit_{count} in {len(tensors)} variables")
        units = []
        strided = count if family.stride_unit == "last" else 1
        for unit in range(1, count + 1):
            prefix = f"{block}/unit_{unit}/bottleneck_{version}"
            *_, depth_bottleneck = shape(f"{prefix}/conv1/weights") or (0,)
            *_, depth = shape(f"{prefix}/conv3/weights") or (0,)
            units.append((depth, depth_bottleneck, stride if unit == strided else 1))
        try:
            blocks.append(Block(block, bottleneck, units))
        except NetworkError as error:
            raise CheckpointError(f"{source} describes no network: {error.message}", found=error.found) from error
    layers = next((depth for depth, units in UNITS.items() if list(units) == list(counts.values())), None)
    known = f", as in resnet_{version}_{layers}" if layers else ""
    evidence.append(f"units {', '.join(map(str, counts.values()))}{known}: counted in the variables' names")
    evidence.append("strides: slim's, the last unit of every Block but the last has 2 (no checkpoint stores them)")

    classes_name = next(
        (f"{scope}logits/{part}" for part in ("biases", "weights") if f"{scope}logits/{part}" in tensors), None
    )
    classes = int(tensors[classes_name].shape[-1]) if classes_name and tensors[classes_name].ndim else 0
    evidence.append(
        f"{classes} classes: the length of {classes_name}" if classes_name else "no classifier: no variable of it"
    )

    root = f"{scope}conv1/weights"
    stem: Stem | None = None
    if root in tensors:
        kernel, _, channels, width = shape("conv1/weights") if tensors[root].ndim == 4 else (0, 0, 0, 0)
        stem = family.stem
        if kernel == 3:
            stem = Stem(3, 1, (width,), family.stem.bias, family.stem.norm, pool=None)
            evidence.append("root block 3x3 with stride 1 and no pool: assumed for a 3x3 conv1/weights")
        elif width != family.stem.widths[0]:
            stem = Stem(
                family.stem.kernel, family.stem.stride, (width,), family.stem.bias, family.stem.norm, family.stem.pool
            )
    else:
        channels = _first_depth_in(tensors, scope, blocks[0], version, shape)
        evidence.append("no root block: no conv1/weights")
    name = scope.rstrip("/").rpartition("/")[2] or (f"resnet_{version}_{layers}" if layers else f"resnet_{version}")
    try:
        network = resnet(
            family,
            blocks,
            classes,
            include_root_block=stem is not None,
            input_channels=channels,
            stem=stem,
            name=name,
        )
    except NetworkError as error:
        raise CheckpointError(f"{source} describes no network: {error.message}", found=error.found) from error
    return Conclusion(network, scope, tuple(evidence))


def _first_depth_in(tensors: Tensors, scope: str, block: Block, version: str, shape: Any) -> int:
    prefix = f"{block.scope}/unit_1/bottleneck_{version}"
    dims = shape(f"{prefix}/conv1/weights")
    return int(dims[2]) if len(dims) == 4 else 0


def _natural(name: str) -> tuple[Any, ...]:
    """block2 before block10; on ties and other names, the alphabet."""
    # Digits as text: longer is larger once leading zeros are gone, and no file makes us convert a million of them.
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, len(n := part.lstrip("0")), n) if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part)


def _join_units(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{block} with {count} units" for block, count in counts.items())


def _without_bystanders(tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
    return {name: tensors[name] for name in tensors if len(name) > _LONGEST_NAME or not _BYSTANDERS.search(name)}


def find_scope(tensors: Iterable[str], network: Network) -> str:
    """The prefix under which a checkpoint holds a network's variables: the one that fits most of them."""
    variables = network.variables
    votes: Counter[str] = Counter()
    for name in tensors:
        start = 0
        while len(name) <= _LONGEST_NAME:  # every suffix that starts after a slash, longest first
            if name[start:] in variables:
                votes[name[:start]] += 1
                break
            start = name.find("/", start) + 1
            if start == 0:
                break
    return votes.most_common(1)[0][0] if votes else f"{network.name}/"


def rename(
    tensors: Tensors, network: Network, scope: str, source: str, held: Network | None = None
) -> tuple[dict[str, npt.NDArray[np.float32]], tuple[str, ...]]:
    """Return the weights under our names, and the names of variables that nobody asked for.

    Args:
        tensors: of `read_checkpoint`. scope: the prefix of its variables.
        network: what they must fit, variable by variable.
        source: the file's name, for messages.
        held: what the checkpoint was concluded to hold, for the help line.

    Raises:
        CheckpointError: variables that are missing, or of another shape or kind; all of them are listed.
    """
    weights: dict[str, npt.NDArray[np.float32]] = {}
    wrong: list[str] = []
    used = {scope + name for name in network.variables}
    unused = sorted(name for name in _without_bystanders(tensors) if name not in used)
    for name, expected in network.variables.items():
        key = scope + name
        if key not in tensors:
            near = nearest(key, [n for n in unused if len(n) <= _LONGEST_NAME]) if len(wrong) < 3 else ""
            wrong.append(f"{key}: expected {expected}, found none" + (f"; {near}" if near else ""))
            continue
        array = tensors[key]
        if tuple(array.shape) != expected:
            wrong.append(f"{key}: expected {expected}, found {tuple(array.shape)}")
        elif array.dtype.kind != "f":
            wrong.append(f"{key}: expected float32, found {array.dtype}")
        else:
            weights[name] = np.require(array, np.float32, ["C", "A"])
    if wrong:
        raise CheckpointError(
            f"{source} does not fit {network.name}: {len(wrong)} of {len(network.variables)} variables",
            found=wrong,
            help=_misfit_help(network, held),
        )
    return weights, tuple(unused)


def _misfit_help(network: Network, held: Network | None) -> str:
    if held is None:
        return "load without options to see what the file holds"
    differences: Sequence[tuple[str, Any, Any]] = (
        ("family", held.family.name, network.family.name),
        ("units", [len(u) for u in held.blocks.values()], [len(u) for u in network.blocks.values()]),
        ("classes", held.num_classes, network.num_classes),
        ("input channels", held.input_channels, network.input_channels),
    )
    told = [f"{what} {has} (asked for: {asked})" for what, has, asked in differences if has != asked]
    text = f"the file holds {held.name}" + (f": {'; '.join(told)}" if told else "")
    if {held.num_classes, network.num_classes} == {1000, 1001} and len(told) == 1:
        text += "; a head of 1001 classes keeps index 0 for `background`: pass num_classes=" + str(held.num_classes)
    else:
        text += "; load without options to take it as it is"
    return text
