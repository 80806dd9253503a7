"""How well proof and self-check tell honest training graphs from those with one mistake. Importing this module imports
TensorFlow.

The mutants are of small networks, which between them have every kind of layer, function, penalty and loss that a
training graph has a rule for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from benchmarks.zoo.mutants import mutants
from export.architecture import task_outputs
from export.describing.model import describe
from export.proof.probes import make_self_check
from export.proof.proof import Proof
from export.proof.reference import Reference
from fedprune.graph.training import write_training_graph
from fedprune.keras import activations
from fedprune.keras.stack import keras
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorSpec, TensorTable
from fedprune.network.description import Network
from fedprune.runtime.self_check import RuntimeUnfit, SelfCheck, run_self_check
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.task.outputs import OutputLoss
from fedprune.task.training import Training

L = keras.layers

_BATCH, _CLASSES = 24, 3
"""The proof forgives what one batch in eight does not show: with fewer examples some have no large number for one tanh
of a cell, and a mistake there may be missed."""
_AT_ONCE = 200
"""Graphs that are loaded at a time."""


@dataclass(frozen=True)
class Verdict:
    """A graph: its network, what its mistake is (nothing for an honest one), the largest ratio to rounding noise that
    the proof cannot be rid of, and whether a device's self-check passes."""

    network: str
    what: str
    ratio: float
    passes_self_check: bool


def judge(name: str, most: int | None = None) -> tuple[Verdict, ...]:
    """The honest graph of one of `MUTATED`, then its mutants; of these about `most`, of all kinds."""
    model, training = _model(name)
    network, tensors = describe(model)
    objectives = [training.objective_of(output) for output in task_outputs(network, training)]
    reference = Reference(model, objectives)
    proof = Proof(model, tensors, objectives, reference)
    honest = write_training_graph(network, TensorTable(tensors), objectives, _BATCH).blob
    self_check = make_self_check(reference, tensors, honest, briefly=False)
    graphs = chain([("", honest)], mutants(honest, tensors, most))
    verdicts: list[Verdict] = []
    while some := list(islice(graphs, _AT_ONCE)):
        candidates = [TrainingGraph(graph, tensors, threads=1) for _, graph in some]
        trials = list(proof.trials(candidates, briefly=False))
        for number, (what, _) in enumerate(some):
            ratio = max(trial.best(number)[0] for trial in trials)
            verdicts.append(Verdict(name, what, ratio, _passes(candidates[number], tensors, self_check)))
    return tuple(verdicts)


def kinds(name: str) -> Iterator[str]:
    """The kinds of layers, and the functions, in one of `MUTATED`."""
    network: Network = describe(_model(name)[0])[0]
    for layer, _ in network.steps():
        yield type(layer).__name__
        if function := getattr(layer, "function", None):
            yield str(function)


def _model(name: str) -> tuple[Any, Training]:
    keras.backend.clear_session()
    build, learned = MUTATED[name]
    return build(), Training(1, loss=learned) if isinstance(learned, Loss) else Training(1, losses=dict(learned))


def _passes(graph: TrainingGraph, tensors: tuple[TensorSpec, ...], self_check: SelfCheck) -> bool:
    try:
        run_self_check(graph, tensors, self_check)
    except RuntimeUnfit:
        return False
    return True


def _classifier(*layers: Any, shape: tuple[int, ...], end: str | None = None, **options: Any) -> Any:
    return keras.Sequential([L.Input(shape), *layers, L.Flatten(), L.Dense(_CLASSES, end, **options)])


def _images() -> Any:
    """Every constant of batch normalisation, ReLU6, dropout, average pooling and L2."""
    return _classifier(
        L.Conv2D(5, 3, strides=2, padding="same", use_bias=False),
        L.BatchNormalization(),
        L.ReLU(6.0),
        L.AveragePooling2D(2, padding="same"),
        L.Dropout(0.3),
        L.Conv2D(5, 2, activation="tanh"),
        shape=(8, 8, 2),
        kernel_regularizer="l2",
    )


def _separable() -> Any:
    return _classifier(
        L.ZeroPadding2D(((0, 1), (2, 0))),
        L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
        L.BatchNormalization(scale=False),
        L.LeakyReLU(),
        L.MaxPooling2D(3, strides=2, padding="same"),
        L.SeparableConv2D(4, 3, padding="same", depthwise_regularizer="l1_l2"),
        L.Activation("sigmoid"),
        shape=(9, 7, 2),
        end="softmax",
    )


def _series() -> Any:
    return _classifier(
        L.Conv1D(4, 3, strides=2, padding="causal"),
        L.ReLU(),
        L.BatchNormalization(momentum=0.7),
        L.MaxPooling1D(2),
        L.DepthwiseConv1D(3, padding="same"),
        L.AveragePooling1D(2, padding="same"),
        L.Reshape((2, 4)),
        L.Dense(4, "softmax"),
        L.GlobalMaxPooling1D(),
        shape=(15, 3),
        end="sigmoid",
    )


