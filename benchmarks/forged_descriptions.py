"""Descriptions of networks as an enemy would write them: each must end in a line, or in graphs that run.

``python -m benchmarks.forged_descriptions --count 100000`` mutates descriptions of ordinary networks, reads and checks
each, writes both graphs of those that are taken, and runs a batch through what is small. It prints how many were
taken and how many refused, and fails on what is neither. Memory is limited, so that a description that asks for more
ends the process.
"""

from __future__ import annotations

import argparse
import random
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from edge_agent.augmentation import augment
from fedprune.errors import FedpruneError, TaskError
from fedprune.graph.inference import inference_batch, write_inference_graph
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Inputs, TensorClass, TensorSpec, TensorTable
from fedprune.network import layers as kinds
from fedprune.network.augmentation import (
    FillMode,
    Interpolation,
    RandomContrast,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)
from fedprune.network.description import Call, Network, Penalty, pack_network, parse_network
from fedprune.network.layers import Function, Operation, Padding, Statistic
from fedprune.runtime.training_graph import TrainingGraph
from fedprune.system.usage import peak_memory_mb
from fedprune.task.checks import MAX_PARAMETERS
from fedprune.task.padding import counted_places

MEMORY_BYTES = 3 * 2**30
"""Address space of the process, of which the runtime reserves a part that it does not use."""
_BATCHES = (1, 4, 64, 2**16)
"""Batch sizes that training graphs are written for: the last is the largest that a bundle may ask for."""
_LINE = 1000
"""Characters of a refusal."""
_RUN = 2**20
"""Scalars of a batch, in all values, of graphs that are run: a bundle may have more, and then merely takes longer."""
_OBJECTIVE = Objective(Loss.MEAN_SQUARED_ERROR, from_logits=False)
_ODD = (0, 1, -1, 2, 3, 7, 255, 2**16, 2**24, 2**31, 2**63, 10**30, -0.5, 0.5, 1e-30, 1e31, float("1e308"), True)
_ODDER: tuple[Any, ...] = (None, "", "x", "same", "relu", [], [1], [[1]], {}, {"kind": "add", "name": "a"}, "\x1b[2J\n")


@dataclass(frozen=True)
class Verdict:
    """What became of a description: `line` is the refusal, None if it was taken."""

    line: str | None
    ran: bool = False


def forge(seed: int) -> bytes:
    """A description with one to three mutations."""
    chance = random.Random(seed)
    tree = msgspec.json.decode(pack_network(chance.choice(_ORIGINALS)))
    for _ in range(chance.randint(1, 3)):
        _mutate(tree, chance)
    blob = bytearray(msgspec.json.encode(tree))
    if chance.random() < 0.1:
        blob[chance.randrange(len(blob))] = chance.randrange(256)
    return bytes(blob)


def judge(blob: bytes) -> Verdict:
    """Read, check, write and run a description. Raises what is no `FedpruneError` as it comes."""
    try:
        network = parse_network(blob)
        table = _table_of(network)
        network.check(table)
        shapes = network.shapes()
        if not all(shapes[value] for value in network.outputs):
            raise TaskError("an output is a single number without an axis, which no bundle's is")
        batch = _BATCHES[len(blob) % len(_BATCHES)]
        write_inference_graph(network, _ones(table), inference_batch(network))
        graph = write_training_graph(network, table, [_OBJECTIVE] * len(network.outputs), batch)
        small = graph.memory_bytes <= _RUN * np.dtype(np.float32).itemsize
        if small:
            _run(graph.blob, table)
            counted_places(network, _zeros(network))
            if network.augmentation:
                augment(np.zeros((1, *network.inputs[0]), np.float32), network.augmentation, Keyed(0))
        return Verdict(None, ran=small)
    except FedpruneError as error:
        return Verdict(str(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    counts: Counter[str] = Counter()
    for seed in range(arguments.first, arguments.first + arguments.count):
        verdict = judge(forge(seed))
        if verdict.line is not None and ("\n" in verdict.line or "\x1b" in verdict.line or len(verdict.line) > _LINE):
            raise SystemExit(f"seed {seed}: the refusal is no single short line: {verdict.line[:2000]!r}")
        counts["refused" if verdict.line is not None else "ran" if verdict.ran else "taken, too large to run"] += 1
    told = ", ".join(f"{what}: {count}" for what, count in sorted(counts.items()))
    print(f"{told}; peak {peak_memory_mb():.0f} MB")


def _mutate(tree: Any, chance: random.Random) -> None:
    """Change one entry somewhere: mostly to something like it, else to something odd; or leave it out, or double it."""
    places = list(_places(tree))
    holder, key = chance.choice(places)
    found = holder[key]
    alike = [other[place] for other, place in places if type(other[place]) is type(found)]
    match chance.randrange(12):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, _copy(found))
        case 2:
            holder[key] = _copy(chance.choice(_ODDER))
        case 3 | 4:
            holder[key] = chance.choice(_ODD)
        case 5 | 6 if isinstance(found, int):
            holder[key] = found + chance.choice((-1, 1))
        case _:
            holder[key] = _copy(chance.choice(alike))


def _copy(tree: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(tree))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries):
        yield tree, key
        yield from _places(value)


