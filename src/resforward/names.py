"""From a checkpoint's names to a network and to our names: what it holds, and every misfit reported at once.

Our names are slim's without the scope, so slim's own checkpoints only lose a prefix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .dialects import DIALECTS, Dialect
from .errors import CheckpointError, NetworkError, nearest
from .families import SLIM_V1, SLIM_V2, Family, Stem
from .network import BASIC_UNITS, UNITS, Block, Network, UnitKind, basic, block_strides, bottleneck, resnet

Tensors = Mapping[str, npt.NDArray[Any]]

_LONGEST_NAME = 1024  # characters; longer ones are no variable's, and matching them would take for ever

# What training leaves in a checkpoint beside the weights. Sources: tf.train.Saver with slim's train_image_classifier.py
# (optimizer slots, moving averages) and the released resnet_v1 files (mean_rgb).
_BYSTANDERS = re.compile(
    r"(^|/)(global_step|mean_rgb|beta[12]_power|save_counter|learning_rate)(:0)?$"
    r"|/(Momentum|RMSProp|Adam|Adagrad|Adadelta|Ftrl|ExponentialMovingAverage)(_\d+)?$"
    r"|^_CHECKPOINTABLE_OBJECT_GRAPH$"
    r"|\.num_batches_tracked$"  # torch.nn.BatchNorm2d
)


@dataclass(frozen=True)
class Conclusion:
    """What a checkpoint holds, and from what that was concluded.

    Args:
        network: its table. scope: the prefix of its variables, "resnet_v2_50/" or "".
        evidence: one sentence for each decision, for `resforward inspect`.
        dialect: what its variables are called behind the scope.
    """

    network: Network
    scope: str
    evidence: tuple[str, ...]
    dialect: Dialect


def conclude(tensors: Tensors, source: str) -> Conclusion:
    """Infer the network from the names and shapes of a checkpoint's variables.

    >>> conclusion = conclude(read_checkpoint("resnet_v2_50.ckpt"), "resnet_v2_50.ckpt")  # doctest: +SKIP
    >>> conclusion.network.name  # doctest: +SKIP
    'resnet_v2_50'

    Args:
        tensors: of `read_checkpoint`.
        source: the file's name, for messages.

    Raises:
        CheckpointError: variables that are of no ResNet that is known, or of several, or of one with more parts.
    """
    tensors = _without_bystanders(tensors)
    holding = _one_of(_holdings(tensors), tensors, source)
    dialect, family, scope = holding.dialect, holding.family, holding.scope
    example = next(iter(holding.names)) if dialect.inside else f"bottleneck_{family.version}"
    evidence = [f"family {family.name}: its units are called {example}"]
    counts: dict[str, int] = {}
    for block, unit in holding.names.values():
        counts[block] = max(counts.get(block, 0), unit)
    counts = dict(sorted(counts.items(), key=lambda item: _natural(item[0])))

    def has(name: str) -> bool:
        return scope + dialect.theirs(name) in tensors

    def shape(name: str) -> tuple[int, ...]:
        if not has(name):
            raise CheckpointError(
                f"{source} is incomplete: {scope + dialect.theirs(name)} is missing",
                found=[f"it has {_join_units(counts)}"],
                help="a shard or part of the training graph was left out when it was saved",
            )
        return tuple(dialect.array(tensors[scope + dialect.theirs(name)]).shape)

    first = f"{next(iter(counts))}/unit_1/bottleneck_{family.version}"
    kind = bottleneck if not dialect.inside or has(f"{first}/conv3/weights") else basic
    blocks = []
    for (block, count), stride in zip(counts.items(), block_strides(family, len(counts)), strict=True):
        if count > len(tensors):
            raise CheckpointError(f"{source}: {scope}{block} has units up to unit_{count} in {len(tensors)} variables")
        units = []
        strided = count if family.stride_unit == "last" else 1
        for unit in range(1, count + 1):
            prefix = f"{block}/unit_{unit}/{kind.name}_{family.version}"
            *_, depth_bottleneck = shape(f"{prefix}/conv1/weights") or (0,)
            *_, depth = shape(f"{prefix}/conv{len(kind.kernels)}/weights") or (0,)
            if dialect.inside and (depth_in := (0, 0, *shape(f"{prefix}/conv2/weights"))[-2]) != depth_bottleneck:
                raise CheckpointError(
                    f"{source} has grouped convolutions, as ResNeXt has; they are not computed here",
                    found=[
                        f"{dialect.theirs(f'{prefix}/conv2/weights')} reads {depth_in} of {depth_bottleneck} channels"
                    ],
                )
            units.append((depth, depth_bottleneck, stride if unit == strided else 1))
        try:
            blocks.append(Block(block, kind, units))
        except NetworkError as error:
            raise CheckpointError(f"{source} describes no network: {error.message}", found=error.found) from error
    layers = _layers(kind, list(counts.values()))
    width = max(blocks[0].args[0][1] // 64, 1)
    published = family.networks.format(layers=layers, width=width) if layers else f"resnet_{family.version}"
    known = f", as in {published}" if layers else ""
    evidence.append(f"units {', '.join(map(str, counts.values()))}{known}: counted in the variables' names")
    if dialect.inside:
        evidence.append(f"{kind.name} units: of {len(kind.kernels)} convolutions")
    whose = "slim" if family in (SLIM_V1, SLIM_V2) else family.name
    evidence.append(
        f"strides: {whose}'s, the {family.stride_unit} unit of every Block but the {family.stride_unit} has 2 (no"
        " checkpoint stores them)"
    )

    classes_name = next((name for name in ("logits/biases", "logits/weights") if has(name)), None)
    classes = (shape(classes_name) or (0,))[-1] if classes_name else 0
    evidence.append(
        f"{classes} classes: the length of {scope}{dialect.theirs(classes_name)}"
        if classes_name
        else "no classifier: no variable of it"
    )

    stem, channels = _root_block(family, has, shape, evidence)
    if stem is None:
        dims = shape(f"{blocks[0].scope}/unit_1/{kind.name}_{family.version}/conv1/weights")
        channels = dims[2] if len(dims) == 4 else 0
        evidence.append("no root block: no conv1/weights")
    try:
        network = resnet(
            family,
            blocks,
            classes,
            include_root_block=stem is not None,
            input_channels=channels,
            stem=stem,
            name=(not dialect.inside and scope.rstrip("/").rpartition("/")[2]) or published,
        )
    except NetworkError as error:
        raise CheckpointError(f"{source} describes no network: {error.message}", found=error.found) from error
    return Conclusion(network, scope, tuple(evidence), dialect)


class _Holding(NamedTuple):
    """A network that a checkpoint seems to hold; names: those that say so, with the Block and the unit they are of."""

    dialect: Dialect
    family: Family
    scope: str
    names: dict[str, tuple[str, int]]


def _holdings(tensors: Tensors) -> list[_Holding]:
    """Every network that is there, in the first dialect that has words for it."""
    holdings: list[_Holding] = []
    taken: set[str] = set()
    for dialect in DIALECTS:
        found: dict[str, dict[str, tuple[str, int]]] = {}
        for name in tensors:
            if name not in taken and len(name) <= _LONGEST_NAME and (match := dialect.marker.fullmatch(name)):
                place = dialect.block(match["block"]), dialect.unit(match["unit"])
                found.setdefault(match["scope"], {})[name] = place
        for scope, names in found.items():
            for family, needed in dialect.families:
                if all(scope + name in tensors for name in needed):
                    holdings.append(_Holding(dialect, family, scope, names))
                    taken |= set(names)
                    break
    return holdings


def _one_of(holdings: list[_Holding], tensors: Tensors, source: str) -> _Holding:
    if not holdings:
        raise CheckpointError(
            f"{source} holds no network that is known here",
            found=[
                f"{len(tensors)} variables, such as {', '.join(name[:80] for name in sorted(tensors)[:3]) or 'none'}"
            ],
            help=f"a ResNet's variables are called {', or '.join(dialect.example for dialect in DIALECTS)}",
        )
    if len(holdings) > 1:
        raise CheckpointError(
            f"{source} holds {len(holdings)} networks",
            found=[f"{h.scope or 'no scope'}: {h.family.name}, {len(h.names)} variables" for h in holdings],
            help="save one network a checkpoint",
        )
    return holdings[0]


def _layers(kind: UnitKind, units: list[int]) -> int | None:
    """By how many layers a published network with so many units in its Blocks is known."""
    known = UNITS if kind is bottleneck else BASIC_UNITS
    return next((layers for layers, counts in known.items() if list(counts) == units), None)


def _root_block(
    family: Family, has: Callable[[str], bool], shape: Callable[[str], tuple[int, ...]], evidence: list[str]
) -> tuple[Stem | None, int]:
    """The root block, and the channels that it reads."""
    if has("conv1/conv1/weights"):
        shapes: list[tuple[int, ...]] = []
        while has(f"conv1/conv{len(shapes) + 1}/weights"):
            shapes.append(shape(f"conv1/conv{len(shapes) + 1}/weights"))
        kernel, _, channels, _ = shapes[0] if len(shapes[0]) == 4 else (0, 0, 0, 0)
        evidence.append(f"a root block of {len(shapes)} convolutions: counted in the variables' names")
        return replace(family.stem, kernel=kernel, widths=tuple(s[-1] for s in shapes if s)), channels
    if not has("conv1/weights"):
        return None, 0
    dims = shape("conv1/weights")
    kernel, _, channels, width = dims if len(dims) == 4 else (0, 0, 0, 0)
    if kernel == 3:
        evidence.append("root block 3x3 with stride 1 and no pool: assumed for a 3x3 conv1/weights")
        return replace(family.stem, kernel=3, stride=1, widths=(width,), pool=None), channels
    return replace(family.stem, widths=(width,)), channels


def _natural(name: str) -> tuple[Any, ...]:
    """block2 before block10; on ties and other names, the alphabet."""
    # Digits as text: longer is larger once leading zeros are gone, and no file makes us convert a million of them.
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, len(n := part.lstrip("0")), n) if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part)


def _join_units(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{block} with {count} units" for block, count in counts.items())


def _without_bystanders(tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
    return {name: tensors[name] for name in tensors if len(name) > _LONGEST_NAME or not _BYSTANDERS.search(name)}


def find_scope(tensors: Iterable[str], network: Network) -> tuple[str, Dialect]:
    """The prefix under which a checkpoint holds a network's variables, and the dialect: those that fit most of them."""
    votes: Counter[tuple[str, int]] = Counter()
    names = [name for name in tensors if len(name) <= _LONGEST_NAME]
    for index, dialect in enumerate(DIALECTS):
        theirs = {dialect.theirs(name) for name in network.variables}
        for name in names:
            starts = [0, *(match.end() for match in re.finditer("[/.]", name))]
            start = next((start for start in starts if name[start:] in theirs), None)
            if start is not None:
                votes[name[:start], index] += 1
    if not votes:
        return f"{network.name}/", DIALECTS[0]
    ((scope, index), _), *_ = votes.most_common(1)
    return scope, DIALECTS[index]


