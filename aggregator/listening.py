"""The aggregator's subscriptions: to all agents at once, and while one of them floods to each other one by its name.

The broker then holds nothing of the flood for the aggregator, and drops nothing of the others'. That goes by names,
which an access list alone makes true: so it is done where devices have joined a gateway, whose keys say who there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from aggregator.floods import SHUT_OUT_S, WINDOW_S, Floods
from fedprune.identity.device_keys import DeviceKeys
from fedprune.wire.link import Link
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import CHUNK_SIZES, chunk_count

_log = logging.getLogger(__name__)

_CHUNK_BYTES = CHUNK_SIZES[1]
"""Of an update whose chunks come within one window: smaller ones go over links that are too slow for so many."""


class Listening:
    """Whom the aggregator hears. `keys` are those of the devices that have joined, if they do."""

    def __init__(self, topics: Topics, link: Link, keys: DeviceKeys | None) -> None:
        self._topics, self._link, self._keys = topics, link, keys
        self._floods = Floods()
        self._named: set[str] = set()
        """The agents that are subscribed to by name; empty while all are."""
        self._known, self._authors = frozenset[str](), frozenset[str]()
        """The devices, and those that flood, of which these are what is left."""

    def begin(self) -> None:
        """Subscribe on a new connection."""
        self._forget_names()
        if self._floods.authors:
            self._name()
        else:
            self._link.subscribe(self._topics.all_up)
            self._link.subscribe(self._topics.all_status)

    def count(self, topic: str, most_bytes: Callable[[str], int], now: float) -> None:
        """Count a message, whatever it says. `most_bytes` tells what an agent's update may have."""
        agent = self._topics.author(topic)
        if self._keys is None or self._keys.get(agent) is None:
            return
        if not self._floods.begins_with(agent, chunk_count(most_bytes(agent), _CHUNK_BYTES), now):
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
        if self._floods.forgive(now) and not self._floods.authors:
            self._link.subscribe(self._topics.all_up)
            self._link.subscribe(self._topics.all_status)
            for agent in self._named:
                self._link.unsubscribe(self._topics.all_up_of(agent))
            self._forget_names()
        else:
            self._name()

    def _name(self) -> None:
        """Be subscribed to each agent that does not flood, and to no other. Presence is for people, and missed.

        It is asked with each event, so it looks at all devices only where they, or the floods, have changed.
        """
        assert self._keys is not None
        known, authors = self._keys.names(), self._floods.authors
        if known is self._known and authors == self._authors:
            return
        wanted = known - authors
        for agent in sorted(wanted - self._named):
            self._link.subscribe(self._topics.all_up_of(agent))
        for agent in sorted(self._named - wanted):
            self._link.unsubscribe(self._topics.all_up_of(agent))
        self._named, self._known, self._authors = set(wanted), known, authors

    def _forget_names(self) -> None:
        self._named.clear()
        self._known = self._authors = frozenset()
