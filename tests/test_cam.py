"""Class activation maps: their mean is the logit, wherever the classifier stands."""

from __future__ import annotations

import numpy as np
import pytest
from plain_networks import CASES, random_images, random_weights

from resforward import Model, NetworkError, load

TOLERANCE = 1e-5  # of the largest logit: two orders of one sum in float32


@pytest.mark.parametrize("case", ["v1", "v2", "torch", "timm v2", "Keras v1"])
def test_the_mean_of_a_map_and_the_bias_are_the_logit(case: str) -> None:
    network = CASES[case]
    model = Model(network, random_weights(network))
    images = random_images(network, (65, 49), batch=3)
    logits = model(images)
    for label in (0, 6):
        maps = model.cam(images, label)
        found = maps.mean(axis=(1, 2)) + model.weights["logits/biases"][label]
        assert np.abs(found - logits[:, label]).max() <= TOLERANCE * np.abs(logits).max()


def test_without_a_class_it_is_the_most_probable_of_each_image() -> None:
    network = CASES["torch"]
    model = Model(network, random_weights(network))
    images = random_images(network, (64, 64), batch=4)
    best = model(images).argmax(axis=-1)
    maps = model.cam(images)
    for index, label in enumerate(best):
        assert np.allclose(maps[index], model.cam(images[index : index + 1], int(label))[0], rtol=1e-5, atol=1e-5)


def test_a_class_by_its_label_and_a_picture_by_its_pixels() -> None:
    model = load("fashion")
    picture = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    assert np.array_equal(model.cam(picture, "Coat"), model.cam([picture], 4))
    with pytest.raises(NetworkError, match=r"no class called 'coat'(.|\n)*`Coat`"):
        model.cam(picture, "coat")


def test_what_has_no_classes_or_not_that_one() -> None:
    with pytest.raises(NetworkError, match="does not end in"):
        Model(CASES["features"], random_weights(CASES["features"])).cam(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(NetworkError, match="there is no class 10"):
        load("fashion").cam(np.zeros((1, 28, 28, 1), np.float32), 10)
