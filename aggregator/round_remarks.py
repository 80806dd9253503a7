"""What people are told of a round's agents when it is merged: who was left out, and who stands apart."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from aggregator.best_model import best_version
from aggregator.book import Book, RoundRecord
from aggregator.chance import causes_at_chance
from aggregator.round_merge import MergedRound
from aggregator.round_places import named
from aggregator.standing_apart import ROUNDS
from fedprune.system.log import LimitedLog

_log = logging.getLogger(__name__)


def say_left_out(log: LimitedLog, round_: int, merged: MergedRound) -> None:
    """Name the agents whose updates were left out; where the merge was not kept, in one line."""
    if merged.kept:
        for agent, why in merged.left_out.items():
            log.log(logging.WARNING, "round %s: the update of %s is left out: %s", round_ + 1, agent, why)
        return
    why, agents = next(iter(merged.left_out.values())), named(merged.named)
    what = "round %s: %s. Its updates, the largest first, were of %s; see to those agents, or lower the learning rate"
    log.log(logging.WARNING, what, round_ + 1, why, agents)


def with_hint(log: LimitedLog, records: Sequence[RoundRecord], x_largest: float, constant: float) -> RoundRecord:
    """The last record, with what may be wrong with a run that learns nothing, which is told too."""
    causes = causes_at_chance(records, x_largest, constant)
    if causes:
        what = "after %s rounds models are no better than the same answer for all examples. Likely causes, in order: %s"
        log.log(logging.WARNING, what, len(records), causes)
    return msgspec.structs.replace(records[-1], hint=causes)


def say_settled(records: Sequence[RoundRecord], patience: int) -> None:
    """Tell that the run ends early, and which model was the best."""
    best = best_version(records)
    what = (
        "the run ends after %s rounds: %s models in a row were no better. The best one of all is that after %s rounds"
    )
    _log.info(f"{what}; `fedprune rollback` with --to %s goes back to it", len(records), patience, best, best)


def suspects(log: LimitedLog, book: Book, round_: int, apart: Mapping[str, str]) -> list[str]:
    """Those of the agents that stand apart in a round who did so in the rounds before. Who becomes one is told."""
    found = list[str]()
    for agent, why in apart.items():
        before = book.rounds_apart(agent, round_, ROUNDS)
        if before >= ROUNDS - 1:
            found.append(agent)
        if before == ROUNDS - 1:
            what = "%s stands apart for %s rounds now: %s; are its data on another scale?"
            log.log(logging.WARNING, what, agent, ROUNDS, why)
    return found
