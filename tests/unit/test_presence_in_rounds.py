"""Who counts as present where a round needs others, however long no alarm rang before."""

from __future__ import annotations

from aggregator.presence import GENERATION_S
from aggregator.round_state import Ticked
from fedprune.wire.messages import Assignment, CheckIn, Failed
from tests.drivers import sent_to, training
from tests.samples import RUN

CHECK_IN = CheckIn(examples=10)


def test_who_was_not_heard_for_long_gets_no_place_though_no_alarm_rang_meanwhile() -> None:
    gateway = training()
    for agent in ("pi-3", "pi-4"):
        gateway.hears(agent, CHECK_IN)
    gateway.now = 2 * GENERATION_S - 1.0
    gateway.hears("pi-4", CHECK_IN)
    gateway.now = 2 * GENERATION_S + 1.0

    for agent in ("pi-0", "pi-1", "pi-2"):
        actions = gateway.hears(agent, Failed(run=RUN, round=0, why="no memory"))

    assert sent_to("pi-4", actions, Assignment)
    assert not sent_to("pi-3", actions, Assignment)


def test_an_update_that_is_accepted_long_after_anything_else_counts_its_agent_as_present() -> None:
    gateway = training()
    gateway.now = 3 * GENERATION_S
    gateway.takes_update_of("pi-0")
    gateway.now += 1.0
    gateway.gets(Ticked())

    assert "pi-0" in gateway.state.presence
