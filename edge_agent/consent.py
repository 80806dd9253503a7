"""Consent: what a device's owner trusts it to train, by what stands in agent.toml and what he approved. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from fedprune.errors import FedpruneError

NO_CONSENT = "this device's owner does not consent to it"
"""All that a gateway is told: what exactly the owner allows is nobody's business."""


class Consent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[consent]`` table. What is not set limits nothing.

    `tasks` are names, or SHA-256 digests (hex) of task bundles; empty: any. `max_steps` are local steps a round.
    `max_mb_per_round` bounds what a round fetches and sends, in 10^6 bytes. With `ask` a task waits for its owner's
    word, unless its digest stands in `tasks`.
    """

    tasks: tuple[str, ...] = ()
    max_steps: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_parameters: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_mb_per_round: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = None
    ask: bool = False

    @property
    def max_round_bytes(self) -> int | None:
        return None if self.max_mb_per_round is None else int(self.max_mb_per_round * 1e6)

    @property
    def judges_tasks(self) -> bool:
        """A task has to be read before it is known whether it may be trained."""
        return self != Consent(max_mb_per_round=self.max_mb_per_round)


class TaskFacts(msgspec.Struct, frozen=True):
    """What an owner has to know of a task. All text is on one line, without what terminals obey.

    `digest` is the bundle's SHA-256 (hex), `layers` the kinds of the network's layers, `inputs` their shapes. `steps`
    are those of a round, at most; `hold_out` is the share of the examples that the model is evaluated on.
    """

    digest: str
    name: str
    layers: str
    parameters: int
    steps: int
    batch_size: int
    data: str
    inputs: str
    hold_out: float

    @property
    def description(self) -> str:
        """The facts in one line.

        Example:
            >>> TaskFacts("ab", "digits", "dense, flatten", 850, 20, 16, "arrays", "8x8x1", 0.0).description
            "task 'digits': network of dense, flatten with 850 parameters; 20 steps of 16 examples a round; data: \
arrays, inputs 8x8x1; the model is not evaluated here; digest ab"
        """
        evaluated = f"evaluated on {self.hold_out:.0%} of the examples" if self.hold_out else "not evaluated here"
        return (
            f"task {self.name!r}: network of {self.layers} with {self.parameters:,} parameters; "
            f"{self.steps:,} steps of {self.batch_size:,} examples a round; data: {self.data}, inputs {self.inputs}; "
            f"the model is {evaluated}; digest {self.digest}"
        )


@dataclass(frozen=True)
class Verdict:
    """`why_not` is why a task may not be trained, in some words, empty if it may. `asks`: it waits for a word alone."""

    why_not: str = ""
    asks: bool = False


class ConsentMissing(FedpruneError):
    """A task that this device's owner does not, or not yet, consent to."""


def consent_to(facts: TaskFacts, consent: Consent, approved: Collection[str]) -> Verdict:
    """The judgement of a task. `approved` are the digests (hex) that the owner approved.

    A limit holds also for what was approved or is named.

    Example:
        >>> facts = TaskFacts("ab" * 32, "digits", "dense", 850, 20, 16, "arrays", "8x8x1", 0.0)
        >>> consent_to(facts, Consent(max_steps=10), ()).why_not
        "task 'digits' makes 20 steps a round, consent.max_steps allows 10"
        >>> consent_to(facts, Consent(ask=True), ()).asks, consent_to(facts, Consent(ask=True), {"ab" * 32}).asks
        (True, False)
    """
    refused = next(_refusals(facts, consent), "")
    if refused:
        return Verdict(refused)
    if consent.ask and facts.digest not in approved and not _is_pinned(facts, consent):
        how = f"`fedprune consent {facts.digest}` approves it"
        return Verdict(f"waits for its owner's word ({how}): {facts.description}", asks=True)
    return Verdict()


def why_too_many_bytes(fetched: int, sent: int, most: int | None) -> str:
    """Empty if a round may move so many bytes; `sent` is 0 before that is known."""
    if most is None or fetched + sent <= most:
        return ""
    parts = f"fetches {fetched:,} bytes" + (f" and would send {sent:,}" if sent else "")
    return f"the round {parts}, consent.max_mb_per_round allows {most:,}"


def _refusals(facts: TaskFacts, consent: Consent) -> Iterator[str]:
    if consent.tasks and facts.name not in consent.tasks and not _is_pinned(facts, consent):
        yield f"task {facts.name!r} ({facts.digest}) does not stand in consent.tasks"
    if consent.max_steps is not None and facts.steps > consent.max_steps:
        yield f"task {facts.name!r} makes {facts.steps:,} steps a round, consent.max_steps allows {consent.max_steps:,}"
    if consent.max_parameters is not None and facts.parameters > consent.max_parameters:
        yield (
            f"task {facts.name!r} has {facts.parameters:,} parameters, consent.max_parameters allows "
            f"{consent.max_parameters:,}"
        )


def _is_pinned(facts: TaskFacts, consent: Consent) -> bool:
    return facts.digest in (entry.lower() for entry in consent.tasks)
