"""The reference that a training graph is judged by: a batch in tf_keras, in float32 or float64.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.keras.model import keras_loss
from fedprune.keras.stack import keras, tf
from fedprune.model.losses import LabelForm, Objective
from fedprune.runtime.self_check import Case
from fedprune.runtime.training_graph import Step


class Reference:
    """A model in tf_keras, in some precision, with its dropout's noise given."""

    def __init__(self, model: Any, dtype: str, objective: Objective) -> None:
        self._model = keras.models.model_from_json(model.to_json().replace('"float32"', f'"{dtype}"'))
        self._dtype = dtype
        self._loss = _loss(objective)
        self._noise: Iterator[Any] = iter(())
        trainable = {variable.ref() for variable in self._model.trainable_variables}
        self._trained = [variable.ref() in trainable for variable in self._model.weights]
        for layer in self._model.submodules:
            if isinstance(layer, keras.layers.Dropout) and 0.0 < layer.rate < 1.0:
                vars(layer)["call"] = self._dropout(layer.rate)

    def run(self, case: Case) -> Step:
        """Loss, gradients, and what becomes of all tensors that are not trained."""
        self._model.set_weights(list(case.weights.values()))
        count = len(case.x)
        x, y, *noise = (
            tf.constant(array, self._dtype) for array in (case.x, case.y, *(noise[:count] for noise in case.noise))
        )
        self._noise = iter(noise)
        variables = [variable for variable, trained in zip(self._model.weights, self._trained, strict=True) if trained]
        with tf.GradientTape() as tape:
            loss = self._loss(y, self._model(x, training=True)) + sum(self._model.losses)
        gradients = tape.gradient(loss, variables)
        after = zip(case.weights, self._model.get_weights(), self._trained, strict=True)
        names = [name for name, trained in zip(case.weights, self._trained, strict=True) if trained]
        return Step(
            loss=float(loss),
            gradients={name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)},
            statistics={name: array for name, array, trained in after if not trained},
        )

    def _dropout(self, rate: float) -> Callable[..., tf.Tensor]:
        def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:  # noqa: ARG001 - always in training here
            kept = tf.cast(next(self._noise) > tf.cast(rate, x.dtype), x.dtype)
            return x * kept / (1.0 - rate)

        return call


def norm_of(array: NDArray[np.floating[Any]]) -> float:
    """The Euclidean norm of a tensor of any shape."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))


def _loss(objective: Objective) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Keras' loss of targets, which are one-hot even where Keras takes class numbers."""
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = keras_loss(objective)
    if objective.loss.rule.labels is LabelForm.CLASS_NUMBERS:
        return lambda y, output: loss(tf.argmax(y, axis=1), output)
    return loss
