"""One federation in this process, without a network: the agents' own rounds, the models that they hold, and the
gateway's own merging.

Counted are the payload bytes that each agent sends and receives, with what is sent to all counted once for each
receiver: contents in their chunks, and the messages of a round in which nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.deltas import keep_delta, replays
from aggregator.global_model import GlobalModel, new_model
from aggregator.round_merge import Merger
from benchmarks.bytes_to_accuracy.problems import PROBLEMS, Problem, Tables
from benchmarks.bytes_to_accuracy.recipes import Pruning, Recipe
from benchmarks.bytes_to_accuracy.records import Arrangement
from benchmarks.task_file import BATCH_SIZE, task_file
from benchmarks.without_network import RUN, assignment_of, record_of, take_update
from edge_agent.held_model import HeldModel
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.residual_files import pack_residuals, unpack_residual
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.settings import TaskSettings
from fedprune.codecs import parse_codec, parse_model_codec
from fedprune.codecs.history import MOST_UPDATES
from fedprune.config import from_table, read_table
from fedprune.data import fit_to, load_examples
from fedprune.model.tensors import Weights, sparsity
from fedprune.pruning.masks import full_mask
from fedprune.system.disk import Directory
from fedprune.task.bundle import read_bundle
from fedprune.task.evaluation import Evaluator
from fedprune.wire.messages import MAX_INLINE_BYTES, Assignment, CheckIn, Manifest, Message, encode, tag_of
from fedprune.wire.transfer import CHUNK_SIZES, chunk_count, chunk_of, content_of, need_of

_ALPHA = 0.1


@dataclass(frozen=True)
class Learning:
    """What came of a federation: the accuracy after each round, the bytes of each round by kind, and the sparsity."""

    accuracies: list[float]
    up: list[Counter[str]]
    down: list[Counter[str]]
    sparsity: float


def learn(recipe: Recipe, arrangement: Arrangement, seed: int, rounds: int, path: Path) -> Learning:
    """Run a federation. `path` is a directory for what it leaves on disks."""
    return _Federation(recipe, arrangement, seed, rounds, path).run()


class _Federation:
    """The agents, the gateway, and what they hold."""

    def __init__(self, recipe: Recipe, arrangement: Arrangement, seed: int, rounds: int, path: Path) -> None:
        self._seed, self._rounds, self._participation = seed, rounds, arrangement.participation
        self._problem = PROBLEMS[arrangement.problem]
        tables = self._problem.prepare(self._problem, arrangement.partition, seed, path)
        (path / "task.toml").write_text(_task(recipe, self._problem, tables, rounds))
        self._bundle = read_bundle(build_task(from_table(read_table(path / "task.toml"), TaskSettings, "task"), path))
        settings = recipe.settings
        self._codec, self._model_codec = settings.codec.chains(self._bundle.task.table)
        self._trainer = LiteRTTrainer(self._bundle, examples=self._problem.examples, threads=1)
        self._evaluator = Evaluator(self._bundle, path / "held-out.npz", threads=1)
        self._names = [f"agent-{index}" for index in range(self._problem.agents)]
        forms = self._bundle.network.input_forms, self._bundle.task.output_forms
        data = self._bundle.task.data
        self._data = {name: fit_to(load_examples(path / f"{name}.npz", data), *forms) for name in self._names}
        self._held = {name: HeldModel(Directory(path / f"{name} holds")) for name in self._names}
        self._residuals: dict[str, Weights] = {}
        self._remembered: dict[str, tuple[bytes, ...]] = {}
        self._disk, self._deltas = Directory(path / "updates"), Directory(path / "deltas")
        self._merger = Merger(
            self._bundle.task, self._bundle.network, RUN, seed, parse_model_codec(self._model_codec),
            parse_codec(self._codec), self._disk,
            self._evaluator.evaluate, self._evaluator.loss_scale, settings.merging,
            remembered=lambda agent, _: self._remembered.get(agent, ()),
        )  # fmt: skip

    def run(self) -> Learning:
        task = self._bundle.task
        values = parse_model_codec(self._model_codec).values
        model = new_model(self._bundle.initial_weights(), task, RUN, 0, values, full_mask(task.table))
        records: list[RoundRecord] = []
        ups, downs = list[Counter[str]](), list[Counter[str]]()
        for round_ in range(self._rounds):
            updates, up, down = dict[str, AcceptedUpdate](), Counter[str](), Counter[str]()
            signs = dict[str, bytes]()
            for name in self._cohort(round_):
                begins = self._held[name].read(RUN) is None
                assignment, blob = self._assignment(model, name)
                result = self._train(name, assignment, blob)
                updates[name] = take_update(
                    self._merger, self._disk, model, name, result.submit, result.update.blob, task.training
                )
                signs[name] = result.update.signs
                sent, received = self._messages(assignment, blob, result, begins=begins)
                up, down = up + sent, down + received
            merged = self._merger.merge(model, updates, records)
            model = merged.model
            for name, each in signs.items():
                self._remembered[name] = (each, *self._remembered.get(name, ()))[:MOST_UPDATES] if each else ()
            keep_delta(self._deltas, model.checkpoint.version, model.delta, len(model.blob))
            records.append(record_of(round_, merged))
            ups.append(up)
            downs.append(down)
        accuracies = [record.accuracy or 0.0 for record in records]
        return Learning(accuracies, ups, downs, sparsity(model.checkpoint.weights, task.table))

    def _cohort(self, round_: int) -> list[str]:
        """The agents that take part, by a draw if these are not all."""
        count = max(1, round(self._participation * self._problem.agents))
        drawn = np.random.default_rng([self._seed, round_]).permutation(self._problem.agents)[:count]
        return [self._names[index] for index in sorted(drawn)]

    def _assignment(self, model: GlobalModel, agent: str) -> tuple[Assignment, bytes]:
        """An agent's work, and the content that it names for the model: what leads to it from what the agent holds, or
        all of it, whichever is smaller. The first model is made of its seed."""
        version, held = model.checkpoint.version, self._held[agent].read(RUN)
        base, blob = -1, model.blob
        if version == 0:
            base, blob = 0, b""
        else:
            found = replays(self._deltas, version, len(model.blob))
            known = 0 if held is None else held[0]
            if known in found:
                base, blob = known, found[known]
        assignment = msgspec.structs.replace(
            assignment_of(self._bundle, model, seed=self._seed, codec=self._codec, model_codec=self._model_codec),
            model=content_of(blob) if blob else None,
            base=base,
        )
        return assignment, blob

    def _train(self, agent: str, assignment: Assignment, blob: bytes) -> LocalResult:
        local = LocalRound(
            agent,
            assignment,
            blob,
            lambda: self._residuals.get(agent),
            None,
            0.0,
            held=self._held[agent],
            remembered=self._remembered.get(agent, ()),
        )
        result = train_locally(local, self._bundle, self._trainer, self._data[agent])
        self._residuals[agent] = unpack_residual(pack_residuals(result.update), late=None)
        return result

    def _messages(
        self, assignment: Assignment, blob: bytes, result: LocalResult, *, begins: bool
    ) -> tuple[Counter[str], Counter[str]]:
        """The bytes that an agent sends and receives in a round, its first with the task, by kind."""
        task = self._bundle.blob if begins else b""
        update, update_apart = _inside(result.update.blob)
        model, model_apart = _inside(blob)
        check_ins = (
            [CheckIn(examples=self._problem.examples, ticket=bytes(8), run=RUN)] if begins else []
        )  # a submit is one too
        manifest = Manifest(run=RUN, incarnation=1, round=assignment.round)
        assignment = msgspec.structs.replace(
            assignment,
            model=model or assignment.model,
            accepted=None if begins else tag_of(content_of(result.update.blob).digest),
            terms=assignment.terms if begins else None,
        )
        submit = msgspec.structs.replace(result.submit, update=update or result.submit.update)
        needs = [need_of(content_of(content), (), CHUNK_SIZES[0]) for content in (task, model_apart) if content]
        up = Counter(
            control=_size(*check_ins, *needs, submit) - len(update), update=len(update) + _chunks(update_apart)
        )
        down = Counter(control=_size(manifest, assignment) - len(model), model=len(model) + _chunks(model_apart))
        return up, down + Counter(task=_chunks(task))


def _inside(blob: bytes) -> tuple[bytes, bytes]:
    """What of a content travels inside a message, and what in chunks: all of it in either."""
    return (blob, b"") if len(blob) <= MAX_INLINE_BYTES else (b"", blob)


def _size(*messages: Message) -> int:
    return sum(len(encode(message)) for message in messages)


def _chunks(blob: bytes) -> int:
    """The messages that bring a content, none if it is empty."""
    if not blob:
        return 0
    content = content_of(blob)
    count = chunk_count(content.size, CHUNK_SIZES[0])
    return _size(*(chunk_of(blob, content.digest, index, CHUNK_SIZES[0]) for index in range(count)))


def _task(recipe: Recipe, problem: Problem, tables: Tables, rounds: int) -> str:
    pruning = recipe.pruning or Pruning(0.0, initial=0.0)
    return task_file(
        "bytes",
        tables.model,
        steps_per_round=-(-problem.examples // BATCH_SIZE),
        rounds=rounds,
        sparsity=pruning.final,
        initial_sparsity=pruning.initial,
        pruning=(pruning.begin, pruning.end),
        power=pruning.power,
        every=pruning.every,
        alpha=None if recipe.decay_from is None else _ALPHA,
        decay_from=recipe.decay_from,
        logit_adjustment=recipe.logit_adjustment,
        data=tables.data,
    )
