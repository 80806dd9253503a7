"""The pause before a broker is connected to again: exponential back-off with full jitter."""

from __future__ import annotations

import random

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0
"""The longest pauses before the first attempt, and before any; each attempt doubles it."""


def reconnect_delay(attempt: int) -> float:
    """Seconds to wait before an attempt, from 0 on. Full jitter, so that a fleet does not come back at once when its
    broker does."""
    return random.uniform(0.0, min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempt, 32)))
