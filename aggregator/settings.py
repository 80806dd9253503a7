"""federation.toml: how a federation learns (the task bundle says what)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from fedprune.codecs import DEFAULT_CODEC, parse_codec
from fedprune.wire.broker import Broker

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Rounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[rounds]`` table.

    `cohort` agents train in each of `count` rounds. A round is merged once all have submitted, or after
    `deadline_s` with at least `quorum` (a fraction of the cohort) updates; without them it stays open. A round
    opens when `cohort` agents are waiting, or after each `gather_s` if `quorum` of them are.

    `fleet` names the agents that may take part, for runs that are to be repeated exactly: a round then waits for all
    of them, and samples its cohort from them. `examples_cap` bounds what one update may weigh, in medians of the
    cohort's example counts: an agent that claims more counts as that many.
    """

    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    cohort: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2
    quorum: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    deadline_s: _Seconds = 600.0
    gather_s: _Seconds = 30.0
    fleet: tuple[str, ...] = ()
    examples_cap: Annotated[float, msgspec.Meta(ge=1, le=1e9)] = 10.0

    def __post_init__(self) -> None:
        if self.fleet and len(set(self.fleet)) < self.cohort:
            raise ValueError(f"rounds.fleet names {len(set(self.fleet))} agents, too few for a cohort of {self.cohort}")

    @property
    def quorum_agents(self) -> int:
        return max(1, math.ceil(self.quorum * self.cohort))


class Codec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[codec]`` table: the codec of the agents' updates, and the value scheme of the model that they are sent."""

    update: str = DEFAULT_CODEC
    model_values: Literal["fp32", "fp16"] = "fp16"

    def __post_init__(self) -> None:
        parse_codec(self.update)


class FederationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it. `seed` keys cohorts, data order and everything else random.

    `gateway` is the directory of `fedprune gateway init`: only devices that joined there may take part.
    The last `keep_checkpoints` versions of the model stay in the state directory, and the best one.
    """

    task: str
    held_out: str
    state: str
    name: str = "fedprune"
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    gateway: str | None = None
    keep_checkpoints: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5
    broker: Broker = Broker()
    rounds: Rounds = Rounds()
    codec: Codec = Codec()
