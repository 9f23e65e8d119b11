"""A network with its weights: logits, end points, predictions, embeddings.

model = load("resnet_v2_50.ckpt")          # or build(network, seed=0)
logits = model(images)                     # (N, H, W, 3) float32, preprocessed
model.predict("cat.jpg")                   # preprocessing and labels travel with the weights
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import _core, machine
from .assemble import Packed, make_plan
from .errors import CheckpointError, EndPointError, InputError, NetworkError, nearest
from .fold import check_values, fold_conv, fold_norm, group_affine
from .network import EndPoint, Network
from .plan import Form, Layout, Step, lay_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .preprocess import Preprocess

Array = npt.NDArray[np.float32]
Made = TypeVar("Made")

_PLANS_KEPT = 8  # input shapes and sets of end points; each keeps an arena
_IMAGES_A_RUN = 64  # larger batches run in parts: the arena grows with the batch and nothing else does
_ARENA_BYTES = 1 << 29  # and so do large images: parts of as many as this holds, at least one

# Held while plans and packed weights are made. One for the process: making is rare, and a forked child needs it new.
_making = threading.RLock()


def _new_lock() -> None:
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)


class Model:
    """A network with its weights. Made by `load` and `build`; many threads may use one.

    >>> model = build(NETWORKS["fashion"], seed=0)
    >>> model(np.zeros((2, 28, 28, 1), np.float32)).shape
    (2, 10)

    Attributes:
        network: the table.
        weights: {variable: array} as stored, under slim's names without the scope; batch norm not folded.
        preprocess: the row that its weights were trained with, or None where nobody knows.
        labels: a name for each class, or None.
        source: where the weights come from. evidence: what was concluded about them, and from what.
        unused: variables of the checkpoint that the network has no place for.
        isa, threads: what it runs on.
        winograd: whether 3x3 convolutions are computed by Winograd's method where that is faster.
    """

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, Array],
        *,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
        source: str = "",
        evidence: Sequence[str] = (),
        unused: Sequence[str] = (),
        threads: int | None = None,
        isa: str | None = None,
        winograd: bool = True,
    ) -> None:
        self.network = network
        self.weights = dict(weights)
        self.preprocess = preprocess
        self.labels = tuple(labels) if labels is not None else None
        self.source = source
        self.evidence = tuple(evidence)
        self.unused = tuple(unused)
        self.threads = int(machine.threads(threads).value)
        self.isa = str(machine.instruction_set(isa).value)
        self.winograd = winograd
        if self.labels is not None and network.num_classes and len(self.labels) != network.num_classes:
            raise NetworkError(
                f"{network.name} has {network.num_classes} classes, and there are {len(self.labels)} labels"
            )
        if preprocess is not None and preprocess.input_channels != network.input_channels:
            raise NetworkError(
                f"{network.name} reads {network.input_channels} channels, its preprocessing makes"
                f" {preprocess.input_channels}"
            )
        wrong = [
            f"{name}: expected float32 {shape}, found {_described(self.weights.get(name))}"
            for name, shape in network.variables.items()
            if _described(self.weights.get(name)) != f"float32 {shape}"
        ]
        if wrong:
            raise CheckpointError(f"weights do not fit {network.name}: {len(wrong)} variables", found=wrong)
        check_values(self.weights, network, source or network.name)
        self._points: tuple[tuple[int, int], dict[str, EndPoint]] | None = None
        self._packed: dict[Form, Packed] = {}
        self._image_bytes: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        self._plans: OrderedDict[tuple[Any, ...], tuple[_core.Plan, Layout]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # What was packed for this processor is made anew where it arrives.
        return self.__dict__ | {"_packed": {}, "_plans": OrderedDict(), "_image_bytes": OrderedDict()}

    def __repr__(self) -> str:
        classes = f"{self.network.num_classes} classes" if self.network.num_classes else "no classifier"
        return (
            f"<Model {self.network.name} from {self.source}: {classes}, {self.network.parameters:,} parameters,"
            f" {self.isa}, {self.threads} threads>"
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that its preprocessing makes; 224 x 224 where there is none."""
        return self.preprocess.size if self.preprocess else (224, 224)

    @property
    def end_points(self) -> dict[str, EndPoint]:
        """Every end point by name, with its shape at `input_size`, multiply-adds and parameters.

        >>> build(NETWORKS["resnet_v2_50"]).end_points["block3"].shape  # doctest: +SKIP
        (10, 10, 1024)
        """
        return self.network.end_points(*self.input_size)

    def __call__(self, images: Any) -> Array:
        """Return logits, (N, classes); or what the network ends with, where it has no classifier or no global pool.

        >>> build(NETWORKS["fashion"])(np.zeros((1, 28, 28, 1), np.float32)).shape
        (1, 10)

        Args:
            images: (N, H, W, channels) floating point, preprocessed: NumPy, or anything that exports itself by
                __dlpack__, __array_interface__ or the buffer protocol. It is never written to.

        Raises:
            InputError: images of another shape, layout or dtype, or with NaN or infinite values.
        """
        name = self._last_name()
        result = self.forward(images, [name])[name]
        return result[:, 0, 0, :] if self.network.global_pool else result

    def forward(self, images: Any, end_points: Iterable[str] | None = None) -> dict[str, Array]:
        """Return any set of named tensors, each (N, H, W, channels), under the names that were asked for.

        The pass stops after the last one wanted, and wanting one changes no bit of another.

        >>> model = build(NETWORKS["fashion"])
        >>> tensors = model.forward(np.zeros((1, 28, 28, 1), np.float32), ["conv1", "fashion/block1"])
        >>> {name: tensor.shape for name, tensor in tensors.items()}
        {'conv1': (1, 28, 28, 32), 'fashion/block1': (1, 14, 14, 64)}

        Args:
            images: as for `__call__`.
            end_points: canonical names or full slim keys; one may be a string; None for all.

        Raises:
            EndPointError: a name that is none of this network's; the nearest is suggested.
            InputError: as for `__call__`.
        """
        return self._forward(images, end_points)

    def step_times(self, images: Any) -> list[tuple[Layout, npt.NDArray[np.float64]]]:
        """Run the pass of `__call__` and return its steps, each with its time in seconds.

        >>> ((layout, seconds),) = build("fashion").step_times(np.zeros((1, 28, 28, 1), np.float32))
        >>> layout.steps[0].name, len(layout.steps) == len(seconds)
        ('images', True)

        Args:
            images: as for `__call__`. A large batch runs in parts, and there is a layout for each.

        Raises:
            InputError: as for `__call__`.
        """
        times: list[tuple[Layout, npt.NDArray[np.float64]]] = []
        self._forward(images, [self._last_name()], times)
        return times

    def _forward(
        self,
        images: Any,
        end_points: Iterable[str] | None,
        times: list[tuple[Layout, npt.NDArray[np.float64]]] | None = None,
    ) -> dict[str, Array]:
        batch = self._as_batch(images)
        known = self._points_at(batch.shape[1], batch.shape[2])
        canonical = self.network.canonical(known if end_points is None else end_points)
        if not canonical:
            raise EndPointError("no end point was asked for", help="`model(images)` returns the logits")
        unique = list(dict.fromkeys(canonical.values()))
        results = {name: np.empty((len(batch), *known[name].shape), np.float32) for name in unique}
        unique.sort()  # one plan for one set, in whatever order it was asked for
        step = self._images_a_run(batch.shape, tuple(unique))
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            plan, layout = self._plan(part.shape, tuple(unique))
            outputs = [results[name][start : start + len(part)] for name in layout.shapes]
            seconds = None if times is None else np.empty(plan.steps)
            if not plan.run(part, outputs, seconds):
                raise _not_finite(batch)
            if times is not None and seconds is not None:
                times.append((layout, seconds))
        return {asked: results[name] for asked, name in canonical.items()}

    def predict(self, image: Any, top: int = 5) -> Any:
        """Return the most probable classes of a picture, or of each of a list of pictures.

        >>> load("fashion").predict("ankle_boot.png", top=1)  # doctest: +SKIP
        [Prediction(class_index=9, label='Ankle boot', probability=0.99)]

        Args:
            image: a path, the bytes of a file, a PIL image, an (H, W, C) uint8 array, or a list of them.
            top: how many classes.

        Raises:
            ImageError: pictures that cannot be read; all of them are listed.
            NetworkError: a network without classifier, or without known preprocessing.
        """
        from .labels import top_k_rows

        if top < 1:
            raise NetworkError(f"top is {top}", help="ask for at least one class")
        several = isinstance(image, list | tuple)
        if not self.network.num_classes or not self.network.global_pool:
            lacks = "classifier" if not self.network.num_classes else "global pool, so it gives a map of logits"
            raise NetworkError(f"{self.network.name} has no {lacks}", help="use `encode` or `forward`")
        rows = []
        pictures = list(image) if several else [image]
        for start in range(0, len(pictures), _IMAGES_A_RUN):
            batch = self._preprocessed(pictures[start : start + _IMAGES_A_RUN])
            probabilities = self.forward(batch, ["predictions"])["predictions"][:, 0, 0, :]
            rows += top_k_rows(probabilities, top, self.labels)
        return rows if several else rows[0]

    def encode(self, images: Any, end_point: str = "global_pool") -> Array:
        """Return one vector an image, (N, depth): an end point averaged over height and width.

        >>> load("fashion").encode(["ankle_boot.png", "coat.png"]).shape  # doctest: +SKIP
        (2, 192)

        Args:
            images: a picture or a list of them, as for `predict`, or preprocessed images, as for `__call__`.
            end_point: whose tensor.

        Raises:
            ImageError, InputError, EndPointError: as `predict` and `forward`.
        """
        if _is_picture(images):
            images = [images]
        if not isinstance(images, list | tuple):
            return self._encode(images, end_point)
        parts = [
            self._encode(self._preprocessed(images[start : start + _IMAGES_A_RUN]), end_point)
            for start in range(0, len(images), _IMAGES_A_RUN)
        ]
        if parts:
            return np.concatenate(parts)
        name = self.network.canonical([end_point])[end_point]
        return np.empty((0, self.end_points[name].depth), np.float32)

    def _encode(self, batch: Any, end_point: str) -> Array:
        tensor = self.forward(batch, [end_point])[end_point]
        mean: Array = tensor[:, 0, 0, :] if tensor.shape[1:3] == (1, 1) else tensor.mean(axis=(1, 2), dtype=np.float32)
        return mean

    def features(self, images: Any) -> dict[int, Array]:
        """Return a feature pyramid: the last unit's tensor at each stride, (N, H / stride, W / stride, depth).

        >>> found = build("fashion").features(np.zeros((1, 28, 28, 1), np.float32))
        >>> {stride: tensor.shape[1:] for stride, tensor in found.items()}
        {1: (28, 28, 64), 2: (14, 14, 128), 4: (7, 7, 192)}

        Args:
            images: as for `__call__`.

        Raises:
            InputError: as for `__call__`.
        """
        stages = self.network.stages
        tensors = self.forward(images, stages.values())
        return {stride: tensors[name] for stride, name in stages.items()}

    def cam(self, images: Any, label: int | str | None = None) -> Array:
        """Return class activation maps, (N, H, W): how much each place of the last map speaks for a class.

        >>> build("fashion").cam(np.zeros((1, 28, 28, 1), np.float32), label=3).shape
        (1, 7, 7)

        The mean of a map and the classifier's bias for its class are the logit.

        Args:
            images: a picture or a list of them, as for `predict`, or preprocessed images, as for `__call__`.
            label: a class's index or its label; None: of each image the most probable one.

        Raises:
            NetworkError: a network that does not end in global pool and classifier, or a class that it does not have.
            ImageError, InputError: as `predict` and `forward`.

        Source: Zhou et al., Learning Deep Features for Discriminative Localization (2016), equation 2.
        """
        network = self.network
        if not network.logits or not network.global_pool:
            raise NetworkError(f"{network.name} does not end in global pool and classifier", help="use `forward`")
        if _is_picture(images):
            images = [images]
        if isinstance(images, list | tuple):
            images = self._preprocessed(images)
        last = "postnorm" if network.family.final_norm else network.units[-1].name
        tensors = self.forward(images, [last, "logits"])
        if label is None:
            classes = tensors["logits"][:, 0, 0].argmax(axis=-1)
        else:
            classes = np.full(len(tensors[last]), self._class_of(label))
        maps: Array = np.einsum("nhwc,cn->nhw", tensors[last], self.weights["logits/weights"][0, 0][:, classes])
        return maps

    def _class_of(self, label: int | str) -> int:
        """The index of a class that is given as that or by its label."""
        if isinstance(label, str):
            if label in (self.labels or ()):
                return (self.labels or ()).index(label)
            near = nearest(label, self.labels or ())
            raise NetworkError(f"{self.network.name} has no class called {label!r}", found=[near] if near else [])
        if not 0 <= label < self.network.num_classes:
            raise NetworkError(f"there is no class {label}: {self.network.name} has {self.network.num_classes}")
        return int(label)

    def _preprocessed(self, pictures: Sequence[Any]) -> Array:
        if self.preprocess is None:
            raise NetworkError(
                f"how {self.network.name} wants its pictures preprocessed is not known",
                help="pass preprocess= to `load` (--preprocess to `predict`), or preprocessed arrays to the model",
            )
        return self.preprocess.batch(pictures)

    def _last_name(self) -> str:
        *_, last = (
            self._points_at(1, 1) if self._points is None else self._points[1]
        )  # names are the same at every size
        return "logits" if last == "predictions" else last

    def _points_at(self, height: int, width: int) -> dict[str, EndPoint]:
        """The table of end points, kept for the images that come next: making it takes as long as a layer."""
        points = self._points
        if points is None or points[0] != (height, width):
            self._points = points = (height, width), self.network.end_points(height, width)
        return points[1]

    def _as_batch(self, images: Any) -> Array:
        array = _as_array(images)
        channels = self.network.input_channels
        expected = f"(N, H, W, {channels}) float32"
        if array.dtype.kind != "f":
            advice: str | None = "floats are taken as preprocessed: see `model.preprocess`"
            if array.dtype == np.uint8:
                advice = (
                    "uint8 is a picture: `model.predict` or `model.encode` it, or `model.preprocess.batch([...])` first"
                )
            raise InputError(f"images are {array.dtype}, expected {expected}", help=advice)
        if array.ndim != 4:
            advice = "one image is a batch of one: images[None]" if array.ndim == 3 else None
            raise InputError(f"images have shape {array.shape}, expected {expected}", help=advice)
        first, last = array.shape[1] == channels, array.shape[3] == channels
        if channels > 1 and first and last:
            raise InputError(
                f"images have shape {array.shape}, which could be NHWC or NCHW",
                help=f"images of {channels} pixels' height cannot be told apart: pad them by a row",
            )
        if not last:
            advice = "this looks like NCHW: images.transpose(0, 2, 3, 1)" if first else None
            raise InputError(f"images have shape {array.shape}, expected {expected}", help=advice)
        if 0 in array.shape[1:]:
            raise InputError(f"images have shape {array.shape}: no pixels")
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused like that
            return np.require(array, np.float32, ["C", "A"])

    def _images_a_run(self, shape: tuple[int, ...], wanted: tuple[str, ...]) -> int:
        """Bits do not depend on the batch, so a batch may run in parts; this keeps an arena near `_ARENA_BYTES`."""
        most = min(shape[0], _IMAGES_A_RUN)
        if most <= 1:
            return 1
        image = (1, *shape[1:])
        used = _kept(self._image_bytes, (image, wanted), lambda: 4 * self._layout(image, wanted).arena_floats)
        return min(most, max(1, _ARENA_BYTES // used))

    def _layout(self, shape: tuple[int, ...], wanted: tuple[str, ...]) -> Layout:
        return lay_out(self.network, shape[0], shape[1], shape[2], wanted, winograd=self.winograd)

    def _plan(self, shape: tuple[int, ...], wanted: tuple[str, ...]) -> tuple[_core.Plan, Layout]:
        return _kept(self._plans, (shape, wanted), lambda: self._make_plan(shape, wanted))

    def _make_plan(self, shape: tuple[int, ...], wanted: tuple[str, ...]) -> tuple[_core.Plan, Layout]:
        layout = self._layout(shape, wanted)
        steps = [link for step in layout.steps for link in step.chain]
        self._pack([step for step in steps if step.conv and step.kind != "load_rows"])
        plan = make_plan(
            self.network,
            layout,
            self._packed,
            lambda scope: fold_norm(self.weights, scope, self.network.epsilon),
            lambda scope: group_affine(self.weights, scope),
            self.isa,
            self.threads,
        )
        return plan, layout

    def _pack(self, steps: Sequence[Step]) -> None:
        """Fold and pack what is not packed yet, on all threads: most of the time of a first answer."""
        from concurrent.futures import ThreadPoolExecutor

        def pack(step: Step) -> tuple[Form, Packed]:
            assert step.conv is not None
            folded = fold_conv(self.weights, step.conv, self.network.epsilon)
            if step.tile:
                return step.form, _core.PackedWinograd(self.isa, *folded, tile=step.tile, stride=step.conv.stride)
            return step.form, _core.PackedConv(self.isa, *folded, interleaved=step.kind == "conv_rows")

        missing = [step for step in steps if step.form not in self._packed]
        if missing:
            with ThreadPoolExecutor(self.threads) as pool:
                self._packed.update(pool.map(pack, missing))


def _kept(kept: OrderedDict[tuple[Any, ...], Made], key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """What was made for a key, or is made now; those used longest ago go."""
    with _making:
        if key not in kept:
            kept[key] = make()
        kept.move_to_end(key)
        while len(kept) > _PLANS_KEPT:
            kept.popitem(last=False)
        return kept[key]


def _described(array: Array | None) -> str:
    return "none" if array is None else f"{array.dtype} {tuple(array.shape)}"


def _is_picture(source: Any) -> bool:
    """Whether `predict` would take it for one picture: a path, bytes, a PIL image, a uint8 array without a batch."""
    if isinstance(source, np.ndarray):
        return source.dtype == np.uint8 and source.ndim in (2, 3)
    return isinstance(source, str | os.PathLike | bytes) or hasattr(source, "getbands")


def _as_array(images: Any) -> npt.NDArray[Any]:
    if isinstance(images, np.ndarray):
        return images
    exports = hasattr(images, "__array_interface__") or hasattr(images, "__array__")
    if exports or hasattr(images, "__dlpack__"):
        try:
            return np.asarray(images) if exports else np.from_dlpack(images)
        except (BufferError, RuntimeError, TypeError) as error:  # on a GPU, part of a gradient, bfloat16
            raise InputError(
                f"images are a {type(images).__name__} that NumPy cannot read: {error}",
                help="move it to the CPU, as a plain floating-point array",
            ) from error
    try:
        return np.asarray(memoryview(images))
    except TypeError:
        raise InputError(
            f"images are a {type(images).__name__}, expected an array",
            help="a path or a picture goes to `model.predict` or `model.encode`; a list of arrays to np.stack first",
        ) from None


def _not_finite(batch: Array) -> InputError:
    bad = np.argwhere(~np.isfinite(batch))
    image, y, x, channel = (int(i) for i in bad[0])
    value = batch[image, y, x, channel]
    return InputError(
        f"images hold {len(bad)} values that are NaN or infinite",
        found=[f"the first is {value} at image {image}, y {y}, x {x}, channel {channel}"],
        help="look at what preprocessed them",
    )
