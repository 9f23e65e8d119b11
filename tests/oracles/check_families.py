"""Compare resforward with the libraries that published ResNets come from, on random weights of their own making.

    python tests/oracles/check_families.py [NETWORK ...] [--images 1] [--onnx] [--keep FOLDER] [--size 224 161]

Needs torch, torchvision, timm and Keras 3, which runs on torch; `./check oracles` has an environment with them. Each
network's weights are saved as its library saves them, loaded here, and compared are the logits and every tensor that
has the name of one of the library's modules or layers. Prints the largest difference over the largest value, and exits
with 1 where one is above what is promised.

With --onnx, each network is also exported as its library exports it, loaded from that file, and its logits compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from oracles.libraries import LOGITS, TIMM, TORCHVISION, Keras, Library, Tensors
from oracles.onnx_exports import EXPORTS

import resforward
from resforward.aliases import aliases

PROMISED, PROMISED_BIT = 1e-5, 2e-5  # BiT: group norm and standardised weights round once more


class Case(NamedTuple):
    """A network of a library, what is promised of it, and whether a file of ONNX, of 2 GB at most, can hold it."""

    origin: Library
    network: str
    promised: float = PROMISED
    onnx: bool = True


def _cases(prefix: str, library: Library, *networks: str) -> dict[str, Case]:
    return {prefix + network: Case(library, network) for network in networks}


# By name; together they have every kind of unit, root block, norm and file.
CASES: Mapping[str, Case] = {
    **_cases("", TORCHVISION, "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
    **_cases("timm/", TIMM, "resnet18", "resnet50", "resnet50c", "resnet50t", "resnet50d", "resnet101d"),
    **_cases("timm/", TIMM, "resnetv2_18", "resnetv2_50", "resnetv2_50d", "resnetv2_101", "resnetv2_50d_gn"),
    "timm/resnetv2_50x1_bit": Case(TIMM, "resnetv2_50x1_bit", PROMISED_BIT),
    "timm/resnetv2_101x3_bit": Case(TIMM, "resnetv2_101x3_bit", PROMISED_BIT, onnx=False),
    **_cases("keras/", Keras(), "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    # Other files of the same networks.
    "keras/ResNet50_weights.h5": Case(Keras("_weights.h5"), "ResNet50", onnx=False),
    "keras/ResNet50V2.h5": Case(Keras(".h5"), "ResNet50V2", onnx=False),
    "keras/ResNet50V2.weights.h5": Case(Keras(".weights.h5"), "ResNet50V2", onnx=False),
}


class Line(NamedTuple):
    """One comparison: the largest relative difference, and the tensor that has it."""

    what: str
    difference: float
    where: str


def compare(model: resforward.Model, images: np.ndarray, expected: Tensors, what: str) -> Line:
    found = model.forward(images, list(expected))
    differences = [
        (float(np.abs(found[name].reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()), name)
        for name, wanted in expected.items()
    ]
    # NaN would win no comparison.
    difference, where = max((d if np.isfinite(d) else np.inf, name) for d, name in differences)
    return Line(what, difference, where)


def check(case: Case, size: tuple[int, int], images: int, folder: Path) -> Iterator[Line]:
    """A network's weights, as its library saves them."""
    batch = np.random.default_rng(1).standard_normal((images, *size, 3), np.float32)
    net = case.origin.make(case.network, size)
    path = case.origin.save(net, folder / "model")
    model = resforward.load(path)
    known = aliases(model.network).known
    layers = [layer for layer in case.origin.layers(net) if layer in known]
    assert {unit.name for unit in model.network.units} <= {known[layer] for layer in layers}, "the pyramid is missing"
    yield compare(model, batch, case.origin.run(net, batch, layers), path.name)


def check_exports(case: Case, size: tuple[int, int], images: int, folder: Path) -> Iterator[Line]:
    """The same network from each of its library's ONNX files; they and their images and logits are left in a folder."""
    batch = np.random.default_rng(1).standard_normal((images, *size, 3), np.float32)
    net = case.origin.make(case.network, size)
    logits = case.origin.run(net, batch, [])[LOGITS]
    stem = folder / f"{case.network}_{size[0]}x{size[1]}"
    np.savez(f"{stem}.npz", images=case.origin.feed(batch), logits=logits)
    for name, export in EXPORTS[type(case.origin)].items():
        path = stem.with_name(f"{stem.name}.{name}.onnx")
        export(net, case.origin.feed(batch), path)
        yield compare(resforward.load(path, external_data=True), batch, {LOGITS: logits}, path.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(CASES))
    parser.add_argument("--size", nargs="+", type=int, default=[224, 161], help="height; the width is 12 more")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--onnx", action="store_true", help="compare the libraries' ONNX exports instead")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave them there, with their images and logits")
    options = parser.parse_args()
    if unknown := [name for name in options.networks if name not in CASES]:
        parser.error(f"no such network: {', '.join(unknown)}")
    too_far = 0
    compared = check_exports if options.onnx else check
    for name in options.networks or [name for name in CASES if CASES[name].onnx or not options.onnx]:
        case = CASES[name]
        for height in options.size:
            with tempfile.TemporaryDirectory() as temporary:
                folder = options.keep or Path(temporary)
                folder.mkdir(parents=True, exist_ok=True)
                size = (height, height + 12)
                for what, difference, where in compared(case, size, options.images, folder):
                    mark = "" if difference <= case.promised else "  TOO FAR"
                    too_far += bool(mark)
                    print(f"{name:28} {height} x {height + 12}  {difference:.1e} at {where}, {what}{mark}", flush=True)
    return 1 if too_far else 0


if __name__ == "__main__":
    sys.exit(main())
