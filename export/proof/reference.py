"""The reference that a training graph is judged by: a batch in tf_keras in float64, and how sure its answer is.

How sure is measured by *rounding noise*: the same batch is computed again in float32, and in float64 while every
layer's output, and every gradient on its way back, is rounded to float32. No honest float32 program can be expected to
be much nearer than these, nor than a part of a rounding of the whole gradient. So a tensor whose gradient cancels, as
that of a beta before another batch normalisation does, needs no rule of its own: what moves it is what was cancelled.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.keras.augmentation import AUGMENTATION, does_nothing
from fedprune.keras.model import call_model, weighted_loss
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import LabelForm, Objective
from fedprune.model.tensors import Array, TensorSpec, Weights
from fedprune.runtime.self_check import Case, draw_case
from fedprune.runtime.training_graph import Step, TrainingGraph

GRADIENT_OF = "the gradient of "
"""What comes before a tensor's name where its gradient is meant."""
_ROUNDING = 2.0**-24
"""The largest relative error of a float32 that was rounded."""
_LEAST = _ROUNDING / 10
"""The noise of a gradient is at least this part of the norm of all gradients."""
_MOST_KEPT = 2**29
"""Bytes of the truths that are remembered: of a model with 25M parameters each takes 0.2 GB."""
_PIECE = 2**16
"""Numbers of a tensor whose norm is taken at once: they fit into a processor's cache."""
_TINY = 1e-20
"""Noise is at least so much: below, float32 is denormal, which kernels may take for zero."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a batch comes to, and how far rounding noise moved that: of the loss, and of each tensor the norm.

    Where it is not `finite`, tf_keras' own float32 overflows, as an exponential's may; then nobody can be asked.
    """

    step: Step
    loss_noise: float
    noise: dict[str, float]
    finite: bool = True

    @property
    def nbytes(self) -> int:
        """The memory that the step's tensors take."""
        return sum(array.nbytes for array in _tensors(self.step).values())

    def furthest(self, found: Step, weights: Weights) -> tuple[str, float]:
        """What `found` is furthest off in, and by how many times its noise: the loss, or a tensor. Statistics that are
        not returned stay those of `weights`. NaN counts as furthest."""
        ratios = {"the loss": _ratio(abs(found.loss - self.step.loss), self.loss_noise)}
        for name, gradient in self.step.gradients.items():
            ratios[f"{GRADIENT_OF}{name}"] = _ratio(distance(found.gradients[name], gradient), self.noise[name])
        for name, moved in self.step.statistics.items():
            error = distance(found.statistics.get(name, weights[name]), moved)
            ratios[name] = _ratio(error, self.noise[name])
        return max(ratios.items(), key=lambda item: (math.isnan(item[1]), item[1]))


class Reference:
    """A model in tf_keras, in float64, with its noise given."""

    def __init__(self, model: Any, objectives: Sequence[Objective], rows: Sequence[int] | None = None) -> None:
        """`objectives` are those of the model's outputs, `rows` where `model.weights` has the tensors of a case, if
        in another order."""
        self._wide = _Model(model, objectives, "float64", rows)
        self._narrow = _Model(model, objectives, "float32", rows)
        self._kept: dict[tuple[int, int, float], Truth] = {}

    def run(self, case: Case) -> Truth:
        """The truth of a case: loss, gradients, and what becomes of all tensors that are not trained."""
        step = self._wide.run(case)
        exact = _tensors(step)
        norms = {name: norm_of(array) for name, array in exact.items()}
        noise = {name: _ROUNDING * norm for name, norm in norms.items()}
        loss_noise = _ROUNDING * abs(step.loss)
        finite = True
        for run in (self._narrow.run, partial(self._wide.run, rounds=True)):
            other = run(case)
            loss_moved = abs(other.loss - step.loss)
            moved = {name: distance(array, exact[name]) for name, array in _tensors(other).items()}
            del other  # as large as the model, twice over
            loss_noise = max(loss_noise, loss_moved)
            noise = {name: max(noise[name], error) for name, error in moved.items()}
            finite = finite and all(map(math.isfinite, (loss_moved, *moved.values())))
        least = _LEAST * math.sqrt(sum(norms[name] ** 2 for name in step.gradients))
        noise |= {name: max(noise[name], least) for name in step.gradients}
        return Truth(step, loss_noise, noise, finite)

    def run_narrow(self, case: Case) -> Step:
        """A case in tf_keras' own float32."""
        return self._narrow.run(case)

    def run_drawn(
        self, graph: TrainingGraph, tensors: Sequence[TensorSpec], seed: int, examples: int, scale: float
    ) -> tuple[Case, Truth]:
        """The case that `draw_case` draws, and its truth, which graphs of all batch sizes share."""
        case, key = draw_case(graph, tensors, seed, examples, scale), (seed, examples, scale)
        truth = self._kept.pop(key, None) or self.run(case)
        self._kept[key] = truth
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return case, truth


