"""Winograd's convolutions in whole networks: the same answers, the same bits, and chosen by shape alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import run
from test_model import THREADS, TOLERANCE, each_isa, images_of, networks, same_bits

from resforward import NETWORKS, Block, Model, Network, _core, basic, bottleneck, build, load, plan, resnet_v2
from resforward.families import TORCH_V1
from resforward.network import Conv
from resforward.plan import Tile, lay_out, winograd_tile
from resforward.reference import forward
from resforward.resnet import resnet

# Wide enough for Winograd, and maps of 19 x 26, 10 x 13, 5 x 7 and so on: every kind of remainder, and strided
# convolutions of even and of odd maps, in tiles of both sizes.
WIDE = resnet_v2(
    (Block("block1", bottleneck, [(64, 32, 1), (64, 48, 2)]), Block("block2", bottleneck, [(64, 40, 1)])), 9
)
BASIC = resnet(
    TORCH_V1,
    [Block("block1", basic, [(32, 32, 1)] * 2)]
    + [Block(f"block{i}", basic, [(depth, depth, 2), (depth, depth, 1)]) for i, depth in ((2, 40), (3, 64), (4, 72))],
    9,
)
TORCH = resnet(
    TORCH_V1,
    [Block("block1", bottleneck, [(96, 24, 1)]), *(Block(f"block{i}", bottleneck, [(96, 33, 2)]) for i in (2, 3))],
    9,
)
SIZE = (75, 101)
STRIDED = {"slim v2": (WIDE, [(4, 4)]), "basic": (BASIC, [(4, 4), (2, 2)]), "torch v1.5": (TORCH, [(4, 4), (2, 2)])}

each_network = pytest.mark.parametrize("network", [network for network, _ in STRIDED.values()], ids=list(STRIDED))


def tiles(network: Network, batch: int, height: int, width: int) -> dict[str, Tile]:
    layout = lay_out(network, batch, height, width, [list(network.end_points(height, width))[-1]])
    return {step.name: step.tile for step in layout.steps if step.tile}


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution that Winograd's method can compute is computed by it, however small, in tiles of any size."""

    def tile(row: Conv, height: int, width: int) -> Tile | None:
        return (1 + height % 4, 1 + width % 4) if (row.kernel, row.rate) == (3, 1) and row.stride < 3 else None

    monkeypatch.setattr(plan, "winograd_tile", tile)


@pytest.mark.parametrize("name", STRIDED)
def test_a_strided_convolution_has_tiles_of_its_own(name: str) -> None:
    network, expected = STRIDED[name]
    layout = lay_out(network, 2, *SIZE, ["logits"])
    assert [step.tile for step in layout.steps if step.tile and step.conv and step.conv.stride == 2] == expected


@each_isa
@each_network
def test_both_methods_agree(network: Network, isa: str) -> None:
    images = images_of(network, 2, *SIZE)
    model = build(network, isa=isa)
    found = model.forward(images)
    direct = Model(network, model.weights, isa=isa, winograd=False).forward(images)
    _, exact = forward(network, model.weights, images, np.float64)
    different = False
    for name, tensor in found.items():
        size = np.abs(exact[name]).max()
        for other in (direct[name], exact[name]):
            assert np.abs(tensor - other).max() <= TOLERANCE * size, name
        different |= tensor.tobytes() != direct[name].tobytes()
    assert different


@pytest.mark.parametrize("size", [(33, 47), (35, 35), (64, 61), (65, 96), (97, 33)])
@pytest.mark.parametrize("name", ["basic", "torch v1.5"])
def test_strided_convolutions_of_any_size_are_the_reference(everywhere: None, name: str, size: tuple[int, int]) -> None:
    """In tiles of many sizes, on odd and even maps down to 2 x 2."""
    network, _ = STRIDED[name]
    random, images = build(network), images_of(network, 2, *size)
    found = random.forward(images)
    _, exact = forward(network, random.weights, images, np.float64)
    for key, tensor in found.items():
        assert np.abs(tensor - exact[key]).max() <= TOLERANCE * np.abs(exact[key]).max(), key


