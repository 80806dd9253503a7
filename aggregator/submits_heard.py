"""What agents' submits left unsaid, as the gateway heard it before."""

from __future__ import annotations

import msgspec

from fedprune.wire.messages import Submit
from fedprune.wire.unsaid import Steady, steady, whole_submit

MOST_HEARD = 100_000
"""Agents whose last submit is remembered; of one that is forgotten nothing is known until it says all again."""

_NOTHING = msgspec.msgpack.encode(Steady())


class SubmitsHeard:
    """Remembers of each agent what its last submit said of its process and inputs, in this start of the gateway."""

    def __init__(self) -> None:
        self._heard: dict[str, bytes] = {}
        """By agent, as MessagePack: a third of the memory."""

    def whole(self, agent: str, submit: Submit, run: str) -> Submit:
        """The submit of an agent, in a run, with all that it left unsaid. Raises `ProtocolError` without a run."""
        heard = self._heard.get(agent, _NOTHING)
        whole = whole_submit(submit, run, msgspec.msgpack.decode(heard, type=Steady))
        self._heard.pop(agent, None)
        self._heard[agent] = msgspec.msgpack.encode(steady(whole))
        if len(self._heard) > MOST_HEARD:
            del self._heard[next(iter(self._heard))]
        return whole
