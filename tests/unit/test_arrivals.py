"""How long a round waits for a full cohort follows from when agents came before."""

from __future__ import annotations

from dataclasses import replace

from aggregator.arrivals import FIRST_GATHERING_S, REMEMBERED, SHORTEST_GATHERING_S
from aggregator.round_state import Connected, Merged, Phase
from fedprune.wire.messages import Failed
from tests.drivers import AGENTS, CHECK_IN, PLAN, RUN, Gateway, model_of

LEARNED = replace(PLAN, gather_s=None, quorum=2, cohort=3, rounds=40)


def waited(gateway: Gateway) -> float:
    """Seconds until the round opens with those who are there."""
    began = gateway.now
    gateway.passes_deadline()
    assert gateway.state.phase is Phase.TRAINING
    return gateway.now - began


def gathers_again(gateway: Gateway) -> None:
    """Two submit, whoever else takes part cannot, the round is merged, and both wait for the next."""
    round_ = gateway.state.round
    for agent in gateway.standing() - set(AGENTS[:2]):
        gateway.hears(agent, Failed(run=RUN, round=round_, why="it restarts"))
    for agent in AGENTS[:2]:
        gateway.takes_update_of(agent, round_)
    gateway.gets(Merged(model_of(round_ + 1)))


def with_two_agents() -> Gateway:
    gateway = Gateway(LEARNED)
    gateway.gets(Connected())
    for agent in AGENTS[:2]:
        gateway.hears(agent, CHECK_IN)
    return gateway


def test_the_first_round_waits_as_long_as_agents_take_to_check_in_by_themselves() -> None:
    assert waited(with_two_agents()) == FIRST_GATHERING_S


def test_where_nobody_else_ever_comes_rounds_wait_no_longer_than_they_must() -> None:
    gateway = with_two_agents()
    waited(gateway)
    gathers_again(gateway)

    assert waited(gateway) == SHORTEST_GATHERING_S


def test_an_agent_that_comes_a_little_later_each_round_is_waited_for() -> None:
    gateway = with_two_agents()
    gateway.now += 9.0
    gateway.hears("late", CHECK_IN)
    for _ in range(2 * REMEMBERED):
        assert gateway.state.phase is Phase.TRAINING, "it has come, and nobody waits longer"
        gathers_again(gateway)
        gateway.waits_until(gateway.now + 9.0)
        assert gateway.state.phase is Phase.GATHERING
        gateway.hears("late", CHECK_IN)


def test_a_wait_that_is_set_stays_as_it_is_set() -> None:
    gateway = Gateway(replace(LEARNED, gather_s=7.0))
    gateway.gets(Connected())
    for agent in AGENTS[:2]:
        gateway.hears(agent, CHECK_IN)
    assert waited(gateway) == 7.0
