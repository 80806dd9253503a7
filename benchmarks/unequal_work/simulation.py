"""A federation in this process, without a network: the agents' own rounds on LiteRT, and the gateway's own merging."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.global_model import GlobalModel, new_model
from aggregator.round_merge import FormerRound, Merger
from aggregator.settings import Aggregation
from benchmarks.without_network import RUN, assignment_of, record_of, take_update
from edge_agent.evaluating import hold_out
from edge_agent.local_round import LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers.litert import LiteRTTrainer
from fedprune.codecs import ModelCodec, Values, parse_codec
from fedprune.data import Dataset
from fedprune.model.tensors import Weights
from fedprune.pruning.masks import full_mask
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.evaluation import Evaluator

_CODEC = "mask | fp32"
_SHARE = 0.2
"""Of an agent's examples, held out where agents evaluate."""
_LAST_ROUNDS = 5


@dataclass(frozen=True)
class Outcome:
    """Mean accuracies over the last rounds, fractions: of all held-out examples together and, where agents evaluate, of
    the agent that is worst off. `unkept`: merges that were not."""

    accuracy: float
    worst: float | None
    unkept: int


class Federation:
    """All of `shares` train in every round. Models are evaluated on the file `held_out` or, without it, by agents."""

    def __init__(
        self, bundle: Bundle, shares: Mapping[str, Dataset], aggregation: Aggregation, seed: int, held_out: Path | None
    ) -> None:
        self._bundle, self._seed = bundle, seed
        self._directory = tempfile.TemporaryDirectory()
        disk = Directory(Path(self._directory.name))
        evaluator = None if held_out is None else Evaluator(bundle, held_out, threads=1)
        self._merger = Merger(
            bundle.task, bundle.network, RUN, seed, ModelCodec(Values.FP32), parse_codec(_CODEC), disk,
            None if evaluator is None else evaluator.evaluate,
            None if evaluator is None else evaluator.loss_scale,
            aggregation,
        )  # fmt: skip
        self._disk = disk
        share = _SHARE if held_out is None else 0.0
        self._data = {agent: hold_out(data, share, seed, agent) for agent, data in shares.items()}
        self._trainers = {  # each takes batches that its device's examples fill
            agent: LiteRTTrainer(bundle, examples=len(data), threads=1) for agent, (data, _) in self._data.items()
        }
        self._local: dict[str, Weights | None] = {}

    def run(self, rounds: int) -> Outcome:
        records = self.records(rounds)
        last = records[-_LAST_ROUNDS:]
        worst = [record.spreads["accuracy"].worst for record in last if "accuracy" in record.spreads]
        return Outcome(
            accuracy=float(np.mean([record.accuracy or 0.0 for record in last])),
            worst=float(np.mean(worst)) if worst else None,
            unkept=sum(not record.kept for record in records),
        )

    def records(self, rounds: int) -> list[RoundRecord]:
        """Run it, once."""
        task = self._bundle.task
        model = new_model(self._bundle.initial_weights(), task, RUN, 0, Values.FP32, full_mask(task.table))
        records: list[RoundRecord] = []
        former: Callable[[], FormerRound] | None = None
        for round_ in range(rounds):
            updates = {agent: self._update(agent, model) for agent in self._data}
            merged = self._merger.merge(model, updates, records, former)
            taken = {agent: update for agent, update in updates.items() if agent not in merged.left_out}
            former = partial(FormerRound, model.checkpoint, taken)
            model = merged.model
            records.append(record_of(round_, merged))
        self._directory.cleanup()
        return records

    def _update(self, agent: str, model: GlobalModel) -> AcceptedUpdate:
        """Train, and put the update where the merger finds it."""
        task = self._bundle.task
        assignment = assignment_of(self._bundle, model, seed=self._seed, codec=_CODEC)
        local = LocalRound(agent, assignment, model.blob, lambda: None, None, 0.0, local=self._local.get(agent))
        data, held_out = self._data[agent]
        result = train_locally(local, self._bundle, self._trainers[agent], data, held_out=held_out)
        self._local[agent] = result.local
        return take_update(self._merger, self._disk, model, agent, result.submit, result.update.blob, task.training)
