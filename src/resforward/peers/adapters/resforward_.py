"""resforward itself: `model.pickle`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def version() -> str:
    """Of the installed package."""
    import resforward

    return resforward.__version__


def load(folder: Path, images: Array, threads: int) -> Callable[[], Array]:
    """The model of the process that asks, written by itself, with the instruction set that it chose."""
    with open(folder / "model.pickle", "rb") as file:
        model = pickle.load(file)
    model.threads = threads
    return lambda: model(images)
