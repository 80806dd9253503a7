"""Exported files as `fedprune export` writes them, made without TensorFlow: a dense layer, or some layers before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedprune.data.description import Data
from fedprune.graph.inference import write_inference_graph
from fedprune.model.losses import Loss
from fedprune.network.layers import AnyLayer, Dense, Embedding, Reshape
from fedprune.prediction.metadata import Input, Metadata, Output, with_metadata
from tests.described import chain_of, table_of, weights_of

LABELS = ("no", "yes", "other")
CROSSENTROPY, SQUARES = Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Loss.MEAN_SQUARED_ERROR
"""Of the classifiers here the last layer has no softmax: its outputs are logits."""


def exported(
    directory: Path,
    data: Data,
    shape: tuple[int, ...],
    outputs: int = 3,
    loss: Loss = CROSSENTROPY,
    front: Sequence[AnyLayer] = (),
    vocabulary: int | None = None,
) -> Path:
    """The file of a model with inputs of `shape`, whose weights are always the same."""
    numbers = int(np.prod(shape)) * (front[0].units if isinstance(next(iter(front), None), Embedding) else 1)
    flatten = [Reshape(name="flatten", shape=(numbers,))] if len(shape) > 1 or front else []
    network = chain_of(shape, *front, *flatten, Dense(name="d", units=outputs, kernel="d/kernel"))
    weights = weights_of(table_of(network), -1.0, 1.0)
    metadata = Metadata(
        "mine",
        data,
        (Input("x", "x", shape, vocabulary),),
        (Output("output_0", (outputs,), loss, from_logits=loss is not SQUARES),),
    )
    path = directory / "model.tflite"
    path.write_bytes(with_metadata(write_inference_graph(network, weights, 1), metadata))
    return path
