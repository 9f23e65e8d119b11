"""torch: `model.npz` as an ordinary module, eager or compiled, on images with their channels last."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float32]
Node = Mapping[str, Any]


def version() -> str:
    """Of the installed package, without the name of its build."""
    return str(torch.__version__).split("+")[0]


def load(folder: Path, images: Array, threads: int, mode: str = "eager") -> Callable[[], Array]:
    """A module in inference mode; "compiled" with its weights frozen, so that batch norm folds."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    with np.load(folder / "model.npz") as arrays:
        network = module(json.loads(str(arrays["graph"])), arrays)
    network = network.eval().to(memory_format=torch.channels_last)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
    if mode == "compiled":
        network = torch.compile(network, options={"freezing": True})

    def run() -> Array:
        with torch.inference_mode():
            logits: Array = network(batch).numpy()
        return logits

    run()
    return run


def module(graph: Node, arrays: Mapping[str, Array]) -> Any:
    """The module of a plain graph: one layer a node, called in order."""
    root, calls = nn.Module(), torch.fx.Graph()
    tensors = {"images": calls.placeholder("images")}
    for number, node in enumerate(graph["nodes"]):
        inputs = tuple(tensors[name] for name in node["inputs"])
        if node["op"] == "identity":
            tensors[node["name"]] = inputs[0]
        elif node["op"] == "add":
            tensors[node["name"]] = calls.call_function(operator.add, inputs)
        else:
            weights = {part: torch.from_numpy(arrays[f"{node['scope']}/{part}"]) for part in node["weights"]}
            root.add_module(f"layer{number}", LAYERS[node["op"]](node["attributes"], weights))
            tensors[node["name"]] = calls.call_module(f"layer{number}", inputs)
    calls.output(tensors[graph["nodes"][-1]["name"]])
    return torch.fx.GraphModule(root, calls)


def _conv(given: Node, weights: Mapping[str, Any]) -> Any:
    kernel, bias = weights["weights"].permute(3, 2, 0, 1), weights.get("biases")
    top, left, bottom, right = given["padding"]
    if top != bottom or left != right:
        raise SystemExit(f"a convolution padded by {given['padding']}")
    layer = nn.Conv2d(
        kernel.shape[1],
        kernel.shape[0],
        tuple(kernel.shape[2:]),
        given["stride"],
        (top, left),
        given["dilation"],
        bias=bias is not None,
    )
    layer.load_state_dict({"weight": kernel} | ({} if bias is None else {"bias": bias}))
    return layer


def _norm(given: Node, weights: Mapping[str, Any]) -> Any:
    layer = nn.BatchNorm2d(len(weights["gamma"]), eps=given["epsilon"])
    names = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    layer.load_state_dict({theirs: weights[ours] for theirs, ours in names.items()}, strict=False)
    return layer


def _group_norm(given: Node, weights: Mapping[str, Any]) -> Any:
    layer = nn.GroupNorm(given["groups"], len(weights["gamma"]), eps=given["epsilon"])
    layer.load_state_dict({"weight": weights["gamma"], "bias": weights["beta"]})
    return layer


def _max_pool(given: Node, weights: Mapping[str, Any]) -> Any:
    top, left, bottom, right = given["padding"]
    kernel, stride = given["kernel"], given["stride"]
    if top == bottom == left == right:
        return nn.MaxPool2d(kernel, stride, top)
    if top == left == 0 and max(bottom, right) < stride:
        return nn.MaxPool2d(kernel, stride, ceil_mode=True)  # the same windows without a padded copy
    return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), -torch.inf), nn.MaxPool2d(kernel, stride))


def _pad(given: Node, weights: Mapping[str, Any]) -> Any:
    top, left, bottom, right = given["padding"]
    return nn.ZeroPad2d((left, right, top, bottom))


def _dense(given: Node, weights: Mapping[str, Any]) -> Any:
    layer = nn.Linear(*weights["weights"].shape)
    layer.load_state_dict({"weight": weights["weights"].T, "bias": weights["biases"]})
    return layer


LAYERS: dict[str, Callable[[Node, Mapping[str, Any]], Any]] = {
    "conv": _conv,
    "norm": _norm,
    "relu": lambda given, weights: nn.ReLU(inplace=True),  # of a norm or a sum, which nothing else reads
    "group_norm": _group_norm,
    "max_pool": _max_pool,
    "avg_pool": lambda given, weights: nn.AvgPool2d(
        given["kernel"], given["stride"], ceil_mode=True, count_include_pad=False
    ),
    "pad": _pad,
    "subsample": lambda given, weights: nn.MaxPool2d(1, given["stride"]),
    "mean": lambda given, weights: nn.AdaptiveAvgPool2d(1),
    "flatten": lambda given, weights: nn.Flatten(),
    "dense": _dense,
}
