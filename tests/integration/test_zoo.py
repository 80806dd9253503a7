"""The zoo: ordinary networks get training graphs at all batch sizes, and mistakes are found in graphs of every rule."""

from __future__ import annotations

from typing import get_args

import pytest

from benchmarks.zoo.build import PROVEN_SIZES, build
from benchmarks.zoo.criterion import MUTATED, judge, kinds
from benchmarks.zoo.networks import NETWORKS, SMALL
from export.proof.proof import MARGIN
from fedprune.network import layers
from fedprune.task.bundle import read_bundle

_FEWER = 25
"""Mutants of each network; `python -m benchmarks.zoo` takes all."""


@pytest.mark.parametrize("name", SMALL)
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


@pytest.mark.parametrize("name", MUTATED)
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
