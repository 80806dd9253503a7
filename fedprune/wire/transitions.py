"""Tables of transitions: what both state machines are made of, and the chart that a person reads of one.

A machine is a function (state, event, now) -> (state, actions). Its table has one `Row` for each phase and kind of
event, a message from the other side being an event of its own kind. A row names the phases that it may lead to, so
that the chart is drawn from the table and cannot disagree with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

_A = TypeVar("_A")


class State(Protocol):
    """All that a table needs to know of a machine's state."""

    @property
    def phase(self) -> Any: ...


_S = TypeVar("_S", bound=State)

Transition = Callable[[_S, Any, float], tuple[_S, tuple[_A, ...]]]


@dataclass(frozen=True)
class Row(Generic[_S, _A]):
    """The effect of an event in one phase, and the other phases that it may lead to."""

    run: Transition[_S, _A]
    leads_to: frozenset[Any] = frozenset()


Table = Mapping[tuple[Any, type], Row[_S, _A]]


class UnlistedEventError(AssertionError):
    """An event that the table does not list in this phase: a bug of ours, never of the other side."""


def row(run: Transition[_S, _A], *leads_to: Enum) -> Row[_S, _A]:
    return Row(run, frozenset(leads_to))


def transition(table: Table[_S, _A], state: _S, kind: type, event: object, now: float) -> tuple[_S, tuple[_A, ...]]:
    """Run the row of (the state's phase, `kind`).

    Raises:
      UnlistedEventError: the table has no such row.
      AssertionError: the row led to a phase that it does not name.
    """
    try:
        found = table[state.phase, kind]
    except KeyError:
        raise UnlistedEventError(f"{kind.__name__} in phase {state.phase}") from None
    after, actions = found.run(state, event, now)
    assert after.phase is state.phase or after.phase in found.leads_to, (
        f"{kind.__name__} in {state.phase} led to {after.phase}, which its row does not name"
    )
    return after, actions


def check_complete(table: Table[Any, Any], phases: Iterable[Enum], kinds: Iterable[type]) -> None:
    """Raise `UnlistedEventError` unless every one of `kinds`, which may come at any time, has a row in every phase."""
    for phase in phases:
        for kind in kinds:
            if (phase, kind) not in table:
                raise UnlistedEventError(f"{kind.__name__} has no row in phase {phase}")


def chart(table: Table[Any, Any]) -> str:
    """The ways between phases, one a line, with the events that take them.

    >>> from enum import Enum
    >>> Light = Enum("Light", "RED GREEN")
    >>> stay = lambda state, event, now: (state, ())
    >>> print(chart({(Light.RED, int): row(stay, Light.GREEN), (Light.GREEN, str): row(stay)}))
    RED -> GREEN  int
    """
    ways: dict[tuple[str, str], list[str]] = {}
    for (phase, kind), found in table.items():
        for target in type(phase):
            if target in found.leads_to:
                ways.setdefault((phase.name, target.name), []).append(kind.__name__)
    arrows = {way: f"{way[0]} -> {way[1]}" for way in ways}
    width = max(map(len, arrows.values()), default=0)
    return "\n".join(f"{arrows[way]:<{width}}  {', '.join(kinds)}" for way, kinds in ways.items())


def backoff(base: float, attempt: int, *key: str | int) -> float:
    """Seconds until the next try: `base` doubled for each of at most five attempts, times 0.5 to 1.5, drawn by `key`.

    By Python's generator: an agent that only waits does without numpy.random, 2 MB.
    """
    jitter = 0.5 + random.Random(repr((attempt, *key))).random()
    return base * 2.0 ** min(attempt, 5) * jitter
