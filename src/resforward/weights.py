"""The weights that are published, by the names that `pull` takes: where they lie, and what is known of their bytes.

A checksum stands here where its publisher or a library that loads the file says it. Nothing in this table was measured.
"""

from __future__ import annotations

from typing import NamedTuple

_SLIM = "https://download.tensorflow.org/models/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_KERAS_2015 = "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
_KERAS_FILE = "weights_tf_dim_ordering_tf_kernels"
_TORCHVISION = "https://download.pytorch.org/models/"


class Checksum(NamedTuple):
    """What the bytes of a file come to, as hexadecimal digits: all of them, or the first few.

    >>> Checksum("sha256", "f37072fd").describe()
    'sha256, its first 8 digits'
    """

    kind: str
    digits: str

    def describe(self) -> str:
        """How much of the sum is known."""
        whole = len(self.digits) == _DIGITS[self.kind]
        return self.kind if whole else f"{self.kind}, its first {len(self.digits)} digits"


class Weights(NamedTuple):
    """One file: where it lies, what it is called here, and what it comes to, where that is published."""

    url: str
    file: str
    checksum: Checksum | None = None


_DIGITS = {"md5": 32, "sha256": 64}

_SLIM_DATES = {"v1": "2016_08_28", "v2": "2017_04_14"}
_KERAS_MD5 = {
    "resnet50": "2cb95161c43110f7111970584f804107",
    "resnet101": "f1aeb4b969a6efcfb50fad2f0c20cfc5",
    "resnet152": "100835be76be38e30d865e96f2aaae62",
    "resnet50v2": "3ef43a0b657b3be2300d5770ece849e0",
    "resnet101v2": "6343647c601c52e1368623803854d971",
    "resnet152v2": "a49b44d1979771252814e80f8ec446f9",
}
_KERAS_2015_MD5 = "a7b3fe01876f51b976af0dea6bc144eb"
_TORCHVISION_SHA256 = {  # the first digits, which are in the file's name
    "resnet18_v1": "f37072fd",
    "resnet34_v1": "b627a593",
    "resnet50_v1": "0676ba61",
    "resnet101_v1": "63fe2227",
    "resnet152_v1": "394f9c45",
    "resnet50_v2": "11ad3fa6",
    "resnet101_v2": "cd907fc2",
    "resnet152_v2": "f82ba261",
    "resnet18_legacy": "5c106cde",
    "resnet34_legacy": "333f7ec4",
    "resnet50_legacy": "19c8e357",
    "resnet101_legacy": "5d3b4d8f",
    "resnet152_legacy": "b121ed2d",
}


def _at(folder: str, file: str, checksum: Checksum | None = None) -> Weights:
    return Weights(folder + file, file, checksum)


WEIGHTS: dict[str, Weights] = {
    **{
        f"resnet_{version}_{depth}": _at(_SLIM, f"resnet_{version}_{depth}_{date}.tar.gz")
        for version, date in _SLIM_DATES.items()
        for depth in (50, 101, 152)
    },
    **{
        f"keras_{name}": _at(_KERAS, f"{name}_{_KERAS_FILE}.h5", Checksum("md5", md5))
        for name, md5 in _KERAS_MD5.items()
    },
    **{f"keras_{name}_notop": _at(_KERAS, f"{name}_{_KERAS_FILE}_notop.h5") for name in _KERAS_MD5},
    "keras_resnet50_2015": Weights(  # published under the name of the newer file
        f"{_KERAS_2015}resnet50_{_KERAS_FILE}.h5",
        f"resnet50_2015_{_KERAS_FILE}.h5",
        Checksum("md5", _KERAS_2015_MD5),
    ),
    **{
        f"torchvision_{name}": _at(_TORCHVISION, f"{name.partition('_')[0]}-{digits}.pth", Checksum("sha256", digits))
        for name, digits in _TORCHVISION_SHA256.items()
    },
}
