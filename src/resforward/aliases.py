"""End points by the names of other libraries: Keras' layers, torchvision's and timm's modules.

Every network answers to all of them. A name stands for the tensor that its library computes under it, so what has no
such tensor here has no alias: a convolution whose batch norm is folded into it is only known by what comes after both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .dialects import KERAS, TIMM, TORCH, Dialect

if TYPE_CHECKING:
    from .network import Conv, Network, Unit


@dataclass(frozen=True)
class Vocabulary:
    """What a library calls the tensors that are not a convolution's own result.

    Args:
        dialect: its names of layers.
        activations: by our name of the convolution whose ReLU it is, outside of units and, as `conv1`, inside. Where
            there is none, norm and ReLU are one layer: the norm's.
        outside, inside: of other end points, by our names; `unit` is a unit's sum, `shortcut` its projection where that
            is a layer of several.
        block: the last unit's sum, under the Block's own name, with a place for {block}; empty where it has none.
    """

    dialect: Dialect
    activations: Mapping[str, str]
    outside: Mapping[str, str]
    inside: Mapping[str, str] = field(default_factory=dict)
    block: str = ""


VOCABULARIES = (
    Vocabulary(
        KERAS,
        activations={"conv1": "conv1_relu", **{f"unit/conv{i}": f"{i}_relu" for i in (1, 2)}},
        outside={"pool1": "pool1_pool", "postnorm": "post_relu", "global_pool": "avg_pool"},
        inside={"unit": "out", "preact": "preact_relu"},
    ),
    Vocabulary(
        TORCH,
        activations={
            "conv1": "act1",
            "conv1/conv1": "conv1.2",
            "conv1/conv2": "conv1.5",
            "conv1/conv3": "act1",
            **{f"unit/conv{i}": f"act{i}" for i in (1, 2)},
        },
        outside={"pool1": "maxpool", "global_pool": "avgpool", "logits": "fc"},
        inside={"unit": "", "shortcut": "downsample"},
        block="layer{block}",
    ),
    Vocabulary(
        TIMM,
        activations={},
        outside={"pool1": "stem", "postnorm": "norm", "global_pool": "head.global_pool", "logits": "head.fc"},
        inside={"unit": "", "shortcut": "downsample", "preact": "norm1"},
        block="stages.{block}",
    ),
)


@dataclass(frozen=True)
class Aliases:
    """Of one network.

    Args:
        known: end points by alias.
        folded: the alias of what comes after, by the names of layers whose own results are never computed.
    """

    known: Mapping[str, str]
    folded: Mapping[str, str]


def aliases(network: Network) -> Aliases:
    """Every name of another library that one of a network's end points has.

    >>> from resforward import NETWORKS
    >>> names = aliases(NETWORKS["resnet_v1_50"])
    >>> names.known["layer2.0.act1"], names.folded["layer2.0.conv1"]
    ('block2/unit_1/bottleneck_v1/conv1', 'layer2.0.act1')
    """
    known: dict[str, str] = {}
    folded: dict[str, str] = {}
    plain = network.family.projection == "projection"  # torch counts the layers of the other kind from a pool
    for words in VOCABULARIES:
        for conv in (*network.stem_convs, *filter(None, [network.logits])):
            _convolution(words, conv, words.activations.get(conv.name), known, folded)
        for name, word in words.outside.items():
            known.setdefault(word, name)
        for block, units in enumerate(network.blocks.values(), start=1):
            for place, unit in enumerate(units, start=1):
                prefix, _ = words.dialect.prefixes_of(block, place)
                _unit(words, unit, prefix, known, folded)
                if unit.projection and plain:
                    _convolution(words, unit.projection, None, known, folded)
            if words.block:
                known[words.block.format(block=block - 1 + words.dialect.first_block)] = units[0].block
    own = network.end_points(1, 1)  # the same at every size; they come first, and what is not there has no alias
    return Aliases(
        {alias: name for alias, name in known.items() if name in own and alias not in own},
        {layer: alias for layer, alias in folded.items() if layer not in own},
    )


def _unit(words: Vocabulary, unit: Unit, prefix: str, known: dict[str, str], folded: dict[str, str]) -> None:
    for place, conv in enumerate(unit.convs, start=1):
        act = words.activations.get(f"unit/conv{place}")
        _convolution(words, conv, act and prefix + act, known, folded)
    if unit.projection and "shortcut" in words.inside:
        known[prefix + words.inside["shortcut"]] = unit.projection.name
    known[(prefix + words.inside["unit"]).rstrip(".")] = unit.name
    if unit.pre != "none" and "preact" in words.inside:
        known[prefix + words.inside["preact"]] = f"{unit.name}/preact"


def _convolution(
    words: Vocabulary, conv: Conv, activation: str | None, known: dict[str, str], folded: dict[str, str]
) -> None:
    """A convolution is what its last layer is: itself, its norm or its ReLU."""
    layers = [words.dialect.scope(conv.name), conv.norm and words.dialect.scope(conv.norm_scope)]
    if conv.relu and activation:
        layers.append(activation)
    present = [layer for layer in layers if layer]
    if not present or (conv.norm and len(present) < 2):
        return
    *before, last = present
    known[last] = conv.name
    folded.update(dict.fromkeys(before, last))
