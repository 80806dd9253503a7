"""The inference graph is compared with tf_keras when a task is built. Importing this module imports TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedprune.errors import TaskError
from fedprune.keras.model import call_model
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorSpec
from fedprune.network.description import Network
from fedprune.runtime.self_check import draw_inputs, some_weights
from fedprune.task.evaluation import InferenceGraph

_EXAMPLES = 51
"""More than one batch of any graph."""
_TOLERANCE = 1e-3
"""Largest difference to Keras, relative to the largest output: rounding is far below, a mistake far above."""


def verify_inference_graph(network: Network, tensors: tuple[TensorSpec, ...], model: Any) -> None:
    """Raise `TaskError` unless the graph of `network` answers as `model` does, with weights that are nowhere zero.

    The model's own weights are left as they were.
    """
    keyed = Keyed(0, "verify inference graph")
    weights = {spec.name: some_weights(spec, keyed) for spec in tensors}
    graph = InferenceGraph(network, threads=1)
    graph.load(weights)
    x = [
        draw_inputs(keyed, (_EXAMPLES, *form.shape), form.vocabulary, padding=padding)
        for form, padding in zip(network.input_forms, network.paddings, strict=True)
    ]
    kept = model.get_weights()
    try:
        model.set_weights(list(weights.values()))
        expected = [output.numpy() for output in call_model(model, x, training=False)]
    finally:
        model.set_weights(kept)
    for parts, answers in zip(zip(*graph.predict(x), strict=True), expected, strict=True):
        difference = np.abs(np.concatenate(parts) - answers).max()
        if not difference <= _TOLERANCE * np.abs(answers).max():
            raise TaskError(f"model {network.name!r}: its inference graph differs from Keras by {difference:.2g}")
