"""A round of gateways below a gateway: `python -m benchmarks.sub_gateways [--agents N] [--gateways N] [--json FILE]`

The agents of each sub-gateway go through its state machine one after another: they check in, are assigned, and submit.
Their updates are a hundred different ones, really encoded, and weigh different numbers of examples; each is checked and
folded. What a sub-gateway hands on is its partial sum, as bytes. All of it is real but the links, and the training. It
is one process after another of what would be as many machines. The merged model is compared with that of one gateway
which folds all updates itself. Exits with 1 unless these are equal, the round takes at most ten minutes, and memory is
that of one sub-gateway, however many there are.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from aggregator.folding import Folding
from aggregator.global_model import GlobalModel, new_model
from aggregator.merging import Aggregate
from aggregator.partial_sum import decode_partial_sum, encode_partial_sum
from aggregator.round_answers import ticket
from aggregator.round_machine import step
from aggregator.round_state import Connected, Event, Merge, Plan, RoundState, Said, StoreUpdate, UpdateStored, resume
from aggregator.settings import AS_USUAL
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.large_model import large_network, large_task
from fedprune.codecs import Key, Values, encode_update, parse_codec
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorClass, weights_digest
from fedprune.pruning.masks import full_mask, take_kept
from fedprune.system.usage import peak_memory_mb
from fedprune.task.bundle import Task
from fedprune.task.training import Training
from fedprune.wire.messages import CheckIn, Submit
from fedprune.wire.transfer import content_of

KINDS = 100
"""Different updates."""

_SIZES = (784, 128, 64, 10)
"""Of a perceptron with 109,386 parameters."""

_SPARSITY, _SEED, _RUN, _CODEC = 0.8, 1, "benchmark", "mask | feedback(2) | int8"
_TICKET_KEY = b"the key of the benchmark"
_LONG_S = 1e6
_MOST_SECONDS, _MOST_PEAK = 600.0, 1.1


class Tree(msgspec.Struct, frozen=True):
    """A round of `agents` below so many `gateways`. `round_seconds` are of the sub-gateways, one after another, and of
    the root; `root_seconds` of the root alone, which also makes the merged model. Memory is the process's high-water
    mark after the first sub-gateway, and at the end of the round."""

    agents: int
    gateways: int
    round_seconds: float
    root_seconds: float
    cpu_ms_per_update: float
    partial_sum_bytes: int
    first_peak_mb: float
    peak_mb: float
    is_same: bool


@click.command(cls=Script, help=__doc__)
@click.option("--agents", default=100_000, show_default=True, type=click.IntRange(1), help="All agents.")
@click.option("--gateways", default=10, show_default=True, type=click.IntRange(1), help="Sub-gateways.")
@json_option("Write the figures there.")
def main(agents: int, gateways: int, target: Path | None) -> None:
    tree = measure(agents, gateways)
    write_json(tree, target)
    click.echo(
        f"{tree.agents:,} agents below {tree.gateways} gateways: {tree.round_seconds:.0f} s, of which the root "
        f"{tree.root_seconds:.2f}; {tree.cpu_ms_per_update:.2f} ms of processor for an update; partial sums of "
        f"{tree.partial_sum_bytes / 1e6:.2f} MB; {tree.first_peak_mb:.0f} MB after the first gateway, "
        f"{tree.peak_mb:.0f} at the end"
    )
    ratio = tree.peak_mb / tree.first_peak_mb
    settle(
        {
            "the merged model is that of one gateway, bit for bit": tree.is_same,
            f"{tree.round_seconds:.0f} s a round, at most {_MOST_SECONDS:.0f}": tree.round_seconds <= _MOST_SECONDS,
            f"{ratio:.2f} times the memory of one gateway, at most {_MOST_PEAK}": ratio <= _MOST_PEAK,
        }
    )


def measure(agents: int, gateways: int) -> Tree:
    task = large_task(Training(steps_per_round=1), _SPARSITY, _SIZES)
    model = _model(task)
    blobs = [_update(task, model, number) for number in range(KINDS)]
    digest = bytes.fromhex(weights_digest(model.checkpoint.weights))
    began, began_cpu, first_peak, parts = time.monotonic(), time.process_time(), 0.0, list[bytes]()
    for names in np.array_split(np.arange(agents), gateways):
        sums = _SubGateway(task, model, len(names)).round(names.tolist(), blobs)
        parts.append(encode_partial_sum(sums, digest))
        first_peak = first_peak or peak_memory_mb()
    cpu, began_root = time.process_time() - began_cpu, time.monotonic()
    whole = _folding(task).nothing_folded(model.checkpoint).sums
    for part in parts:
        whole.merge(decode_partial_sum(part, task.table, model.checkpoint.weights, model.checkpoint.mask, digest))
    merged = weights_digest(whole.result(model.checkpoint.exact).weights)
    ended, peak = time.monotonic(), peak_memory_mb()
    return Tree(
        agents,
        gateways,
        round(ended - began, 1),
        round(ended - began_root, 3),
        round(1000 * cpu / agents, 3),
        max(map(len, parts)),
        round(first_peak, 1),
        round(peak, 1),
        merged == _flat(task, model, blobs, agents),
    )


class _SubGateway:
    """A gateway's state machine and sums. What it would store is folded, what it would say is dropped."""

    def __init__(self, task: Task, model: GlobalModel, agents: int) -> None:
        self._folding, self._model = _folding(task), model
        self._state: RoundState = resume(
            _plan(agents), model.model, 1, assigned={}, cap=0, accepted={}, last_accepted={}, refused={}, left_out={}
        )
        self._is_complete = False

    def round(self, numbers: list[int], blobs: list[bytes]) -> Aggregate:
        """The sums of a round with the agents of these numbers."""
        self._gets(Connected())
        for number in numbers:
            name = _name(number)
            self._hears(name, CheckIn(examples=_examples(number), ticket=ticket(_TICKET_KEY, name)))
        for number in numbers:
            submit = Submit(run=_RUN, round=1, update=blobs[number % KINDS], examples=_examples(number), local_steps=1)
            self._hears(_name(number), submit)
        assert self._is_complete
        return self._folding.folded(self._model.checkpoint).sums

    def _hears(self, agent: str, message: Any) -> None:
        self._gets(Said(agent, message))

    def _gets(self, event: Event) -> None:
        self._state, actions = step(self._state, event, 0.0)
        for action in actions:
            if isinstance(action, StoreUpdate):
                self._folding.take(action.blob, action.agent, self._model.checkpoint, action.weight)
                self._gets(UpdateStored(action.agent))
            elif isinstance(action, Merge):
                self._is_complete = True