def _table_of(network: Network) -> TensorTable:
    """The table that such a network would have, so that more is looked at than the table's own check."""
    specs: dict[str, TensorSpec] = {}
    shapes = network.shapes()
    for layer, call in network.steps():
        for name, shape in layer.tensors(*(shapes[value] for value in call.inputs)).items():
            moves = isinstance(layer, kinds.BatchNormalization) and name in (layer.mean, layer.variance)
            kind = TensorClass.STATISTICS if moves else TensorClass.DENSE
            specs.setdefault(name, TensorSpec(name, shape, "float32", kind, layer.name))
    table = TensorTable(tuple(specs.values()))
    if table.parameters > MAX_PARAMETERS:
        raise TaskError("more parameters than a bundle may have")
    return table


def _ones(table: TensorTable) -> dict[str, Any]:
    return {spec.name: np.ones(spec.shape, np.float32) for spec in table}


def _run(graph: bytes, table: TensorTable) -> None:
    loaded = TrainingGraph(graph, tuple(table), threads=1)
    noise = [np.zeros(shape, np.float32) for shape in loaded.noise_shapes]
    x = [np.zeros((loaded.batch_size, *shape), np.float32) for shape in loaded.input_shapes]
    y = [np.zeros((loaded.batch_size, *shape), np.float32) for shape in loaded.target_shapes]
    loaded.run(_ones(table), x, y, noise)


def _zeros(network: Network) -> list[Inputs]:
    return [
        np.zeros((2, *form.shape), dtype) for form, dtype in zip(network.input_forms, network.input_dtypes, strict=True)
    ]


def _images() -> Network:
    """A residual network with layers of most kinds, and augmentation of each."""
    three: dict[str, Any] = {"size": (3, 3), "strides": (1, 1), "padding": Padding.SAME}
    layers = (
        kinds.Rescaling(name="scale", scale=(0.5,), offset=(0.0, 1.0, 2.0)),
        kinds.Convolution(name="first", filters=4, kernel="a/k", bias="a/b", **three),
        kinds.BatchNormalization(
            name="norm", epsilon=1e-3, momentum=0.9, unbiased=True, gamma="n/g", beta="n/b", mean="n/m", variance="n/v"
        ),
        kinds.Activation(name="relu", function=Function.RELU6),
        kinds.DepthwiseConvolution(name="each", multiplier=1, kernel="d/k", bias=None, **three),
        kinds.Add(name="add"),
        kinds.ZeroPadding(name="pad", padding=((0, 1), (1, 0))),
        kinds.Pooling(name="pool", size=(2, 2), strides=(2, 2), statistic=Statistic.MAX),
        kinds.Concatenate(name="join", axis=2),
        kinds.GlobalPooling(name="mean", statistic=Statistic.MEAN),
        kinds.Dropout(name="drop", rate=0.3),
        kinds.Dense(name="end", units=3, kernel="e/k", bias="e/b"),
    )
    inputs = ((0,), (1,), (2,), (3,), (4,), (4, 5), (6,), (7,), (8, 8), (9,), (10,), (11,))
    calls = tuple(Call(number, taken) for number, taken in enumerate(inputs))
    penalties = (Penalty("a/k", l2=0.01), Penalty("e/k", l1=0.1))
    how: dict[str, Any] = {"interpolation": Interpolation.BILINEAR, "fill": (0.5,)}
    augmentation = (
        RandomFlip(name="flip", horizontal=True, vertical=False),
        RandomRotation(name="turn", turns=(-0.1, 0.1), fill_mode=FillMode.CONSTANT, **how),
        RandomTranslation(name="move", height=(0.0, 0.2), width=(-0.1, 0.1), fill_mode=FillMode.WRAP, **how),
        RandomZoom(name="zoom", height=(-0.2, 0.2), fill_mode=FillMode.REFLECT, **how),
        RandomContrast(name="light", factor=(0.8, 1.2), low=(0.0,), high=(1.0, 2.0, 3.0)),
    )
    return Network("images", ((8, 8, 3),), layers, calls, (12,), penalties, augmentation=augmentation)


