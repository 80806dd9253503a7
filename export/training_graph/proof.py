"""The proof that a training graph learns what tf_keras learns, step by step along one trajectory.

At each step both start from equal weights. What is asked of the graph is to be as near to the truth, which is
tf_keras in float64, as 1e-5, or as tf_keras itself is in float32: deep networks with batch normalisation lose far more
than 1e-5. Where an activation lies within a rounding error of a kink (of ReLU or a maximum), either may fall on the
wrong side; so a step that fails is tried again with other examples. A mistake in the graph fails every time.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.graphs import some_weights
from export.training_graph.network import NoTrainingGraph
from fedprune.errors import FedpruneError
from fedprune.losses import Objective
from fedprune.randomness import Keyed
from fedprune.tensorflow_stack import keras, tf
from fedprune.tensors import Array, TensorSpec, Weights
from fedprune.tflite import available_runtimes
from fedprune.training_graph import Step, TrainingGraph

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
"""Of the norm of a tensor; the norm of an error, for tensors that are zero but for rounding."""
_SLACK = 4.0
"""How much further from the truth than tf_keras in float32 the graph may be."""
_TRIES = 8
_LEARNING_RATE = 0.01


class Proof:
    """Judges training graphs of one model."""

    def __init__(self, model: Any, tensors: Sequence[TensorSpec], objective: Objective) -> None:
        self._name = model.name
        self._tensors = tensors
        self._objective = objective
        self._single = _Reference(model, "float32", objective)
        self._double = _Reference(model, "float64", objective)

    def check(self, graph: bytes) -> None:
        """Compare on every runtime that is installed. Raises `NoTrainingGraph` where results differ."""
        for runtime in available_runtimes():
            try:
                self._follow(TrainingGraph(graph, self._tensors, threads=1, runtime=runtime))
            except FedpruneError as error:
                raise NoTrainingGraph(
                    f"model {self._name!r}: {runtime.name} {runtime.version}: {error}; train with the keras trainer"
                ) from error

    def _follow(self, candidate: TrainingGraph) -> None:
        """Train with tf_keras; at each step, see whether the graph agrees. Raises `_DiffersError`."""
        keyed = Keyed(0, "verify training graph")
        weights = {spec.name: some_weights(spec, keyed) for spec in self._tensors}
        full = candidate.batch_shape[0]
        for number, count in enumerate((full, 1, min(2, full), full // 2 + 1, full), start=1):
            expected = self._agree(candidate, weights, count, keyed, number)
            for name, gradient in expected.gradients.items():
                weights[name] = weights[name] - np.float32(_LEARNING_RATE) * gradient
            weights |= expected.statistics

    def _agree(self, candidate: TrainingGraph, weights: Weights, count: int, keyed: Keyed, number: int) -> Step:
        """One step with `count` examples; what tf_keras makes of it."""
        for _ in range(_TRIES):
            batch = _draw(candidate, self._objective, keyed)
            some = batch.first(count)
            found = candidate.run(weights, some.x, some.y, batch.noise)
            expected = self._single.run(weights, some)
            problem = _difference(found, expected, self._double.run(weights, some))
            if not problem:
                return expected
        raise _DiffersError(
            f"at step {number}, with {count} examples, the training graph differs from tf_keras: {problem}"
        )


class _DiffersError(FedpruneError):
    pass


@dataclass(frozen=True)
class _Batch:
    x: Array
    y: Array
    noise: list[Array]

    def first(self, count: int) -> _Batch:
        return _Batch(self.x[:count], self.y[:count], [uniform[:count] for uniform in self.noise])


class _Reference:
    """The model in tf_keras, in some precision, with its dropout's noise given."""

    def __init__(self, model: Any, dtype: str, objective: Objective) -> None:
        self._model = keras.models.model_from_json(model.to_json().replace('"float32"', f'"{dtype}"'))
        self._dtype = dtype
        self._loss = _keras_loss(objective)
        self._noise: Iterator[Any] = iter(())
        trainable = {variable.ref() for variable in self._model.trainable_variables}
        self._trained = [variable.ref() in trainable for variable in self._model.weights]
        for layer in self._model.submodules:
            if isinstance(layer, keras.layers.Dropout) and 0.0 < layer.rate < 1.0:
                vars(layer)["call"] = self._dropout(layer.rate)
        self._step = tf.function(self._differentiate, reduce_retracing=True)

    def run(self, weights: Weights, batch: _Batch) -> Step:
        self._model.set_weights(list(weights.values()))
        x, y, *noise = (tf.constant(array, self._dtype) for array in (batch.x, batch.y, *batch.noise))
        loss, gradients = self._step(x, y, noise)
        after = zip(weights, self._model.get_weights(), self._trained, strict=True)
        names = [name for name, trained in zip(weights, self._trained, strict=True) if trained]
        return Step(
            loss=float(loss),
            gradients={name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)},
            statistics={name: array for name, array, trained in after if not trained},
        )

    def _differentiate(self, x: tf.Tensor, y: tf.Tensor, noise: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        self._noise = iter(noise)
        variables = [variable for variable, trained in zip(self._model.weights, self._trained, strict=True) if trained]
        with tf.GradientTape() as tape:
            loss = self._loss(y, self._model(x, training=True)) + sum(self._model.losses)
        return loss, tape.gradient(loss, variables)

    def _dropout(self, rate: float) -> Callable[..., tf.Tensor]:
        def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:  # noqa: ARG001 - always in training here
            kept = tf.cast(next(self._noise) > tf.cast(rate, x.dtype), x.dtype)
            return x * kept / (1.0 - rate)

        return call


def _difference(found: Step, single: Step, double: Step) -> str:
    """What differs by more than it may; empty if nothing does."""
    slack = max(_RELATIVE * max(1.0, abs(double.loss)), _SLACK * abs(single.loss - double.loss))
    if not abs(found.loss - double.loss) <= slack:
        return f"the loss is {found.loss}, not {double.loss}"
    for name, truth in double.gradients.items():
        error, own = _norm(found.gradients[name] - truth), _norm(single.gradients[name] - truth)
        if not error <= max(_RELATIVE * _norm(truth), _ABSOLUTE, _SLACK * own):
            return f"the gradient of {name} is {error:.2g} off, its norm being {_norm(truth):.2g}"
    for name, moved in found.statistics.items():
        # Against float32 alone: the fused kernel, which takes the unbiased variance, does not exist for float64.
        error, size = _norm(moved - single.statistics[name]), _norm(single.statistics[name])
        if not error <= max(_RELATIVE * size, _ABSOLUTE):
            return f"{name} is {error:.2g} off, its norm being {size:.2g}"
    return ""


def _draw(candidate: TrainingGraph, objective: Objective, keyed: Keyed) -> _Batch:
    def uniform(shape: tuple[int, ...], low: float = 0.0) -> Array:
        return keyed.uniform(math.prod(shape), low, 1.0).reshape(shape)

    rows, outputs = candidate.target_shape
    if objective.loss == "mean_squared_error":
        y = uniform((rows, outputs), -1.0)
    elif objective.loss == "binary_crossentropy":
        y = np.round(uniform((rows, outputs)))
    else:
        y = np.eye(outputs, dtype=np.float32)[keyed.integers(rows) % np.uint64(outputs)]
    return _Batch(uniform(candidate.batch_shape, -1.0), y, [uniform(shape) for shape in candidate.noise_shapes])


def _keras_loss(objective: Objective) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    losses = keras.losses
    match objective.loss:
        case "sparse_categorical_crossentropy":
            sparse = losses.SparseCategoricalCrossentropy(from_logits=objective.from_logits)
            return lambda y, output: sparse(tf.argmax(y, axis=1), output)
        case "categorical_crossentropy":
            return losses.CategoricalCrossentropy(from_logits=objective.from_logits)  # type: ignore[no-any-return]
        case "binary_crossentropy":
            return losses.BinaryCrossentropy(from_logits=objective.from_logits)  # type: ignore[no-any-return]
        case _:
            return losses.MeanSquaredError()  # type: ignore[no-any-return]


def _norm(array: NDArray[np.floating[Any]]) -> float:
    return float(np.linalg.norm(array.astype(np.float64).ravel()))
