"""A federation in this process, without a network: the agents' own rounds on LiteRT, and the gateway's own merging."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.global_model import GlobalModel, new_model
from aggregator.round_merge import Merger
from benchmarks.without_network import RUN, assignment_of, record_of, take_update
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers import Trained, Work
from edge_agent.trainers.choice import make_trainer
from fedprune.codecs import ModelCodec, Values, parse_codec
from fedprune.data import Dataset, Examples, fit_to, load_examples
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle
from fedprune.task.checkpoints import Checkpoint
from fedprune.task.evaluation import Evaluator
from fedprune.task.succession import first_version

_LAST_ROUNDS = 5
"""Those whose models are evaluated."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The mean accuracy of the last five models, a fraction; the last model; the processor time of a training step in
    the first and in the last round; the bytes of all updates, and of the models as each agent fetched them."""

    accuracy: float
    checkpoint: Checkpoint
    train_step_ms_first: float
    train_step_ms_last: float
    bytes_up: int
    bytes_down: int


def federate(bundle: Bundle, data: Path, codec: str, values: Values, seed: int, rounds: int) -> Outcome:
    """Run a federation of those whose examples are in `data`: agent-0 and so on, and held-out. All train in each round.

    Nobody evaluates before the last rounds: no merge explodes with a learning rate that is known to do.
    """
    task = bundle.task
    shares = {path.stem: _load(path, bundle) for path in sorted(data.glob("agent-*.npz"))}
    trainer = _TimedTrainer(bundle, examples=max(map(len, shares.values())))
    evaluator = Evaluator(bundle, data / "held-out.npz", threads=1)
    disk = Directory(data / "updates")
    merger = Merger(
        task, bundle.network, RUN, seed, ModelCodec(values), parse_codec(codec), disk, None, evaluator.loss_scale
    )
    initial = bundle.initial_weights()
    form, mask = first_version(bundle.forms, initial)
    model = new_model(initial, task, RUN, 0, values, mask, form=form)
    records: list[RoundRecord] = []
    accuracies, step_ms, bytes_up, bytes_down = list[float](), list[float](), 0, 0
    for round_ in range(rounds):
        trainer.step_ms.clear()
        updates = dict[str, AcceptedUpdate]()
        for agent, examples in shares.items():
            result = _trained(agent, examples, model, bundle, trainer, codec, seed)
            blob = result.update.blob
            updates[agent] = take_update(merger, disk, model, agent, result.submit, blob, task.training)
            bytes_up, bytes_down = bytes_up + len(blob), bytes_down + len(model.blob)
        merged = merger.merge(model, updates, records)
        for name in disk.names():
            disk.delete(name)
        model = merged.model
        records.append(record_of(round_, merged))
        step_ms.append(statistics.median(trainer.step_ms))
        if round_ >= rounds - _LAST_ROUNDS:
            evaluation = evaluator.evaluate(model.checkpoint.weights, merger.form_of(model))
            accuracies.append(evaluation.metrics["accuracy"] or 0.0)
    return Outcome(statistics.mean(accuracies), model.checkpoint, step_ms[0], step_ms[-1], bytes_up, bytes_down)


def _load(path: Path, bundle: Bundle) -> Dataset:
    return fit_to(load_examples(path, bundle.task.data), bundle.network.input_forms, bundle.task.output_forms)


def _trained(
    agent: str,
    examples: Dataset,
    model: GlobalModel,
    bundle: Bundle,
    trainer: _TimedTrainer,
    codec: str,
    seed: int,
) -> LocalResult:
    """An agent's round."""
    assignment = assignment_of(bundle, model, seed=seed, codec=codec)
    local = LocalRound(agent, assignment, model.blob, lambda: None, None, 0.0)
    return train_locally(local, bundle, trainer, examples)


class _TimedTrainer:
    """LiteRT's, which all agents share; `step_ms` is the processor time of a step in each call."""

    def __init__(self, bundle: Bundle, examples: int) -> None:
        self._trainer = make_trainer("litert", bundle, examples=examples, threads=1)
        self.step_ms: list[float] = []

    def train(self, work: Work, data: Examples) -> Trained:
        began = time.process_time()
        trained = self._trainer.train(work, data)
        self.step_ms.append((time.process_time() - began) * 1e3 / trained.steps)
        return trained
