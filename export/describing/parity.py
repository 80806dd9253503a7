"""The described model is compared with the one that it was made of: outputs and their masks, gradients, and moving
statistics.

Both run in tf_keras with equal weights and examples, so that they differ by rounding, or by a mistake of a reader.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprune.errors import TaskError
from fedprune.keras.augmentation import without_augmentation
from fedprune.keras.model import build_model, call_model
from fedprune.keras.pointwise import NOISY
from fedprune.keras.stack import keras, tf
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Inputs, TensorSpec, TensorTable
from fedprune.network.description import Network
from fedprune.runtime.self_check import draw_inputs

_RELATIVE = 1e-4
"""The largest difference, relative to the norm of what is compared."""
_NOISE = 1e-6
"""A gradient whose norm is so much smaller than that of all gradients is zero but for rounding."""
_EXAMPLES = 4
_SCALES = (1.0, 30.0)
"""The second makes numbers that are large enough for ReLU6's upper end."""


def check_parity(model: Any, network: Network, table: TensorTable) -> None:
    """Raise `TaskError` unless the model built of `network` does what `model` does, noise aside.

    `table` has a row for each of `model.weights`, which are left as they were.
    """
    built, variables = build_model(network, table)
    ours = dict(variables)
    theirs = {spec.name: variable for spec, variable in zip(table, model.weights, strict=True)}
    kept = model.get_weights()
    try:
        with _without_noise(model), _without_noise(built), without_augmentation(model):
            for scale in _SCALES:
                keyed = Keyed(0, "parity", f"{scale:g}")
                weights = {spec.name: _drawn(spec, keyed) for spec in table}
                batch = [
                    draw_inputs(keyed, (_EXAMPLES, *form.shape), form.vocabulary, scale, padding=padding)
                    for form, padding in zip(network.input_forms, network.paddings, strict=True)
                ]
                expected = _results(model, theirs, weights, batch)
                _compare(network.name, _results(built, ours, weights, batch), expected)
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise TaskError(f"model {network.name[:60]!r} cannot be trained here: {reason}") from error
    finally:
        model.set_weights(kept)


def _results(
    model: Any, variables: Mapping[str, Any], weights: Mapping[str, Array], batch: Sequence[Inputs]
) -> dict[str, Any]:
    """Outputs, the gradients of some loss, and all weights after a step that learns nothing."""
    for name, variable in variables.items():
        variable.assign(weights[name])
    outputs = call_model(model, batch, training=False)
    trainable = {variable.ref() for variable in model.trainable_variables}
    trained = {name: variable for name, variable in variables.items() if variable.ref() in trainable}
    with tf.GradientTape() as tape:
        learnt = call_model(model, batch, training=True)
        loss = sum(number * _loss_of(output) for number, output in enumerate(learnt, start=1)) + sum(model.losses)
    gradients = tape.gradient(loss, list(trained.values()))
    results = {"the loss": loss}
    for number, (inferred, output) in enumerate(zip(outputs, learnt, strict=True)):
        which = f"output {number + 1}" if number else "the output"
        results |= {which: inferred, f"{which} in training": output}
        results |= {f"the mask of {which}": _mask_of(output)}
    results |= {f"the gradient of {name}": found for name, found in zip(trained, gradients, strict=True)}
    results |= {f"{name} after a step": variable for name, variable in variables.items()}
    return {what: None if found is None else tf.convert_to_tensor(found).numpy() for what, found in results.items()}


def _mask_of(output: tf.Tensor) -> tf.Tensor | None:
    """The mask that Keras' losses find, of 1 and 0; None if there is none."""
    mask = getattr(output, "_keras_mask", None)
    return None if mask is None else tf.cast(mask, output.dtype)


def _loss_of(output: tf.Tensor) -> tf.Tensor:
    """A sum of some numbers and the squares of all: no number's gradient is like another's."""
    return tf.reduce_mean(tf.square(output) + output * tf.cast(tf.range(tf.shape(output)[-1]), output.dtype))


def _compare(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    gradients = [array for what, array in expected.items() if what.startswith("the gradient") and array is not None]
    floor = _NOISE * math.sqrt(sum(_norm(array) ** 2 for array in gradients))
    for what in found.keys() | expected.keys():
        ours, theirs = found.get(what), expected.get(what)
        if ours is None and theirs is None and what.startswith("the mask"):
            continue
        if ours is None or theirs is None or ours.shape != theirs.shape:
            raise TaskError(f"model {name[:60]!r} is described wrongly: {what} is missing; report it with the model")
        difference = _norm(ours - theirs)
        if not difference <= max(_RELATIVE * _norm(theirs), floor):
            raise TaskError(
                f"model {name[:60]!r} is described wrongly: {what} differs by {difference:.2g}, its norm being "
                f"{_norm(theirs):.2g}; report it with the model"
            )


def _drawn(spec: TensorSpec, keyed: Keyed) -> Array:
    """Kernels that keep numbers' size; biases and statistics that are positive, as variances must be."""
    if len(spec.shape) < 2:
        return keyed.uniform(spec.size, 0.5, 1.5).reshape(spec.shape)
    limit = math.sqrt(3.0 / math.prod(spec.shape[:-1]))
    return keyed.uniform(spec.size, -limit, limit).reshape(spec.shape)


@contextmanager
def _without_noise(model: Any) -> Iterator[None]:
    noisy = [
        (layer, "stddev" if isinstance(layer, keras.layers.GaussianNoise) else "rate")
        for layer in model.submodules
        if isinstance(layer, NOISY)
    ]
    kept = [getattr(layer, setting) for layer, setting in noisy]
    try:
        for layer, setting in noisy:
            setattr(layer, setting, 0.0)
        yield
    finally:
        for (layer, setting), value in zip(noisy, kept, strict=True):
            setattr(layer, setting, value)


def _norm(array: NDArray[np.generic]) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64).ravel()))
