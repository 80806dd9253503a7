"""An agent's presence, which its status topic retains: for people, and what watches over a fleet."""

from __future__ import annotations

import msgspec

from fedprune import __version__
from fedprune.wire.messages import Presence


def presence(agent: str, state: str) -> bytes:
    """The payload that says in which state, `online` or `offline`, an agent is.

    Example:
        >>> presence("pi-1", "online").startswith(b'{"state":"online","agent":"pi-1"')
        True
    """
    return msgspec.json.encode(Presence(state=state, agent=agent, version=__version__))
