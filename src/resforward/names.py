"""From a checkpoint's names to ours, with every misfit reported at once.

Our names are slim's without the scope, so slim's own checkpoints only lose a prefix; see `dialects.py` for the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .dialects import DIALECTS, Dialect
from .errors import CheckpointError, nearest
from .network import Network

Tensors = Mapping[str, npt.NDArray[Any]]

LONGEST_NAME = 1024  # characters; longer ones are no variable's, and matching them would take for ever

# What training leaves in a checkpoint beside the weights. Sources: tf.train.Saver with slim's train_image_classifier.py
# (optimizer slots, moving averages) and the released resnet_v1 files (mean_rgb).
_BYSTANDERS = re.compile(
    r"(^|/)(global_step|mean_rgb|beta[12]_power|save_counter|learning_rate)(:0)?$"
    r"|/(Momentum|RMSProp|Adam|Adagrad|Adadelta|Ftrl|ExponentialMovingAverage)(_\d+)?$"
    r"|^_CHECKPOINTABLE_OBJECT_GRAPH$"
    r"|\.num_batches_tracked$"  # torch.nn.BatchNorm2d
)


def without_bystanders(tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
    """Only what may be a network's."""
    return {name: tensors[name] for name in tensors if len(name) > LONGEST_NAME or not _BYSTANDERS.search(name)}


def find_scope(tensors: Iterable[str], network: Network) -> tuple[str, Dialect]:
    """The prefix under which a checkpoint holds a network's variables, and the dialect: those that fit most of them."""
    votes: Counter[tuple[str, int]] = Counter()
    names = [name for name in tensors if len(name) <= LONGEST_NAME]
    for index, dialect in enumerate(DIALECTS):
        theirs = {dialect.theirs(name) for name in network.variables}
        lengths = sorted({len(name) for name in theirs}, reverse=True)  # few, however many slashes a file's names have
        for name in names:
            starts = [len(name) - length for length in lengths if length <= len(name)]
            start = next((at for at in starts if (not at or name[at - 1] in "/.") and name[at:] in theirs), None)
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
    unused = sorted(name for name in without_bystanders(tensors) if name not in used)
    for name, expected in network.variables.items():
        key = keys[name]
        if key not in tensors:
            near = nearest(key, [n for n in unused if len(n) <= LONGEST_NAME]) if len(wrong) < 3 else ""
            wrong.append(f"{key}: expected {expected}, found none" + (f"; {near}" if near else ""))
            continue
        array = dialect.array(tensors[key])
        if tuple(array.shape) != expected:
            wrong.append(f"{key}: expected {expected}, found {tuple(array.shape)}")
        elif array.dtype.kind != "f":
            wrong.append(f"{key}: expected float32, found {array.dtype}")
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later, all at once
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
    """Refuse units with parts that ours do not have, and networks with a ResNet's names that are mostly other parts."""
    if not dialect.inside:
        return
    places = [
        (block, unit) for block, units in enumerate(network.blocks.values(), 1) for unit in range(1, len(units) + 1)
    ]
    prefixes = tuple(scope + prefix for place in places for prefix in dialect.prefixes_of(*place))
    if more := [name for name in unused if name.startswith(prefixes)]:
        raise CheckpointError(
            f"{source} holds more than a ResNet: its units have {len(more)} variables of other parts",
            found=[name[:80] for name in more],
            help="squeeze-and-excitation, attention and the like are not computed here",
        )
    beside = [name for name in unused if name.startswith(scope)]
    if len(beside) > len(network.variables):  # HRNet begins with a layer1, and has its own words for the rest
        raise CheckpointError(
            f"{source} holds another network: a ResNet's variables are {len(network.variables)} of it,"
            f" and {len(beside)} are not",
            found=[name[:80] for name in beside],
            help="if a ResNet is part of it, save that part's variables alone",
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
    with np.errstate(invalid="ignore"):  # NaN and infinity become NaN, which is refused with the other weights
        double = kernel.astype(np.float64)
        centered = double - double.mean(axis=(0, 1, 2))
        variance = np.square(centered).mean(axis=(0, 1, 2))
        standard: npt.NDArray[np.float32] = (centered / np.sqrt(variance + epsilon)).astype(np.float32)
    return standard


def _misfit_help(network: Network, held: Network | None) -> str:
    if held is None:
        return "load without options to see what the file holds"
    if held.variables == network.variables:  # no option made the difference
        return "part of it was left out when it was saved, or it is a relative of ResNets that is not computed here"
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
