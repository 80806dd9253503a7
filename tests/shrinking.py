"""Federations in one process whose network loses units: real merging, codecs, stores and light trainers, no wire."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.global_model import new_model, restored_model
from aggregator.round_merge import FormerRound, MergedRound, Merger
from aggregator.settings import AS_USUAL, Aggregation
from benchmarks.without_network import RUN, assignment_of, record_of, take_update
from edge_agent.agent_state import Outcome
from edge_agent.history import Durations
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.store import AgentStore
from edge_agent.trainers import Trainer
from edge_agent.trainers.choice import TrainerChoice, make_trainer
from export.local_layers import with_local_layers
from fedprune.codecs import encode_replay, parse_codec, parse_model_codec
from fedprune.data import Dataset
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Weights
from fedprune.network.description import Network
from fedprune.network.frontier import cut_at_frontier
from fedprune.network.layers import Activation, Convolution, Dense, Function, Reshape
from fedprune.pruning.regrowth import Regrowth
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay
from fedprune.runtime.proven_head import ProvenHead, draw_probe, probe_sums
from fedprune.runtime.self_check import Probe, ProvenGraph, SelfCheck, Sketch, draw_case, outputs_of, sums_of
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.slimming.pruning import UnitPruning
from fedprune.system.disk import Directory
from fedprune.task.bundle import Bundle, Pruning, Task, read_bundle, write_bundle
from fedprune.task.checkpoints import load_checkpoint, save_checkpoint
from fedprune.task.evaluation import Evaluate, Evaluation, InferenceGraph, LossScale
from fedprune.task.forms import Form
from fedprune.task.outputs import Output
from fedprune.task.succession import first_version
from fedprune.task.tallies import pack_tallies
from fedprune.task.training import Adam, Sgd, Training
from tests.described import chain_of, normalization, table_of

STEPS, BATCH, CLASSES = 3, 8, 4
SEED = 7
NETWORK = chain_of(
    (6, 6, 1),
    Convolution(name="conv", size=(3, 3), strides=(1, 1), filters=8, kernel="conv/kernel"),
    normalization(beta="beta"),
    Activation(name="relu", function=Function.RELU),
    Reshape(name="flat", shape=(128,)),
    Dense(name="dense", units=12, kernel="dense/kernel", bias="dense/bias"),
    Activation(name="again", function=Function.RELU),
    Dense(name="out", units=CLASSES, kernel="out/kernel", bias="out/bias"),
)
HALVED = PolynomialDecay(
    begin_step=STEPS, end_step=3 * STEPS, frequency=STEPS, initial_sparsity=0.0, target_sparsity=0.5
)
"""Of the units, in rounds 2 and 3: the network of versions 2 and 3 is smaller."""
LAST_STEP = 3
NO_WEIGHTS = ConstantSparsity(target_sparsity=0.0, begin_step=0, frequency=STEPS)


def bundle_of(
    *,
    slim: bool = True,
    network: Network = NETWORK,
    weights: PolynomialDecay | ConstantSparsity = NO_WEIGHTS,
    optimizer: Sgd | Adam | None = None,
    state: Literal["reset", "keep"] = "reset",
    frozen: Sequence[str] = (),
    local: Sequence[str] = (),
    units: PolynomialDecay | ConstantSparsity | None = HALVED,
    regrowth: Regrowth | None = None,
) -> Bundle:
    """A task whose units go, if any do. Its training graph is taken without proof."""
    table = tuple(table_of(network, frozen))
    table = with_local_layers(table, network, local) if local else table
    task = Task(
        name="shrinking",
        input_shapes=network.inputs,
        outputs=(Output((CLASSES,), from_logits=True),),
        tensors=table,
        training=Training(STEPS, BATCH, optimizer or Sgd(0.05, 0.9), optimizer_state=state),
        pruning=Pruning(weights, units=units and UnitPruning(units, slim=slim), regrowth=regrowth),
        members={},
    )
    start = {spec.name: _start(spec.name, spec.shape) for spec in table}
    graphs = (_proven(network, task),)
    head = _proven_head(network, task, start)
    return read_bundle(write_bundle(task, network=network, weights=start, graphs=graphs, head=head))


def _proven_head(network: Network, task: Task, weights: Weights) -> ProvenHead | None:
    """What devices need to keep the activations of a base that is frozen, if one is."""
    parts = cut_at_frontier(network, task.table)
    if parts is None:
        return None
    graph = InferenceGraph(parts.base, threads=1)
    graph.load(weights)
    (answer,) = next(graph.predict(draw_probe(parts.base.inputs, parts.base.vocabularies, parts.base.paddings)))
    head = msgspec.structs.replace(task, input_shapes=parts.head.inputs, tensors=tuple(parts.head_table))
    first, second, third = probe_sums(answer)
    return ProvenHead((_proven(parts.head, head),), Sketch(1e-3, (first, second, third)))


def _start(name: str, shape: tuple[int, ...]) -> Array:
    drawn = Keyed(0, "start", name).uniform(int(np.prod(shape)), 0.1, 0.5).reshape(shape)
    signs = np.where(Keyed(0, "sign", name).uniform(drawn.size, 0.0, 1.0).reshape(shape) < 0.5, -1, 1)
    return drawn if len(shape) < 2 else (drawn * signs).astype(np.float32)


def _proven(network: Network, task: Task) -> ProvenGraph:
    graph = write_training_graph(network, task.table, [Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, True)], BATCH)
    loaded = TrainingGraph(graph.blob, task.tensors, threads=1)
    answers = outputs_of(draw_case(loaded, task.tensors, 5, 2, 1.0).run(loaded), task.tensors)
    sketches = {name: Sketch(1e-3, sums_of(array, 5, name)) for name, array in answers.items()}
    digest = hashlib.sha256(graph.blob).hexdigest()
    return ProvenGraph(BATCH, digest, graph.memory_bytes, SelfCheck((Probe(5, 2, 1.0, sketches),)))


def examples_of(number: int) -> Dataset:
    keyed = Keyed(number, "examples")
    pictures = Keyed(0, "pictures").uniform(CLASSES * 36, 0.0, 1.0).reshape(CLASSES, 6, 6, 1)
    y = (keyed.integers(32) % np.uint64(CLASSES)).astype(np.int64)
    return Dataset(pictures[y] + keyed.uniform(32 * 36, -0.5, 0.5).reshape(32, 6, 6, 1), y)


class Shrinking:
    """A gateway, whose model is `model`, and some agents, each with a store of its own and one trainer after another.

    Every digest is checked on the way: a device that computed another model would raise `ProtocolError`. What it holds
    must be the gateway's whole model to the byte.
    """

    def __init__(
        self,
        path: Path,
        bundle: Bundle,
        *,
        codec: str = "mask | fp32",
        model_codec: str = "fp32",
        aggregation: Aggregation = AS_USUAL,
        agents: int = 2,
        evaluate: Evaluate | None = None,
        scale: LossScale | None = None,
        agents_losses: Iterator[float] | None = None,
        choice: TrainerChoice = "litert",
    ) -> None:
        self.path, self.bundle = path, bundle
        self.codec, self.model_codec = codec, model_codec
        self._aggregation, self._evaluate, self._scale, self.choice = aggregation, evaluate, scale, choice
        self._agents_losses = agents_losses
        """What the agents find of each round's model, where they evaluate."""
        self._records: list[RoundRecord] = []
        self._merged: dict[str, AcceptedUpdate] = {}
        self._deltas: dict[int, bytes] = {}
        self._trainers: dict[str, Trainer] = {}
        self.names = [f"agent-{number}" for number in range(agents)]
        self.sent: list[int] = []
        """The bytes of each whole model."""
        self.updates: list[int] = []
        self.led_over: list[int | None] = []
        """Over how many versions each agent was led to its model by deltas; None where that was sent whole."""
        self.start_gateway()

    def start_gateway(self) -> None:
        """Start the gateway, for the first time or with the checkpoint that it has written."""
        self._disk = Directory(self.path / "updates")
        self._checkpoints = Directory(self.path / "checkpoints")
        task, models = self.bundle.task, parse_model_codec(self.model_codec)
        self.merger = Merger(
            task, self.bundle.network, RUN, SEED, models, parse_codec(self.codec), self._disk,
            None if self._agents_losses else self._evaluate or _usual, self._scale, self._aggregation,
        )  # fmt: skip
        names = self._checkpoints.names()
        if names:
            checkpoint = load_checkpoint(self._checkpoints, len(names) - 1)
            self.model = restored_model(checkpoint, task, models.values, self.merger.forms.of(checkpoint.units))
            return
        initial = self.bundle.initial_weights()
        form, mask = first_version(self.merger.forms, initial)
        self.model = new_model(initial, task, RUN, 0, models.values, mask, form=form)
        save_checkpoint(self._checkpoints, self.model.checkpoint)

    def store_of(self, agent: str) -> AgentStore:
        return AgentStore(Directory(self.path / agent), agent, "fedprune")

    def start_agent(self, agent: str) -> None:
        """Start an agent's process again."""
        self._trainers.pop(agent, None)

    @property
    def version(self) -> int:
        return self.model.checkpoint.version

    @property
    def form(self) -> Form:
        return self.merger.form_of(self.model)

    def run(self, rounds: int, away: Sequence[str] = ()) -> None:
        for _ in range(rounds):
            self.round(away)

    def round(self, away: Sequence[str] = (), outcome: Outcome = Outcome.ACCEPTED) -> MergedRound:
        """One round of all agents that are not away."""
        updates = {}
        for agent in self.names:
            if agent in away:
                continue
            result = self.train(agent, outcome)
            updates[agent] = take_update(
                self.merger, self._disk, self.model, agent, result.submit, result.update.blob, self.bundle.task.training
            )
        if self._agents_losses is not None:
            found = {"evaluated_examples": 8, "evaluated_loss": next(self._agents_losses), "tallies": pack_tallies({})}
            updates = {agent: msgspec.structs.replace(each, **found) for agent, each in updates.items()}
        merged = self.merger.merge(self.model, updates, self._records, self._former)
        self._merged = updates
        self._records.append(record_of(self.version, merged))
        if merged.model.delta is not None:
            self._deltas[self.version + 1] = merged.model.delta
        self.model = merged.model
        save_checkpoint(self._checkpoints, self.model.checkpoint)
        return merged

    def _former(self) -> FormerRound:
        return FormerRound(load_checkpoint(self._checkpoints, self.version - 1), self._merged)

    def train(self, agent: str, outcome: Outcome = Outcome.ACCEPTED) -> LocalResult:
        """What an agent makes of the present model; it learns at once what becomes of its update."""
        store, round_ = self.store_of(agent), self.version
        base, blob = self._led(store)
        terms = {"codec": self.codec, "model_codec": self.model_codec}
        assignment = msgspec.structs.replace(assignment_of(self.bundle, self.model, seed=SEED, **terms), base=base)
        self.led_over.append(round_ - base if base >= 0 else None)
        local = LocalRound(
            agent, assignment, blob, lambda: store.residual(RUN, round_), store.slots(RUN), 0.0, held=store.held,
            local=store.local(RUN), owed_form=store.owed_form(RUN),
        )  # fmt: skip
        result = train_locally(local, self.bundle, self.trainer_of(agent), examples_of(self.names.index(agent)))
        assert store.held.read(RUN) in (None, (round_, self.model.blob))
        store.remember(result.submit, result.update, result.slots, Durations(b"", ()), result.local, result.form)
        store.settle(outcome)
        self.updates.append(len(result.update.blob))
        return result

    def trainer_of(self, agent: str) -> Trainer:
        """The trainer of an agent's process."""
        if agent not in self._trainers:
            self._trainers[agent] = make_trainer(
                self.choice, self.bundle, examples=32, threads=1, disk=Directory(self.path / agent)
            )
        return self._trainers[agent]

    def _led(self, store: AgentStore) -> tuple[int, bytes]:
        """The version that an agent is led on from, and by what; -1 and the whole model if it cannot be."""
        run, held = store.held.version
        missed = range(held + 1, self.version + 1)
        if run == RUN and missed and all(version in self._deltas for version in missed):
            return held, encode_replay([self._deltas[version] for version in missed])
        self.sent.append(len(self.model.blob))
        return -1, self.model.blob


def _usual(*_: object) -> Evaluation:
    return Evaluation(1, 1.0, {})
