"""The published networks at full size, with every option of slim's: what `check_slim.py` compares."""

from __future__ import annotations

from typing import Any

from golden.networks import Case

from resforward.published import NETWORKS, UNITS, standard_blocks


def published(name: str, **options: Any) -> Case:
    """The case of a published network by its name, `resnet_v2_50`; two images of 224 x 224 unless told otherwise."""
    depth = int(name.split("_")[-1])
    defaults = {"size": (224, 224), "batch": 2, "num_classes": NETWORKS[name].num_classes}
    return Case("v1" if "_v1_" in name else "v2", tuple(standard_blocks(UNITS[depth])), **{**defaults, **options})


# NETWORK/VARIANT, also the folder that a case is kept in. 224 leads to even maps, 299 and 195 x 260 to odd ones too.
CASES = {
    "resnet_v1_50/224": published("resnet_v1_50", saver="V1"),
    "resnet_v1_101/224": published("resnet_v1_101"),
    "resnet_v1_152/224": published("resnet_v1_152"),
    "resnet_v1_200/224": published("resnet_v1_200"),
    "resnet_v2_50/224": published("resnet_v2_50", saver="V1"),
    "resnet_v2_101/224": published("resnet_v2_101"),
    "resnet_v2_152/224": published("resnet_v2_152"),
    "resnet_v2_200/224": published("resnet_v2_200"),
    "resnet_v1_50/299": published("resnet_v1_50", size=(299, 299)),
    "resnet_v2_50/299": published("resnet_v2_50", size=(299, 299)),
    "resnet_v1_50/195x260": published("resnet_v1_50", size=(195, 260)),
    "resnet_v2_50/195x260": published("resnet_v2_50", size=(195, 260)),
    "resnet_v2_101/299": published("resnet_v2_101", size=(299, 299), batch=1),
    "resnet_v2_152/195x260": published("resnet_v2_152", size=(195, 260), batch=1, saver="V1"),
    "resnet_v2_200/299": published("resnet_v2_200", size=(299, 299), batch=1),
    "resnet_v2_101/output_stride_8": published("resnet_v2_101", output_stride=8, batch=1),
    "resnet_v1_50/output_stride_8": published("resnet_v1_50", output_stride=8),
    "resnet_v2_50/output_stride_8": published("resnet_v2_50", output_stride=8),
    "resnet_v2_50/output_stride_16": published("resnet_v2_50", output_stride=16),
    "resnet_v1_50/output_stride_16_dense": published("resnet_v1_50", output_stride=16, global_pool=False),
    "resnet_v2_50/no_global_pool": published("resnet_v2_50", global_pool=False),
    "resnet_v2_50/no_classifier": published("resnet_v2_50", num_classes=0),
}
