"""Sharing examples out over agents: alike (IID), with skewed classes (Dirichlet), or by whom they are of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprune.data.dirichlet import log_dirichlet, open_fractions
from fedprune.errors import ConfigurationError, DataError
from fedprune.model.randomness import Keyed

MIN_ALPHA, MAX_ALPHA = 1e-3, 1e6


@dataclass(frozen=True)
class Iid:
    """Every agent's examples are a uniform sample of all of them."""

    def __str__(self) -> str:
        return "iid"


@dataclass(frozen=True)
class Dirichlet:
    """Every agent has class proportions of its own; the smaller alpha, the fewer classes dominate an agent."""

    alpha: float

    def __str__(self) -> str:
        return f"dirichlet:{self.alpha}"


@dataclass(frozen=True)
class ByGroup:
    """All examples of a group (a person, a machine) belong to one agent."""

    def __str__(self) -> str:
        return "group"


Partition = Iid | Dirichlet | ByGroup


def parse_partition(text: str) -> Partition:
    """Read `iid`, `group` or `dirichlet:ALPHA`. Raises `ConfigurationError` for anything else."""
    if text in ("iid", "group"):
        return Iid() if text == "iid" else ByGroup()
    name, _, alpha = text.partition(":")
    try:
        how = Dirichlet(float(alpha))
    except ValueError:
        name = ""
    if name != "dirichlet" or not MIN_ALPHA <= how.alpha <= MAX_ALPHA:
        raise ConfigurationError(
            f"partition {text!r}: write iid, group or dirichlet:ALPHA, ALPHA from {MIN_ALPHA:g} to {MAX_ALPHA:g} "
            "(dirichlet:0.5 is usual)"
        )
    return how


def partition(
    labels: NDArray[np.int64], agents: int, examples_per_agent: int, how: Iid | Dirichlet, keyed: Keyed
) -> list[NDArray[np.int64]]:
    """For each agent the ascending indices of its `examples_per_agent` examples; no example has two agents.

    Raises `DataError` where there are too few examples.
    """
    wanted = agents * examples_per_agent
    if wanted > len(labels):
        raise DataError(
            f"{agents} agents x {examples_per_agent} examples are {wanted}, there are {len(labels)}: "
            f"ask for at most {len(labels) // agents} examples an agent, or for fewer agents"
        )
    if isinstance(how, Dirichlet):
        shares = _skewed_shares(labels, agents, examples_per_agent, how.alpha, keyed)
    else:
        shares = list(keyed.permutation(len(labels))[:wanted].reshape(agents, examples_per_agent))
    return [np.sort(share) for share in shares]


def partition_groups(groups: NDArray[np.int32], agents: int, keyed: Keyed) -> list[NDArray[np.int64]]:
    """For each agent the ascending indices of the examples of its groups, which are dealt out one by one.

    Args:
        groups: the number of each example's group, int32 `[examples]`.

    Raises `DataError` where there are fewer groups than agents.
    """
    names = np.unique(groups)
    if len(names) < agents:
        raise DataError(f"{agents} agents need a group each, there are {len(names)}; ask for fewer agents, or for iid")
    dealt = names[keyed.permutation(len(names))]
    return [np.flatnonzero(np.isin(groups, dealt[agent::agents])) for agent in range(agents)]


def _skewed_shares(
    labels: NDArray[np.int64], agents: int, examples: int, alpha: float, keyed: Keyed
) -> list[NDArray[np.int64]]:
    """Class proportions q ~ Dirichlet(alpha k p) for each agent: k classes, p their shares of all examples.

    Source: Hsu, Qi, Brown 2019, "Measuring the effects of non-identical data distribution for federated visual
    classification", section 2, but for the factor k. With it alpha means the same for any number of classes, and for
    balanced ones it is that of the symmetric Dirichlet(alpha, ..., alpha) which most later papers state.
    """
    counts = np.unique(labels, return_counts=True)[1]
    shuffled = keyed.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    next_example, end = np.cumsum(counts) - counts, np.cumsum(counts)
    shares = []
    for _ in range(agents):
        log_proportions = log_dirichlet(alpha * len(counts) * counts / len(labels), keyed)
        taken = _allot(log_proportions, end - next_example, examples, keyed)
        spans = zip(next_example, next_example + taken, strict=True)
        shares.append(np.concatenate([by_class[first:last] for first, last in spans]))
        next_example = next_example + taken
    return shares


def _allot(
    log_proportions: NDArray[np.float64], stock: NDArray[np.int64], examples: int, keyed: Keyed
) -> NDArray[np.int64]:
    """Count how many of `examples` draws fall on each class; a class that is used up leaves its draws to the others."""
    taken = np.zeros_like(stock)
    while missing := examples - int(taken.sum()):
        room = stock - taken
        open_classes = np.where(room > 0, log_proportions, -np.inf)
        cumulative = np.cumsum(np.exp(open_classes - open_classes.max()))
        drawn = np.searchsorted(cumulative / cumulative[-1], open_fractions(missing, keyed), side="right")
        taken += np.minimum(np.bincount(drawn, minlength=len(stock)), room)
    return taken
