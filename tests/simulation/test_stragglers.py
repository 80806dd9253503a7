"""A class of devices that takes hundreds of times as long: rounds learn not to wait for it, and it takes part again."""

from __future__ import annotations

import pytest

from aggregator.response_times import FIRST_S
from fedprune.codecs import DEFAULT_CODEC
from fedprune.pruning.policy import MaskPolicy
from tests.simulation.faults import CALM
from tests.simulation.world import ROUNDS, World

SLOW_S = 5000.0


class UnequalWorld(World):
    """`stragglers` name the agents that take `SLOW_S`; the others take some seconds, never more."""

    stragglers: frozenset[str] = frozenset()

    def _training_s(self, name: str) -> float:
        return SLOW_S if name in self.stragglers else self.physics.chance.uniform(5.0, 20.0)

    @property
    def merged_at(self) -> list[float]:
        return [at for at, what in self.physics.trace if what.startswith("round ") and "merges" in what]


def run(seed: int, stragglers: frozenset[str], deadline_s: float | None, quorum: int = 2) -> UnequalWorld:
    world = UnequalWorld(seed, MaskPolicy.SHARED, CALM, DEFAULT_CODEC, agents=4, quorum=quorum, deadline_s=deadline_s)
    world.stragglers = stragglers
    world.run()
    assert world.done
    assert len(world.merged_at) == ROUNDS
    return world


@pytest.mark.parametrize("seed", range(6))
def test_rounds_wait_for_stragglers_once_and_not_again(seed: int) -> None:
    stragglers = frozenset({"agent-0"})
    fixed, learned = run(seed, stragglers, FIRST_S), run(seed, stragglers, None)

    took = [after - before for before, after in zip(learned.merged_at, learned.merged_at[1:], strict=False)]
    assert sum(seconds > FIRST_S / 2 for seconds in took) <= 1
    assert learned.merged_at[-1] <= fixed.merged_at[-1] + FIRST_S / 2


@pytest.mark.parametrize("seed", range(3))
def test_where_the_quorum_needs_them_they_are_waited_for(seed: int) -> None:
    """Cohorts of three of four agents, of which two are slow: each needs a slow one."""
    world = run(seed, frozenset({"agent-0", "agent-1"}), None, quorum=3)
    assert {settled.agent for settled in world.settled} & {"agent-0", "agent-1"}
    assert world.merged_at[-1] >= ROUNDS * SLOW_S
