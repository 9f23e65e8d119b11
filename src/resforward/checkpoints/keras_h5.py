"""Keras weights in HDF5: the legacy `.h5`, weights alone or a whole model, and Keras 3's `.weights.h5`.

What the names are:

* **Legacy** (`save_weights("x.h5")` before Keras 3, `save("x.h5")` to this day; keras-team/keras:
  src/legacy/saving/legacy_h5_format.py). The attribute `layer_names`, at the root or in the group `model_weights`,
  lists the layers in the model's order; `weight_names` of each layer's group its weights, in the layer's order (a
  network inside another has those last that are not trained). Lists that are too long for one attribute are cut into
  `layer_names0`, `layer_names1`, ... A name here is `layer/weight`, in that order: without TensorFlow's `:0`, and with
  the layer's own name once, not two or three times. `conv1_conv` with `conv1_conv/conv1_conv/kernel:0` gives
  `conv1_conv/kernel`; a network inside another keeps both names. What Keras 1 called otherwise has the name of Keras 2:
  `conv1` with `conv1_W_1:0` gives `conv1/kernel`.
* **Keras 3** (`.weights.h5`; src/saving/saving_lib.py). A variable's path says its class and a number,
  `layers/conv2d_3/vars/0`: layers of one class are numbered in the model's order, the first without a number, and
  variables in the order of the layer's own list. The group `vars` has the layer's name as its attribute `name`, so
  these too give `conv1_conv/kernel`: conv and dense layers have kernel, bias; batch norm gamma, beta, moving_mean,
  moving_variance. Variables of other classes, and of a batch norm without gamma or beta, keep their numbers:
  `normalization/0`. Where a layer has no such attribute (TensorFlow 2.12 to 2.15), or lies in a list of a model's own,
  names are the file's own paths, all of them.
  Layers are sorted by class, then by number, which is the model's order within a class. The order across classes is
  not in such a file; a `.keras` file has it (see keras_zip).

State of optimizers, metrics and random number generators is no weight: it is named in `skipped`, and never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from resforward.checkpoints import hdf5
from resforward.checkpoints.arrays import Contents
from resforward.checkpoints.files import File, Folder
from resforward.errors import CheckpointError

NAME = "Keras HDF5"
_WHOLE_MODEL = "model_weights"
_OWN_WEIGHTS = "top_level_model_weights"
_MAX_WEIGHTS = 8192
_NOT_WEIGHTS = {
    "optimizer": "the optimizer's state",
    "optimizer_weights": "the optimizer's state",
    "metrics": "state of metrics",
    "compile_metrics": "state of metrics",
    "loss_tracker": "state of metrics",
    "seed_generator": "the state of a random number generator",
}
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the second in TensorFlow 2.12 and 2.13
_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Keras 1: src/layers/convolutional.py, core.py, normalization.py; what it calls a deviation is the variance.
_KERAS_1 = {
    "W": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
_VARIABLES = {
    "conv1d": ("kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "conv3d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": _BATCH_NORM,
}


class Layer(NamedTuple):
    """What a configuration says of one layer: its name, and those of its variables where they are known.

    >>> Layer("conv1_bn", ("beta", "moving_mean", "moving_variance")).name
    'conv1_bn'
    """

    name: str
    variables: tuple[str, ...]


def recognises(file: File) -> bool:
    """Tell whether a file begins as HDF5 does."""
    return begins(bytes(file.data[:8]))


def begins(head: bytes) -> bool:
    """Tell whether the first bytes of a file are those of HDF5."""
    return head.startswith(hdf5.MAGIC)


def read(folder: Folder, name: str) -> Contents:
    """Read the weights of a Keras file.

    >>> read(DiskFolder(Path("models")), "resnet50.h5").tensors["conv1_conv/kernel"].shape  # doctest: +SKIP
    (7, 7, 3, 64)

    Raises:
        CheckpointError: the file is damaged, is HDF5 but not Keras's, or holds what no Keras file does.
    """
    return read_file(folder.open(name), {})


def read_file(file: File, layers: Mapping[str, Layer]) -> Contents:
    """Read the weights of a Keras file whose configuration is known: layers by their paths, in the model's order."""
    tree = hdf5.Tree(file)
    for group in ("", _WHOLE_MODEL):
        names = _list(tree, group, "layer_names")
        if names is not None:
            return _legacy(tree, group, names)
    if any("vars" in path.split("/") for path in tree.datasets()):
        return _by_path(tree, layers)
    raise CheckpointError(
        f"`{file.name}` is an HDF5 file, but holds no Keras weights",
        found=[
            "it has no attribute `layer_names`, at its root or in `model_weights`, and no group `vars`",
            f"its root holds {', '.join(f'`{name[:40]}`' for name in tree.members()[:6]) or 'nothing'}",
        ],
        help="pass what `model.save` or `model.save_weights` of Keras wrote",
    )


