"""From task.toml to a bundle: description, tensor table, initial weights, and what proves the graphs of devices.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.architecture import Form, form_of, variables_of
from export.describing.model import describe
from export.describing.parity import check_parity
from export.describing.refusal import LayerRefused, label
from export.initial import recipe, redrawn
from export.model_code import load_model
from export.models import cnn_108k
from export.proof.errors import NotProven
from export.proof.inference import verify_inference_graph
from export.proof.probes import make_self_check
from export.proof.proof import Proof
from export.proof.reference import Reference
from export.settings import ModelSettings, TaskSettings
from export.unpruned import unpruned
from export.ways_out import ways_to_describe, ways_to_prove
from fedprune.errors import FedpruneError, TaskError
from fedprune.graph.training import WrittenGraph, write_training_graph
from fedprune.model.losses import Loss
from fedprune.model.metrics import Metric, default_metrics, why_unfit
from fedprune.model.tensors import Array, TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Network
from fedprune.pruning.schedules import final_sparsity, steps_to_reach_target
from fedprune.runtime.self_check import ProvenGraph
from fedprune.task.bundle import Pruning, SeededWeights, Task, read_bundle, write_bundle

_log = logging.getLogger(__name__)

_IMAGE, _OUTPUTS = (28, 28, 1), 10
"""The form of a built-in model where task.toml does not say: Fashion-MNIST's."""
_BATCH_SIZES = (8, 16, 32, 64)
"""A training graph is proven for each, and for the task's own: a device takes what suits its memory and examples."""
_MOST_GRAPH_BYTES = 2**30
"""The values of a batch in a graph. Of the batch sizes that a task did not ask for, those that take more are left out:
the proof takes four times as much, and a device that chose one would need 4 GB."""
_LAYERS_SHOWN = 8
"""Frozen layers that are named; of more there is the number."""


def build_task(settings: TaskSettings, base: Path) -> bytes:
    """The bundle's bytes: equal settings and model files give equal bytes. Paths are relative to `base`.

    Raises `TaskError` if the model cannot be loaded or described, has no output that suits the loss, does not fit the
    settings, or is not what its description makes. A model whose training graphs cannot be proven makes a bundle for
    the keras trainer alone, and a warning that says why.
    """
    model = _load(settings.model, base)
    pruning = settings.pruning.in_steps(settings.training.steps_per_round)
    network, table = _described(model, settings.training.loss)
    form = form_of(network, settings.training.loss)
    _check_form(form, settings.model)
    metrics = _metrics(settings, form)
    _check_learnable(model, TensorTable(table), pruning)
    _check_frozen(TensorTable(table), settings.model)
    for line in unpruned(network, TensorTable(table)):
        _log.warning("kernels that stay dense: %s", line)
    initial, weights = _initial_weights(model, table, settings.model)
    task = Task(
        name=settings.name,
        input_shape=form.input_shape,
        output_shape=form.output_shape,
        from_logits=form.from_logits,
        tensors=table,
        training=settings.training,
        pruning=pruning,
        members={},
        initial=initial,
        metrics=metrics,
    )
    check_parity(model, network, TensorTable(table))
    verify_inference_graph(network, table, model)
    blob = write_bundle(task, network=network, weights=weights, graphs=_proven_graphs(model, network, task))
    read_bundle(blob).initial_weights()  # as agents and the gateway will
    return blob


def _load(settings: ModelSettings, base: Path) -> Any:
    if settings.file is not None:
        model = load_model(settings.file, base)
        if settings.frozen == "train":
            model.trainable = True
        return model
    return cnn_108k(settings.input_shape or _IMAGE, settings.outputs or _OUTPUTS)


def _described(model: Any, loss: Loss) -> tuple[Network, tuple[TensorSpec, ...]]:
    """See `describe`. A refusal also tells which changes to the layer were tried and work."""
    try:
        return describe(model)
    except LayerRefused as refusal:
        ways = ways_to_describe(model, refusal, lambda changed: form_of(describe(changed)[0], loss))
        raise TaskError(f"{refusal}{_tried(ways)}") from refusal


def _tried(ways: Sequence[str]) -> str:
    return f"; what was tried and works: {', or '.join(ways)}" if ways else ""


def _check_form(form: Form, settings: ModelSettings) -> None:
    """Check that a model file has the form that task.toml says."""
    if settings.input_shape not in (None, form.input_shape):
        raise TaskError(f"{settings.file}: takes {list(form.input_shape)}; correct model.input_shape in task.toml")
    if settings.outputs not in (None, form.output_shape[-1]):
        raise TaskError(f"{settings.file}: has {form.output_shape[-1]} outputs; correct model.outputs in task.toml")


def _metrics(settings: TaskSettings, form: Form) -> tuple[Metric, ...]:
    """The metrics of task.toml, or those that are usual. Raises `TaskError` for one that the model cannot have."""
    loss, named = settings.training.loss, settings.evaluation.metrics
    metrics = default_metrics(loss) if named is None else named
    if why := why_unfit(metrics, loss, form.output_shape[-1]):
        raise TaskError(f"{why}; correct evaluation.metrics in task.toml")
    return metrics


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
    reference = Reference(model, task.objective)
    proof = Proof(model, task.tensors, task.objective, reference)
    own = task.training.batch_size
    proven: list[ProvenGraph] = []
    problems: dict[int, FedpruneError] = {}
    for batch_size in sorted({own, *_BATCH_SIZES}, key=lambda size: (size != own, size)):
        briefly = bool(proven)
        try:
            graph = write_training_graph(network, task.table, task.training.loss, batch_size)
            if batch_size != own and _is_too_large(graph, batch_size, task):
                continue
            proof.check(graph.blob, briefly=briefly)
            check = make_self_check(reference, task.tensors, graph.blob, briefly=briefly)
        except FedpruneError as error:
            problems[batch_size] = error
        else:
            digest = hashlib.sha256(graph.blob).hexdigest()
            proven.append(ProvenGraph(batch_size, digest, graph.memory_bytes, check))
    others = ", ".join(str(graph.batch_size) for graph in proven)
    instead = f"batches of {others} can be" if others else "use the keras trainer"
    first = next(iter(problems), None)
    for batch_size, problem in problems.items():
        _log.warning(
            "task %r: batches of %d cannot be trained without TensorFlow: %s; %s%s",
            task.name,
            batch_size,
            problem,
            instead,
            _changes_told(model, task, batch_size, problem) if batch_size == first else "",
        )
    return tuple(sorted(proven, key=lambda graph: graph.batch_size))


def _is_too_large(graph: WrittenGraph, batch_size: int, task: Task) -> bool:
    """True, and a warning, if a batch size that the task did not ask for is to be left out."""
    if graph.memory_bytes <= _MOST_GRAPH_BYTES:
        return False
    _log.warning(
        "task %r: batches of %d are left out: their graph takes %.0f MB, more than the %.0f that one is proven with",
        task.name,
        batch_size,
        graph.memory_bytes / 1e6,
        _MOST_GRAPH_BYTES / 1e6,
    )
    return True


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
    graph = write_training_graph(network, TensorTable(tensors), task.training.loss, batch_size)
    proof = Proof(model, tensors, task.objective, Reference(model, task.objective))
    proof.check(graph.blob)
