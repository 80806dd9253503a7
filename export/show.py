"""A task bundle for people to read, and as JSON for programs. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator

import click
import msgspec
import numpy as np

from export.unpruned import unpruned
from fedprune.model.forms import InputForm, OutputForm
from fedprune.model.losses import Objective
from fedprune.model.tensors import TensorClass
from fedprune.network.description import pack_network
from fedprune.network.frontier import cut_at_frontier
from fedprune.pruning.blocks import SINGLE
from fedprune.pruning.schedules import ConstantSparsity, IterativeSparsity, PolynomialDecay, Schedule
from fedprune.runtime.tflite import one_line
from fedprune.slimming.pruning import MOST_STAGES, UnitPruning
from fedprune.slimming.unit_masks import maskable, units_by_layer
from fedprune.system.table import table_lines
from fedprune.task.bundle import Bundle, Pruning, Task
from fedprune.task.learning_rates import LearningRateDecay
from fedprune.task.training import Adam, Sgd, Training


class Summary(msgspec.Struct, frozen=True):
    """The output of ``--json``. `digest` is the SHA-256 (hex) of the whole bundle, which is `bytes` long."""

    digest: str
    bytes: int
    parameters: int
    prunable: int
    task: Task


def summary_of(bundle: Bundle) -> Summary:
    table = bundle.task.table
    return Summary(
        digest=hashlib.sha256(bundle.blob).hexdigest(),
        bytes=len(bundle.blob),
        parameters=table.parameters,
        prunable=table.prunable,
        task=bundle.task,
    )


def show(bundle: Bundle) -> None:
    """Print the bundle to standard output. Its names may be anybody's: they are shown without what terminals obey."""
    click.echo("\n".join(_tensors(bundle.task)) + "\n")
    facts = list(_facts(bundle))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}")


def _tensors(task: Task) -> list[str]:
    rows = [
        [one_line(spec.name), "x".join(map(str, spec.shape)) or "scalar", f"{spec.size:,}", str(spec.kind)]
        for spec in task.table
    ]
    head, rule, *lines = table_lines(["tensor", "shape", "scalars", "class"], rows, left=(0, 1, 3))
    prunable = (spec.kind is TensorClass.PRUNABLE for spec in task.table)
    return [
        head,
        rule,
        *(click.style(line, fg="green") if is_it else line for line, is_it in zip(lines, prunable, strict=True)),
    ]


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    task = bundle.task
    training, pruning = task.training, task.pruning
    yield "task", one_line(task.name)
    yield from _ends(bundle)
    frozen = sum(spec.size for spec in task.table.of(TensorClass.FROZEN))
    parts = [f"prunable {task.table.prunable:,}", *([f"frozen {frozen:,}"] if frozen else [])]
    yield "parameters", f"{task.table.parameters:,}, of them {', '.join(parts)}"
    yield "data", one_line(msgspec.json.encode(task.data).decode())
    yield "training", _work(training)
    proximal = f", FedProx with mu {training.proximal_mu:g}" if training.proximal_mu else ""
    for form in task.output_forms:
        yield "loss", f"{'' if form.array == 'y' else f'{form.array}: '}{_loss(form.objective)}{proximal}"
    yield "metrics", ", ".join(task.metrics) or "none"
    decay = training.learning_rate_decay
    decayed = "" if decay is None else f", learning rate decay: {_settings(decay, 'kind')}"
    yield "optimizer", f"{_settings(training.optimizer, 'name')}{decayed}; its state: {training.optimizer_state}"
    if training.powerpropagation > 1.0:
        yield "powerpropagation", f"alpha {training.powerpropagation:g}"
    yield "pruning", _schedule(pruning.schedule, training)
    blocks = "" if pruning.block == SINGLE else ", blocks of {} x {}".format(*pruning.block)
    threshold = f", threshold {pruning.threshold:g}" if pruning.threshold else ""
    yield "mask", f"{pruning.mask}, score {_scores(pruning)}, allocation {pruning.allocation}{blocks}{threshold}"
    if (regrowth := pruning.regrowth) is not None:
        yield (
            "regrowth",
            f"every {regrowth.every_rounds} rounds until round {regrowth.until_round}, of each tensor's weights at "
            f"first {regrowth.fraction:.0%}",
        )
    if pruning.units is not None:
        yield from _units(bundle, pruning.units)
    if local := sorted({spec.layer for spec in task.table.local}):
        yield "local layers", one_line(f"{', '.join(local)}: each device's own, and dense")
    for line in unpruned(bundle.network, task.table):
        yield "dense kernels", one_line(line)
    yield "start", "weights in the bundle" if task.initial is None else f"drawn from seed {task.initial.seed}"
    sizes = ", ".join(str(graph.batch_size) for graph in bundle.graphs)
    yield "trainers", f"keras, litert (batches of {sizes})" if sizes else "keras only: no training graph was proven"
    if bundle.head is not None and (cut := cut_at_frontier(bundle.network, task.table)):
        kept = math.prod(cut.head.inputs[0]) * np.dtype(np.float32).itemsize
        yield "frozen base", f"devices may keep its activations ({kept:,} bytes an example) and train the head alone"
    yield "network", f"{len(bundle.network.layers)} layers, {len(pack_network(bundle.network)):,} bytes"
    yield "bundle", f"{len(bundle.blob):,} bytes"
    yield "digest", hashlib.sha256(bundle.blob).hexdigest()


