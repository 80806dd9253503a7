"""What people are told when the gateway stays silent: where it was asked, and what may be wrong."""

from __future__ import annotations

from edge_agent.agent_state import WarnUnanswered
from fedprune import __version__
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import ENVELOPE_BYTES


def describe(silence: WarnUnanswered, topics: Topics, agent: str, broker: str, *, runs: bool | None) -> str:
    """One line for people. `runs`: whether a federation does, as the gateway has said; None if it said nothing."""
    where = f"federation {topics.federation!r} at {broker}"
    if runs is False:
        return f"{where}: none runs there now; waiting for the next one"
    down = topics.all_down_to(agent)
    if silence.kind == "need":
        return (
            f"{where}: nothing came of a content that was asked for {silence.times} times on "
            f"{topics.up(agent, 'need')}; the broker must take messages of "
            f"{silence.chunk_bytes + ENVELOPE_BYTES} bytes, and let this agent read {topics.all_content} and {down}"
        )
    said = f"{where}: {silence.times} messages on {topics.up(agent, silence.kind)} have no answer"
    if silence.is_seen:
        return f"{said}: does the aggregator run, and may this agent publish there and read {down}?"
    return (
        f"{said}, and no manifest on {topics.round}: does a federation run there now, is its name right, is its "
        f"aggregator of a version that uses these topics (this is fedprune {__version__}), and may this agent read "
        f"{topics.round} and {down}?"
    )
