"""federation.toml: how a federation learns (the task bundle says what)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from aggregator.presets import Preset, chains, server_step
from aggregator.server_optimizers import FedAdam, FedAvgM
from fedprune.codecs import (
    DEFAULT_CODEC,
    describe_model_codec,
    parse_codec,
    parse_model_codec,
    parted_model_codec,
)
from fedprune.model.tensors import TensorClass, TensorTable
from fedprune.wire.broker import Broker
from fedprune.wire.messages import Share

HOLD_OUT = 0.2
"""The share of its examples that an agent holds out, unless the settings say otherwise."""

WHOLE = "whole"
"""Stands for the chain of models where every version travels whole, whatever the preset says."""

_MODELS = "codec.model_values + codec.model"
"""What books call both settings together."""

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Cohorts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of ``[rounds]`` that says who takes part in each.

    `cohort` agents train in a round. It is merged once all have submitted, or after
    `deadline_s` with at least `quorum` (a fraction of the cohort) updates; without them it stays open. None: the
    deadline follows from what was seen of the devices (see `aggregator.response_times`). A round
    opens when `cohort` agents are waiting, or after each `gather_s` if `quorum` of them are; None: how long it waits
    for more follows from when agents came before (see `aggregator.arrivals`).

    `fleet` names the agents that may take part, for runs that are to be repeated exactly: a round then waits for all
    of them, and samples its cohort from them. `sub_gateways` are agents that are gateways themselves, whose updates are
    partial sums: what one weighs is all that its own agents do, and is not capped here. `examples_cap` bounds what one
    other update may weigh, in medians of the cohort's example counts: an agent that claims more counts as that many.
    """

    cohort: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2
    quorum: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    deadline_s: _Seconds | None = None
    gather_s: _Seconds | None = None
    fleet: tuple[str, ...] = ()
    sub_gateways: tuple[str, ...] = ()
    examples_cap: Annotated[float, msgspec.Meta(ge=1, le=1e9)] = 10.0

    def __post_init__(self) -> None:
        if self.fleet and len(set(self.fleet)) < self.cohort:
            raise ValueError(f"rounds.fleet names {len(set(self.fleet))} agents, too few for a cohort of {self.cohort}")

    @property
    def quorum_agents(self) -> int:
        return max(1, math.ceil(self.quorum * self.cohort))


class Rounds(Cohorts, frozen=True, forbid_unknown_fields=True):
    """The ``[rounds]`` table: `count` of them. The run ends early once `patience` models in a row were no better than
    one before (see `aggregator.early_stopping`)."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    patience: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class Codec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[codec]`` table: the codec of the agents' updates, the value scheme of models that travel whole, and the
    chain by which they travel from version to version, or `WHOLE`. What is not given is the `preset`'s; without one it
    is `DEFAULT_CODEC`, and models travel whole.
    """

    update: str | None = None
    model_values: Literal["fp32", "fp16"] = "fp16"
    model: str | None = None
    preset: Preset | None = None

    def __post_init__(self) -> None:
        if self.update is not None:
            parse_codec(self.update)
        if self._model is not None:
            parse_model_codec(describe_model_codec(self.model_values, self._model))

    @property
    def sends_deltas(self) -> bool:
        """True where models travel from version to version."""
        return self._model is not None or (self.model is None and self.preset is not None)

    def chains(self, table: TensorTable) -> tuple[str, str]:
        """The canonical descriptions of the codec of updates, and of how models travel, for a task's tensors."""
        update, model = self.update or DEFAULT_CODEC, self._model
        if self.preset is not None:
            of_preset = chains(sum(spec.size for spec in table.of(TensorClass.PRUNABLE, TensorClass.DENSE)))
            update, model = self.update or of_preset[0], of_preset[1] if self.model is None else model
        return str(parse_codec(update)), str(parse_model_codec(describe_model_codec(self.model_values, model)))

    @property
    def _model(self) -> str | None:
        """The chain that is given for models."""
        return None if self.model == WHOLE else self.model


class Aggregation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[aggregation]`` table. `rule`: FedAvg weighs each update by its examples; FedNova also divides it by the
    local work that went into it (see `aggregator.local_work`). The mean is added to the model, or `optimizer` makes a
    step of it (see `aggregator.server_optimizers`)."""

    rule: Literal["fedavg", "fednova"] = "fedavg"
    optimizer: FedAvgM | FedAdam | None = None


AS_USUAL = Aggregation()
"""FedAvg, whose mean is added as it is."""


class FederationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it. `seed` keys cohorts, data order and everything else random.

    `workers` processes check and fold updates beside the one that talks to the broker; without any it does so itself.
    `gateway` is the directory of `fedprune gateway init`: only devices that joined there may take part.
    The last `keep_checkpoints` versions of the model stay in the state directory, and the best one.

    Models are evaluated on `held_out`, or by the agents, each on a share of its examples that it never trains on:
    `agents_hold_out`, which is `HOLD_OUT` where there is no `held_out`, else 0.
    """

    task: str
    state: str
    held_out: str | None = None
    agents_hold_out: Share | None = None
    name: str = "fedprune"
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    gateway: str | None = None
    keep_checkpoints: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5
    broker: Broker = Broker()
    rounds: Rounds = Rounds()
    codec: Codec = Codec()
    aggregation: Aggregation = AS_USUAL

    def __post_init__(self) -> None:
        if self.held_out is None and self.agents_hold_out == 0:
            raise ValueError("give held_out, or agents_hold_out above 0: else nobody would know how good the model is")

    @property
    def merging(self) -> Aggregation:
        """How updates are merged: as ``[aggregation]`` says, with the preset's step where it names no optimizer."""
        if self.codec.preset is None or self.aggregation.optimizer is not None:
            return self.aggregation
        return msgspec.structs.replace(self.aggregation, optimizer=server_step(self.codec.preset))

    @property
    def hold_out(self) -> float:
        """The share of its examples that each agent holds out."""
        if self.agents_hold_out is None:
            return HOLD_OUT if self.held_out is None else 0.0
        return self.agents_hold_out

    def lasting(self, table: TensorTable) -> dict[str, str]:
        """What a run keeps from its first start on, by name: its models follow from it."""
        return {
            _MODELS: self.codec.chains(table)[1],
            "aggregation": msgspec.json.encode(self.merging).decode(),
            "seed": str(self.seed),
        }


def began_with(name: str, value: str) -> str:
    """What is said where one of a run's `lasting` settings, which may have followed from a preset, is another now."""
    written = f"{name} = {value}"
    if name == _MODELS:
        values, chain = parted_model_codec(value)
        written = f'codec.model_values = "{values}" and codec.model = "{WHOLE if chain is None else chain}"'
    return f"the run began with {written}; set it so in federation.toml, or name an empty state"
