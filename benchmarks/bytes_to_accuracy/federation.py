"""One federation in this process, without a network: the agents' own rounds, the models that they hold, and the
gateway's own merging.

Counted are the payload bytes that each agent sends and receives, with what is sent to all counted once for each
receiver: contents in their chunks, and the messages of a round in which nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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
from edge_agent.local_round import LocalResult, LocalRound, PreparedUpdate
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
from fedprune.task.bundle import Bundle, read_bundle
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
    accuracies, ups, downs, pruned = list[float](), list[Counter[str]](), list[Counter[str]](), 0.0
    federation = Federation(recipe, arrangement, seed, rounds, path)
    for each in federation.rounds():
        accuracies.append(each.record.accuracy or 0.0)
        ups.append(each.up)
        downs.append(each.down)
        pruned = sparsity(each.model.checkpoint.weights, federation.bundle.task.table)
    return Learning(accuracies, ups, downs, pruned)


def name_of(index: int) -> str:
    """An agent's, and that of its file of examples."""
    return f"agent-{index}"


def prepare_task(recipe: Recipe, arrangement: Arrangement, seed: int, rounds: int, path: Path) -> Bundle:
    """Write everybody's examples into the directory `path`, as `Problem` says, and build the task."""
    problem = PROBLEMS[arrangement.problem]
    tables = problem.prepare(problem, arrangement.partition, seed, path)
    (path / "task.toml").write_text(_task(recipe, problem, tables, rounds))
    return read_bundle(build_task(from_table(read_table(path / "task.toml"), TaskSettings, "task"), path))


@dataclass(frozen=True, eq=False)
class Sent:
    """An agent's update, and the signs of those before it, by which it may be coded."""

    update: PreparedUpdate
    remembered: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class Round:
    """A round that led from the model `base` to `model`: what each agent sent, and the bytes by kind."""

    base: GlobalModel
    model: GlobalModel
    sent: dict[str, Sent]
    record: RoundRecord
    up: Counter[str]
    down: Counter[str]


class Federation:
    """The agents, the gateway, and what they hold. `bundle` is the task's, `codec` and `model_codec` are the chains."""

    def __init__(self, recipe: Recipe, arrangement: Arrangement, seed: int, rounds: int, path: Path) -> None:
        self.seed, self._rounds, self._participation = seed, rounds, arrangement.participation
        self._problem = PROBLEMS[arrangement.problem]
        self.bundle = prepare_task(recipe, arrangement, seed, rounds, path)
        settings = recipe.settings
        self.codec, self.model_codec = settings.codec.chains(self.bundle.task.table)
        self._trainer = LiteRTTrainer(self.bundle, examples=self._problem.examples, threads=1)
        self._evaluator = Evaluator(self.bundle, path / "held-out.npz", threads=1)
        self._names = [name_of(index) for index in range(self._problem.agents)]
        forms = self.bundle.network.input_forms, self.bundle.task.output_forms
        data = self.bundle.task.data
        self._data = {name: fit_to(load_examples(path / f"{name}.npz", data), *forms) for name in self._names}
        self._held = {name: HeldModel(Directory(path / f"{name} holds")) for name in self._names}
        self._residuals: dict[str, Weights] = {}
        self._remembered: dict[str, tuple[bytes, ...]] = {}
        self._disk, self._deltas = Directory(path / "updates"), Directory(path / "deltas")
        self._merger = Merger(
            self.bundle.task, self.bundle.network, RUN, seed, parse_model_codec(self.model_codec),
            parse_codec(self.codec), self._disk,
            self._evaluator.evaluate, self._evaluator.loss_scale, settings.merging,
            remembered=lambda agent, _: self._remembered.get(agent, ()),
        )  # fmt: skip

    def rounds(self) -> Iterator[Round]:
        task = self.bundle.task
        values = parse_model_codec(self.model_codec).values
        model = new_model(self.bundle.initial_weights(), task, RUN, 0, values, full_mask(task.table))
        records: list[RoundRecord] = []
        for round_ in range(self._rounds):
            updates, up, down = dict[str, AcceptedUpdate](), Counter[str](), Counter[str]()
            sent_by = dict[str, Sent]()
            for name in self._cohort(round_):
                begins = self._held[name].read(RUN) is None
                assignment, blob = self._assignment(model, name)
                result = self._train(name, assignment, blob)
                updates[name] = take_update(
                    self._merger, self._disk, model, name, result.submit, result.update.blob, task.training
                )
                sent_by[name] = Sent(result.update, self._remembered.get(name, ()))
                sent, received = self._messages(assignment, blob, result, begins=begins)
                up, down = up + sent, down + received
            merged = self._merger.merge(model, updates, records)
            for name, each in sent_by.items():
                signs = each.update.signs
                self._remembered[name] = (signs, *each.remembered)[:MOST_UPDATES] if signs else ()
            base, model = model, merged.model
            keep_delta(self._deltas, model.checkpoint.version, model.delta, len(model.blob))
            records.append(record_of(round_, merged))
            yield Round(base, model, sent_by, records[-1], up, down)

    def _cohort(self, round_: int) -> list[str]:
        """The agents that take part, by a draw if these are not all."""
        count = max(1, round(self._participation * self._problem.agents))
        drawn = np.random.default_rng([self.seed, round_]).permutation(self._problem.agents)[:count]
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
            assignment_of(self.bundle, model, seed=self.seed, codec=self.codec, model_codec=self.model_codec),
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
        result = train_locally(local, self.bundle, self._trainer, self._data[agent])
        self._residuals[agent] = unpack_residual(pack_residuals(result.update), late=None)
        return result

    def _messages(
        self, assignment: Assignment, blob: bytes, result: LocalResult, *, begins: bool
    ) -> tuple[Counter[str], Counter[str]]:
        """The bytes that an agent sends and receives in a round, its first with the task, by kind."""
        task = self.bundle.blob if begins else b""
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
        label_smoothing=recipe.label_smoothing,
        data=tables.data,
    )