def _flat(task: Task, model: GlobalModel, blobs: list[bytes], agents: int) -> str:
    """The digest of what one gateway merges of all updates."""
    folding = _folding(task)
    for number in range(agents):
        folding.take(blobs[number % KINDS], _name(number), model.checkpoint, _examples(number))
    return weights_digest(folding.folded(model.checkpoint).sums.result(model.checkpoint.exact).weights)


def _folding(task: Task) -> Folding:
    return Folding(task, large_network(_SIZES), _SEED, parse_codec(_CODEC), AS_USUAL)


def _model(task: Task) -> GlobalModel:
    """The model after the first round."""
    drawn = Keyed(_SEED, "weights")
    weights = {
        spec.name: drawn.uniform(spec.size, -0.05, 0.05).astype(np.float32).reshape(spec.shape) for spec in task.table
    }
    return new_model(weights, task, _RUN, 1, Values.FP16, full_mask(task.table))


def _update(task: Task, model: GlobalModel, number: int) -> bytes:
    codec, mask, drawn = parse_codec(_CODEC), model.checkpoint.mask, Keyed(_SEED, "update", number)
    delta = {}
    for spec in task.table.of(TensorClass.PRUNABLE, TensorClass.DENSE):
        whole = drawn.uniform(spec.size, -0.01, 0.01).astype(np.float32)
        delta[spec.name] = take_kept(whole, mask[spec.name].reshape(-1)) if spec.name in mask else whole
    sent = codec.compress(delta, codec.init(task.table), Key(_SEED, 1, _name(number)))
    return encode_update(sent, {}, mask, task.table, codec, mask_is_known=True)


def _name(number: int) -> str:
    return f"agent-{number:06d}"


def _examples(number: int) -> int:
    return 50 + number % 101


def _plan(agents: int) -> Plan:
    return Plan(
        run=_RUN,
        incarnation=1,
        rounds=2,
        cohort=agents,
        quorum=agents,
        deadline_s=_LONG_S,
        gather_s=_LONG_S,
        seed=_SEED,
        task=content_of(b"task"),
        clock_steps_per_round=1,
        codec=_CODEC,
        max_update_bytes=2**20,
        ticket_key=_TICKET_KEY,
        examples_cap=10.0,
    )


if __name__ == "__main__":
    main()
