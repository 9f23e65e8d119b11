"""What differs between published families of ResNets, as rows of values.

A family is data: nothing in the program asks for its name to decide what to compute. A new family is a new row, and,
where its tensors are called differently, a name map in `names.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PoolPadding = Literal["same", "symmetric", "ceil"]
Fill = Literal["-inf", "zero"]
Pre = Literal["none", "both", "residual"]
Post = Literal["none", "relu", "norm_relu"]
Shortcut = Literal["identity", "subsample", "projection", "avg_projection", "zero_pad"]


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
        bias: the convolutions have a bias. norm: they are followed by batch norm and ReLU.
        pool: the max-pool after them, or None.
    """

    kernel: int
    stride: int
    widths: tuple[int, ...]
    bias: bool
    norm: bool
    pool: Pool | None


@dataclass(frozen=True)
class Family:
    """One row: every value that tells one family of published ResNets from another.

    Args:
        name: also the suffix of its units' scope, `bottleneck_<version>`.
        stem: the root block of its networks.
        stride_unit: the unit of a Block that carries the Block's stride. stride_at: the convolution in it, 1 or 2.
        pre_projection, pre_identity: what norm and ReLU before a unit serve, when its shortcut is a projection and
            when it is not: "none", the "residual" path alone, or "both" paths.
        post: what follows the sum. norm_last: the last convolution has batch norm.
        bias: of the unit's convolutions, in order. shortcut_bias, shortcut_norm: of the projection.
        final_norm: batch norm and ReLU after the last unit (postnorm).
        epsilon: of batch norm. norm: "bn", or "gn" with 32 groups. weight_epsilon: of weight standardisation, or None.
        input_norm: batch norm on the image itself. channel_order: of the pixels it was trained on.
        dilation: whose rule for output strides: "slim" or "torch".
        classes: of its published checkpoints. background: index of an extra class that is none, or None.
        preprocess: the row of `preprocess.PRESETS` that its published weights want.

    Source: google-research/tf-slim, tf_slim/nets/resnet_v1.py, resnet_v2.py, resnet_utils.py for slim's rows.
    """

    name: str
    version: str
    stem: Stem
    stride_unit: Literal["first", "last"]
    stride_at: Literal[1, 2]
    pre_projection: Pre
    pre_identity: Pre
    post: Post
    bias: tuple[bool, bool, bool]
    norm_last: bool
    shortcut_bias: bool
    shortcut_norm: bool
    final_norm: bool
    epsilon: float
    classes: int
    background: int | None
    preprocess: str
    norm: Literal["bn", "gn"] = "bn"
    weight_epsilon: float | None = None
    input_norm: bool = False
    channel_order: Literal["rgb", "bgr"] = "rgb"
    dilation: Literal["slim", "torch"] = "slim"


SLIM_V1 = Family(
    name="slim v1",
    version="v1",
    stem=Stem(kernel=7, stride=2, widths=(64,), bias=False, norm=True, pool=Pool(3, 2, "same")),
    stride_unit="last",
    stride_at=2,
    pre_projection="none",
    pre_identity="none",
    post="relu",
    bias=(False, False, False),
    norm_last=True,
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
    stem=Stem(kernel=7, stride=2, widths=(64,), bias=True, norm=False, pool=Pool(3, 2, "same")),
    stride_unit="last",
    stride_at=2,
    pre_projection="both",
    pre_identity="residual",
    post="none",
    bias=(False, False, True),
    norm_last=False,
    shortcut_bias=True,
    shortcut_norm=False,
    final_norm=True,
    epsilon=1e-5,
    classes=1001,
    background=0,
    preprocess="inception_299",
)
