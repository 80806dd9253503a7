"""Sharing out: what every partition keeps, and what the Dirichlet ones mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedprune.data.dirichlet import log_dirichlet, log_gamma_variates
from fedprune.data.partition import Dirichlet, Iid, Partition, parse_partition, partition
from fedprune.errors import ConfigurationError, DataError
from fedprune.model.randomness import Keyed

_BALANCED = np.repeat(np.arange(10), 600)

_partitions = st.one_of(st.just(Iid()), st.builds(Dirichlet, st.floats(1e-3, 1e6)))


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=120).map(np.array),
    agents=st.integers(1, 8),
    examples=st.integers(1, 40),
    how=_partitions,
    seed=st.integers(0, 2**32),
)
def test_shares_are_of_equal_size_disjoint_and_repeatable(
    labels: NDArray[np.int64], agents: int, examples: int, how: Partition, seed: int
) -> None:
    assume(agents * examples <= len(labels))
    shares = partition(labels, agents, examples, how, Keyed(seed, "partition"))
    assert [len(share) for share in shares] == [examples] * agents
    everything = np.concatenate(shares)
    assert len(np.unique(everything)) == agents * examples
    assert everything.min() >= 0
    assert everything.max() < len(labels)
    again = partition(labels, agents, examples, how, Keyed(seed, "partition"))
    np.testing.assert_array_equal(everything, np.concatenate(again))


@pytest.mark.parametrize("how", [Iid(), Dirichlet(0.5)])
def test_another_seed_shares_out_otherwise(how: Partition) -> None:
    one, other = (np.concatenate(partition(_BALANCED, 4, 100, how, Keyed(seed))) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_every_last_example_can_be_shared_out() -> None:
    """The last agents get what the first left over, so that each class is used up exactly."""
    labels = np.repeat([0, 3, 7], [5, 80, 15])
    shares = partition(labels, 10, 10, Dirichlet(0.001), Keyed(3))
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(100))


def _distance_from_global(labels: NDArray[np.int64], how: Partition) -> float:
    """Total variation between an agent's classes and everybody's, mean of 40 agents over 5 seeds."""
    everybody = np.bincount(labels) / len(labels)
    return float(
        np.mean(
            [
                np.abs(np.bincount(labels[share], minlength=len(everybody)) / len(share) - everybody).sum() / 2
                for seed in range(5)
                for share in partition(labels, 8, 200, how, Keyed(seed))
            ]
        )
    )


@pytest.mark.parametrize("labels", [_BALANCED, np.repeat([0, 1, 2], [4000, 1500, 500])])
def test_the_smaller_alpha_the_more_one_sided_and_iid_is_like_everybody(labels: NDArray[np.int64]) -> None:
    distances = [_distance_from_global(labels, Dirichlet(alpha)) for alpha in (0.05, 0.5, 5, 1e6)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 2 * distances[2]
    assert _distance_from_global(labels, Iid()) == pytest.approx(distances[-1], abs=0.02)
    assert distances[-1] < 0.1


def test_class_counts_are_dirichlet_multinomial() -> None:
    """With stock to spare, an agent's count of one of 10 balanced classes is beta-binomial(n, alpha, 9 alpha)."""
    alpha, examples = 0.5, 20
    labels = np.repeat(np.arange(10), 4000)
    shares = partition(labels, 400, examples, Dirichlet(alpha), Keyed(5))
    observed = np.bincount([int((labels[share] == 4).sum()) for share in shares], minlength=examples + 1)
    expected = 400 * stats.betabinom(examples, alpha, 9 * alpha).pmf(np.arange(examples + 1))
    pooled = [[*part[:4], part[4:8].sum(), part[8:].sum()] for part in (observed, expected)]
    assert stats.chisquare(pooled[0], pooled[1]).pvalue > 1e-3


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 7.5])
def test_gamma_variates_have_the_gamma_distribution(shape: float) -> None:
    draws = np.exp(log_gamma_variates(np.full(20_000, shape), Keyed(11, "gamma")))
    assert stats.kstest(draws, stats.gamma(shape).cdf).pvalue > 1e-3
    assert draws.mean() == pytest.approx(shape, rel=0.1)
    assert draws.var() == pytest.approx(shape, rel=0.2)


def test_proportions_have_dirichlet_moments() -> None:
    concentration = np.array([0.2, 1.0, 3.0])
    keyed = Keyed(7)
    draws = np.exp([log_dirichlet(concentration, keyed) for _ in range(4000)])
    np.testing.assert_allclose(draws.sum(axis=1), 1)
    expected = stats.dirichlet(concentration)
    np.testing.assert_allclose(draws.mean(axis=0), expected.mean(), atol=0.015)
    np.testing.assert_allclose(np.cov(draws.T), expected.cov(), atol=0.005)


def test_the_smallest_concentration_still_gives_proportions() -> None:
    logs = log_dirichlet(np.full(10, 1e-9), Keyed(1))
    assert np.isfinite(logs).all()
    assert np.exp(logs).sum() == pytest.approx(1)


def test_too_few_examples_say_how_many_there_are() -> None:
    with pytest.raises(DataError, match="4 agents x 1501 examples are 6004, there are 6000: ask for at most 1500"):
        partition(_BALANCED, 4, 1501, Iid(), Keyed(1))


@pytest.mark.parametrize("how", [Iid(), Dirichlet(0.5), Dirichlet(100)])
def test_a_partition_is_read_as_it_is_written(how: Partition) -> None:
    assert parse_partition(str(how)) == how


@pytest.mark.parametrize(
    "text", ["", "IID", "iid:1", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan",
             "dirichlet:inf", "dirichlet:1e-9", "dirichlet:half", "pathological:2"]
)  # fmt: skip
def test_a_misspelt_partition_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write iid, group or dirichlet:ALPHA"):
        parse_partition(text)


@given(st.one_of(st.text(), st.floats().map("dirichlet:{}".format)))
def test_any_text_is_refused_or_read_exactly(text: str) -> None:
    try:
        how = parse_partition(text)
    except ConfigurationError:
        return
    assert parse_partition(str(how)) == how
