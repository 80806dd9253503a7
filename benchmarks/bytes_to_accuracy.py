"""How many bytes to which accuracy? `python -m benchmarks.bytes_to_accuracy [--quick] [--seeds 1] [--json FILE]`

Federations of 10 agents with 600 examples each (Dirichlet 0.5) train CNN-108k on LiteRT in this process, without a
network: the agents' own rounds, the models that they hold, and the gateway's own merging. Dense ones, whose models and
updates travel whole in fp32, with a constant and with a falling learning rate, and those of the preset `frugal`, on the
same data, from the same weights. Frugal ones begin half sparse, and the gateway takes twice the mean of the updates.

Counted are the payload bytes that each agent sends and receives, with what is sent to all counted once for each
receiver: contents in their chunks, and the messages of a round in which nothing is lost. The target is what dense
federated averaging reaches, the best mean of five rounds, less half a point.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from aggregator.acceptance import accepted_update
from aggregator.book import AcceptedUpdate, RoundRecord
from aggregator.global_model import GlobalModel, new_model
from aggregator.presets import Preset, chains
from aggregator.round_merge import Merger, update_name
from aggregator.server_optimizers import FedAvgM
from aggregator.settings import AS_USUAL, Aggregation
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.demo.rerun import seeds_option
from benchmarks.demo.settings import cnn_table
from benchmarks.federation import DENSE_CODEC
from benchmarks.task_file import BATCH_SIZE, task_file
from benchmarks.without_network import RUN, assignment_of, record_of
from edge_agent.held_model import HeldModel
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.local_training import train_locally
from edge_agent.trainers.litert import LiteRTTrainer
from export.build import build_task
from export.settings import TaskSettings
from fedprune.codecs import describe_model_codec, encode_replay, parse_codec, parse_model_codec
from fedprune.config import from_table, read_table
from fedprune.data import fit_to, load_examples
from fedprune.data.partition import parse_partition
from fedprune.data.prepare import SplitSummary, prepare
from fedprune.data.source import open_source
from fedprune.model.tensors import TensorTable, Weights, sparsity
from fedprune.pruning.masks import full_mask
from fedprune.system.disk import Directory
from fedprune.task.bundle import read_bundle
from fedprune.task.evaluation import Evaluator
from fedprune.wire.messages import (
    MAX_INLINE_BYTES,
    Assignment,
    CheckIn,
    Content,
    Manifest,
    Message,
    Reason,
    Rejected,
    encode,
    tag_of,
)
from fedprune.wire.transfer import CHUNK_SIZES, Receiving, chunk_count, chunk_of, content_of

_AGENTS, _EXAMPLES, _PARTITION, _HELD_OUT = 10, 600, "dirichlet:0.5", 10_000
_ROUNDS, _QUICK_ROUNDS = 60, 20
_WINDOW, _POINTS_BELOW = 5, 0.005


@dataclass(frozen=True)
class Recipe:
    """How a federation learns: its preset, None for a dense one, and the schedule of its sparsity.

    The gateway adds `step` times the mean of the updates. With `alpha` the learning rate falls to so much of itself
    once the model is pruned.
    """

    name: str
    preset: Preset | None
    sparsity: float
    initial_sparsity: float = 0.0
    pruning: tuple[float, float] = (0.0, 0.8)
    step: float = 1.0
    alpha: float | None = None

    def chains(self, table: TensorTable) -> tuple[str, str]:
        """The codec of updates, and how models travel."""
        if self.preset is None:
            return DENSE_CODEC, "fp32"
        update, model = chains(self.preset, table)
        return update, describe_model_codec("fp16", model)

    @property
    def aggregation(self) -> Aggregation:
        return AS_USUAL if self.step == 1.0 else Aggregation(optimizer=FedAvgM(self.step, momentum=0.0))


RECIPES = (
    Recipe("dense", None, 0.0),
    Recipe("dense, decayed", None, 0.0, alpha=0.1),
    Recipe("frugal-90", Preset.FRUGAL, 0.9, 0.5, (1 / 60, 0.8), step=2.0, alpha=0.1),
)
"""The first is what the others are compared with."""

_DATA = 'form = "arrays"\nnormalize = { kind = "standard", mean = [0.286], std = [0.353] }'
"""Of Fashion-MNIST's pixels, as fractions."""