def _legacy(tree: hdf5.Tree, root: str, layer_names: list[str]) -> Contents:
    """Read the weights that the attributes list, in their order."""
    wanted: dict[str, str] = {}  # name -> path
    missing: list[str] = []
    for layer in [*layer_names, *([_OWN_WEIGHTS] if _join(root, _OWN_WEIGHTS) in tree else [])]:
        group = _join(root, layer)
        weights = _list(tree, group, "weight_names")
        if weights is None:
            missing.append(f"layer `{layer}` has no {'`weight_names`' if group in tree else 'group'}")
            continue
        keys = [_key(layer, weight) for weight in weights]
        for weight, key in zip(weights, _in_words_of_today(layer, keys), strict=True):
            path = f"{group}/{weight}"
            if not tree.is_dataset(path):
                missing.append(f"weight `{path}` is not there")
            _add(wanted, key, path, tree.file)
    if missing:
        raise tree.file.damaged(
            f"{len(missing)} of the layers and weights that its attributes list are missing", *missing
        )
    listed = set(wanted.values())
    skipped: dict[str, str] = {}
    for path in tree.datasets():
        top = path.partition("/")[0]
        if path in listed:
            continue
        if top in _NOT_WEIGHTS:
            skipped[top] = _NOT_WEIGHTS[top]
        else:
            skipped[path] = "an array that no layer lists"
    return _read(tree, wanted, skipped)


def _key(layer: str, weight: str) -> str:
    """Name a weight by its layer and its own name.

    >>> _key("conv1_conv", "conv1_conv/conv1_conv/kernel:0"), _key("conv1", "conv1_W_1:0")
    ('conv1_conv/kernel', 'conv1/conv1_W_1')
    """
    rest = weight.removesuffix(":0")
    while rest.startswith(f"{layer}/"):
        rest = rest.removeprefix(f"{layer}/")
    return f"{layer}/{rest}"


def _in_words_of_today(layer: str, keys: list[str]) -> list[str]:
    """Name the weights of a layer as Keras 2 does, where Keras 1 wrote them; TensorFlow 0 may have counted them.

    >>> _in_words_of_today("bn_conv1", ["bn_conv1/bn_conv1_gamma", "bn_conv1/bn_conv1_running_std_1"])
    ['bn_conv1/gamma', 'bn_conv1/moving_variance']
    """
    own, renamed = f"{layer}/{layer}_", []
    for key in keys:
        word = re.sub(r"_[0-9]{1,4}\Z", "", key.removeprefix(own))
        renamed.append(f"{layer}/{_KERAS_1[word]}" if key.startswith(own) and word in _KERAS_1 else key)
    return renamed if len(set(renamed)) == len(keys) else keys


def _by_path(tree: hdf5.Tree, layers: Mapping[str, Layer]) -> Contents:
    """Read the variables of a Keras 3 file, under the names of their layers where all of them are known."""
    skipped: dict[str, str] = {}
    variables: dict[str, list[str]] = {}  # path of a layer -> its variables
    for path in tree.datasets():
        owner, _, variable = path.rpartition("/vars/")
        parts = [re.sub(r"_\d+\Z", "", part).lstrip("_") for part in owner.split("/")]
        kind = next((place for place, part in enumerate(parts) if part in _NOT_WEIGHTS), None)
        if kind is not None and (kind == 0 or parts[kind] == "seed_generator"):
            skipped["/".join(owner.split("/")[: kind + 1])] = _NOT_WEIGHTS[parts[kind]]
        elif not owner or "/" in variable:
            if not path.startswith("vars/"):
                skipped[path] = "an array that is no variable"
                continue
            variables.setdefault("", []).append(path.removeprefix("vars/"))
        else:
            variables.setdefault(owner, []).append(variable)
    names = {owner: _layer_name(tree, owner, layers) for owner in variables}
    order = {path: place for place, path in enumerate(layers)}
    last = len(order)
    wanted: dict[str, str] = {}
    for owner in sorted(variables, key=lambda each: (order.get(_plain(each), last), _natural(each))):
        paths = sorted(variables[owner], key=_natural)
        own = _variable_names(owner, paths, layers)
        for place, variable in enumerate(paths):
            path = _join(owner, f"vars/{variable}")
            key = path if None in names.values() else f"{names[owner]}/{own[place]}".removeprefix("/")
            _add(wanted, key, path, tree.file)
    return _read(tree, wanted, skipped)