def rename(
    tensors: Tensors,
    network: Network,
    scope: str,
    source: str,
    held: Network | None = None,
    dialect: Dialect = DIALECTS[0],
) -> tuple[dict[str, npt.NDArray[np.float32]], tuple[str, ...]]:
    """Return the weights under our names, and the names of variables that nobody asked for.

    Args:
        tensors: of `read_checkpoint`. scope: the prefix of its variables. dialect: what they are called behind it.
        network: what they must fit, variable by variable.
        source: the file's name, for messages.
        held: what the checkpoint was concluded to hold, for the help line.

    Raises:
        CheckpointError: variables that are missing, or of another shape or kind, or units with parts that the network
            does not have; all of them are listed.
    """
    weights: dict[str, npt.NDArray[np.float32]] = {}
    wrong: list[str] = []
    keys = {name: scope + dialect.theirs(name) for name in network.variables}
    used = set(keys.values())
    unused = sorted(name for name in _without_bystanders(tensors) if name not in used)
    for name, expected in network.variables.items():
        key = keys[name]
        if key not in tensors:
            near = nearest(key, [n for n in unused if len(n) <= _LONGEST_NAME]) if len(wrong) < 3 else ""
            wrong.append(f"{key}: expected {expected}, found none" + (f"; {near}" if near else ""))
            continue
        array = dialect.array(tensors[key])
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
    _refuse_more(network, scope, source, dialect, unused)
    if network.family.weight_epsilon is not None:
        for name in weights:
            if name.endswith("/weights") and not name.startswith("logits/"):
                weights[name] = standardise(weights[name], network.family.weight_epsilon)
    return weights, tuple(unused)