def _joined() -> Any:
    """So many channels that what frozen normalisation adds is negative in one of them in every batch."""
    x = L.Input((6, 6, 3))
    y = L.Conv2D(16, 3, padding="same", use_bias=False)(L.Rescaling(1 / 3, offset=-0.5)(x))
    frozen = L.BatchNormalization(trainable=False)
    z = L.ReLU()(frozen(y))
    joined = L.Concatenate()([L.Add()([y, z]), L.MaxPooling2D(2, strides=1, padding="same")(z)])
    return keras.Model(x, L.Dense(_CLASSES)(L.GlobalAveragePooling2D()(joined)))


def _rows() -> Any:
    return _classifier(
        L.Dense(6), L.BatchNormalization(), L.ReLU(), L.Dense(5, "tanh", kernel_regularizer="l1"), shape=(5,)
    )


def _recurrent() -> Any:
    """Token ids, and each cell beside the others: one that saturates would hide what those before it do. Two steps have
    all that more would have."""
    x = L.Input((2,), dtype="int32")
    y = L.Embedding(3, 6)(x)
    both = L.Bidirectional(L.LSTM(4, return_sequences=True, unroll=True))(y)
    ends = [L.GRU(4, go_backwards=True, unroll=True)(y), L.SimpleRNN(4, unroll=True)(y), L.Flatten()(both)]
    return keras.Model(x, L.Dense(_CLASSES)(L.Concatenate()(ends)))


def _attentive() -> Any:
    x = L.Input((4, 3))
    y = L.LayerNormalization()(L.GaussianNoise(0.2)(x))
    y = L.Add()([x, L.MultiHeadAttention(2, 2)(y, y, use_causal_mask=True)])
    y = L.Dot((2, 2))([L.UnitNormalization()(y), L.Dense(3, "gelu")(y)])
    y = L.Activation(activations.gelu_tanh)(L.Dense(3, "swish")(y))
    return keras.Model(x, L.Dense(_CLASSES)(L.Flatten()(y)))


def _enlarged() -> Any:
    x = L.Input((5, 5, 2))
    y = L.Conv2DTranspose(4, 3, strides=2, activation=activations.hard_swish)(L.Cropping2D(((0, 2), (1, 0)))(x))
    y = L.GroupNormalization(2)(L.UpSampling2D((2, 1))(L.Permute((2, 1, 3))(y)))
    y = L.UpSampling2D((1, 2), interpolation="bilinear")(y)
    z = L.Multiply()([y, L.Dense(4, activations.hard_sigmoid)(L.GlobalAveragePooling2D(keepdims=True)(y))])
    z = L.Maximum()([z, L.Minimum()([L.Conv2D(4, 1, activation="elu")(y), y])])
    return keras.Model(x, L.Dense(_CLASSES)(L.GlobalAveragePooling2D()(z)))


def _curves() -> Any:
    """An exponential of what is bounded: others leave float32."""
    bounded = (L.Dense(5, "softsign"), L.Dense(5, "exponential", use_bias=False))
    return _classifier(*bounded, L.Dense(5, "softplus"), L.Dense(5, "selu"), shape=(5,))


def _padded() -> Any:
    """Ids of which one is padding, beside others: what a cell holds, what is looked up, and a mean."""
    x = L.Input((3,), dtype="int32")
    y = L.Embedding(5, 4, mask_zero=True)(x)
    looked_up = L.MultiHeadAttention(1, 2)(y, y)
    ends = [L.SimpleRNN(3)(y), L.GlobalAveragePooling1D()(looked_up)]
    return keras.Model(x, L.Dense(_CLASSES)(L.Concatenate()(ends)))


def _gaps() -> Any:
    """Steps of a number that stands for none, of which cells return zeros."""
    x = L.Input((3, 3))
    y = L.Masking(-0.5)(x)
    both = L.Bidirectional(L.LSTM(3, return_sequences=True))(y)
    return keras.Model(x, L.Dense(_CLASSES)(L.Concatenate()([L.GRU(3)(y), L.Flatten()(both)])))


def _paired() -> Any:
    """Two inputs of one form and two outputs of one form, which could be taken for each other."""
    first, second = L.Input((4,), name="first"), L.Input((4,), name="second")
    y = L.Concatenate()([L.Dense(5, "tanh")(first), L.Dense(4, "tanh")(second)])
    return keras.Model(
        [first, second], [L.Dense(_CLASSES, name="one")(y), L.Dense(_CLASSES, "softmax", name="other")(y)]
    )


_PAIRED = {
    "one": OutputLoss(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, weight=0.4, label_smoothing=0.2),
    "other": OutputLoss(Loss.CATEGORICAL_CROSSENTROPY, weight=1.5),
}

MUTATED: dict[str, tuple[Callable[[], Any], Loss | Mapping[str, OutputLoss]]] = {
    "images": (_images, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "separable": (_separable, Loss.CATEGORICAL_CROSSENTROPY),
    "series": (_series, Loss.BINARY_CROSSENTROPY),
    "joined": (_joined, Loss.MEAN_SQUARED_ERROR),
    "rows": (_rows, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "recurrent": (_recurrent, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "attentive": (_attentive, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "enlarged": (_enlarged, Loss.MEAN_SQUARED_ERROR),
    "curves": (_curves, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "padded": (_padded, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "gaps": (_gaps, Loss.SPARSE_CATEGORICAL_CROSSENTROPY),
    "paired": (_paired, _PAIRED),
}
"""Small networks, and what they are trained with."""
