"""The aggregator's subscriptions: to all agents at once, and while one of them floods to each other one by its name.

The broker then holds nothing of the flood for the aggregator, and drops nothing of the others'. That goes by names,
which an access list alone makes true: so it is done where devices have joined a gateway, whose keys say who there is.
"""

from __future__ import annotations

import logging

from aggregator.floods import SHUT_OUT_S, WINDOW_S, Floods
from aggregator.round_state import RoundState
from fedprune.identity.device_keys import DeviceKeys
from fedprune.wire.link import Link
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import CHUNK_SIZES, chunk_count

_log = logging.getLogger(__name__)

_CHUNK_BYTES = CHUNK_SIZES[1]
"""Of an update whose chunks come within one window, mostly."""

_MOST_CHUNKS = 20_000
"""Of an update that comes in smaller ones, which a broker may ask for, or a link that was bad once: 4 MB/s of them."""


class Listening:
    """Whom the aggregator hears. `keys` are those of the devices that have joined, if they do."""

    def __init__(self, topics: Topics, link: Link, keys: DeviceKeys | None) -> None:
        self._topics, self._link, self._keys = topics, link, keys
        self._floods = Floods()
        self._named: frozenset[str] = frozenset()
        """The agents that are subscribed to by name; empty while all are."""
        self._known: frozenset[str] | None = None
        """Those who had joined as they were named, of whom some may flood."""

    def begin(self) -> None:
        """Subscribe on a new connection."""
        self._named = frozenset()
        if self._floods.authors:
            self._name()
        else:
            self._link.subscribe(self._topics.all_up)
            self._link.subscribe(self._topics.all_status)

    def count(self, topic: str, state: RoundState, now: float) -> None:
        """Count a message that comes in `state`, whatever it says."""
        agent = self._topics.author(topic)
        if self._keys is None or self._keys.get(agent) is None:
            return
        if not self._floods.begins_with(agent, _most_chunks(state, agent), now):
            return
        _log.error(
            "%s floods: it sent more messages in %.0f s than any round takes. It is not listened to for %.0f minutes, "
            "so that others are; if it was captured, revoke it: fedprune revoke %s",
            agent,
            WINDOW_S,
            SHUT_OUT_S / 60,
            agent,
        )
        self._name()
        self._link.unsubscribe(self._topics.all_up)
        self._link.unsubscribe(self._topics.all_status)

    def look(self, now: float) -> None:
        """Listen to all once more when no flood is left; until then also to those who joined meanwhile."""
        if not self._floods.authors:
            return
        assert self._keys is not None
        is_forgiven = self._floods.forgive(now)
        if is_forgiven and not self._floods.authors:
            self._link.subscribe(self._topics.all_up)
            self._link.subscribe(self._topics.all_status)
            for agent in sorted(self._named):
                self._link.unsubscribe(self._topics.all_up_of(agent))
            self._named = frozenset()
        elif is_forgiven or self._keys.names() is not self._known:  # after each event: all names are too many for that
            self._name()

    def _name(self) -> None:
        """Be subscribed to each agent that does not flood, and to no other. Presence is for people, and missed."""
        assert self._keys is not None
        self._known = self._keys.names()
        wanted = self._known - self._floods.authors
        for agent in sorted(wanted - self._named):
            self._link.subscribe(self._topics.all_up_of(agent))
        for agent in sorted(self._named - wanted):
            self._link.unsubscribe(self._topics.all_up_of(agent))
        self._named = wanted


def _most_chunks(state: RoundState, agent: str) -> int:
    """That an agent may send in a window: of the largest update, or of its own if that comes in smaller ones."""
    upload = state.uploads.get(agent)
    of_its_own = 0 if upload is None else min(upload.receiving.count, _MOST_CHUNKS)
    return max(chunk_count(state.plan.most_bytes(agent), _CHUNK_BYTES), of_its_own)
