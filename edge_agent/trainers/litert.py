"""The trainer without TensorFlow: a training graph on LiteRT; optimizer, masks and schedule in numpy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from edge_agent.trainers import Slots, Trained, TrainingStopped, Work
from edge_agent.trainers.activations import head_of, split
from edge_agent.trainers.batches import Augmenter, batches_of
from edge_agent.trainers.device_graph import prepare_device_graph
from edge_agent.trainers.divergence import check_finite
from edge_agent.trainers.optimizers import Optimizer, make_optimizer
from edge_agent.trainers.powerpropagation import Powerpropagation
from edge_agent.trainers.slimmed_graph import prepare_slimmed_graph
from edge_agent.trainers.slots import (
    check_form,
    form_of,
    optimizer_slots,
    optimizer_variables,
    residue_slots,
    with_residue,
)
from fedprune.data import Dataset, Examples, importance_of
from fedprune.errors import ExportError, TrainingError
from fedprune.graph.inference import write_inference_graph
from fedprune.model.tensors import Array, Inputs, Mask, TensorClass, Weights
from fedprune.pruning.masks import full_mask, score_mask, zero_pruned
from fedprune.pruning.regrowth import votes_for
from fedprune.runtime.answers import answers_of
from fedprune.runtime.self_check import KERAS_INSTEAD, RuntimeUnfit
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.disk import Disk
from fedprune.task.bundle import Bundle
from fedprune.task.forms import Form


class LiteRTTrainer:
    """A `Trainer` that learns what the keras trainer learns, in an eighth of its memory.

    A step does what TF-MOT's wrapper and a Keras optimizer do: update the mask if it is due, zero what it prunes,
    differentiate, and move *all* weights: pruned ones drift until the next step zeroes them again. Of a network with a
    frozen base it trains the head alone, where activations can be kept: see `activations`.
    """

    def __init__(self, bundle: Bundle, *, examples: int, threads: int, disk: Disk | None = None) -> None:
        """The graph is written, and the runtime checked, unless `disk` remembers them: see `device_graph`.

        Raises `TaskError` if the task has no training graph; `RuntimeUnfit` if the runtime here cannot run it, or not
        as TensorFlow would; `StorageError` if the disk refuses.
        """
        self._bundle, self._examples, self._threads, self._disk = bundle, examples, threads, disk
        try:
            self._trained, self._activations = split(bundle, examples, threads)
            self._load_graph = prepare_device_graph(self._trained, examples, disk, threads=threads)
        except ExportError as error:
            raise RuntimeUnfit(f"task {bundle.task.name!r}: {error}; {KERAS_INSTEAD}") from error
        task = bundle.task
        self._outputs = task.output_forms
        self._schedule = task.pruning.mask.rules.device_schedule(task.pruning.schedule)

    def slimmed(self, form: Form) -> LiteRTTrainer:
        """See `Slimmable`. The base of a network, whose activations are kept, loses no units."""
        other = copy(self)
        other._bundle = self._bundle.in_form(form)
        other._trained = other._bundle if self._activations is None else head_of(other._bundle)
        other._load_graph = prepare_slimmed_graph(
            self._trained,
            other._trained,
            form,
            self._load_graph,
            self._examples,
            self._disk,
            threads=self._threads,
        )
        return other

    def train(self, work: Work, data: Examples) -> Trained:
        """Train a round's full batches, drawn from `work.keyed`. That `data` fit the task is the caller's care.

        What random layers draw comes from `work.keyed` too, so that equal work gives equal results on one machine.
        Raises `TrainingError` if the loss or a weight is not finite, if kept slots do not fit, or LiteRT fails;
        `TrainingStopped` if it is not wanted any more.
        """
        started = time.perf_counter()
        training = self._trained.task.training
        if self._activations is not None:
            data = self._activations.of(data, work.weights, work.should_stop)
        try:
            graph = self._load_graph()
        except ExportError as error:
            raise TrainingError(f"task {self._trained.task.name!r}: {error}") from error
        steps = training.local_steps(len(data), graph.batch_size)
        batches = batches_of(work.keyed, data, steps, graph.batch_size)
        augmenter = Augmenter(self._trained.network, work.keyed)
        optimizer = self._start(graph, work)
        mask = work.mask
        losses = np.empty(steps, np.float32)
        with np.errstate(all="ignore"):  # what diverges is found in the end
            for index, batch in enumerate(batches):
                if work.should_stop():
                    raise TrainingStopped(f"task {self._trained.task.name!r}: stopped after {index} steps")
                mask = self._prune(graph, work.schedule_step + index + 1, mask)
                losses[index] = self._differentiate(graph, augmenter.take(data, batch, index), work)
                self._move(graph, optimizer, mask, work.weights)
        weights = graph.held().weights
        check_finite(losses, weights)
        slots = self._slots(optimizer, weights, mask) if training.optimizer_state == "keep" else {}
        del optimizer  # a device has no room for its state beside another copy of the weights
        votes = votes_for(weights, mask, work.most_votes)
        zero_pruned(weights, mask)
        return Trained(
            # The graph's own memory goes with it; it has nothing of a base whose activations are kept.
            weights={name: weights.get(name, array).copy() for name, array in work.weights.items()},
            mask=mask,
            slots=slots,
            loss=float(losses.mean(dtype=np.float64)),
            seconds=time.perf_counter() - started,
            steps=steps,
            votes=votes,
        )

    def answers(self, weights: Weights, inputs: Sequence[Inputs]) -> tuple[Array, ...]:
        """By the rules that train, whose gradients were proven."""
        return answers_of(write_inference_graph(self._bundle.network, weights, len(inputs[0]), as_trained=True), inputs)

    def _start(self, graph: TrainingGraph, work: Work) -> Optimizer:
        """Set the weights to start from, and return the optimizer in its state."""
        weights = work.weights
        shapes = {name: weights[name].shape for name in graph.trained}
        training = self._trained.task.training
        optimizer = make_optimizer(training.optimizer, shapes, training.learning_rate_at(work.schedule_step))
        if training.powerpropagation > 1.0:
            kernels = [spec.name for spec in self._trained.task.table.of(TensorClass.PRUNABLE)]
            optimizer = Powerpropagation(optimizer, kernels, training.powerpropagation)
        if work.slots is not None:
            check_form(work.slots, form_of(self._slots(optimizer, weights, work.mask)), self._trained.task.name)
            optimizer.load(optimizer_variables(work.slots))
            weights = with_residue(weights, work.mask, work.slots)
        graph.hold(weights)
        return optimizer

    def _prune(self, graph: TrainingGraph, step: int, mask: Mask) -> Mask:
        """Zero what the mask prunes that `step`, counted from 1, trains with, and return it. As with TF-MOT, pruned
        weights that have drifted off zero compete with the others for a place."""
        weights = graph.held().weights
        if self._schedule is not None and self._schedule.is_due(step):
            pruning, table = self._trained.task.pruning, self._trained.task.table
            mask = score_mask(weights, table, self._schedule.sparsity_at(step), pruning.allocation, full_mask(table))
        for name, kept in mask.items():
            weights[name] *= kept
        return mask

    def _move(self, graph: TrainingGraph, optimizer: Optimizer, mask: Mask, start: Weights) -> None:
        """Move the weights by the gradients that the graph holds."""
        held = graph.held()
        self._add_proximal(held.gradients, held.weights, mask, start)
        optimizer.step(held.weights, held.gradients)
        for name, moved in held.statistics.items():
            held.weights[name][...] = moved

    def _check_labels(self, batch: Dataset) -> None:
        """Raise `TrainingError` for classes that there are not: a one-hot row of such would be all zeros."""
        for form in self._outputs:
            labels = batch.labels[form.array]
            if labels.dtype == np.int64 and (largest := int(labels.max())) >= form.shape[-1]:
                raise TrainingError(f"task {self._trained.task.name!r}: label {largest} is not one of its classes")

    def _differentiate(self, graph: TrainingGraph, batch: Dataset, work: Work) -> float:
        """The batch's loss, without the proximal term."""
        self._check_labels(batch)
        targets = self._targets(batch, work.spread)
        importance = importance_of(batch, self._outputs)
        noise = [work.keyed.uniform(int(np.prod(shape)), 0.0, 1.0).reshape(shape) for shape in graph.noise_shapes]
        try:
            return graph.step(list(batch.inputs.values()), targets, noise, importance)
        except ExportError as error:
            raise TrainingError(f"task {self._trained.task.name!r}: {error}") from error

    def _targets(self, batch: Dataset, spread: Mapping[int, Array]) -> list[Array]:
        """For each output what the graph is still to smooth."""
        targets = []
        for number, form in enumerate(self._outputs):
            rows = form.objective.targets(batch.labels[form.array], form.shape[-1])
            smoothed = form.objective.label_smoothing and number in spread
            targets.append(rows + form.objective.shift_of(spread[number]) if smoothed else rows)
        return targets

    def _add_proximal(self, gradients: dict[str, Array], weights: Weights, mask: Mask, start: Weights) -> None:
        """The gradient mu (w - w_t) of FedProx's term over the weights that are kept; pruned ones are zero already."""
        if mu := np.float32(self._trained.task.training.proximal_mu):
            for name, gradient in gradients.items():
                gradients[name] = gradient + mu * (weights[name] - start[name] * mask.get(name, np.True_))

    def _slots(self, optimizer: Optimizer, weights: Weights, mask: Mask) -> Slots:
        """The state with which the next round can go on exactly."""
        slots: dict[str, NDArray[np.generic]] = optimizer_slots(optimizer.variables())
        return slots if self._schedule is None else slots | residue_slots(weights, mask)