def _ends(bundle: Bundle) -> Iterator[tuple[str, str]]:
    inputs = {form.array: _input(form) for form in bundle.network.input_forms}
    outputs = {form.array: _output(form) for form in bundle.task.output_forms}
    if len(inputs) == len(outputs) == 1:
        yield "model", f"{inputs['x']} to {outputs['y']}"
        return
    for what, ends in (("input", inputs), ("output", outputs)):
        yield from ((what, f"{array}: {text}") for array, text in ends.items())


def _input(form: InputForm) -> str:
    numbers = "float32" if form.vocabulary is None else f"ids below {form.vocabulary:,},"
    return f"{numbers} {_shape(form.shape)}"


def _output(form: OutputForm) -> str:
    if form.objective.loss.rule.activation is None:
        return f"{_shape(form.shape)} (numbers)"
    return f"{_shape(form.shape)} ({'logits' if form.objective.from_logits else 'probabilities'})"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _loss(objective: Objective) -> str:
    weight = f", weight {objective.weight:g}" if objective.weight != 1.0 else ""
    smoothed = f", label smoothing {objective.label_smoothing:g}" if objective.label_smoothing else ""
    classes = objective.class_weights
    weights = f", class weights {min(classes):g} to {max(classes):g}" if classes else ""
    adjusted = f", logit adjustment {objective.logit_adjustment:g}" if objective.logit_adjustment else ""
    return f"{objective.loss}{weight}{smoothed}{weights}{adjusted}"


def _scores(pruning: Pruning) -> str:
    return " + ".join(score if weight == 1.0 else f"{weight:g} {score}" for score, weight in pruning.scores.items())


def _settings(chosen: Sgd | Adam | LearningRateDecay, tag: str) -> str:
    settings = msgspec.to_builtins(chosen)
    return f"{settings.pop(tag)} ({', '.join(f'{key} {value}' for key, value in settings.items())})"


def _work(training: Training) -> str:
    if training.steps_per_round:
        return f"{training.steps_per_round} steps a round, {training.batch_size} examples each"
    return f"{training.epochs_per_round} epochs a round of a device's own examples, in steps of {training.batch_size}"


def _units(bundle: Bundle, units: UnitPruning) -> Iterator[tuple[str, str]]:
    """Which units can go, when they do, and when the network becomes smaller for it."""
    groups = bundle.forms.groups
    counts = units_by_layer(groups, maskable(groups))
    yield "units", one_line(", ".join(f"{layer} {count:,}" for layer, count in counts.items()))
    yield "units go", f"{_schedule(units.schedule, bundle.task.training)}; allocation {units.allocation}"
    rounds = _slimming_rounds(units, bundle.task.training)
    when = f"as units go: after rounds {', '.join(map(str, rounds))}" if rounds else "when it is exported"
    yield "smaller", f"the network becomes so {when}"


def _slimming_rounds(units: UnitPruning, training: Training) -> list[int]:
    """The rounds after which the network becomes smaller, 0 for the first model."""
    steps, end = training.clock_steps_per_round, units.schedule.end_step
    last = -(-(end if end >= 0 else units.schedule.begin_step) // steps)
    found = {
        bisect_left(range(last + 1), stage, key=lambda round_: units.stage(round_ * steps))
        for stage in range(1, MOST_STAGES + 1)
    }
    return sorted(round_ for round_ in found if round_ <= last)


def _schedule(schedule: Schedule, training: Training) -> str:
    begin, end, every = schedule.begin_step, schedule.end_step, schedule.frequency
    unit, a_round = "steps" if training.steps_per_round else "rounds", training.clock_steps_per_round
    rounds = f" (rounds {begin / a_round:g} to {end / a_round:g})" if training.steps_per_round else ""
    when = f"{unit} {begin} to {end} by {every}{rounds}" if end >= 0 else f"every {every} {unit} from {begin} on"
    if isinstance(schedule, ConstantSparsity):
        return f"sparsity {schedule.target_sparsity:g}; {when}"
    reached = schedule.sparsity_in_force(end)  # below the target where the last step is not due
    if isinstance(schedule, IterativeSparsity):
        return f"sparsity {schedule.sparsity_at(begin):.4g} to {reached:.4g}, iterative; {when}"
    curve = f"power {schedule.power:g}" if isinstance(schedule, PolynomialDecay) else "along a cosine"
    return f"sparsity {schedule.initial_sparsity:g} to {reached:.4g}, {curve}; {when}"
