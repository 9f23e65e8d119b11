"""The engine behind `Model`: exact, the same bits whatever runs beside it, and plain about what it cannot take."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from golden.networks import GOLDENS, ODD, SMALL, checkpoint, difference, read_golden
from hypothesis import given, settings
from hypothesis import strategies as st

import resforward as rf
from resforward import NETWORKS, Block, Model, Network, _core, bottleneck, build, load, model, resnet_v1, resnet_v2
from resforward.errors import EndPointError, InputError, NetworkError, ResforwardError, UnsupportedIsaError
from resforward.reference import forward

# float32 has 2^-24 = 6e-8 of rounding a step; the engine adds the same products in another order than slim, with batch
# norm folded into the weights. 1e-5 is what is promised.
TOLERANCE = 1e-5

ISAS = [name for name, present in _core.isas() if present]
THREADS = (1, 2, 3, 8)

each_isa = pytest.mark.parametrize("isa", ISAS)


def images_of(network: Network, batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, height, width, network.input_channels)).astype(np.float32)


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.fixture(scope="module")
def small() -> Model:
    """slim's own test network; every kind of step is in it."""
    return build(resnet_v2(SMALL, num_classes=7), threads=2)


# Exact


@each_isa
@pytest.mark.parametrize("name", GOLDENS)
def test_slim_computed_the_same(name: str, isa: str) -> None:
    golden = read_golden(name)
    images, net = golden.pop("input"), golden.pop("net")
    loaded = load(checkpoint(name), network=GOLDENS[name], isa=isa)
    found = loaded.forward(images)
    assert set(found) == set(golden)
    for key, tensor in found.items():
        assert difference(tensor, golden[key]) <= TOLERANCE, key
    result = loaded(images)
    assert difference(result, net.reshape(result.shape)) <= TOLERANCE


@pytest.mark.parametrize("name", GOLDENS)
def test_full_slim_keys_are_aliases_and_come_back_as_asked(name: str) -> None:
    network, images = GOLDENS[name], read_golden(name)["input"]
    loaded = load(checkpoint(name), network=network)
    canonical = loaded.forward(images)
    full = [f"{network.name}/{key}" for key in reversed(canonical)]
    found = loaded.forward(images, full)
    assert list(found) == full
    for key in canonical:
        np.testing.assert_array_equal(found[f"{network.name}/{key}"], canonical[key])
    both = loaded.forward(images, ["block1", f"{network.name}/block1", "block1"])
    assert list(both) == ["block1", f"{network.name}/block1"]


units = st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 3))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    blocks = [
        Block(f"block{i}", bottleneck, draw(st.lists(units, min_size=1, max_size=3)))
        for i in range(1, draw(st.integers(1, 3)) + 1)
    ]
    make = draw(st.sampled_from([resnet_v1, resnet_v2]))
    options: dict[str, Any] = {
        "include_root_block": draw(st.booleans()),
        "input_channels": draw(st.sampled_from([1, 2, 3, 4, 16, 17, 40])),
        "global_pool": draw(st.booleans()),
    }
    classes = draw(st.sampled_from([0, 1, 10, 33]))
    strides = np.cumprod([4 if options["include_root_block"] else 1, *(s for b in blocks for _, _, s in b.args)])
    output_stride = draw(st.sampled_from([None, *strides.tolist()]))
    return make(blocks, classes, output_stride=output_stride, **options)


