"""The agents that wait for work: who was heard lately, and what each said that it has.

Two generations make forgetting cheap: who is heard enters the new one, and every `GENERATION_S` the old one is
dropped and the new one becomes the old. So an agent counts for one to two generations after it was last heard, and
no event costs more for a large fleet than for a small one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from rpds import HashTrieMap

from fedprune.system.values import replace

GENERATION_S = 60.0
"""Waiting agents check in every 15 to 45 s."""

MAX_PRESENT = 200_000
"""Agents that can wait at a time, about 40 MB; others are told to come back later."""


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """An agent that waits: the examples that it holds, the version of the model that it can go on from, -1 for none,
    and whether it knows the terms."""

    examples: int
    base: int = -1
    knows_terms: bool = False


_NOBODY: HashTrieMap[str, Waiting] = HashTrieMap()


@dataclass(frozen=True)
class Presence:
    """Agents, and what each has; `turned_at` is when the last generation was dropped."""

    recent: HashTrieMap[str, Waiting] = _NOBODY
    before: HashTrieMap[str, Waiting] = _NOBODY
    turned_at: float = 0.0

    def at(self, now: float) -> Presence:
        """Without those who were not heard for too long."""
        generations = int((now - self.turned_at) // GENERATION_S)
        if generations < 1:
            return self
        turned_at = self.turned_at + generations * GENERATION_S
        return Presence(_NOBODY, self.recent if generations == 1 else _NOBODY, turned_at)

    def heard(self, agent: str, waiting: Waiting) -> Presence:
        """With an agent that waits; the same if it is new and there is no room."""
        if agent not in self and len(self) >= MAX_PRESENT:
            return self
        return replace(self, recent=self.recent.insert(agent, waiting), before=self.before.discard(agent))

    def without(self, agent: str) -> Presence:
        return replace(self, recent=self.recent.discard(agent), before=self.before.discard(agent))

    def __getitem__(self, agent: str) -> Waiting:
        """Raises KeyError for an agent that does not wait."""
        found = self.recent.get(agent)
        return self.before[agent] if found is None else found

    def __contains__(self, agent: str) -> bool:
        return agent in self.recent or agent in self.before

    def __len__(self) -> int:
        return len(self.recent) + len(self.before)

    def __iter__(self) -> Iterator[str]:
        yield from self.recent
        yield from self.before
