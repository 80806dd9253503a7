"""A gateway that is asked for too much: contents over and over, more updates at once than it has room for."""

from __future__ import annotations

import pytest

from aggregator import round_uploads
from aggregator.cohort import Standing
from aggregator.round_course import SERVED_MODELS
from aggregator.round_state import (
    LinkDrained,
    Merged,
)
from fedprune.wire.messages import Content, Failed, Need
from fedprune.wire.serving import FREE_COPIES, SendChunk
from tests.drivers import (
    model_of,
    need,
    training,
)
from tests.samples import RUN, TASK, digest, submit


def test_an_agent_that_asks_for_a_content_over_and_over_is_slowed() -> None:
    gateway = training()
    served = 0
    for _ in range(100):
        gateway.now += 0.2
        actions = gateway.hears("pi-0", need(TASK)) + gateway.gets(LinkDrained()) + gateway.waits_until(gateway.now)
        served += sum(isinstance(action, SendChunk) for action in actions)

    assert served <= FREE_COPIES + 1


def test_updates_on_their_way_in_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_uploads, "MAX_UPLOADS_BYTES", 1000)
    gateway = training()
    big = {agent: submit(update=Content(digest=digest(agent), size=600)) for agent in ("pi-0", "pi-1")}
    gateway.hears("pi-0", big["pi-0"])

    (answer,) = gateway.hears("pi-1", big["pi-1"])
    assert answer.message == Need(digest=digest("pi-1"), missing=b"\0"), "wait"
    assert gateway.state.uploads_bytes == 600

    gateway.hears("pi-0", Failed(run=RUN, round=0, why="gone"))
    (answer,) = gateway.hears("pi-1", big["pi-1"])
    assert answer.message == need(big["pi-1"].update), "what it sent unasked was in vain"
    assert gateway.state.uploads_bytes == 600


def test_an_update_that_stopped_coming_gives_its_room_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_uploads, "MAX_UPLOADS_BYTES", 1000)
    gateway = training()
    big = {agent: submit(update=Content(digest=digest(agent), size=600)) for agent in ("pi-0", "pi-1")}
    gateway.hears("pi-0", big["pi-0"])
    gateway.now += round_uploads.STALLED_UPLOAD_S / 2
    gateway.hears("pi-1", big["pi-1"])
    assert set(gateway.state.uploads) == {"pi-0"}, "it may be slow"

    gateway.now += round_uploads.STALLED_UPLOAD_S / 2
    gateway.hears("pi-1", big["pi-1"])

    assert set(gateway.state.uploads) == {"pi-1"}
    assert "pi-0" in gateway.standing(Standing.ASSIGNED), "its update is still welcome"


def test_an_update_larger_than_all_the_room_there_is_is_received_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_uploads, "MAX_UPLOADS_BYTES", 1000)
    gateway = training()

    assert gateway.hears("pi-0", submit(update=Content(digest=digest("pi-0"), size=2000))) == ()
    assert len(gateway.state.uploads) == 1


def test_the_last_models_are_served_and_older_ones_forgotten() -> None:
    gateway = training()
    for round_ in range(2):
        for agent in ("pi-0", "pi-1", "pi-2"):
            gateway.takes_update_of(agent, round_)
        gateway.gets(Merged(model_of(round_ + 1)))

    assert set(gateway.state.serving.contents) == {
        TASK.digest,
        *(model_of(round_).content.digest for round_ in (1, 2)),
    }
    assert len(gateway.state.served) == SERVED_MODELS
