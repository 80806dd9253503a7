"""The figures of a load."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True):
    """A fleet of `agents` that sends one kind of updates. Seconds, processor time and fsyncs are of one round on
    average, `round_seconds` from its opening to its record; bytes are of all rounds and all agents, both ways.

    `counted`: the updates of the round that had the fewest. Where the broker was killed in the middle of a round: the
    connections that ended, the seconds until all were back, and the most that came back within one.
    """

    load: str
    agents: int
    round_seconds: float
    aggregator_cpu_s: float
    aggregator_peak_mb: float
    socket_bytes: int
    payload_bytes: int
    fsyncs: float
    counted: int
    lost: int
    back_seconds: float
    most_in_a_second: int

    @property
    def overhead(self) -> float:
        """Bytes over the agents' sockets for each byte of payload."""
        return self.socket_bytes / self.payload_bytes