class Run(msgspec.Struct, frozen=True):
    """One federation. Bytes are summed over the agents, both ways; `bytes_to_target` until the mean of five rounds was
    `target`, None if it never was. `accuracies` are those of each round."""

    name: str
    seed: int
    tuned: bool
    partition: str
    participation: float
    rounds: int
    accuracy_final: float
    sparsity: float
    bytes_up: int
    bytes_down: int
    bytes_total: int
    bytes_to_target: int | None
    target: float
    accuracies: tuple[float, ...]


@click.command(cls=Script)
@seeds_option("1")
@click.option("--quick", is_flag=True, help=f"{_QUICK_ROUNDS} rounds instead of {_ROUNDS}.")
@json_option("Write the runs there.")
def main(seeds: tuple[int, ...], quick: bool, target: Path | None) -> None:
    """Run dense and frugal federations, and compare what they take to be as good."""
    runs = [run for seed in seeds for run in _compare(seed, _QUICK_ROUNDS if quick else _ROUNDS)]
    write_json({"runs": runs}, target)
    Console(width=120).print(_table(runs))


def _compare(seed: int, rounds: int) -> Iterator[Run]:
    target = None
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as directory:
            federation = _Federation(recipe, seed, rounds, Path(directory))
            accuracies, counts = federation.run()
        means = [statistics.mean(accuracies[max(0, end - _WINDOW) : end]) for end in range(1, rounds + 1)]
        target = max(means[_WINDOW - 1 :]) - _POINTS_BELOW if target is None else target
        reached = next((end for end in range(_WINDOW, rounds + 1) if means[end - 1] >= target), None)
        yield Run(
            name=recipe.name,
            seed=seed,
            tuned=False,
            partition=_PARTITION,
            participation=1.0,
            rounds=rounds,
            accuracy_final=means[-1],
            sparsity=federation.sparsity,
            bytes_up=sum(up for up, _ in counts),
            bytes_down=sum(down for _, down in counts),
            bytes_total=sum(up + down for up, down in counts),
            bytes_to_target=None if reached is None else sum(up + down for up, down in counts[:reached]),
            target=target,
            accuracies=tuple(accuracies),
        )


