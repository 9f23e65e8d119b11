"""One image, the same bits: whatever else is in its batch, is asked for, or runs beside it.

The plans differ: chains need some pixels, Winograd's method splits by batch and threads, slots become stored values.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from test_model import ISAS, each_isa, images_of, same_bits

from resforward import Block, Model, Network, bottleneck, build, resnet_v1, resnet_v2

IMAGES = 9
THREADS = (1, 2, 3, 5, 16)

# Depths that fill no tile; maps of 90 and 25 pixels make a chain of two and of four images, but not of one.
BLOCKS = (
    Block("block1", bottleneck, [(72, 20, 1), (72, 20, 1), (72, 24, 2)]),
    Block("block2", bottleneck, [(80, 33, 1), (80, 33, 2)]),
    Block("block3", bottleneck, [(100, 40, 1)]),
)
BARE: dict[str, Any] = {"include_root_block": False, "input_channels": 3}
CASES: dict[str, tuple[Network, tuple[int, int]]] = {
    "v1": (resnet_v1(BLOCKS, 11, **BARE), (9, 10)),
    "v2": (resnet_v2(BLOCKS, 11, **BARE), (9, 10)),
    "v1, output_stride 2": (resnet_v1(BLOCKS, 11, output_stride=2, **BARE), (9, 10)),
    "v2, output_stride 1": (resnet_v2(BLOCKS, 11, output_stride=1, global_pool=False, **BARE), (9, 10)),
    "v2, root block": (resnet_v2(BLOCKS, 11), (45, 53)),
}

each_case = pytest.mark.parametrize("case", CASES)


def parts(found: dict[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
    return {name: tensor[place : place + 1] for name, tensor in found.items()}


@each_isa
@each_case
def test_an_image_has_the_same_bits_in_every_batch_and_place(case: str, isa: str) -> None:
    network, size = CASES[case]
    weights, images = build(network).weights, images_of(network, IMAGES, *size)
    alone = Model(network, weights, isa=isa, threads=1)
    singles = [alone.forward(images[i : i + 1]) for i in range(IMAGES)]
    # None is for all of them: no value lies in a slot then.
    asked = [None, ["logits"], [*network.blocks, "predictions"]]
    plans = set()

    def check(model: Model, order: np.ndarray, wanted: list[str] | None) -> None:
        found = model.forward(images[order], wanted)
        for place, image in enumerate(order):
            own = {name: singles[image][name] for name in found}
            assert same_bits(parts(found, place), own), (model.threads, len(order), place, wanted)
        if wanted == ["logits"]:
            plan, layout = model._plan((len(order), *size, 3), ("logits",))
            plans.add((plan.steps, len(layout.steps)))

    for threads in THREADS:
        model = Model(network, weights, isa=isa, threads=threads)
        for batch in range(1, IMAGES + 1):
            order = (np.arange(batch) + batch * threads) % IMAGES
            check(model, order, asked[(batch + threads) % 3])
    for turn in range(IMAGES):
        check(alone, np.roll(np.arange(IMAGES), turn), ["logits"])
    assert len(plans) > 1, "all plans were alike: the sizes no longer test anything"


@each_case
def test_wanting_another_end_point_changes_no_bit(case: str) -> None:
    network, size = CASES[case]
    model, images = build(network, threads=2), images_of(network, 5, *size)
    everything = model.forward(images)
    slots = set()
    for name in everything:
        wanted = list(dict.fromkeys([name, "logits"]))
        assert same_bits(model.forward(images, wanted), {name: everything[name] for name in wanted}), name
        links = [link for step in model._plan(images.shape, tuple(wanted))[1].steps for link in step.chain]
        slots.add(sum(value.slot is not None for link in links for value in link.writes))
    assert len(slots) > 1, "no end point took a value out of its slot"


def test_more_threads_than_processors_and_than_items() -> None:
    network, size = CASES["v2"]
    weights, images = build(network).weights, images_of(network, 2, *size)
    wanted = Model(network, weights, threads=1)(images).tobytes()
    models = [Model(network, weights, threads=threads) for threads in range(1, 41)]
    for model in models:
        assert model(images).tobytes() == wanted, model.threads

    # All at once: the team is one for the process, and whoever needs another number of threads waits for its turn.
    start = threading.Barrier(8)

    def run(caller: int) -> bool:
        start.wait(timeout=60)
        return all(model(images).tobytes() == wanted for model in models[caller::8] + models[::8])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8), timeout=300))


def test_one_plan_runs_for_several_callers_at_once() -> None:
    network, size = CASES["v1"]
    for isa in ISAS:
        for threads in (1, 5):
            model = build(network, isa=isa, threads=threads)
            batches = [images_of(network, 2, *size, seed=seed) for seed in range(4)]
            wanted = [model(batch).tobytes() for batch in batches]
            plan = model._plan(batches[0].shape, (model._last_name(),))
            start = threading.Barrier(8)

            def run(
                caller: int,
                model: Model = model,
                batches: list[np.ndarray] = batches,
                start: threading.Barrier = start,
            ) -> list[bytes]:
                start.wait(timeout=60)
                return [model(batches[(caller + turn) % 4]).tobytes() for turn in range(8)]

            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(run, range(8), timeout=300))
            assert found == [[wanted[(caller + turn) % 4] for turn in range(8)] for caller in range(8)]
            assert model._plan(batches[0].shape, (model._last_name(),)) is plan, "they did not share one plan"
