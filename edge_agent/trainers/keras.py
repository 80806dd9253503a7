"""The trainer that runs tf_keras and TF-MOT on the device. Importing this module imports TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.trainers import Slots, Trained, TrainingStopped, Work
from edge_agent.trainers.batches import Augmenter, batches_of
from edge_agent.trainers.divergence import check_finite
from edge_agent.trainers.keras_powerpropagation import Theta
from edge_agent.trainers.pruned_model import PrunedModel
from edge_agent.trainers.slimming import LOSS, check_alike
from edge_agent.trainers.slots import (
    check_form,
    form_of,
    optimizer_slots,
    optimizer_variables,
    residue_slots,
    with_residue,
)
from fedprune.data import Dataset, Examples, importance_of
from fedprune.errors import TaskError, TrainingError
from fedprune.keras.model import call_model, weighted_loss
from fedprune.keras.stack import keras, tf
from fedprune.model.forms import OutputForm
from fedprune.model.losses import LabelForm, Labels
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs, Mask, Weights
from fedprune.pruning.masks import apply_mask, full_mask
from fedprune.pruning.regrowth import votes_for
from fedprune.runtime.self_check import draw_classes, draw_inputs, draw_weights
from fedprune.task.bundle import Bundle
from fedprune.task.forms import Form
from fedprune.task.training import Adam, Sgd

_DRAWN = 8
"""Examples of a batch on which a smaller network is compared with the whole one."""
_SLICE_S = 0.5
"""Seconds of steps that are run at once. Between two slices the trainer asks whether it should stop."""

_SLICE_BYTES = 2**26
"""Bytes of the examples of steps that are run at once, if a single one has not more."""


class KerasTrainer:
    """A `Trainer`. The model is built, wrapped and traced once; a round then costs little beyond its steps."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Raises `TaskError` if the bundle's model cannot be built or trained, or does not fit its tensor table."""
        _use_threads(threads)
        self._bundle, self._threads = bundle, threads
        self._task = bundle.task
        self._network = bundle.network
        self._inputs = [
            tf.TensorSpec((None, *form.shape), tf.as_dtype(dtype))
            for form, dtype in zip(bundle.network.input_forms, bundle.network.input_dtypes, strict=True)
        ]
        self._outputs = bundle.task.output_forms
        pruning = bundle.task.pruning
        self._schedule = pruning.mask.rules.device_schedule(pruning.schedule)
        self._model = PrunedModel(bundle.network, bundle.task.table, self._schedule)
        self._shifts = {
            number: tf.Variable(tf.zeros(form.shape[-1]), trainable=False)
            for number, form in enumerate(self._outputs)
            if form.objective.label_smoothing
        }
        self._loss = weighted_loss(bundle.task.objectives, self._shifts)
        self._mu = bundle.task.training.proximal_mu
        trained = self._model.trained if self._mu else {}
        self._theta = Theta(bundle.task, self._model.trained)
        self._global = {name: tf.Variable(variable, trainable=False) for name, variable in trained.items()}
        try:
            self._optimizer = _make_optimizer(bundle.task.training.optimizer)
            self._optimizer.build(self._theta.moved)
            self._run = self._trace()
        except Exception as error:  # whatever Keras raises on a model or setting that makes no sense
            raise TaskError(f"task {bundle.task.name!r} cannot be trained: {_reason(error)}") from error
        self._slots_form = form_of(self._slots(self._model.weights(), self._model.mask()))

    def slimmed(self, form: Form) -> KerasTrainer:
        """See `Slimmable`."""
        other = KerasTrainer(self._bundle.in_form(form), threads=self._threads)

        def trial(draw: int) -> tuple[dict[str, Array], dict[str, Array]]:
            keyed = Keyed(draw, "slimmed")
            weights = form.cut_all(draw_weights(self._task.tensors, keyed))
            batch = self._draw_batch(keyed)
            masked = self._differentiate(dict(form.expanded(weights)), *batch)
            return form.cut_all(masked), other._differentiate(weights, *batch)

        try:
            check_alike(trial)
        except tf.errors.OpError as error:
            raise TaskError(f"task {self._task.name!r}: TensorFlow failed: {_reason(error)}") from error
        return other

    def train(self, work: Work, data: Examples) -> Trained:
        """Train a round's full batches, drawn from `work.keyed`. That `data` fit the task is the caller's care.

        Random layers are seeded from `work.keyed` too, so that equal work gives equal results on one machine.
        Raises `TrainingError` if the loss or a weight is not finite, if kept slots do not fit, or TensorFlow fails;
        `TrainingStopped` if it is not wanted any more.
        """
        started = time.perf_counter()
        training = self._task.training
        steps = training.local_steps(len(data), training.batch_size)
        batches = batches_of(work.keyed, data, steps, training.batch_size)
        self._augmenter = Augmenter(self._network, work.keyed)
        try:
            self._load(work)
            losses = self._run_until_stopped(data, batches, steps, work.should_stop)
        except tf.errors.OpError as error:
            raise TrainingError(f"task {self._task.name!r}: TensorFlow failed: {_reason(error)}") from error
        weights, mask = self._model.weights(), self._model.mask()
        check_finite(losses, weights)
        return Trained(
            weights=apply_mask(weights, mask),
            mask=mask,
            slots=self._slots(weights, mask),
            loss=float(losses.mean(dtype=np.float64)),
            seconds=time.perf_counter() - started,
            steps=steps,
            votes=votes_for(weights, mask, work.most_votes),
        )

    def answers(self, weights: Weights, inputs: Sequence[Inputs]) -> tuple[Array, ...]:
        """TensorFlow's own. The next round starts from other weights."""
        kept = {name: np.ones(mask.shape, np.bool_) for name, mask in self._model.mask().items()}
        self._model.load(weights, kept, 0)
        outputs = call_model(self._model.keras, [tf.constant(x) for x in inputs], training=False)
        return tuple(output.numpy() for output in outputs)

    def _draw_batch(self, keyed: Keyed) -> tuple[list[Inputs], list[Labels]]:
        """Random examples and labels."""
        told = zip(self._network.inputs, self._network.vocabularies, self._network.paddings, strict=True)
        x = [draw_inputs(keyed, (_DRAWN, *shape), known, padding=padding) for shape, known, padding in told]
        y: list[Labels] = []
        for form in self._outputs:
            rows = draw_classes(keyed, (_DRAWN, *form.shape))
            is_numbers = form.objective.loss.rule.labels is LabelForm.CLASS_NUMBERS
            y.append(rows.argmax(axis=-1) if is_numbers else rows)
        return x, y

    def _differentiate(self, weights: Weights, x: Sequence[Inputs], y: Sequence[Labels]) -> dict[str, Array]:
        """The gradients of all trained tensors, by name, and the loss. Random layers draw nothing."""
        model = self._model
        model.load(weights, full_mask(self._task.table), 0)
        importance = tf.ones((len(x[0]), len(self._outputs)))
        with tf.GradientTape() as tape:
            outputs = call_model(model.keras, [tf.constant(each) for each in x], training=not model.random_layers)
            loss = self._loss([tf.constant(each) for each in y], outputs, importance) + sum(model.keras.losses)
        gradients = tape.gradient(loss, model.trained)
        found = {name: tf.convert_to_tensor(gradient).numpy() for name, gradient in gradients.items()}
        return found | {LOSS: loss.numpy().reshape(1)}

    def _run_until_stopped(
        self, data: Examples, batches: Iterator[NDArray[np.int64]], steps: int, should_stop: Callable[[], bool]
    ) -> NDArray[np.float32]:
        """All steps, in slices that grow until one takes long enough: Python between each two would cost as much as
        they do. Each slice takes its own examples out of `data`, which may be on a disk."""
        losses: list[NDArray[np.float32]] = []
        done, size = 0, 1
        while done < steps:
            if should_stop():
                raise TrainingStopped(f"task {self._task.name!r}: stopped after {done} steps")
            began = time.perf_counter()
            drawn = np.stack(list(islice(batches, min(size, steps - done))))
            taken = data.take(drawn.reshape(-1))
            places = np.arange(drawn.size).reshape(drawn.shape)
            losses.append(self._run(self._examples(taken), tf.constant(places), tf.constant(done)).numpy())
            done += len(drawn)
            if time.perf_counter() - began < _SLICE_S / 2 and _bytes_of(taken) <= _SLICE_BYTES / 2:
                size *= 2
        return np.concatenate(losses)

    def _examples(self, taken: Dataset) -> list[Any]:
        """What `_steps` takes."""
        importance = importance_of(taken, self._outputs)
        if importance is None:
            importance = np.ones((len(taken), len(self._outputs)), np.float32)
        return [tf.constant(array) for array in (*taken.inputs.values(), *taken.labels.values(), importance)]

    def _trace(self) -> Any:
        """A round's steps as one TensorFlow function, ready to run: a zero-step round is run through it."""
        specs = [
            *self._inputs,
            *map(_labels_spec, self._outputs),
            tf.TensorSpec((None, len(self._outputs)), tf.float32),
        ]
        batch_size = self._task.training.batch_size
        signature = [specs, tf.TensorSpec((None, batch_size), tf.int64), tf.TensorSpec((), tf.int32)]
        run = tf.function(self._steps, input_signature=signature)
        examples = [tf.zeros((1, *spec.shape[1:]), spec.dtype) for spec in specs]
        run(examples, tf.zeros((0, batch_size), tf.int64), tf.constant(0))
        return run

    def _steps(self, examples: Sequence[tf.Tensor], batches: tf.Tensor, done: tf.Tensor) -> tf.Tensor:
        """One optimizer step for each row of `batches`, after `done` others of the round; the steps' losses, float32
        `[steps]`."""
        steps = tf.shape(batches)[0]
        losses = tf.TensorArray(tf.float32, steps)
        for step in tf.range(steps):  # a loop inside the graph: three times the speed of `fit` on small models
            x, *others = [tf.gather(array, batches[step]) for array in examples]
            losses = losses.write(step, self._step([self._augmented(x, done + step), *others]))
        return losses.stack()

    def _augmented(self, x: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The examples of a step, augmented by the code, and with the numbers, that all trainers have."""
        if not self._network.augmentation:
            return x
        return tf.ensure_shape(tf.numpy_function(self._augment, [x, step], x.dtype), x.shape)

    def _augment(self, x: Inputs, step: NDArray[np.int32]) -> Inputs:
        return self._augmenter.augmented(x, int(step))

    def _step(self, batch: Sequence[tf.Tensor]) -> tf.Tensor:
        """The loss that is returned is without the proximal term."""
        model = self._model.keras
        *arrays, importance = batch
        x, y = arrays[: len(self._inputs)], arrays[len(self._inputs) :]
        with tf.GradientTape() as tape:
            loss = self._loss(y, call_model(model, x, training=True), importance) + sum(model.losses)
            minimised = loss + self._proximal_term()
        self._theta.move(self._optimizer, tape.gradient(minimised, list(self._model.trained.values())))
        return loss

    def _proximal_term(self) -> Any:
        """FedProx's mu/2 ||w - w_t||^2 over the weights that are kept, w_t being the global model: see `Training`."""
        trained, masks = self._model.trained, self._model.masks
        return self._mu * sum(
            tf.nn.l2_loss(trained[name] - start * masks.get(name, 1.0)) for name, start in self._global.items()
        )

    def _load(self, work: Work) -> None:
        weights = work.weights
        self._optimizer.learning_rate.assign(self._task.training.learning_rate_at(work.schedule_step))
        if work.slots is None:
            for variable in self._optimizer.variables:
                variable.assign(tf.zeros_like(variable))
        else:
            weights = self._restore(work.slots, weights, work.mask)
        for name, variable in self._global.items():
            variable.assign(work.weights[name])
        for number, variable in self._shifts.items():
            spread = work.spread.get(number)
            shift = None if spread is None else self._outputs[number].objective.shift_of(spread)
            variable.assign(tf.zeros_like(variable) if shift is None else shift)
        self._model.load(weights, work.mask, work.schedule_step)
        self._theta.load()
        self._model.seed(work.keyed.integers(self._model.random_layers))

    def _restore(self, slots: Slots, weights: Weights, mask: Mask) -> Weights:
        """Set the optimizer's variables; return `weights`, with the residue where `mask` prunes."""
        check_form(slots, self._slots_form, self._task.name)
        for variable, kept in zip(self._optimizer.variables, optimizer_variables(slots), strict=True):
            variable.assign(kept)
        return with_residue(weights, mask, slots)

    def _slots(self, weights: Weights, mask: Mask) -> dict[str, NDArray[np.generic]]:
        """The state with which the next round can go on exactly."""
        slots = optimizer_slots(variable.numpy() for variable in self._optimizer.variables)
        return slots if self._schedule is None else slots | residue_slots(weights, mask)


def _bytes_of(taken: Dataset) -> int:
    return sum(array.nbytes for array in (*taken.inputs.values(), *taken.labels.values()))


def _labels_spec(form: OutputForm) -> tf.TensorSpec:
    """Labels as `fit_to` makes them."""
    if form.objective.loss.rule.labels is LabelForm.CLASS_NUMBERS:
        return tf.TensorSpec((None, *form.shape[:-1]), tf.int64)
    return tf.TensorSpec((None, *form.shape), tf.float32)


def _use_threads(threads: int) -> None:
    # TensorFlow fixes its thread pools when it first runs; a process in which it already ran keeps those.
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def _make_optimizer(settings: Sgd | Adam) -> Any:
    if isinstance(settings, Sgd):
        return keras.optimizers.SGD(settings.learning_rate, settings.momentum, settings.nesterov)
    return keras.optimizers.Adam(settings.learning_rate, settings.beta_1, settings.beta_2, settings.epsilon)


def _reason(error: Exception) -> str:
    """The line of a TensorFlow error that says what is wrong: the last, below the traces of the graph."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("[[")), type(error).__name__)