class _Model:
    """A copy of a model in some precision. A run that `rounds` rounds each layer's output and gradient to float32."""

    def __init__(self, model: Any, objectives: Sequence[Objective], dtype: str, rows: Sequence[int] | None) -> None:
        self._dtype = dtype
        self._model = _copy(model, dtype)
        self._objectives = objectives
        self._loss = weighted_loss(objectives)
        self._noise: Iterator[Any] = iter(())
        trainable = {variable.ref() for variable in self._model.trainable_variables}
        places = range(len(self._model.weights)) if rows is None else rows
        self._variables = [self._model.weights[place] for place in places]
        self._trained = [variable.ref() in trainable for variable in self._variables]
        unbiased = _unbiased_variances(model) if dtype == "float64" else []
        self._unbiased = {self._model.weights[row].ref() for row in unbiased}
        self._rounding: Any = None
        for layer in _leaves(self._model):
            self._hook(layer)
        self._traced: Any = None

    def run(self, case: Case, *, rounds: bool = False) -> Step:
        count = len(case.x[0])
        weights = [
            tf.constant(array, variable.dtype)
            for array, variable in zip(case.weights.values(), self._variables, strict=True)
        ]
        arrays = (*case.x, *case.y, case.importance, *case.noise)
        batch = [tf.constant(array[:count], self._dtype) for array in arrays]
        if self._traced is None:
            signature = [
                tf.TensorSpec((), self._dtype),
                [tf.TensorSpec(array.shape, array.dtype) for array in weights],
                [tf.TensorSpec((None, *array.shape[1:]), self._dtype) for array in batch],
            ]
            self._traced = tf.function(self._differentiate, input_signature=signature, autograph=False)
        loss, gradients, others = self._traced(tf.constant(float(rounds), self._dtype), weights, batch)
        names = dict(zip(case.weights, self._trained, strict=True))
        return Step(
            loss=float(loss),
            gradients=_named((name for name, trained in names.items() if trained), gradients),
            statistics=_named((name for name, trained in names.items() if not trained), others),
        )

    def _differentiate(
        self, rounding: tf.Tensor, weights: list[tf.Tensor], batch: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """The loss, its gradients, and what becomes of the variables that are not trained."""
        inputs = len(self._model.inputs)
        x, (*y, importance) = batch[:inputs], batch[inputs : inputs + len(self._objectives) + 1]
        labels = [_labels(objective, targets) for objective, targets in zip(self._objectives, y, strict=True)]
        self._rounding = rounding
        self._noise = iter(batch[inputs + len(self._objectives) + 1 :])
        for variable, value in zip(self._variables, weights, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            outputs = call_model(self._model, x, training=True)
            loss = self._loss(labels, outputs, importance) + sum(self._model.losses)
        trained = [variable for variable, is_trained in self._rows() if is_trained]
        others = [variable.read_value() for variable, is_trained in self._rows() if not is_trained]
        # That of an embedding comes as rows of it.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, trained)]
        return loss, gradients, others

    def _rows(self) -> Iterator[tuple[Any, bool]]:
        """Each variable, and whether it is trained."""
        return zip(self._variables, self._trained, strict=True)

    def _hook(self, layer: Any) -> None:
        """Put what is wanted in the place of the layer's `call`, behind Keras' back."""
        own = layer.call
        if isinstance(layer, keras.layers.Dropout) and 0.0 < layer.rate < 1.0:
            own = self._dropout(layer.rate)
        elif isinstance(layer, keras.layers.GaussianDropout) and 0.0 < layer.rate < 1.0:
            own = self._gaussian_noise(math.sqrt(layer.rate / (1.0 - layer.rate)), relative=True)
        elif isinstance(layer, keras.layers.GaussianNoise) and layer.stddev:
            own = self._gaussian_noise(layer.stddev, relative=False)
        elif isinstance(layer, tuple(AUGMENTATION)):
            own = does_nothing
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.moving_variance.ref() in self._unbiased:
            own = _with_unbiased_variance(layer, own)
        elif isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation == "bilinear":
            own = _in_its_own_precision(own)
        elif isinstance(layer, keras.layers.Masking):
            layer.mask_value = float(np.float32(layer.mask_value))  # which float32 examples are compared with
        if self._dtype == "float64":
            own = self._rounded(own)
            if isinstance(layer, keras.layers.BatchNormalization):
                vars(layer)["_calculate_mean_and_var"] = self._rounded(layer._calculate_mean_and_var)
        if own is not layer.call:
            vars(layer)["call"] = own

    def _rounded(self, call: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        def rounded(*args: Any, **kwargs: Any) -> tf.Tensor:
            y = call(*args, **kwargs)
            z = tf.nest.map_structure(self._round, y)
            if hasattr(y, "_keras_logits"):  # what losses take instead of probabilities
                z._keras_logits = self._round(y._keras_logits)
            if hasattr(y, "_keras_mask"):  # of Masking, which makes it itself
                z._keras_mask = y._keras_mask
            return z

        return rounded

    def _round(self, y: tf.Tensor) -> tf.Tensor:
        """`y`, and its gradient; each the nearest float32 in a run that rounds. Shapes are whole numbers and stay."""
        if not y.dtype.is_floating:
            return y
        rounding = self._rounding

        def nearest(array: tf.Tensor) -> tf.Tensor:
            return array + rounding * (tf.cast(tf.cast(array, tf.float32), array.dtype) - array)

        return tf.custom_gradient(lambda y: (nearest(y), nearest))(y)

    def _dropout(self, rate: float) -> Callable[..., tf.Tensor]:
        def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:
            if training is False:  # within a base that is called so
                return x
            kept = tf.cast(next(self._noise) > tf.cast(rate, x.dtype), x.dtype)
            return x * kept / (1.0 - rate)

        return call

    def _gaussian_noise(self, deviation: float, *, relative: bool) -> Callable[..., tf.Tensor]:
        def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:
            if training is False:
                return x
            radius = tf.sqrt(-2.0 * tf.math.log(1.0 - next(self._noise)))
            noise = radius * tf.cos(2.0 * math.pi * next(self._noise)) * deviation
            return x + noise * (x if relative else 1.0)

        return call


def norm_of(array: NDArray[np.floating[Any]]) -> float:
    """The Euclidean norm of a tensor of any shape, in float64."""
    return distance(array, np.zeros(()))


def distance(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> float:
    """The Euclidean norm of the difference of two tensors of any one shape, in float64; `second` may be a number.

    It is taken piece by piece: of 25M parameters a copy in float64 takes 0.2 GB, and longer than the arithmetic.
    """
    firsts, seconds = first.ravel(), second.ravel()
    total = 0.0
    for start in range(0, firsts.size, _PIECE):
        part = slice(start, start + _PIECE)
        difference = np.subtract(firsts[part], seconds[part] if second.shape else seconds, dtype=np.float64)
        total += float(np.einsum("i,i->", difference, difference))  # BLAS would wait for threads
    return math.sqrt(total)


def _ratio(error: float, noise: float) -> float:
    return error / max(noise, _TINY) if error else 0.0


def _tensors(step: Step) -> dict[str, NDArray[np.floating[Any]]]:
    return {**step.gradients, **step.statistics}


def _named(names: Iterable[str], tensors: Sequence[tf.Tensor]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def _copy(model: Any, dtype: str) -> Any:
    return keras.models.model_from_json(model.to_json().replace('"float32"', json.dumps(dtype)))


def _leaves(model: Any) -> list[Any]:
    return [layer for layer in model.submodules if isinstance(layer, keras.layers.Layer) and not _is_model(layer)]


def _is_model(layer: Any) -> bool:
    return isinstance(layer, (keras.Model, keras.layers.InputLayer))


def _unbiased_variances(model: Any) -> list[int]:
    """The rows of moving variances that follow the unbiased one."""
    rows = {variable.ref(): row for row, variable in enumerate(model.weights)}
    return [
        rows[layer.moving_variance.ref()]
        for layer in model.submodules
        if isinstance(layer, keras.layers.BatchNormalization) and layer.fused and layer.trainable
    ]


def _in_its_own_precision(own: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A call that returns what it takes: TensorFlow's bilinear kernel makes float32 of float64."""
    return lambda x: tf.cast(own(x), x.dtype)


def _with_unbiased_variance(layer: Any, own: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A call that moves the variance as TensorFlow's fused kernel does, which float64 does not have: towards the
    unbiased variance of this call's numbers, n / (n - 1) times the other one, and n times for n = 1."""

    def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:
        stays = layer.momentum * layer.moving_variance.read_value()
        y = own(x, training=training)
        count = tf.cast(tf.size(x) // x.shape[-1], stays.dtype)
        moved = layer.moving_variance.read_value() - stays
        layer.moving_variance.assign(stays + moved * count / tf.maximum(count - 1.0, 1.0))
        return y

    return call


def _labels(objective: Objective, targets: tf.Tensor) -> tf.Tensor:
    """What Keras' loss takes for targets, which are one-hot even where that is class numbers."""
    return tf.argmax(targets, axis=-1) if objective.loss.rule.labels is LabelForm.CLASS_NUMBERS else targets