class _Federation:
    """One federation in this process."""

    def __init__(self, recipe: Recipe, seed: int, rounds: int, path: Path) -> None:
        self._seed, self._rounds = seed, rounds
        split = prepare(
            open_source("auto"),
            parse_partition(_PARTITION),
            agents=_AGENTS,
            examples_per_agent=_EXAMPLES,
            held_out=_HELD_OUT,
            seed=seed,
            out=path,
        )
        (path / "task.toml").write_text(_task(recipe, split, seed, rounds))
        self._bundle = read_bundle(build_task(from_table(read_table(path / "task.toml"), TaskSettings, "task"), path))
        self._codec, self._model_codec = recipe.chains(self._bundle.task.table)
        self._trainer = LiteRTTrainer(self._bundle, examples=_EXAMPLES, threads=1)
        self._evaluator = Evaluator(self._bundle, path / "held-out.npz", threads=1)
        self._names = [f"agent-{index}" for index in range(_AGENTS)]
        forms = self._bundle.network.input_forms, self._bundle.task.output_forms
        data = self._bundle.task.data
        self._data = {name: fit_to(load_examples(path / f"{name}.npz", data), *forms) for name in self._names}
        self._held = {name: HeldModel(Directory(path / f"{name} holds")) for name in self._names}
        self._residuals: dict[str, Weights] = {}
        self._disk = Directory(path / "updates")
        self._merger = Merger(
            self._bundle.task, self._bundle.network, RUN, seed, parse_model_codec(self._model_codec),
            parse_codec(self._codec), self._disk,
            self._evaluator.evaluate, self._evaluator.loss_scale, recipe.aggregation,
        )  # fmt: skip
        self.sparsity = 0.0

    def run(self) -> tuple[list[float], list[tuple[int, int]]]:
        """The accuracy after each round, and the bytes that went up and down in it."""
        task = self._bundle.task
        values = parse_model_codec(self._model_codec).values
        model = new_model(self._bundle.initial_weights(), task, RUN, 0, values, full_mask(task.table))
        records: list[RoundRecord] = []
        counts = list[tuple[int, int]]()
        for round_ in range(self._rounds):
            updates, up, down = dict[str, AcceptedUpdate](), 0, 0
            for name in self._names:
                assignment, blob = self._assignment(model, round_)
                result = self._train(name, assignment, blob)
                self._disk.write(update_name(round_, name), result.update.blob)
                norms = self._merger.check(result.update.blob, name, model)
                updates[name] = accepted_update(result.submit, result.submit.examples, norms, task.training)
                sent, received = self._messages(assignment, blob, result)
                up, down = up + sent, down + received
            merged = self._merger.merge(model, updates, records)
            model = merged.model
            records.append(record_of(round_, merged))
            counts.append((up, down))
        self.sparsity = sparsity(model.checkpoint.weights, task.table)
        return [record.accuracy or 0.0 for record in records], counts

    def _assignment(self, model: GlobalModel, round_: int) -> tuple[Assignment, bytes]:
        """The work of an agent that took part in the round before, and the content that it names for the model."""
        base, blob = -1, model.blob
        if round_ == 0:
            base, blob = 0, b""
        elif model.delta is not None:
            base, blob = round_ - 1, encode_replay([model.delta])
        assignment = msgspec.structs.replace(
            assignment_of(self._bundle, model, seed=self._seed, codec=self._codec, model_codec=self._model_codec),
            model=content_of(blob) if blob else None,
            base=base,
        )
        return assignment, blob

    def _train(self, agent: str, assignment: Assignment, blob: bytes) -> LocalResult:
        local = LocalRound(
            agent, assignment, blob, lambda: self._residuals.get(agent), None, 0.0, held=self._held[agent]
        )
        result = train_locally(local, self._bundle, self._trainer, self._data[agent])
        self._residuals[agent] = result.update.residual_if_accepted
        return result

    def _messages(self, assignment: Assignment, blob: bytes, result: LocalResult) -> tuple[int, int]:
        """The bytes that an agent sends and receives in a round, its first with the task."""
        is_first, update = not assignment.round, result.update.blob
        fetched = [blob] if len(blob) > MAX_INLINE_BYTES else []
        sent = [update] if len(update) > MAX_INLINE_BYTES else []
        manifest = Manifest(run=RUN, incarnation=1, round=assignment.round)
        work = msgspec.structs.replace(
            assignment,
            model=assignment.model if fetched or not blob else blob,
            accepted=None if is_first else tag_of(result.submit.content),
            terms=assignment.terms if is_first else None,
        )
        submit = result.submit if sent else msgspec.structs.replace(result.submit, update=update)
        offers = [CheckIn(examples=_EXAMPLES, trainer="litert", ticket=ticket) for ticket in (b"", bytes(8))]
        answer = Rejected(reason=Reason.NOT_SELECTED, ticket=bytes(8))
        if is_first:
            fetched.append(self._bundle.for_devices())
        needs = [Receiving.begin(content_of(content), 0.0)[1] for content in fetched]
        up = _size(*(offers if is_first else []), *needs, submit) + sum(map(_chunks, sent))
        return up, _size(manifest, *([answer] if is_first else []), work) + sum(map(_chunks, fetched))


def _size(*messages: Message) -> int:
    return sum(len(encode(message)) for message in messages)


def _chunks(blob: bytes) -> int:
    content: Content = content_of(blob)
    count = chunk_count(content.size, CHUNK_SIZES[0])
    return _size(*(chunk_of(blob, content.digest, index, CHUNK_SIZES[0]) for index in range(count)))


def _task(recipe: Recipe, split: SplitSummary, seed: int, rounds: int) -> str:
    return task_file(
        "bytes",
        cnn_table(split, seed),
        steps_per_round=-(-_EXAMPLES // BATCH_SIZE),
        rounds=rounds,
        sparsity=recipe.sparsity,
        initial_sparsity=recipe.initial_sparsity,
        pruning=recipe.pruning,
        alpha=recipe.alpha,
        data=_DATA,
    )


def _table(runs: Sequence[Run]) -> Table:
    dense = {run.seed: run for run in runs if run.name == RECIPES[0].name}
    title = f"{_AGENTS} agents x {_EXAMPLES}, {_PARTITION}, bytes of all agents both ways"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("recipe", "seed", "accuracy", "sparsity", "up kB", "down kB", "whole run", "to target"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for run in runs:
        of_dense = dense[run.seed]
        to_target = "never"
        if run.bytes_to_target and of_dense.bytes_to_target:
            to_target = f"{of_dense.bytes_to_target / run.bytes_to_target:.1f}x"
        table.add_row(
            run.name,
            str(run.seed),
            f"{run.accuracy_final:.4f}",
            f"{run.sparsity:.2f}",
            f"{run.bytes_up / 1000:.0f}",
            f"{run.bytes_down / 1000:.0f}",
            f"{of_dense.bytes_total / run.bytes_total:.1f}x",
            to_target,
        )
    return table


if __name__ == "__main__":
    main()
