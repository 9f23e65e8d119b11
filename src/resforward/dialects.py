"""What each source of checkpoints calls a network's variables, as rows of values.

Our names are slim's without the scope. A `Dialect` turns each of them into its own, and its arrays into ours: kernels
(height, width, in, out), a classifier as a 1x1 convolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .families import (
    BIT,
    KERAS_V1,
    KERAS_V1_2015,
    KERAS_V2,
    SLIM_V1,
    SLIM_V2,
    TIMM_V2,
    TIMM_V2D,
    TIMM_V2D_GN,
    TORCH_V1,
    TORCH_V1D,
    Family,
)

Array = npt.NDArray[Any]

_INSIDE = re.compile(r"block(?P<block>[0-9]{1,9})/unit_(?P<unit>[0-9]{1,9})/[^/]+/(?P<part>.+)")


@dataclass(frozen=True)
class Dialect:
    """One source's names and axes.

    >>> TORCH.theirs("block2/unit_1/bottleneck_v1/conv1/BatchNorm/gamma")
    'layer2.0.bn1.weight'

    Args:
        name: of the source, for messages. example: the name of a variable, likewise.
        marker: matches the name of a variable that every unit has; groups `scope`, `block` and `unit`, as they are
            written there. first_block, first_unit: what the first ones are called, by a number or, of units, a letter.
        families: the rows that it may hold, each with the variables of theirs that tell it from the rows after it.
        outside, inside: theirs by ours, for all but the last part of a name, outside of units and inside of them.
            Empty where its names are ours.
        prefix: of names inside a unit, with places for {block} and {unit}. norm_prefix: of norms, where it is another.
        relatives: what is not computed here, by what matches the name of a variable that it has.
        leaves: theirs by ours, for the last part.
        axes: of kernels: HWIO as ours, or OIHW; of a classifier IO or OI.
    """

    name: str
    example: str
    marker: re.Pattern[str]
    families: tuple[tuple[Family, tuple[str, ...]], ...]
    outside: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    norm_prefix: str = ""
    relatives: Mapping[re.Pattern[str], str] = field(default_factory=dict)
    leaves: Mapping[str, str] = field(default_factory=dict)
    axes: Literal["HWIO", "OIHW"] = "HWIO"
    first_block: int = 1
    first_unit: int | str = 1

    def theirs(self, name: str) -> str:
        """Its name for one of our variables, without the scope; ours where it has no word for it."""
        scope, _, leaf = name.rpartition("/")
        words = self.scope(scope), self.leaves.get(leaf)
        return f"{words[0]}{words[1]}" if words[0] and words[1] else name

    def scope(self, name: str) -> str | None:
        """The same for what comes before the last part: a layer's name. None where it has no word for it.

        >>> TORCH.scope("block2/unit_1/bottleneck_v1/conv1"), TORCH.scope("postnorm")
        ('layer2.0.conv1', None)
        """
        inside = _INSIDE.fullmatch(name)
        if inside is None:
            return self.outside.get(name)
        word = self.inside.get(inside["part"])
        convs, norms = self.prefixes_of(int(inside["block"]), int(inside["unit"]))
        return (norms if inside["part"].endswith("Norm") else convs) + word if word else None

    def prefixes_of(self, block: int, unit: int) -> tuple[str, str]:
        """Of the names inside a unit, both counted from 1: those of convolutions and those of norms."""
        first = self.first_unit
        place = {
            "block": block - 1 + self.first_block,
            "unit": unit - 1 + first if isinstance(first, int) else chr(ord(first) + unit - 1),
        }
        return self.prefix.format(**place), (self.norm_prefix or self.prefix).format(**place)

    def block(self, written: str) -> str:
        """Our name of a Block."""
        return f"block{int(written) - self.first_block + 1}" if self.inside else written

    def unit(self, written: str) -> int:
        """A unit's place in its Block, from 1."""
        first = self.first_unit
        return int(written) - first + 1 if isinstance(first, int) else ord(written) - ord(first) + 1

    def array(self, array: Array) -> Array:
        """A view of an array with our axes."""
        if self.axes == "OIHW" and array.ndim in (2, 4):
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        return array[np.newaxis, np.newaxis] if array.ndim == 2 and self.inside else array


