"""What the two state machines have in common: a table of transitions, and the word for our own bugs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_S = TypeVar("_S")
_A = TypeVar("_A")

Transition = Callable[[_S, Any, float], tuple[_S, tuple[_A, ...]]]
Table = Mapping[tuple[Any, type], Transition[_S, _A]]


class UnlistedEventError(AssertionError):
    """An event that the table of transitions does not list in this phase: a bug of ours, never of the other side."""


def transition(table: Table[_S, _A], phase: Any, event: object) -> Transition[_S, _A]:
    try:
        return table[phase, type(event)]
    except KeyError:
        raise UnlistedEventError(f"{type(event).__name__} in phase {phase}") from None


def backoff(base: float, attempt: int, *key: str | int) -> float:
    """Seconds until the next try: `base` doubled for each of at most five attempts, times 0.5 to 1.5, drawn by `key`.

    By Python's generator: an agent that only waits does without numpy.random, 2 MB.
    """
    jitter = 0.5 + random.Random(repr((attempt, *key))).random()
    return base * 2.0 ** min(attempt, 5) * jitter
