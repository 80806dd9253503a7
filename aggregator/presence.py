"""The agents that wait for work: who was heard lately, how many examples each said it holds, and which model.

Two generations make forgetting cheap: who is heard enters the new one, and every `GENERATION_S` the old one is
dropped and the new one becomes the old. So an agent counts for one to two generations after it was last heard, and
no event costs more for a large fleet than for a small one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rpds import HashTrieMap

GENERATION_S = 60.0
"""Waiting agents check in every 15 to 45 s."""

MAX_PRESENT = 200_000
"""Agents that can wait at a time, about 40 MB; others are told to come back later."""

_NOBODY: HashTrieMap[str, tuple[int, int]] = HashTrieMap()


@dataclass(frozen=True)
class Presence:
    """Agents, the examples that they hold, and the version of the model that each can go on from, -1 for none;
    `turned_at` is when the last generation was dropped."""

    recent: HashTrieMap[str, tuple[int, int]] = _NOBODY
    before: HashTrieMap[str, tuple[int, int]] = _NOBODY
    turned_at: float = 0.0

    def at(self, now: float) -> Presence:
        """Without those who were not heard for too long."""
        generations = int((now - self.turned_at) // GENERATION_S)
        if generations < 1:
            return self
        turned_at = self.turned_at + generations * GENERATION_S
        return Presence(_NOBODY, self.recent if generations == 1 else _NOBODY, turned_at)

    def heard(self, agent: str, examples: int, base: int = -1) -> Presence:
        """With an agent that waits; the same if it is new and there is no room."""
        if agent not in self and len(self) >= MAX_PRESENT:
            return self
        return replace(self, recent=self.recent.insert(agent, (examples, base)), before=self.before.discard(agent))

    def without(self, agent: str) -> Presence:
        return replace(self, recent=self.recent.discard(agent), before=self.before.discard(agent))

    def examples(self, agent: str) -> int:
        """Raises KeyError for an agent that does not wait."""
        return self._said(agent)[0]

    def base(self, agent: str) -> int:
        """Raises KeyError for an agent that does not wait."""
        return self._said(agent)[1]

    def _said(self, agent: str) -> tuple[int, int]:
        found = self.recent.get(agent)
        return self.before[agent] if found is None else found

    def __contains__(self, agent: str) -> bool:
        return agent in self.recent or agent in self.before

    def __len__(self) -> int:
        return len(self.recent) + len(self.before)

    def __iter__(self) -> Iterator[str]:
        yield from self.recent
        yield from self.before
