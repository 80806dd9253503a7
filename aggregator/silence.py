"""What people are told when nobody answers the aggregator: where it spoke, and what may be wrong."""

from __future__ import annotations

from aggregator.round_state import WarnNobody
from fedprune.wire.topics import Topics


def nobody(silence: WarnNobody, topics: Topics, broker: str) -> str:
    """One line for people; so is the next."""
    where = f"federation {topics.federation!r} at {broker}"
    if silence.strangers:
        return (
            f"{where}: {silence.strangers} check-ins came, and none shows the ticket that it was given: may the "
            f"aggregator publish on {topics.all_down}, and the agents read there?"
        )
    return (
        f"{where}: nobody has checked in for {silence.seconds:.0f} s: do agents run, with this federation's name, and "
        f"may they publish on {topics.all_up}, and the aggregator read there?"
    )


def manifests_unheard(topics: Topics, broker: str) -> str:
    return (
        f"federation {topics.federation!r} at {broker}: the manifest does not come back: may the aggregator publish on "
        f"{topics.round}, retained, and read there? Agents are not told of new rounds"
    )
