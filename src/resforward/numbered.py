"""Names for layers that have but a number: Keras' own ResNets in `.weights.h5` files of TensorFlow 2.12 to 2.15.

A path there says a layer's class and number, `layers/conv2d_7/vars/0`; layers of one class are numbered in the model's
order, that of their distance from its end (keras-team/keras: src/ops/function.py, `map_graph`). For the networks of
keras.applications that order is known: TensorFlow 2.12.1 and 2.15.1 and Keras 3.15.1 have the same. A file whose every
layer has the shapes that it has in its turn in one of them is taken for that one; any other is refused, for which layer
reads which is not in such a file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from .dialects import KERAS, LEAVES
from .errors import CheckpointError, NetworkError
from .families import KERAS_V1, KERAS_V2
from .names import LONGEST_NAME, Tensors
from .network import Network
from .published import UNITS, standard_blocks
from .resnet import resnet

_PATH = re.compile(
    r"(?P<owner>(?:.*/)?(?:layers|_layer_checkpoint_dependencies)/)"
    r"(?P<layer>(?P<kind>[^/]+?)(?:_(?P<number>[1-9][0-9]{0,8}))?)/vars/(?P<variable>0|[1-9][0-9]{0,8})"
)
_CONV, _NORM, _DENSE = "conv2d", "batch_normalization", "dense"
_KNOWN = [(family, layers) for family in (KERAS_V1, KERAS_V2) for layers in (50, 101, 152)]
# Of a unit: layers as far from the network's end as each other come in the order in which they were made.
_TURNS = ("preact", "conv1", "conv2", "shortcut", "conv3")

Shapes = tuple[tuple[int, ...], ...]
_Layers = Mapping[str, list[tuple[str, Shapes]]]  # (name, shapes of its variables) by class, in order


def with_names(tensors: Tensors, source: str) -> tuple[Tensors, tuple[str, ...]]:
    """Give the layers of a file without names those that they have in Keras; other files are returned as they are.

    >>> named, evidence = with_names(read_checkpoint("tf_2_15.weights.h5"), "tf_2_15.weights.h5")  # doctest: +SKIP
    >>> named["layers/conv1_conv/kernel"].shape  # doctest: +SKIP
    (7, 7, 3, 64)

    Args:
        tensors: of `read_checkpoint`.
        source: the file's name, for messages.

    Returns:
        The tensors, and what was concluded.

    Raises:
        CheckpointError: layers without names that are those of none of Keras' ResNets.
    """
    models = {owner: layers for owner, layers in _models(tensors).items() if {_CONV, _NORM} <= layers.keys()}
    if not models:
        return tensors, ()
    words: dict[str, str] = {}
    evidence: list[str] = []
    misfits: list[str] = []
    for owner, layers in models.items():
        for network in _candidates(layers):
            expected = _in_turn(network)
            wrong = _difference(layers, expected)
            if not wrong:
                words |= _words(owner, layers, expected)
                evidence.append(
                    f"names: {owner} has none, but its layers have the shapes and the order of {network.name}"
                )
                break
            misfits.append(f"{owner}: not {network.name}: {wrong}")
    if not words:
        raise CheckpointError(
            f"{source} has layers without names, and they are not those of a ResNet of keras.applications",
            found=misfits or [f"{owner}: {_counted(layers)}" for owner, layers in models.items()],
            help='save it again in Keras with its layers\' names: model.save("x.keras") or model.save_weights("x.h5")',
        )
    return {words.get(name, name): tensors[name] for name in tensors}, tuple(evidence)


def _models(tensors: Tensors) -> Mapping[str, _Layers]:
    """Layers by class, in the order of their numbers, of every model that a file holds."""
    variables: dict[tuple[str, str, int, str], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for name in tensors:
        if len(name) <= LONGEST_NAME and (path := _PATH.fullmatch(name)):
            layer = path["owner"], path["kind"], int(path["number"] or 0), path["layer"]
            variables[layer][int(path["variable"])] = tuple(tensors[name].shape)
    models: dict[str, dict[str, list[tuple[str, Shapes]]]] = defaultdict(lambda: defaultdict(list))
    for (owner, kind, _, name), numbered in sorted(variables.items()):
        whole = sorted(numbered) == list(range(len(numbered)))
        models[owner][kind].append((name, tuple(shape for _, shape in sorted(numbered.items())) if whole else ()))
    return models


def _candidates(layers: _Layers) -> list[Network]:
    """The networks with as many convolutions, for as many channels and classes."""
    first = layers[_CONV][0][1][:1]
    channels = first[0][2] if first and len(first[0]) == 4 else 0
    dense = layers[_DENSE][0][1][:1] if _DENSE in layers else ()
    classes = dense[0][1] if dense and len(dense[0]) == 2 else 0
    try:
        networks = [
            resnet(
                family,
                standard_blocks(UNITS[depth], family),
                classes,
                input_channels=channels,
                name=f"keras.applications' {family.networks.format(layers=depth)}",
            )
            for family, depth in _KNOWN
        ]
    except NetworkError:  # images without channels
        return []
    return [network for network in networks if len(_in_turn(network)[_CONV]) == len(layers[_CONV])]


def _in_turn(network: Network) -> dict[str, list[tuple[str, Shapes]]]:
    """The layers of a network as Keras orders them, by our names."""
    scopes: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, shape in network.variables.items():
        scope, _, leaf = name.rpartition("/")
        scopes[scope][leaf] = shape
    order = ["conv1", *(f"{unit.name}/{part}" for unit in network.units for part in _TURNS), "postnorm", "logits"]
    layers: dict[str, list[tuple[str, Shapes]]] = defaultdict(list)
    for scope in (each for layer in order for each in (layer, f"{layer}/BatchNorm") if each in scopes):
        shapes = tuple(scopes[scope][leaf] for leaf in LEAVES if leaf in scopes[scope])
        if scope == "logits":
            layers[_DENSE].append((scope, (shapes[0][2:], *shapes[1:])))
        else:
            layers[_NORM if "gamma" in scopes[scope] else _CONV].append((scope, shapes))
    return layers


def _difference(layers: _Layers, expected: _Layers) -> str:
    """The first thing that differs, in words; empty where nothing does."""
    if more := layers.keys() - expected.keys():
        return f"it has variables of {', '.join(sorted(more))}"
    for kind, rows in expected.items():
        for row, (name, shapes) in zip_longest(layers.get(kind, ()), rows, fillvalue=("", ())):
            if row[1] != shapes:
                held = f"{row[0]} has {_shapes(row[1])}" if row[0] else f"it has no further {kind}"
                return f"{held}, expected {_shapes(shapes)}" + (f" for {KERAS.scope(name)}" if name else "")
    return ""


def _words(owner: str, layers: _Layers, expected: _Layers) -> dict[str, str]:
    """Keras' names by paths."""
    return {
        f"{owner}{layer}/vars/{place}": f"{owner}{KERAS.theirs(f'{scope}/{leaf}')}"
        for kind, rows in expected.items()
        for (layer, shapes), (scope, _) in zip(layers[kind], rows, strict=True)
        for place, leaf in zip(range(len(shapes)), LEAVES[2:] if kind == _NORM else LEAVES, strict=False)
    }


def _shapes(shapes: Shapes) -> str:
    return " and ".join(map(str, shapes[:4])) or "nothing"


def _counted(layers: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{len(rows)} {kind}" for kind, rows in sorted(layers.items())[:6])