@given(
    network=networks(), batch=st.integers(1, 3), height=st.integers(1, 24), width=st.integers(1, 24),
    threads=st.sampled_from(THREADS),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_network_is_the_reference(
    everywhere: None, network: Network, batch: int, height: int, width: int, threads: int
) -> None:
    height += height == network.input_channels > 1
    random, images = build(network, threads=threads), images_of(network, batch, height, width)
    _, wanted = forward(network, random.weights, images, np.float64)
    size = 0.0
    for name, tensor in random.forward(images).items():
        size = max(size, np.abs(wanted[name]).max())
        assert np.abs(tensor - wanted[name]).max() <= TOLERANCE * size, name


@each_isa
@each_network
def test_an_image_has_the_same_bits_in_any_batch_on_any_number_of_threads(network: Network, isa: str) -> None:
    images = images_of(network, 3, *SIZE)
    weights = build(network).weights
    alone = [Model(network, weights, isa=isa, threads=1).forward(images[i : i + 1]) for i in range(3)]
    for threads in (1, 2, 5):
        together = Model(network, weights, isa=isa, threads=threads).forward(images)
        for i in range(3):
            assert same_bits({name: tensor[i : i + 1] for name, tensor in together.items()}, alone[i]), (threads, i)


def test_the_rule_knows_nothing_but_the_shape() -> None:
    network = NETWORKS["resnet_v2_50"]
    chosen = tiles(network, 1, 224, 224)
    assert chosen == tiles(network, 8, 224, 224)
    assert set(chosen) == {unit.convs[1].name for unit in network.units}, "every 3x3, strided or not"
    for size, tile in ((56, (4, 4)), (28, (4, 4)), (14, (4, 3)), (9, (3, 3)), (7, (2, 2)), (3, None)):
        assert winograd_tile(Conv("conv2", 3, 256, 256), size, size) == tile
    for size, tile in ((56, (4, 4)), (28, (4, 4)), (19, (4, 4)), (18, (2, 2)), (7, (2, 2)), (6, None)):
        assert winograd_tile(Conv("strided", 3, 256, 256, stride=2), size, size) == tile
    for row in (
        Conv("one", 1, 256, 256), Conv("leaping", 3, 256, 256, stride=3), Conv("dilated", 3, 256, 256, rate=2),
        Conv("shallow", 3, 15, 256), Conv("narrow", 3, 256, 15),
    ):  # fmt: skip
        assert winograd_tile(row, 56, 56) is None, row.name


@pytest.mark.parametrize("stride", [-1, 0, 3])
def test_no_other_stride_has_tiles(stride: int) -> None:
    weights, bias = np.zeros((3, 3, 16, 16), np.float32), np.zeros(16)
    with pytest.raises(ValueError, match="no Winograd tile"):
        _core.PackedWinograd("portable", weights, None, bias, (2, 2), stride=stride)


def test_a_model_remembers_how_it_computes() -> None:
    model = load("fashion", winograd=False)
    assert not model.winograd
    assert load("fashion").winograd
    images = images_of(model.network, 2, 28, 28)
    copy = pickle.loads(pickle.dumps(model))
    assert not copy.winograd
    assert copy(images).tobytes() == model(images).tobytes()


def test_weights_of_both_forms_are_kept_apart() -> None:
    """One size computes a convolution directly, another by Winograd's method."""
    model, images = build(WIDE), images_of(WIDE, 1, *SIZE)
    small = images[:, :5, :5]
    first, second = model(images), model(small)
    fresh = build(WIDE)
    assert fresh(small).tobytes() == second.tobytes()
    assert fresh(images).tobytes() == first.tobytes() == model(images).tobytes()


@pytest.mark.parametrize("command", [("bench", "fashion", "--batch", 1, "--steps", 1), ("predict", "-")])
def test_the_command_line_can_do_without(command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def remember(self: Model, *args: object, winograd: bool = True, **options: object) -> None:
        made.append(winograd)
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "__init__", remember)
    for option, expected in (((), True), (("--no-winograd",), False)):
        run(*command, *option)
        assert made.pop() == expected