@given(
    network=networks(), batch=st.integers(1, 3), height=st.integers(1, 24), width=st.integers(1, 24),
    isa=st.sampled_from(ISAS), threads=st.sampled_from(THREADS), data=st.data(),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_any_network_is_the_reference_and_wanting_more_changes_no_bit(
    network: Network, batch: int, height: int, width: int, isa: str, threads: int, data: st.DataObject
) -> None:
    # As many rows as channels could be NCHW, and are refused.
    height += height == network.input_channels > 1
    random, images = build(network, threads=threads, isa=isa), images_of(network, batch, height, width)
    _, wanted = forward(network, random.weights, images, np.float64)
    found = random.forward(images)
    assert list(found) == list(wanted)
    size = 0.0
    for name, tensor in found.items():
        # One channel may be left of many, and sums may cancel: small values keep the roundings of those they came from.
        size = max(size, np.abs(wanted[name]).max())
        assert np.abs(tensor - wanted[name]).max() <= TOLERANCE * size, name

    subset = data.draw(st.lists(st.sampled_from(list(found)), min_size=1, unique=True))
    assert same_bits(random.forward(images, subset), {name: found[name] for name in subset})
    last = random._last_name()
    assert random(images).tobytes() == found[last].tobytes()


@pytest.mark.parametrize("make", [resnet_v1, resnet_v2])
def test_one_pixel_is_an_image(make: Callable[..., Network]) -> None:
    network = make(SMALL, num_classes=5)
    random, images = build(network), images_of(network, 2, 1, 1)
    wanted, _ = forward(network, random.weights, images, np.float64)
    assert difference(random(images), wanted[:, 0, 0]) <= TOLERANCE


# The same bits


@pytest.fixture(scope="module")
def weights_50() -> dict[str, np.ndarray]:
    return build(NETWORKS["resnet_v2_50"]).weights


@each_isa
@pytest.mark.parametrize(
    ("network", "size"),
    [
        (resnet_v2(ODD, num_classes=11), (33, 47)),
        (resnet_v1(ODD, num_classes=11, output_stride=8), (19, 30)),
        (NETWORKS["fashion"], (28, 28)),
        (NETWORKS["resnet_v2_50"], (64, 64)),
    ],
    ids=["odd_v2", "odd_v1_dense", "fashion", "resnet_v2_50"],
)
def test_an_image_has_the_same_bits_in_any_batch_anywhere_in_it_on_any_number_of_threads(
    network: Network, size: tuple[int, int], isa: str, weights_50: dict[str, np.ndarray]
) -> None:
    weights = weights_50 if network is NETWORKS["resnet_v2_50"] else build(network).weights
    wanted = [*list(network.blocks), "logits", "predictions"]
    images = images_of(network, 8, *size)
    alone = Model(network, weights, isa=isa, threads=1)
    singles = [alone.forward(images[i : i + 1], wanted) for i in range(8)]
    for threads in THREADS:
        runner = Model(network, weights, isa=isa, threads=threads)
        for start, stop in ((0, 8), (5, 8), (2, 3)):
            found = runner.forward(images[start:stop], wanted)
            for i in range(start, stop):
                own = {name: tensor[i - start : i - start + 1] for name, tensor in found.items()}
                assert same_bits(own, singles[i]), (threads, start, stop, i)


def test_batches_of_more_than_one_run_are_whole(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(small.network, 7, 20, 21)
    whole = small.forward(images)
    monkeypatch.setattr(model, "_IMAGES_A_RUN", 3)
    assert same_bits(small.forward(images), whole)


def test_a_batch_larger_than_one_run_is_its_images(small: Model) -> None:
    images = images_of(small.network, model._IMAGES_A_RUN + 1, 5, 6)
    np.testing.assert_array_equal(small(images)[-1:], small(images[-1:]))


def test_no_images_give_no_rows(small: Model) -> None:
    images = np.empty((0, 20, 21, 3), np.float32)
    assert small(images).shape == (0, 7)
    points = small.network.end_points(20, 21)
    assert {k: v.shape for k, v in small.forward(images).items()} == {k: (0, *p.shape) for k, p in points.items()}


def test_many_threads_share_one_model() -> None:
    shared = build(resnet_v2(SMALL, num_classes=7), threads=2)  # nothing packed, no plan made yet
    batches = [images_of(shared.network, 1 + i % 3, 20 + i % 4, 21, seed=i) for i in range(40)]
    subsets = [None, ["logits"], ["block2", "predictions"]]
    start = threading.Barrier(40)

    def run(i: int) -> list[dict[str, np.ndarray]]:
        start.wait(timeout=60)
        return [shared.forward(batches[i], subsets[(i + turn) % 3]) for turn in range(6)]

    with ThreadPoolExecutor(40) as pool:
        results = list(pool.map(run, range(40)))
    for i, result in enumerate(results):
        for turn, found in enumerate(result):
            assert same_bits(found, shared.forward(batches[i], subsets[(i + turn) % 3])), (i, turn)


def test_models_of_different_thread_counts_take_turns() -> None:
    network = resnet_v2(SMALL, num_classes=7)
    images = images_of(network, 2, 20, 21)
    models = [build(network, threads=threads) for threads in (2, 5, 1, 3)]
    wanted = models[0](images).tobytes()
    assert {m(images).tobytes() for _ in range(50) for m in models} == {wanted}


def in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` returned true in a forked child, within a minute."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# From 3.12 on Python warns of any fork of a process with threads: that it works here is the test.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forks
def test_a_forked_child_computes_the_same(small: Model) -> None:
    images = images_of(small.network, 2, 20, 21)
    wanted = small(images).tobytes()
    assert in_child(lambda: small(images).tobytes() == wanted and small(images[:, 1:]).shape == (2, 7))
    assert small(images).tobytes() == wanted


@forks
def test_a_child_forked_during_a_forward_pass_computes_the_same(small: Model) -> None:
    images = images_of(small.network, 2, 20, 21)
    wanted = small(images).tobytes()
    stop = threading.Event()

    def run(seed: int) -> None:
        while not stop.is_set():  # new shapes too, so that some forks come while a plan is made
            small(images)
            small(images_of(small.network, 1, 20 + seed, 21 + np.random.default_rng().integers(40)))

    busy = [threading.Thread(target=run, args=(seed,)) for seed in range(2)]
    for thread in busy:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: small(images).tobytes() == wanted and small(images[:, 1:]).shape == (2, 7))
    finally:
        stop.set()
        for thread in busy:
            thread.join()


@forks
def test_workers_of_multiprocessing_compute_the_same(small: Model) -> None:
    images = images_of(small.network, 4, 20, 21)
    wanted = small(images)
    global _shared
    _shared = small
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_run_shared, [images[i : i + 1] for i in range(4)], chunksize=1)
    np.testing.assert_array_equal(np.concatenate(found), wanted)


_shared: Model


def _run_shared(images: np.ndarray) -> np.ndarray:
    return _shared(images)


# Only what is wanted


def test_the_pass_stops_after_the_last_wanted(small: Model) -> None:
    _, layout = small._plan((1, 20, 21, 3), ("block1",))
    assert [step.name for step in layout.steps][-2:] == ["block1/unit_3/bottleneck_v2/conv3", "block1"]
    assert all(step.name in ("images", "conv1", "pool1") or step.name.startswith("block1") for step in layout.steps)


def test_weights_are_packed_once(small: Model) -> None:
    images = images_of(small.network, 1, 20, 21)
    small(images)
    packed = dict(small._packed)
    small.forward(images_of(small.network, 3, 30, 31))
    assert small._packed == packed


def test_plans_kept_are_few(small: Model) -> None:
    for width in range(20, 40):
        small(images_of(small.network, 1, 20, width))
    assert len(small._plans) == model._PLANS_KEPT


def test_sizes_of_images_kept_are_few(small: Model) -> None:
    for width in range(20, 40):
        small(images_of(small.network, 2, 20, width))
    assert len(small._image_bytes) == model._PLANS_KEPT


# What images may be


class OnlyDlpack:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class OnlyInterface:
    def __init__(self, array: np.ndarray) -> None:
        self._keep = array
        self.__array_interface__ = array.__array_interface__


class OnGpu:
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("this array is on a GPU")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "read-only": read_only,
    "every other row of more": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "NCHW transposed": lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    "Fortran order": np.asfortranarray,
    "float64": lambda x: x.astype(np.float64),
    "big-endian": lambda x: x.astype(">f4"),
    "not aligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    "dlpack": OnlyDlpack,
    "array interface": OnlyInterface,
    "buffer": memoryview,
    "read-only buffer": lambda x: memoryview(x.tobytes()).cast("B").cast("f", x.shape),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_come_in_any_way_and_are_not_written_to(way: str, small: Model) -> None:
    images = images_of(small.network, 2, 20, 21)
    given = WAYS[way](images.copy())
    assert small(given).tobytes() == small(images).tobytes()
    if not isinstance(given, OnlyDlpack | OnlyInterface):
        np.testing.assert_array_equal(np.asarray(given), images)


def test_float16_is_widened(small: Model) -> None:
    half = images_of(small.network, 2, 20, 21).astype(np.float16)
    np.testing.assert_array_equal(small(half), small(half.astype(np.float32)))


def test_results_are_the_caller_s_own(small: Model) -> None:
    images = images_of(small.network, 2, 20, 21)
    first = small.forward(images, ["block1", "logits"])
    kept = {name: tensor.copy() for name, tensor in first.items()}
    small.forward(images + 1, ["block1", "logits"])
    assert same_bits(first, kept)
    for tensor in first.values():
        tensor[:] = 0
    assert same_bits(small.forward(images, ["block1", "logits"]), kept)


SHAPE = (2, 20, 21, 3)
REFUSED: dict[str, tuple[Any, str, str]] = {
    "uint8": (np.zeros(SHAPE, np.uint8), "images are uint8", "model.predict"),
    "int": (np.zeros(SHAPE, np.int64), "images are int64", "preprocessed"),
    "bool": (np.zeros(SHAPE, np.bool_), "images are bool", "preprocessed"),
    "complex": (np.zeros(SHAPE, np.complex64), "images are complex64", "preprocessed"),
    "object": (np.zeros(SHAPE, object), "images are object", "preprocessed"),
    "strings": (np.zeros(SHAPE, "U3"), "images are <U3", "preprocessed"),
    "a path": ("cat.jpg", "images are a str", "model.predict"),
    "bytes": (b"cat", "images are uint8", "model.predict"),
    "nothing": (None, "images are a NoneType", "model.predict"),
    "a list": ([np.zeros(SHAPE[1:], np.float32)], "images are a list", "np.stack"),
    "one image": (np.zeros(SHAPE[1:], np.float32), r"shape \(20, 21, 3\)", r"images\[None\]"),
    "one number": (np.float32(1), r"shape \(\)", r"expected \(N, H, W, 3\)"),
    "rank 5": (np.zeros((1, *SHAPE), np.float32), r"shape \(1, 2, 20, 21, 3\)", r"expected \(N, H, W, 3\)"),
    "NCHW": (np.zeros((2, 3, 20, 21), np.float32), r"shape \(2, 3, 20, 21\)", r"transpose\(0, 2, 3, 1\)"),
    "NHWC or NCHW": (np.zeros((2, 3, 20, 3), np.float32), "NHWC or NCHW", "pad them"),
    "grey": (np.zeros((2, 20, 21, 1), np.float32), r"shape \(2, 20, 21, 1\)", r"expected \(N, H, W, 3\)"),
    "alpha": (np.zeros((2, 20, 21, 4), np.float32), r"shape \(2, 20, 21, 4\)", r"expected \(N, H, W, 3\)"),
    "no pixels": (np.zeros((2, 0, 21, 3), np.float32), "no pixels", "no pixels"),
    "no columns": (np.zeros((2, 20, 0, 3), np.float32), "no pixels", "no pixels"),
    "too large for float32": (np.full(SHAPE, 1e300), "NaN or infinite", "first is inf at image 0, y 0, x 0, channel 0"),
    "on a GPU": (OnGpu(), "images are a OnGpu", "CPU"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_batch_is_refused_and_why(case: str, small: Model) -> None:
    images, message, advice = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        small(images)
    with pytest.raises(InputError, match=advice):
        raise caught.value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(0, 0, 0, 0), (1, 7, 20, 2), (1, 19, 20, 2)])
@pytest.mark.parametrize("root_block", [True, False])
def test_a_value_that_is_not_finite_is_named_and_the_model_goes_on(
    value: float, at: tuple[int, ...], root_block: bool
) -> None:
    model = build(resnet_v2(SMALL, num_classes=7, include_root_block=root_block), threads=3)
    images = images_of(model.network, 2, 20, 21)
    wanted = model(images).tobytes()
    bad = images.copy()
    bad[at] = value
    place = "image {}, y {}, x {}, channel {}".format(*at)
    with pytest.raises(InputError, match=f"1 values.*\n.*first is {value} at {place}"):
        model(bad)
    assert model(images).tobytes() == wanted


def test_a_value_that_is_not_finite_is_counted_from_the_whole_batch(
    small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_IMAGES_A_RUN", 3)
    images = images_of(small.network, 8, 20, 21)
    images[7, 1, 2, 0] = np.nan
    with pytest.raises(InputError, match="at image 7, y 1, x 2, channel 0"):
        small(images)


def test_channels_that_cannot_be_told_from_rows_are_fine_where_there_is_one() -> None:
    grey = build(NETWORKS["fashion"])
    assert grey(np.zeros((1, 1, 28, 1), np.float32)).shape == (1, 10)


# Names and options


def test_unknown_end_points_are_named_with_the_nearest(small: Model) -> None:
    images = images_of(small.network, 1, 20, 21)
    asked = ["block1", "block3/unit2/bottleneck_v2/conv2", "resnet_v2/blok4", "xyz"]
    with pytest.raises(EndPointError) as caught:
        small.forward(images, asked)
    text = str(caught.value)
    assert "the nearest are `block3/unit_2/bottleneck_v2/conv2`" in text
    assert "`resnet_v2/blok4`; the nearest are `block4`" in text
    assert "`xyz`\n" in text
    assert "`block1`;" not in text


@pytest.mark.parametrize("asked", [[], [3], [None]])
def test_end_points_that_are_no_names_are_refused(small: Model, asked: list[Any]) -> None:
    with pytest.raises(EndPointError):
        small.forward(images_of(small.network, 1, 20, 21), asked)


def test_one_end_point_may_be_a_string(small: Model) -> None:
    assert list(small.forward(images_of(small.network, 1, 20, 21), "block1")) == ["block1"]


def test_options_of_the_network_may_be_given_on_load() -> None:
    path, images = checkpoint("slim_v2_batch"), read_golden("slim_v2_batch")["input"]
    dense = load(path, output_stride=4, global_pool=False)
    assert dense(images).shape == (3, 3, 4, 7)
    assert load(path, num_classes=0)(images).shape == (3, 32)
    with pytest.raises(NetworkError, match="output_stride 6 cannot be reached") as caught:
        load(path, output_stride=6)
    assert "4, 8, 16, 32" in str(caught.value)
    with pytest.raises(rf.CheckpointError, match="logits"):
        load(path, num_classes=8)


def test_encode_averages_an_end_point(small: Model) -> None:
    images = images_of(small.network, 2, 40, 41)
    block = small.forward(images, ["block2"])["block2"]
    np.testing.assert_allclose(small.encode(images, "block2"), block.mean((1, 2)), rtol=1e-6)
    assert small.encode(images).shape == (2, 32)


@pytest.mark.parametrize("name", ["block2", "resnet_v2/block2"])
def test_encode_of_nothing_is_nothing(small: Model, name: str) -> None:
    assert small.encode([], name).shape == (0, 8)


def test_encode_of_nothing_wants_a_known_end_point(small: Model) -> None:
    with pytest.raises(EndPointError, match="blok2"):
        small.encode([], "blok2")


def test_an_unknown_instruction_set_is_refused_at_once() -> None:
    with pytest.raises(UnsupportedIsaError, match="avx1024"):
        build(NETWORKS["fashion"], isa="avx1024")


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "many"])
def test_an_impossible_number_of_threads_is_refused_at_once(threads: Any) -> None:
    with pytest.raises(ResforwardError, match="threads is"):
        build(NETWORKS["fashion"], threads=threads)


def test_build_is_a_function_of_its_seed() -> None:
    network = resnet_v2(SMALL, num_classes=7)
    images = images_of(network, 1, 20, 21)
    first, again, other = (build(network, seed=seed)(images).tobytes() for seed in (1, 1, 2))
    assert first == again != other


@pytest.fixture(autouse=True)
def no_denormal_flag_leaks() -> Iterator[None]:
    """The caller's floating-point mode is not ours to change: a denormal stays one after every test."""
    yield
    assert np.float32(1e-30) * np.float32(1e-10) != 0


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(small: Model) -> None:
    name = "conv1/weights"
    for weights, message in (
        ({**small.weights, name: small.weights[name][..., :1]}, r"conv1/weights: expected .* found float32 \("),
        ({k: v for k, v in small.weights.items() if k != name}, "conv1/weights: expected .* found none"),
        ({**small.weights, name: small.weights[name] * np.float32(np.nan)}, "values are NaN or infinite"),
    ):
        with pytest.raises(ResforwardError) as caught:
            Model(small.network, weights)
        assert any(re.search(message, line) for line in caught.value.found)


def test_a_model_that_was_used_can_be_pickled(small: Model) -> None:
    images = images_of(small.network, 2, 9, 9)
    assert np.array_equal(pickle.loads(pickle.dumps(small))(images), small(images))


def test_large_images_run_in_parts_of_few(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(small.network, 5, 33, 20)
    whole = small(images)
    monkeypatch.setattr(model, "_ARENA_BYTES", 1)
    assert np.array_equal(small(images), whole)


def test_the_built_in_name_is_never_a_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion").mkdir()
    assert load("fashion").network.num_classes == 10


def test_one_picture_can_be_encoded() -> None:
    fashion = load("fashion")
    picture = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    assert np.array_equal(fashion.encode(picture), fashion.encode([picture]))


def test_load_takes_names_and_refuses_other_things() -> None:
    assert load("fashion", network="fashion", preprocess="fashion_28").preprocess is not None
    for options in ({"network": [1]}, {"network": "fashio"}, {"preprocess": "fashion_29"}, {"num_classes": 10.0}):
        with pytest.raises(NetworkError):
            load("fashion", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["torchvision_resnet50_v1", "resnet_v2_50"])
def test_the_name_of_published_weights_is_no_file(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rf.CheckpointError, match=rf"no checkpoint called {name}\nhelp: resforward\.pull\('{name}'\)"):
        load(name)
