"""Compare resforward with the libraries that published ResNets come from, on random weights of their own making.

    python tests/oracles/check_families.py [NETWORK ...] [--size 224 161] [--images 1]

Needs torch, torchvision, timm and Keras 3, which runs on torch. Each network's weights are saved as its library saves
them, loaded here, and compared are the logits and every tensor that has the name of one of the library's modules or
layers. Prints a table of the largest difference over the largest value, and exits with 1 where one is above what is
promised.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from oracles.torchvision_on_cpu import torchvision

import resforward
from resforward.aliases import aliases

PROMISED, PROMISED_BIT = 1e-5, 2e-5  # BiT: group norm and standardised weights round once more
Tensors = dict[str, np.ndarray]


def torchvision_net(name: str) -> Any:
    return torchvision().models.get_model(name, weights=None)


def timm_net(name: str) -> Any:
    torchvision()  # timm imports it
    import timm

    return timm.create_model(name, pretrained=False)


def randomise(net: Any) -> None:
    """Give norms statistics that are not trivial."""
    import torch

    rng = np.random.default_rng(0)
    state = net.state_dict()
    for key, tensor in state.items():
        if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith(".weight")):
            # Damped at the end of each residual path, as training leaves them: else activations grow, and rounding of
            # what is large is compared with what is small.
            last = key.endswith(("norm3.weight", "bn3.weight"))
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape) * (0.3 if last else 1)))
        elif key.endswith(("running_mean", ".bias")):
            tensor.copy_(torch.from_numpy(rng.normal(0, 0.1, tensor.shape)))
    net.load_state_dict(state)


def with_torch(make: Callable[[str], Any]) -> Callable[[str, Path, np.ndarray], tuple[Path, Tensors]]:
    """Run one of torch's networks, features of each stage on the way."""

    def run(name: str, folder: Path, images: np.ndarray) -> tuple[Path, Tensors]:
        import torch

        torch.manual_seed(0)
        net = make(name).eval()
        randomise(net)
        path = folder / f"{name}.pth"
        torch.save(net.state_dict(), path)
        found: Tensors = {}

        def keep(stage: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                found[stage] = output.numpy().copy()  # the next layer may write into it

            return hook

        named = aliases(resforward.load(path).network).known
        for name, module in net.named_modules():
            if name in named:
                module.register_forward_hook(keep(name))
        assert {"layer4", "stages.3"} & {name for name, _ in net.named_modules()} <= set(named)
        with torch.inference_mode():
            found["logits"] = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        return path, found

    return run


def run_keras(name: str, folder: Path, images: np.ndarray) -> tuple[Path, Tensors]:
    """Run one of Keras' networks, its layers' outputs on the way."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    make, _, ending = name.partition("@")
    options = {"weights": None, "classifier_activation": None, "input_shape": images.shape[1:]}
    net = getattr(keras.applications, make)(**options)
    rng = np.random.default_rng(0)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (weight.shape for weight in layer.weights)
            last = layer.name.endswith("_3_bn")  # damped, as in `randomise`
            scale, spread = rng.uniform(0.5, 1.5, gamma) * (0.3 if last else 1), rng.uniform(0.5, 1.5, variance)
            layer.set_weights([scale, rng.normal(0, 0.1, beta), rng.normal(0, 0.1, mean), spread])
        elif getattr(layer, "bias", None) is not None:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0, 0.1, bias.shape)])
    path = folder / f"model{ending or '.keras'}"
    (net.save_weights if "weights" in path.name else net.save)(path)
    named = aliases(resforward.load(path).network).known
    layers = [layer.name for layer in net.layers if layer.name in named]
    outputs = keras.Model(net.input, [*(net.get_layer(layer).output for layer in layers), net.output])(images)
    arrays = [keras.ops.convert_to_numpy(output) for output in outputs]
    return path, dict(zip([*layers, "logits"], arrays, strict=True))


TORCHVISION, TIMM = with_torch(torchvision_net), with_torch(timm_net)
NETWORKS: Mapping[str, tuple[Callable[[str, Path, np.ndarray], tuple[Path, Tensors]], float]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), (TORCHVISION, PROMISED)),
    "wide_resnet50_2": (TORCHVISION, PROMISED),
    **{f"timm/{n}": (TIMM, PROMISED) for n in ("resnet18", "resnet50", "resnet50c", "resnet50t", "resnet50d")},
    **{f"timm/{n}": (TIMM, PROMISED) for n in ("resnet101d", "resnetv2_18", "resnetv2_50", "resnetv2_50d")},
    **{f"timm/{n}": (TIMM, PROMISED) for n in ("resnetv2_101", "resnetv2_50d_gn")},
    **{f"keras/{n}": (run_keras, PROMISED) for n in ("ResNet50", "ResNet101", "ResNet152")},
    **{f"keras/{n}": (run_keras, PROMISED) for n in ("ResNet50V2", "ResNet101V2", "ResNet152V2")},
    **{f"keras/{n}": (run_keras, PROMISED) for n in ("ResNet50@.h5", "ResNet50V2@.weights.h5")},
    **{f"timm/{n}": (TIMM, PROMISED_BIT) for n in ("resnetv2_50x1_bit", "resnetv2_101x3_bit")},
}


def check(name: str, size: int, images: int) -> tuple[float, str]:
    """The largest relative difference of one network, and the tensor that has it."""
    run, _ = NETWORKS[name]
    batch = np.random.default_rng(1).standard_normal((images, size, size + 12, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path, expected = run(name.rpartition("/")[2], Path(folder), batch)
        found = resforward.load(path).forward(batch, list(expected))
    differences = []
    for key, tensor in expected.items():
        if tensor.ndim == 4 and not name.startswith("keras/"):
            tensor = tensor.transpose(0, 2, 3, 1)
        ours = found[key].reshape(tensor.shape)
        differences.append((float(np.abs(ours - tensor).max() / np.abs(tensor).max()), key))
    return max(differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--size", nargs="+", type=int, default=[224, 161])
    parser.add_argument("--images", type=int, default=1)
    options = parser.parse_args()
    too_far = 0
    for name in options.networks or NETWORKS:
        for size in options.size:
            difference, where = check(name, size, options.images)
            too_far += difference > NETWORKS[name][1]
            mark = "" if difference <= NETWORKS[name][1] else "  TOO FAR"
            print(f"{name:28} {size} x {size + 12}  {difference:.1e} at {where}{mark}", flush=True)
    return 1 if too_far else 0


if __name__ == "__main__":
    sys.exit(main())
