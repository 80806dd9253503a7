"""From task.toml to a bundle: description, tensor table, initial weights, and what proves the graphs of devices.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from export.architecture import task_outputs, variables_of
from export.attention_heads import with_prunable_heads
from export.data_check import check_data
from export.describing.model import describe
from export.describing.parity import check_parity
from export.excluded_layers import without_excluded
from export.head import proven_head
from export.initial import recipe, redrawn
from export.local_layers import with_local_layers
from export.model_code import load_model
from export.models import cnn_108k
from export.proof.errors import NotProven
from export.proof.graphs import MAX_GRAPH_BYTES, prove_graphs
from export.proof.inference import verify_inference_graph
from export.proof.proof import Proof
from export.proof.reference import Reference
from export.settings import ModelSettings, TaskSettings
from export.unit_check import units_that_stay
from export.unpruned import unpruned
from export.ways_out import ways_to_describe, ways_to_prove
from fedprune.data.task_toml import with_words
from fedprune.errors import FedpruneError, TaskError
from fedprune.graph.training import write_training_graph
from fedprune.keras.refusal import LayerRefused, label
from fedprune.model.metrics import default_metrics, why_unfit
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Network
from fedprune.pruning.schedules import final_sparsity, steps_to_reach_target
from fedprune.runtime.self_check import ProvenGraph
from fedprune.runtime.tflite import one_line
from fedprune.task.bundle import Pruning, SeededWeights, Task, read_bundle, write_bundle
from fedprune.task.outputs import Output
from fedprune.task.training import Training

_log = logging.getLogger(__name__)

_IMAGE, _OUTPUTS = (28, 28, 1), 10
"""The form of a built-in model where task.toml does not say: Fashion-MNIST's."""
_LAYERS_SHOWN = 8
"""Frozen layers that are named; of more there is the number."""


def build_task(settings: TaskSettings, base: Path) -> bytes:
    """The bundle's bytes: equal settings and model files give equal bytes. Paths are relative to `base`.

    Raises `TaskError` if the model cannot be loaded or described, has no output that suits the loss, does not fit the
    settings, or is not what its description makes. A model whose training graphs cannot be proven makes a bundle for
    the keras trainer alone, and a warning that says why.
    """
    data = with_words(settings.data, base)
    model = _load(settings.model, base)
    pruning = settings.pruning.in_steps(settings.training.clock_steps_per_round)
    network, table = _described(model, settings.training)
    if pruning.units is not None:
        table = with_prunable_heads(table, network)
    table = without_excluded(table, settings.pruning.excluded)
    if settings.model.local:
        table = with_local_layers(table, network, settings.model.local)
    outputs = _judged(task_outputs(network, settings.training), settings)
    _check_form(network, outputs, settings.model)
    _check_learnable(model, TensorTable(table), pruning)
    _check_frozen(TensorTable(table), settings.model)
    for line in unpruned(network, TensorTable(table)):
        _log.warning("kernels that stay dense: %s", line)
    for line in units_that_stay(network, TensorTable(table)) if pruning.units is not None else ():
        _log.warning("units that stay: %s", line)
    initial, weights = _initial_weights(model, table, settings.model)
    task = Task(
        name=settings.name,
        input_shapes=network.inputs,
        outputs=outputs,
        tensors=table,
        training=settings.training,
        pruning=pruning,
        members={},
        data=data,
        initial=initial,
    )
    check_data(data, network.input_forms, task.output_forms)
    check_parity(model, network, TensorTable(table))
    verify_inference_graph(network, table, model)
    graphs = _proven_graphs(model, network, task)
    head = proven_head(network, task, weights) if graphs and weights else None
    blob = write_bundle(task, network=network, weights=weights, graphs=graphs, head=head)
    read_bundle(blob).initial_weights()  # as agents and the gateway will
    return blob


def _load(settings: ModelSettings, base: Path) -> Any:
    if settings.file is not None:
        model = load_model(settings.file, base)
        if settings.frozen == "train":
            model.trainable = True
        return model
    return cnn_108k(settings.input_shape or _IMAGE, settings.outputs or _OUTPUTS)


def _described(model: Any, training: Training) -> tuple[Network, tuple[TensorSpec, ...]]:
    """See `describe`. A refusal also tells which changes to the layer were tried and work."""
    try:
        return describe(model)
    except LayerRefused as refusal:
        ways = ways_to_describe(model, refusal, lambda changed: task_outputs(describe(changed)[0], training))
        raise TaskError(f"{refusal}{_tried(ways)}") from refusal


def _tried(ways: Sequence[str]) -> str:
    return f"; what was tried and works: {', or '.join(ways)}" if ways else ""


def _check_form(network: Network, outputs: Sequence[Output], settings: ModelSettings) -> None:
    """Check that a model file has the form that task.toml says: of each input, and of each output."""
    for shape in network.inputs:
        if settings.input_shape not in (None, shape):
            raise TaskError(f"{settings.file}: takes {list(shape)}; correct model.input_shape in task.toml")
    for output in outputs:
        if settings.outputs not in (None, output.shape[-1]):
            raise TaskError(f"{settings.file}: has {output.shape[-1]} outputs; correct model.outputs in task.toml")


