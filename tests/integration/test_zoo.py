"""The zoo: ordinary networks get training graphs at all batch sizes, and mistakes are found in graphs of every rule."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from benchmarks.zoo.build import PROVEN_SIZES, build
from benchmarks.zoo.criterion import MUTATED, judge, kinds
from benchmarks.zoo.networks import NETWORKS, SMALL
from benchmarks.zoo.records import Export, Measured, Zoo
from benchmarks.zoo.tables import markdown
from benchmarks.zoo.training import examples
from export.proof.proof import MARGIN
from fedprune.network import layers
from fedprune.task.bundle import read_bundle

_DEAREST = "gaps"
"""Masks are in others too."""
_DEAREST_TO_BUILD = "embedding-gru"
"""Its layers are in others too."""
_FEWER = 25
"""Mutants of each network; `python -m benchmarks.zoo` takes all."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == _DEAREST_TO_BUILD else name for name in SMALL]
)
def test_a_network_gets_a_graph_at_every_batch_size(name: str) -> None:
    built = build(name)

    assert not built.warnings
    assert {graph.batch_size for graph in read_bundle(built.bundle).graphs} >= set(PROVEN_SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - set(SMALL)))
def test_larger_networks_do_too(name: str) -> None:
    built = build(name)

    assert not built.warnings
    assert {graph.batch_size for graph in read_bundle(built.bundle).graphs} >= set(PROVEN_SIZES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == _DEAREST else name for name in MUTATED]
)
def test_mutants_are_refused_and_what_is_right_is_not(name: str) -> None:
    honest, *mutants = judge(name, _FEWER)

    assert honest.ratio <= MARGIN
    assert honest.passes_self_check
    assert [mutant.what for mutant in mutants if mutant.ratio <= MARGIN] == []
    assert [mutant.what for mutant in mutants if mutant.passes_self_check] == []


def test_mutants_are_made_of_every_rule() -> None:
    covered = {kind for name in MUTATED for kind in kinds(name)}

    assert covered >= {kind.__name__ for kind in get_args(layers.AnyLayer)} | {
        str(function) for function in layers.Function
    }


def test_the_page_says_which_formats_fail_and_why() -> None:
    exports = (Export("fp32", True, ""), Export("int8", False, "converting to int8 crashed"))
    measured = Measured(
        name="gru",
        batch=32,
        parameters=14214,
        graph=PROVEN_SIZES,
        refusals=(),
        build_seconds=1.0,
        write_seconds=0.1,
        exactness=None,
        litert_samples_s=None,
        keras_samples_s=None,
        litert_peak_mb=None,
        keras_peak_mb=None,
        exports=exports,
        latency_ms=None,
        parity=None,
    )

    page = markdown(Zoo("a machine", (measured,), None))

    assert "- **gru**, int8: converting to int8 crashed\n" in page
    assert "| fp32 |" in page


def test_examples_for_token_ids_are_ids_of_the_vocabulary() -> None:
    bundle = read_bundle(build("embedding-pooling").bundle)

    x = examples(bundle, 40).x

    assert x.dtype == np.int32
    assert 0 <= x.min() <= x.max() < 4000