def _series() -> Network:
    """A network over time with a layer that is called twice."""
    layers = (
        kinds.Convolution(
            name="causal", size=(3,), strides=(1,), padding=Padding.CAUSAL, filters=4, kernel="c/k", bias="c/b"
        ),
        kinds.Activation(name="leaky", function=Function.LEAKY_RELU, slope=0.2),
        kinds.Pooling(name="pool", size=(2,), strides=(2,), statistic=Statistic.MEAN),
        kinds.Reshape(name="flat", shape=(16,)),
        kinds.Dense(name="twice", units=16, kernel="t/k", bias=None),
        kinds.Activation(name="soft", function=Function.SOFTMAX),
    )
    calls = ((0, 0), (1, 1), (0, 2), (2, 3), (3, 4), (4, 5), (4, 6), (5, 7))
    return Network("series", ((8, 4),), layers, tuple(Call(layer, (taken,)) for layer, taken in calls), (8,))


def _decoder() -> Network:
    """A network with layers that enlarge, join, normalise each example, draw noise and attend."""
    three: dict[str, Any] = {"size": (3, 3), "padding": Padding.SAME, "filters": 4}
    layers = (
        kinds.Convolution(name="far", strides=(1, 1), dilation=(2, 2), groups=2, kernel="f/k", **three),
        kinds.GroupNormalization(name="groups", groups=2, epsilon=1e-3, gamma="n/g", beta=None),
        kinds.Merge(name="merge", operation=Operation.MULTIPLY),
        kinds.Cropping(name="crop", cropping=((1, 0), (1, 2))),
        kinds.TransposedConvolution(name="up", strides=(2, 2), kernel="u/k", bias="u/b", **three),
        kinds.Upsampling(name="twice", size=(2, 1)),
        kinds.Permute(name="order", axes=(2, 0, 1)),
        kinds.Reshape(name="flat", shape=(16, 8)),
        kinds.GaussianNoise(name="noise", deviation=0.1),
        kinds.LayerNormalization(name="rows", axes=1, epsilon=1e-3, gamma="r/g", beta="r/b"),
        kinds.MultiHeadAttention(
            name="attend",
            heads=2,
            key_size=3,
            value_size=2,
            units=8,
            query_kernel="q/k",
            key_kernel="k/k",
            value_kernel="v/k",
            output_kernel="o/k",
            causal=True,
            rate=0.1,
        ),
        kinds.UnitNormalization(name="unit"),
        kinds.Dot(name="dot", axes=(0, 0)),
        kinds.Activation(name="gelu", function=Function.GELU),
        kinds.GlobalPooling(name="mean", statistic=Statistic.MEAN),
    )
    inputs = ((0,), (1,), (1, 2), (3,), (4,), (5,), (6,), (7,), (8,), (9,), (10, 10), (11,), (12, 9), (13,), (14,))
    calls = tuple(Call(number, taken) for number, taken in enumerate(inputs))
    return Network("decoder", ((3, 5, 4),), layers, calls, (15,))


def _joined() -> Network:
    """Ids and numbers in, two values out, with steps that are padding."""
    layers = (
        kinds.Embedding(name="words", vocabulary=9, units=3, table="words/table"),
        kinds.Dense(name="numbers", units=3, kernel="numbers/kernel", bias="numbers/bias"),
        kinds.Concatenate(name="both", axis=0),
        kinds.IdMask(name="written"),
        kinds.StepMask(name="measured", padding=0.0),
        kinds.Concatenate(name="either", axis=0),
    )
    inputs = ((0,), (1,), (2, 3), (0,), (1,), (5, 6))
    return Network(
        name="joined",
        inputs=((4,), (6, 2)),
        layers=layers,
        calls=tuple(Call(number, taken) for number, taken in enumerate(inputs)),
        outputs=(3, 4),
        input_names=("word", "number"),
        output_names=("numbers", "both"),
        output_masks=(6, 7),
    )


_ORIGINALS = (_images(), _series(), _decoder(), _joined())

if __name__ == "__main__":
    main()
