"""The examples in the documentation of numbers run, and say what is true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fedprune.codecs
import fedprune.model
import fedprune.pruning

_ROOMS = (fedprune.codecs, fedprune.model, fedprune.pruning)
_MODULES = sorted(
    {f"{room.__name__}.{module.name}" for room in _ROOMS for module in pkgutil.iter_modules(room.__path__)}
    | {f"aggregator.{module}" for module in ("explosion", "fixed_point", "merging", "outliers", "standing_apart")}
    | {
        f"fedprune.data.{module}"
        for module in ("audio.front_end", "normalization", "tables.numbers", "text.tokenizers")
    }
    | {"fedprune.task.learning_rates"}
)
_WITHOUT_EXAMPLES = {"fedprune.codecs.reader", "fedprune.codecs.rice", "fedprune.model.tensor_files"}


@pytest.mark.parametrize("name", _MODULES)
def test_examples_are_there_and_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))

    assert results.failed == 0
    assert bool(results.attempted) == (name not in _WITHOUT_EXAMPLES)
