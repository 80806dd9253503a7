"""The reference that a training graph is judged by: a batch in tf_keras in float64, and how sure its answer is.

How sure is measured by *rounding noise*: the same batch is computed again in float32, and in float64 while every
layer's output, and every gradient on its way back, is off by a rounding error of float32. No honest float32 program can
be expected to be much nearer than these. So a tensor whose gradient cancels, as that of a beta before another batch
normalisation does, needs no rule of its own: what moves it is what was cancelled.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.keras.model import keras_loss
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import LabelForm, Objective
from fedprune.model.tensors import Weights
from fedprune.runtime.self_check import Case
from fedprune.runtime.training_graph import Step

_ROUNDING = 2.0**-24
"""The largest relative error of a float32 that was rounded."""
_TINY = 1e-20
"""Noise is at least so much: below, float32 is denormal, which kernels may take for zero."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a batch comes to, and how far rounding noise moved that: of the loss, and of each tensor the norm."""

    step: Step
    loss_noise: float
    noise: dict[str, float]

    def furthest(self, found: Step, weights: Weights) -> tuple[str, float]:
        """What `found` is furthest off in, and by how many times its noise: the loss, or a tensor. Statistics that are
        not returned stay those of `weights`. NaN counts as furthest."""
        ratios = {"the loss": _ratio(abs(found.loss - self.step.loss), self.loss_noise)}
        for name, gradient in self.step.gradients.items():
            ratios[f"the gradient of {name}"] = _ratio(norm_of(found.gradients[name] - gradient), self.noise[name])
        for name, moved in self.step.statistics.items():
            error = norm_of(found.statistics.get(name, weights[name]) - moved)
            ratios[name] = _ratio(error, self.noise[name])
        return max(ratios.items(), key=lambda item: (math.isnan(item[1]), item[1]))


class Reference:
    """A model in tf_keras, in float64, with its dropout's noise given."""

    def __init__(self, model: Any, objective: Objective) -> None:
        self._exact = _Model(model, objective, "float64", rounds=False)
        self._noisy = (
            _Model(model, objective, "float32", rounds=False),
            _Model(model, objective, "float64", rounds=True),
        )

    def run(self, case: Case) -> Truth:
        """The truth of a case: loss, gradients, and what becomes of all tensors that are not trained."""
        step = self._exact.run(case)
        others = [noisy.run(case) for noisy in self._noisy]
        noise = {
            name: max(_ROUNDING * norm_of(array), *(norm_of(_tensors(other)[name] - array) for other in others))
            for name, array in _tensors(step).items()
        }
        loss_noise = max(_ROUNDING * abs(step.loss), *(abs(other.loss - step.loss) for other in others))
        return Truth(step, loss_noise, noise)