def _both(scopes: Mapping[str, str]) -> dict[str, str]:
    """A norm has the same name in theirs, whether it is of batches or of groups."""
    return {**scopes} | {k.replace("BatchNorm", "GroupNorm"): v for k, v in scopes.items() if k.endswith("/BatchNorm")}


LEAVES = ("weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
_TORCH_LEAVES = dict(
    zip(LEAVES, (".weight", ".bias", ".weight", ".bias", ".running_mean", ".running_var"), strict=True)
)
_KERAS_LEAVES = {leaf: f"/{leaf}" for leaf in LEAVES} | {"weights": "/kernel", "biases": "/bias"}


def _slim(family: Family) -> Dialect:
    unit = rf"(?P<block>[^/]+)/unit_(?P<unit>[0-9]{{1,9}})/bottleneck_{family.version}/.+"
    return Dialect(
        name=family.name,
        example=f"SCOPE/block1/unit_1/bottleneck_{family.version}/conv1/weights",
        marker=re.compile(rf"(?P<scope>(?:.*/)?){unit}"),
        families=((family, ()),),
    )


KERAS = Dialect(
    name="Keras",
    example="conv2_block1_1_conv/kernel",
    marker=re.compile(r"(?P<scope>(?:.*/)?)conv(?P<block>[2-9])_block(?P<unit>[0-9]{1,3})_1_conv/kernel"),
    families=((KERAS_V2, ("post_bn/gamma",)), (KERAS_V1, ())),
    outside={"conv1": "conv1_conv", "conv1/BatchNorm": "conv1_bn", "postnorm": "post_bn", "logits": "predictions"},
    inside={
        "preact": "preact_bn",
        "shortcut": "0_conv",
        "shortcut/BatchNorm": "0_bn",
        **{f"conv{i}": f"{i}_conv" for i in (1, 2, 3)},
        **{f"conv{i}/BatchNorm": f"{i}_bn" for i in (1, 2, 3)},
    },
    prefix="conv{block}_block{unit}_",
    leaves=_KERAS_LEAVES,
    first_block=2,
)

# keras-team/keras-applications, keras_applications/resnet50.py; Keras 1.2 to 2.1, keras/applications/resnet50.py.
KERAS_2015 = Dialect(
    name="Keras of 2015",
    example="res2a_branch2a/kernel",
    marker=re.compile(r"(?P<scope>(?:.*/)?)res(?P<block>[2-9])(?P<unit>[a-z])_branch2a/kernel"),
    families=((KERAS_V1_2015, ()),),
    outside={"conv1": "conv1", "conv1/BatchNorm": "bn_conv1", "logits": "fc1000"},
    inside={
        part + norm: word
        for part, word in {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}.items()
        for norm in ("", "/BatchNorm")
    },
    prefix="res{block}{unit}_branch",
    norm_prefix="bn{block}{unit}_branch",
    relatives={
        re.compile(r"(.*/)?scale[2-9][a-z][0-9]*_branch.*"): "norms in two layers, one of them a scale, as in Caffe",
        re.compile(r"(.*/)?res[2-9][a-z][0-9]+_branch.*"): "units that are counted b1, b2 and so on, as in Caffe",
    },
    leaves=_KERAS_LEAVES,
    first_block=2,
    first_unit="a",
)

TORCH = Dialect(
    name="torch",
    example="layer1.0.conv1.weight",
    marker=re.compile(r"(?P<scope>(?:.*\.)?)layer(?P<block>[1-9])\.(?P<unit>[0-9]{1,3})\.conv1\.weight"),
    families=((TORCH_V1, ()),),
    outside={
        "conv1": "conv1",
        "conv1/BatchNorm": "bn1",
        # A deep root block is a Sequential with a ReLU in every third place; its last norm is where the others have it.
        "conv1/conv1": "conv1.0",
        "conv1/conv1/BatchNorm": "conv1.1",
        "conv1/conv2": "conv1.3",
        "conv1/conv2/BatchNorm": "conv1.4",
        "conv1/conv3": "conv1.6",
        "conv1/conv3/BatchNorm": "bn1",
        "logits": "fc",
    },
    inside={
        "shortcut": "downsample.0",
        "shortcut/BatchNorm": "downsample.1",
        **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)},
        **{f"conv{i}/BatchNorm": f"bn{i}" for i in (1, 2, 3)},
    },
    prefix="layer{block}.{unit}.",
    leaves=_TORCH_LEAVES,
    axes="OIHW",
    first_unit=0,
)
# The same where a pool comes before the shortcut's convolution.
TIMM_V1D = replace(
    TORCH,
    name="timm",
    families=((TORCH_V1D, ("layer2.0.downsample.2.weight",)),),
    inside={
        **TORCH.inside,
        "shortcut": "downsample.1",
        "shortcut/BatchNorm": "downsample.2",
    },
)

