"""Gateway and agents that are one version of the protocol apart, which injected ranges stand for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from aggregator.book import Book
from fedprune.codecs import DEFAULT_CODEC
from fedprune.pruning.policy import MaskPolicy
from fedprune.wire.messages import Accepted, decode, tag_of
from fedprune.wire.versions import SPOKEN, Versions
from tests.gateways import TOPICS, Site, begin, submit_update, tell
from tests.simulation.faults import CALM
from tests.simulation.world import ROUNDS, World

N = SPOKEN.newest
NOW, NEXT = Versions(N - 1, N), Versions(N, N + 1)
ALONE, FAR = Versions(N, N), Versions(N + 1, N + 2)


class MixedWorld(World):
    """A federation whose sides speak what they are told to."""

    def __init__(self, gateway: Versions, agents: Mapping[str, Versions]) -> None:
        super().__init__(1, MaskPolicy.SHARED, CALM, DEFAULT_CODEC, agents=len(agents), quorum=3)
        self._gateway, self._agents = gateway, agents

    def _spoken_of(self, name: str | None) -> Versions:
        return self._gateway if name is None else self._agents[name]

    @property
    def accepted(self) -> set[str]:
        book = Book(self.connection)
        return {agent for round_ in range(ROUNDS) for agent in book.accepted(round_)}


@pytest.mark.parametrize("gateway", [NOW, NEXT], ids=["older", "newer"])
def test_sides_one_version_apart_do_rounds_together_both_ways(gateway: Versions) -> None:
    others = NEXT if gateway is NOW else NOW
    world = MixedWorld(gateway, {"agent-0": others, "agent-1": ALONE, "agent-2": gateway})

    world.run()

    assert world.done
    assert world.accepted == {"agent-0", "agent-1", "agent-2"}


def test_a_gateway_that_was_started_anew_answers_an_older_agent_before_that_checks_in(tmp_path: Path) -> None:
    """Else one whose update is pending would submit it for ever."""
    site = Site(tmp_path)
    submit = submit_update(site, begin(site, spoken=NEXT), "pi-0")
    site.book.close()
    again = site.start(spoken=NEXT)
    again.connect()

    tell(again, "pi-0", submit)

    (answer,) = site.link.on(TOPICS.down("pi-0", "accepted"))
    assert decode(Accepted, answer, ALONE).update == tag_of(submit.content.digest)
    site.book.close()


def test_who_speaks_no_common_version_is_told_on_both_sides_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    world = MixedWorld(ALONE, {"agent-0": ALONE, "agent-1": NOW, "agent-2": NEXT, "agent-3": FAR})

    world.run()

    assert world.done
    assert world.accepted == {"agent-0", "agent-1", "agent-2"}
    far = f"versions {N + 1} to {N + 2}"
    by_agent = f"Manifest: of version {N} of the protocol, this side speaks {far}; upgrade the other side"
    by_gateway = f"CheckIn: of {far} of the protocol, this side speaks version {N}; upgrade this side"
    assert by_agent in caplog.text
    assert by_gateway in caplog.text
