"""Silence: how often people are told that something stays unanswered, and of what a broker must allow."""

from __future__ import annotations

FIRST_SAID = 3
"""Unanswered tries of one kind before people are told."""

LONGEST_UNSAID = 96
"""Tries between two tellings, at most; until then each takes twice as many."""


def is_worth_saying(unanswered: int) -> bool:
    """True for the third try without an answer, and then ever more seldom.

    >>> [count for count in range(1, 300) if is_worth_saying(count)]
    [3, 6, 12, 24, 48, 96, 192, 288]
    """
    times, rest = divmod(unanswered, FIRST_SAID)
    if rest or not times:
        return False
    return unanswered % LONGEST_UNSAID == 0 or (unanswered < LONGEST_UNSAID and times.bit_count() == 1)