TIMM = Dialect(
    name="timm",
    example="stages.0.blocks.0.conv1.weight",
    marker=re.compile(r"(?P<scope>(?:.*\.)?)stages\.(?P<block>[0-9])\.blocks\.(?P<unit>[0-9]{1,3})\.conv1\.weight"),
    families=(
        (TIMM_V2D, ("stem.conv1.weight", "norm.running_mean")),
        (TIMM_V2, ("norm.running_mean",)),
        (TIMM_V2D_GN, ("stem.conv1.weight",)),
        (BIT, ()),
    ),
    outside=_both(
        {
            "conv1": "stem.conv",
            **{f"conv1/conv{i}": f"stem.conv{i}" for i in (1, 2, 3)},
            **{f"conv1/conv{i}/BatchNorm": f"stem.norm{i}" for i in (1, 2, 3)},
            "postnorm": "norm",
            "logits": "head.fc",
        }
    ),
    inside=_both(
        {
            "preact": "norm1",
            "shortcut": "downsample.conv",
            **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)},
            **{f"conv{i}/BatchNorm": f"norm{i + 1}" for i in (1, 2)},
        }
    ),
    prefix="stages.{block}.blocks.{unit}.",
    leaves=_TORCH_LEAVES,
    axes="OIHW",
    first_block=0,
    first_unit=0,
)

# The files that BiT was published in: google-research/big_transfer; timm, timm/models/resnetv2.py reads them. The norms
# of a unit belong to what follows them: the first is the pre-activation.
BIG_TRANSFER = Dialect(
    name="BiT",
    example="block1/unit01/a/standardized_conv2d/kernel",
    marker=re.compile(
        r"(?P<scope>(?:.*/)?)block(?P<block>[1-9])/unit(?P<unit>[0-9]{2,3})/a/standardized_conv2d/kernel"
    ),
    families=((BIT, ()),),
    outside={"conv1": "root_block/standardized_conv2d", "postnorm": "group_norm", "logits": "head/conv2d"},
    inside={
        "preact": "a/group_norm",
        "shortcut": "a/proj/standardized_conv2d",
        **{f"conv{i}": f"{letter}/standardized_conv2d" for i, letter in enumerate("abc", start=1)},
        **{f"conv{i}/GroupNorm": f"{letter}/group_norm" for i, letter in enumerate("bc", start=1)},
    },
    prefix="block{block}/unit{unit:02d}/",
    leaves=_KERAS_LEAVES,
)

# In the order in which they are tried.
DIALECTS = (_slim(SLIM_V1), _slim(SLIM_V2), KERAS, KERAS_2015, TIMM_V1D, TORCH, TIMM, BIG_TRANSFER)
