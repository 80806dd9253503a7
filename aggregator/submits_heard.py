"""What agents' submits left unsaid, as the gateway heard it before."""

from __future__ import annotations

from fedprune.wire.messages import Submit
from fedprune.wire.unsaid import Steady, steady, whole_submit

MOST_HEARD = 100_000
"""Agents whose last submit is remembered; of one that is forgotten nothing is known until it says all again."""


class SubmitsHeard:
    """Remembers of each agent what its last submit said of its process and inputs, in this start of the gateway."""

    def __init__(self) -> None:
        self._heard: dict[str, Steady] = {}

    def whole(self, agent: str, submit: Submit, run: str) -> Submit:
        """The submit of an agent, in a run, with all that it left unsaid. Raises `ProtocolError` without a run."""
        whole = whole_submit(submit, run, self._heard.get(agent, Steady()))
        self._heard.pop(agent, None)
        self._heard[agent] = steady(whole)
        if len(self._heard) > MOST_HEARD:
            del self._heard[next(iter(self._heard))]
        return whole
