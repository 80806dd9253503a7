"""An aggregator that starts tells of the round, and goes on where its book says that it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aggregator.cohort import Standing
from aggregator.round_state import (
    Connected,
    Merge,
    Phase,
    Publish,
    resume,
)
from fedprune.wire.messages import (
    Accepted,
    Assignment,
    CheckIn,
    Content,
)
from fedprune.wire.transfer import content_of
from tests.drivers import (
    FIRST,
    PLAN,
    Gateway,
    gateway_in,
    model_of,
    sent_to,
    submission,
    update_of,
)
from tests.samples import digest, submit

CHECK_IN = CheckIn(examples=10)


def test_a_restarted_aggregator_goes_on_with_the_round_it_was_in() -> None:
    state = resume(
        replace(PLAN, incarnation=2),
        model_of(1),
        1,
        assigned={"pi-0": 10, "pi-1": 10, "pi-2": 10},
        cap=100,
        accepted={"pi-0": content_of(update_of("pi-0", 1)).digest},
        last_accepted={"pi-1": digest("of round 0")},
        refused={},
        left_out={},
    )
    gateway = Gateway()
    gateway.state = state

    gateway.gets(Connected())
    assert gateway.standing(Standing.ASSIGNED) == {"pi-1", "pi-2"}
    assert sent_to("pi-0", gateway.hears("pi-0", submission("pi-0", 1)), Accepted)
    assert sent_to("pi-1", gateway.hears("pi-1", CHECK_IN), Assignment)
    old = submit(0, update=Content(digest=digest("of round 0"), size=3))
    assert sent_to("pi-1", gateway.hears("pi-1", old), Accepted)


def test_a_restarted_aggregator_merges_a_round_that_was_complete() -> None:
    accepted = {agent: content_of(update_of(agent)).digest for agent in ("pi-0", "pi-1", "pi-2")}
    gateway = Gateway()
    gateway.state = resume(
        PLAN,
        FIRST,
        0,
        assigned=dict.fromkeys(accepted, 10),
        cap=100,
        accepted=accepted,
        last_accepted={},
        refused={},
        left_out={},
    )

    assert gateway.gets(Connected())[-1] == Merge(0)


def test_a_federation_that_is_done_stays_done() -> None:
    state = resume(PLAN, FIRST, PLAN.rounds, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}, left_out={})

    assert state.phase is Phase.DONE


@pytest.mark.parametrize("phase", Phase)
def test_whoever_starts_or_reconnects_is_told_of_the_round(phase: Phase) -> None:
    (published, *_) = gateway_in(phase).gets(Connected())

    assert isinstance(published, Publish)
    assert published.manifest.done == (phase is Phase.DONE)
    assert published.manifest.incarnation == 1
