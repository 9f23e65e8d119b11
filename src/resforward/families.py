"""What differs between published families of ResNets, as rows of values.

A family is data: nothing in the program asks for its name to decide what to compute. A new family is a new row, and,
where its tensors are called differently, a name map in `names.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

PoolPadding = Literal["same", "symmetric", "ceil"]
Fill = Literal["-inf", "zero"]
Pre = Literal["none", "both", "residual"]
Post = Literal["none", "relu", "norm_relu"]
GROUPS = 32  # of every group norm: what timm and BiT have

Shortcut = Literal["identity", "subsample", "projection", "avg_projection", "zero_pad"]
Norm = Literal["bn", "gn"]
Projects = Literal["width", "width or stride", "first unit"]


@dataclass(frozen=True)
class Pool:
    """A max-pool with the alignment that its family uses.

    >>> Pool(3, 2, "same").geometry(112)  # TensorFlow's SAME: nothing before, one after
    (56, 0)
    >>> Pool(3, 2, "symmetric").geometry(112)  # torch, Keras: one on both sides
    (56, 1)

    Args:
        kernel: window, pixels. stride: step, pixels.
        padding: "same" as TensorFlow's SAME, "symmetric" kernel // 2 on both sides, "ceil" as Caffe: none, the last
            window may be cut off.
        fill: what padded pixels hold; "zero" shows where no ReLU comes before the pool (Keras V2, BiT).
    """

    kernel: int
    stride: int
    padding: PoolPadding
    fill: Fill = "-inf"

    def geometry(self, size: int) -> tuple[int, int]:
        """Return (output size, padding before) for an axis of `size` pixels."""
        if self.padding == "same":
            out = -(-size // self.stride)
            return out, max((out - 1) * self.stride + self.kernel - size, 0) // 2
        if self.padding == "symmetric":
            pad = self.kernel // 2
            return (size + 2 * pad - self.kernel) // self.stride + 1, pad
        return -(-max(size - self.kernel, 0) // self.stride) + 1, 0


@dataclass(frozen=True)
class Stem:
    """The root block: one or several convolutions, then perhaps a max-pool.

    Args:
        kernel, stride: of the first convolution, pixels.
        widths: output channels of each convolution; more than one is a "deep" stem of 3x3 convolutions.
        bias: the convolutions have a bias.
        norm, relu: what follows the last one; those before it have ReLU, and norm as a unit's first convolution has.
        pool: the max-pool after them, or None.
    """

    kernel: int
    stride: int
    widths: tuple[int, ...]
    bias: bool
    norm: bool
    relu: bool
    pool: Pool | None


@dataclass(frozen=True)
class Family:
    """One row: every value that tells one family of published ResNets from another.

    Args:
        name: for messages. version: the suffix of its units' scope, `bottleneck_<version>`.
        networks: what a published network of so many {layers} is called, of {width} times the usual width.
        stem: the root block of its networks.
        stride_unit: the unit of a Block that carries the Block's stride. stride_at: the convolution in it, 1 or 2; of
            a basic unit it is the first.
        projects: the units whose shortcut is a projection: those that change the width, or the width or the stride, or
            the first of every Block. projection: what it is where it has a stride; see `Unit`.
        pre_projection, pre_identity: what norm and ReLU before a unit serve, when its shortcut is a projection and
            when it is not: "none", the "residual" path alone, or "both" paths.
        post: what follows the sum.
        bias, norms: whether the unit's convolutions have them, in order; a basic unit has the first and the last. Norms
            are missing where whoever exported a network folded them.
        shortcut_bias, shortcut_norm: of the projection.
        final_norm: batch norm and ReLU after the last unit (postnorm).
        epsilon: of norms. norm: "bn", or "gn" with `GROUPS` groups.
        weight_epsilon: convolutions are stored as they were before weight standardisation with this epsilon; it is
            done once, at load. None: they are stored as they are.
        input_norm: batch norm on the image itself, while it is read: no end point, and zeros around it are zeros.
        kinds: of units that its networks have. channels_last: its framework has images as (N, H, W, C), so that a graph
            of such images is not of those that have not.
        classes: of its published checkpoints. background: index of an extra class that is none, or None.
        preprocess: the row of `preprocess.PRESETS` that its published weights want; None where nobody knows.

    Sources: google-research/tf-slim, tf_slim/nets/resnet_v1.py, resnet_v2.py, resnet_utils.py for slim's rows;
    keras-team/keras, keras/src/applications/resnet.py, resnet_v2.py; pytorch/vision, torchvision/models/resnet.py;
    huggingface/pytorch-image-models, timm/models/resnet.py, resnetv2.py.
    """

    name: str
    version: str
    networks: str
    stem: Stem
    stride_unit: Literal["first", "last"]
    stride_at: Literal[1, 2]
    projects: Projects
    pre_projection: Pre
    pre_identity: Pre
    post: Post
    bias: tuple[bool, bool, bool]
    norms: tuple[bool, bool, bool]
    shortcut_bias: bool
    shortcut_norm: bool
    final_norm: bool
    epsilon: float
    classes: int
    background: int | None
    preprocess: str | None
    norm: Norm = "bn"
    weight_epsilon: float | None = None
    input_norm: bool = False
    projection: Literal["projection", "avg_projection"] = "projection"
    kinds: tuple[Literal["bottleneck", "basic"], ...] = ("bottleneck",)
    channels_last: bool = True


SLIM_V1 = Family(
    name="slim v1",
    version="v1",
    networks="resnet_v1_{layers}",
    stem=Stem(kernel=7, stride=2, widths=(64,), bias=False, norm=True, relu=True, pool=Pool(3, 2, "same")),
    stride_unit="last",
    stride_at=2,
    projects="width",
    pre_projection="none",
    pre_identity="none",
    post="relu",
    bias=(False, False, False),
    norms=(True, True, True),
    shortcut_bias=False,
    shortcut_norm=True,
    final_norm=False,
    epsilon=1e-5,
    classes=1000,
    background=None,
    preprocess="vgg_224",
)

SLIM_V2 = Family(
    name="slim v2",
    version="v2",
    networks="resnet_v2_{layers}",
    stem=Stem(kernel=7, stride=2, widths=(64,), bias=True, norm=False, relu=False, pool=Pool(3, 2, "same")),
    stride_unit="last",
    stride_at=2,
    projects="width",
    pre_projection="both",
    pre_identity="residual",
    post="none",
    bias=(False, False, True),
    norms=(True, True, False),
    shortcut_bias=True,
    shortcut_norm=False,
    final_norm=True,
    epsilon=1e-5,
    classes=1001,
    background=0,
    preprocess="inception_299",
)

KERAS_V1 = replace(
    SLIM_V1,
    name="Keras v1",
    networks="resnet{layers}",
    stem=replace(SLIM_V1.stem, bias=True, pool=Pool(3, 2, "symmetric", "zero")),
    stride_unit="first",
    stride_at=1,
    projects="first unit",
    bias=(True, True, True),
    shortcut_bias=True,
    epsilon=1.001e-5,
    preprocess="keras_caffe_224",
)

# The file with names such as res2a_branch2a: Keras 1.2 to 2.2 and keras-applications leave their norms the default
# epsilon. The pool is that of keras-applications 1.0.8; Keras 1.2 to 2.1 had no zeros around it, and other logits.
KERAS_V1_2015 = replace(KERAS_V1, name="Keras v1 of 2015", epsilon=1e-3)

# Slim's weights, said to be; but the pool begins one pixel earlier, and its zeros show: no ReLU comes before it.
KERAS_V2 = replace(
    SLIM_V2,
    name="Keras v2",
    networks="resnet{layers}v2",
    stem=replace(SLIM_V2.stem, pool=Pool(3, 2, "symmetric", "zero")),
    projects="first unit",
    epsilon=1.001e-5,
    classes=1000,
    background=None,
)

TORCH_V1 = replace(
    SLIM_V1,
    name="torch v1.5",
    networks="resnet{layers}",
    stem=replace(SLIM_V1.stem, pool=Pool(3, 2, "symmetric")),
    stride_unit="first",
    projects="width or stride",
    preprocess="torchvision_224",
    kinds=("bottleneck", "basic"),
    channels_last=False,
)

TIMM_V2 = replace(
    SLIM_V2,
    name="timm v2",
    networks="resnetv2_{layers}",
    stem=replace(SLIM_V2.stem, bias=False, pool=Pool(3, 2, "symmetric")),
    stride_unit="first",
    projects="width or stride",
    bias=(False, False, False),
    shortcut_bias=False,
    classes=1000,
    background=None,
    preprocess="timm_v2_224",
    kinds=("bottleneck", "basic"),
    channels_last=False,
)

# "d" and "t": three 3x3 convolutions as root block, and shortcuts that take the mean before they project.
TORCH_V1D = replace(
    TORCH_V1, name="timm v1d", networks="resnet{layers}d", projection="avg_projection", preprocess="timm_224"
)
TIMM_V2D = replace(TIMM_V2, name="timm v2d", networks="resnetv2_{layers}d", projection="avg_projection")
TIMM_V2D_GN = replace(TIMM_V2D, name="timm v2d with group norm", networks="resnetv2_{layers}d_gn", norm="gn")

# Models that MXNet's Gluon exported: only the 1x1 convolutions have biases.
ONNX_ZOO_V1 = replace(
    KERAS_V1,
    name="ONNX zoo v1",
    networks="resnet{layers}-v1",
    stem=TORCH_V1.stem,
    projects="width or stride",
    bias=(True, False, True),
    shortcut_bias=False,
    epsilon=1e-5,
    preprocess="onnx_zoo_224",
    kinds=("bottleneck", "basic"),
    channels_last=False,
)
ONNX_ZOO_V2 = replace(
    TIMM_V2,
    name="ONNX zoo v2",
    networks="resnet{layers}-v2",
    stem=TORCH_V1.stem,
    preprocess="onnx_zoo_224",
    input_norm=True,
)

BIT = replace(
    TIMM_V2,
    name="BiT",
    networks="resnetv2_{layers}x{width}_bit",
    preprocess="bit_448",
    stem=replace(TIMM_V2.stem, pool=Pool(3, 2, "symmetric", "zero")),
    norm="gn",
    weight_epsilon=1e-8,
    kinds=("bottleneck",),
)

FAMILIES = (
    SLIM_V1,
    SLIM_V2,
    KERAS_V1,
    KERAS_V1_2015,
    KERAS_V2,
    TORCH_V1,
    TORCH_V1D,
    TIMM_V2,
    TIMM_V2D,
    TIMM_V2D_GN,
    BIT,
    ONNX_ZOO_V1,
    ONNX_ZOO_V2,
)