def _refuse_more(network: Network, scope: str, source: str, dialect: Dialect, unused: Sequence[str]) -> None:
    """Refuse units with parts that ours do not have: what they compute is something else."""
    if not dialect.prefix:
        return
    places = [
        (block, unit) for block, units in enumerate(network.blocks.values(), 1) for unit in range(1, len(units) + 1)
    ]
    prefixes = tuple(scope + dialect.prefix_of(*place) for place in places)
    if more := [name for name in unused if name.startswith(prefixes)]:
        raise CheckpointError(
            f"{source} holds more than a ResNet: its units have {len(more)} variables of other parts",
            found=[name[:80] for name in more],
            help="squeeze-and-excitation, attention and the like are not computed here",
        )


def standardise(kernel: npt.NDArray[Any], epsilon: float) -> npt.NDArray[np.float32]:
    """Give each output channel's weights a mean of 0 and a variance of 1, in double precision.

    >>> standardise(np.array([1.0, 3.0]).reshape(1, 1, 2, 1), epsilon=0.0).ravel()
    array([-1.,  1.], dtype=float32)

    Args:
        kernel: (height, width, in, out).
        epsilon: added to the variance.

    Source: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization (2019).
    """
    double = kernel.astype(np.float64)
    centered = double - double.mean(axis=(0, 1, 2))
    variance = np.square(centered).mean(axis=(0, 1, 2))
    standard: npt.NDArray[np.float32] = (centered / np.sqrt(variance + epsilon)).astype(np.float32)
    return standard


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
