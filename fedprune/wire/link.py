"""The network as agents and the aggregator need it, and what a link reports to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from fedprune.errors import BrokerError


@dataclass(frozen=True)
class LinkUp:
    """Connected: subscribe and check in again, the broker remembers nothing."""


@dataclass(frozen=True)
class LinkDown:
    """The connection was lost; the link goes on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message. `retained`: the broker kept it from some time before this subscription."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True)
class Drained:
    """The broker has all that was published: the next burst may follow.

    It comes whenever the messages that the broker has not acknowledged become none. What was published after that, and
    before this event was handled, may still be under way.
    """


LinkEvent = LinkUp | LinkDown | Delivery | Drained | BrokerError
"""A `BrokerError` says that the broker lets us in, but not subscribe: nothing can come of that."""


class Events(Protocol):
    """A queue on which a link puts its events, in order: a `queue.SimpleQueue`, or what leads to one."""

    def put(self, event: Any) -> None: ...

    def qsize(self) -> int:
        """The events that nobody has taken yet, of the link's or of others."""
        ...


class Link(Protocol):
    """A network, as agents and the aggregator need it."""

    @property
    def broker(self) -> str:
        """The broker's address, for people."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send if the link is up and has room for it; the number of payload bytes that will be sent, else 0."""
        ...

    def subscribe(self, topic_filter: str) -> None: ...

    def unsubscribe(self, topic_filter: str) -> None: ...
