"""Every example in a docstring is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import resforward

MODULES = ["resforward"] + [
    module.name
    for module in pkgutil.walk_packages(resforward.__path__, "resforward.")
    if module.name.rpartition(".")[2] not in ("__main__", "_core")
]

# What an example may use without a word: the public names, and NumPy.
NAMES = {name: getattr(resforward, name) for name in resforward.__all__} | {"np": np}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module, globs=NAMES | vars(module)):
        runner.run(test)
    assert runner.failures == 0


def test_the_public_names_have_examples() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    without = [
        name
        for name in resforward.__all__
        if callable(value := getattr(resforward, name))
        and not name.endswith("Error")
        and not any(test.examples for test in finder.find(value, name))
    ]
    assert without == []