def _layer_name(tree: hdf5.Tree, owner: str, layers: Mapping[str, Layer]) -> str | None:
    """Name a layer, after those that it is inside of; None where one has no name.

    Raises:
        CheckpointError: the file's names and those of the configuration differ.
    """
    parts = owner.split("/") if owner else []
    names = []
    for depth, part in enumerate(parts, start=1):
        path = "/".join(parts[:depth])
        stored = tree.strings(f"{path}/vars", "name")
        layer = _configured(layers, path)
        known = layer.name if layer else None
        name = stored[0] if stored else known
        if name is None:
            if part in _CONTAINERS and depth < len(parts):
                continue
            return None
        if not name or (known is not None and known != name):
            raise tree.file.damaged(f"layer `{path}` is named `{name}`, and `{known}` in the configuration")
        names.append(name)
    return "/".join(names)


def _configured(layers: Mapping[str, Layer], path: str) -> Layer | None:
    return layers.get(_plain(path))


def _plain(path: str) -> str:
    return path.replace(_CONTAINERS[1], _CONTAINERS[0])


def _variable_names(owner: str, numbers: list[str], layers: Mapping[str, Layer]) -> list[str] | tuple[str, ...]:
    """Name the variables of a layer, or leave them their numbers."""
    if numbers != [str(place) for place in range(len(numbers))]:
        return numbers
    kind = re.sub(r"_\d+\Z", "", owner.rpartition("/")[2])
    layer = _configured(layers, owner)
    names = layer.variables if layer else _VARIABLES.get(kind, ())
    if names and (len(names) == len(numbers) or names[: len(numbers)] == ("kernel",)):
        return names[: len(numbers)]
    return numbers


def variables_of(kind: str, *, scale: bool = True, center: bool = True) -> tuple[str, ...]:
    """Name the variables of a class of layers in Keras's order; none for a class that is not known.

    >>> variables_of("batch_normalization", scale=False)
    ('beta', 'moving_mean', 'moving_variance')
    """
    absent = {"gamma": not scale, "beta": not center}
    return tuple(name for name in _VARIABLES.get(kind, ()) if not absent.get(name))


def _natural(path: str) -> list[tuple[str, int]]:
    """Sort `conv2d`, `conv2d_1`, `conv2d_10` in this order."""
    pieces = []
    for part in path.split("/"):
        match = re.fullmatch(r"(.*?)_?(\d{1,9})", part, re.DOTALL)
        pieces.append((match[1], int(match[2])) if match else (part, -1))
    return pieces


def _list(tree: hdf5.Tree, group: str, name: str) -> list[str] | None:
    """Return a list of names, whole or in numbered pieces."""
    whole = tree.strings(group, name)
    if whole is not None:
        return whole
    found: list[str] | None = None
    for number in range(_MAX_WEIGHTS):
        piece = tree.strings(group, f"{name}{number}")
        if piece is None:
            break
        found = [*(found or []), *piece]
    return found


def _add(wanted: dict[str, str], key: str, path: str, file: File) -> None:
    if key in wanted:
        raise file.damaged(f"two weights are named `{key}`", f"`/{wanted[key]}`", f"`/{path}`")
    if len(wanted) == _MAX_WEIGHTS:
        raise file.damaged(f"it lists more than {_MAX_WEIGHTS} weights")
    wanted[key] = path


def _read(tree: hdf5.Tree, wanted: Mapping[str, str], skipped: dict[str, str]) -> Contents:
    tensors = {key: tree.array(path) for key, path in wanted.items()}
    tree.check_blocks()
    return Contents(tensors, skipped)


def _join(*parts: str) -> str:
    return "/".join(_present(parts))


def _present(parts: Iterable[str]) -> list[str]:
    return [part for part in parts if part]