class _Model:
    """A copy of a model in some precision. If it `rounds`, each layer's output and gradient is a little off."""

    def __init__(self, model: Any, objective: Objective, dtype: str, *, rounds: bool) -> None:
        self._dtype = dtype
        self._model = _copy(model, dtype)
        self._loss = _loss(objective)
        self._noise: Iterator[Any] = iter(())
        self._counts: dict[str, list[int]] = {}
        trainable = {variable.ref() for variable in self._model.trainable_variables}
        self._trained = [variable.ref() in trainable for variable in self._model.weights]
        self._unbiased = _unbiased_variances(model) if dtype == "float64" else {}
        for layer in _leaves(self._model):
            self._hook(layer, rounds=rounds)

    def run(self, case: Case) -> Step:
        before = list(case.weights.values())
        self._model.set_weights(before)
        self._counts.clear()
        count = len(case.x)
        x, y, *noise = (
            tf.constant(array, self._dtype) for array in (case.x, case.y, *(noise[:count] for noise in case.noise))
        )
        self._noise = iter(noise)
        variables = [variable for variable, trained in zip(self._model.weights, self._trained, strict=True) if trained]
        with tf.GradientTape() as tape:
            loss = self._loss(y, self._model(x, training=True)) + sum(self._model.losses)
        gradients = tape.gradient(loss, variables)
        names = list(case.weights)
        after = dict(zip(names, self._model.get_weights(), strict=True))
        trained = [name for name, is_trained in zip(names, self._trained, strict=True) if is_trained]
        statistics = {name: after[name] for name in names if name not in trained}
        for row, (layer, momentum) in self._unbiased.items():
            statistics[names[row]] = self._unbias(before[row], after[names[row]], self._counts.get(layer, []), momentum)
        return Step(
            loss=float(loss),
            gradients={name: gradient.numpy() for name, gradient in zip(trained, gradients, strict=True)},
            statistics=statistics,
        )

    def _hook(self, layer: Any, *, rounds: bool) -> None:
        """Put what is wanted in the place of the layer's `call`, behind Keras' back."""
        own = layer.call
        if isinstance(layer, keras.layers.Dropout) and 0.0 < layer.rate < 1.0:
            own = self._dropout(layer.rate)
        elif isinstance(layer, keras.layers.BatchNormalization):
            own = self._counted(layer.name, own)
        if rounds:
            own = _rounded(own)
            if isinstance(layer, keras.layers.BatchNormalization):
                vars(layer)["_calculate_mean_and_var"] = _rounded(layer._calculate_mean_and_var)
        if own is not layer.call:
            vars(layer)["call"] = own

    def _dropout(self, rate: float) -> Callable[..., tf.Tensor]:
        def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:  # noqa: ARG001 - always in training here
            kept = tf.cast(next(self._noise) > tf.cast(rate, x.dtype), x.dtype)
            return x * kept / (1.0 - rate)

        return call

    def _counted(self, name: str, own: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:
            self._counts.setdefault(name, []).append(int(np.prod(x.shape[:-1])))
            return own(x, training=training)

        return call

    def _unbias(
        self, before: NDArray[Any], after: NDArray[Any], counts: list[int], momentum: float
    ) -> NDArray[np.floating[Any]]:
        """A moving variance as TensorFlow's fused kernel moves it, which float64 does not have: towards the batch's
        unbiased variance, n / (n - 1) times the other one, and n times for n = 1."""
        stays = before.astype(np.float64) * momentum ** len(counts)
        factor = counts[0] / max(counts[0] - 1, 1) if counts else 1.0
        unbiased: NDArray[np.floating[Any]] = stays + (after - stays) * factor
        return unbiased


def norm_of(array: NDArray[np.floating[Any]]) -> float:
    """The Euclidean norm of a tensor of any shape."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))


def _ratio(error: float, noise: float) -> float:
    return error / max(noise, _TINY) if error else 0.0


def _tensors(step: Step) -> dict[str, NDArray[np.floating[Any]]]:
    return {**step.gradients, **step.statistics}


def _copy(model: Any, dtype: str) -> Any:
    return keras.models.model_from_json(model.to_json().replace('"float32"', json.dumps(dtype)))


def _leaves(model: Any) -> list[Any]:
    return [layer for layer in model.submodules if isinstance(layer, keras.layers.Layer) and not _is_model(layer)]


def _is_model(layer: Any) -> bool:
    return isinstance(layer, (keras.Model, keras.layers.InputLayer))


def _unbiased_variances(model: Any) -> dict[int, tuple[str, float]]:
    """The rows of moving variances that follow the unbiased one, with their layers' names and momenta."""
    rows = {variable.ref(): row for row, variable in enumerate(model.weights)}
    return {
        rows[layer.moving_variance.ref()]: (layer.name, layer.momentum)
        for layer in model.submodules
        if isinstance(layer, keras.layers.BatchNormalization) and layer.fused and layer.trainable
    }


def _rounded(call: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    def rounded(*args: Any, **kwargs: Any) -> tf.Tensor:
        y = call(*args, **kwargs)
        z = tf.nest.map_structure(_round, y)
        if hasattr(y, "_keras_logits"):  # what Keras' losses take instead of probabilities, which they would cut off
            z._keras_logits = _round(y._keras_logits)
        return z

    return rounded


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _round(y: tf.Tensor) -> Any:
    """`y`, and its gradient, each off by a rounding error of float32 at most."""

    def off(array: tf.Tensor) -> tf.Tensor:
        return array * (1.0 + tf.random.uniform(tf.shape(array), -_ROUNDING, _ROUNDING, array.dtype))

    return off(y), off


def _loss(objective: Objective) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Keras' loss of targets, which are one-hot even where Keras takes class numbers."""
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = keras_loss(objective)
    if objective.loss.rule.labels is LabelForm.CLASS_NUMBERS:
        return lambda y, output: loss(tf.argmax(y, axis=1), output)
    return loss