def _judged(outputs: Sequence[Output], settings: TaskSettings) -> tuple[Output, ...]:
    """The outputs with the metrics of task.toml, or those that are usual. Raises `TaskError` for metrics of an output
    that there is not, or that an output cannot have."""
    names, given = [output.name for output in outputs], settings.evaluation.by_output
    if unknown := sorted(set(given) - set(names)):
        raise TaskError(f"{_no_metrics_of(unknown[0], names)}; correct evaluation.metrics in task.toml")
    judged = []
    for output in outputs:
        loss = settings.training.objective_of(output).loss
        metrics = given.get(output.name, default_metrics(loss))
        if why := why_unfit(metrics, loss, output.shape[-1]):
            which = f"output {output.name!r}: " if output.name else ""
            raise TaskError(f"{which}{why}; correct evaluation.metrics in task.toml")
        judged.append(msgspec.structs.replace(output, metrics=metrics))
    return tuple(judged)


def _no_metrics_of(unknown: str, names: Sequence[str]) -> str:
    if names == [""]:
        return "the model has one output: its metrics are a list, without a name"
    if not unknown:
        return f"the model has the outputs {', '.join(names)}: give a list of metrics for each by its name"
    return f"the model has no output {one_line(unknown)!r}, but {', '.join(names)}"


def _check_learnable(model: Any, table: TensorTable, pruning: Pruning) -> None:
    """Raise `TaskError` if nothing would be trained or pruned; warn of a schedule that no run ends with its target."""
    if not model.trainable_variables:
        raise TaskError(
            f"model {model.name!r} has nothing to train (no weights, or all its layers are frozen); save it with "
            'trainable layers, or set model.frozen = "train"'
        )
    schedule = pruning.schedule
    if schedule.target_sparsity > 0 and not table.prunable:
        raise TaskError(
            f"model {model.name!r} has no weights that can be pruned (kernels of layers that are not frozen); set "
            "target_sparsity and initial_sparsity to 0, or take another model"
        )
    if steps_to_reach_target(schedule) is None:
        _log.warning(
            "the schedule never reaches target_sparsity %g: its last update prunes %.2g; end minus begin must be a "
            "multiple of frequency",
            schedule.target_sparsity,
            final_sparsity(schedule, schedule.end_step),
        )


def _check_frozen(table: TensorTable, settings: ModelSettings) -> None:
    """Raise `TaskError` if frozen layers would lose what they learned elsewhere; else name them."""
    layers = sorted({spec.layer for spec in table.of(TensorClass.FROZEN)})
    if not layers:
        return
    if not settings.keeps_weights:
        raise TaskError(
            f'{settings.file}: layer {layers[0]!r} is frozen, and model.initial = "seed" would draw its weights anew; '
            'set model.initial = "file", or model.frozen = "train"'
        )
    shown = ", ".join(layers[:_LAYERS_SHOWN]) + (", ..." if len(layers) > _LAYERS_SHOWN else "")
    _log.warning(
        'frozen layers are neither trained nor pruned (%d: %s); model.frozen = "train" changes that', len(layers), shown
    )


def _initial_weights(
    model: Any, table: tuple[TensorSpec, ...], settings: ModelSettings
) -> tuple[SeededWeights | None, dict[str, Array] | None]:
    """A recipe, or else the weights themselves."""
    if not settings.keeps_weights:
        model = redrawn(model, settings.seed)
        drawn = recipe(model, settings.seed)
        if drawn is not None:
            return drawn, None
    return None, {spec.name: np.asarray(array) for spec, array in zip(table, model.get_weights(), strict=True)}


def _proven_graphs(model: Any, network: Network, task: Task) -> tuple[ProvenGraph, ...]:
    """The training graphs that could be proven, and a warning that says which could not, and why."""
    outcome = prove_graphs(model, network, task)
    for batch_size, memory_bytes in outcome.left_out.items():
        _log.warning(
            "task %r: batches of %d are left out: their graph takes %.0f MB, more than the %.0f of one that is proven",
            task.name,
            batch_size,
            memory_bytes / 1e6,
            MAX_GRAPH_BYTES / 1e6,
        )
    others = ", ".join(str(graph.batch_size) for graph in outcome.proven)
    instead = f"batches of {others} can be" if others else "use the keras trainer"
    first = next(iter(outcome.problems), None)
    for batch_size, problem in outcome.problems.items():
        _log.warning(
            "task %r: batches of %d cannot be trained without TensorFlow: %s; %s%s",
            task.name,
            batch_size,
            problem,
            instead,
            _changes_told(model, task, batch_size, problem) if batch_size == first else "",
        )
    return outcome.proven


def _changes_told(model: Any, task: Task, batch_size: int, problem: FedpruneError) -> str:
    """Which changes to the layer whose tensor could not be proven were tried, and work; nothing if it is none's."""
    tensor = problem.tensor if isinstance(problem, NotProven) else None
    variables = {spec.name: variable.ref() for spec, variable in zip(task.tensors, model.weights, strict=True)}
    owners = {variable.ref(): owner for owner, _, variable in variables_of(model)}
    layer = owners.get(variables.get(tensor or ""))
    if layer is None:
        return ""
    ways = ways_to_prove(model, layer, partial(_prove_changed, task=task, batch_size=batch_size))
    return f"; {label(layer)}{_tried(ways) or ': no change that was tried works'}"


def _prove_changed(model: Any, *, task: Task, batch_size: int) -> None:
    """Raise an error unless the model's training graph can be proven for batches of that size."""
    network, tensors = describe(model)
    graph = write_training_graph(network, TensorTable(tensors), task.objectives, batch_size)
    proof = Proof(model, tensors, task.objectives, Reference(model, task.objectives))
    proof.check(graph.blob)
