"""Descriptions of networks that were forged: mutated at random, with a tensor table that fits where one does.

Run as a program, it does to each what a gateway and a device do, in a process of its own: checks it, and writes its
graphs. All that may come of one is a `TaskError` of one line. It prints how many were written.
"""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedprune.errors import TaskError
from fedprune.graph.inference import inference_batch, write_inference_graph
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorClass, TensorSpec, TensorTable
from fedprune.network.description import Network, parse_network
from fedprune.network.layers import BatchNormalization
from fedprune.task.bundle import MAX_PARAMETERS

MAX_RESIDENT_MB = 1500
"""Of the whole process: Python, a bundle's weights, as many constants as a graph may have, and the file of both."""
_GOLDEN = Path(__file__).parent / "golden" / "networks.json"
_EXTREMES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 5, 7, 64, 2**10, 2**12, 2**16, 2**20, 2**24, 2**31, 2**40, 2**63),
    *(0.0, 0.5, -1.0, 1e-30, 1e30, 1e300, "", "same", "causal", "max", "tanh", "dense", "x" * 300, [], [[]], {}),
)
_SIZES = (1, 1, 2, 2, 3, 4, 5, 8, 16, 100, 2**10, 2**12, 2**16)


def forged(network: dict[str, Any], keyed: random.Random) -> bytes:
    """The JSON of a description after one to three changes."""
    changed = msgspec.json.decode(msgspec.json.encode(network))
    for _ in range(keyed.randint(1, 3)):
        _change(changed, keyed)
    return msgspec.json.encode(changed)


def _change(network: dict[str, Any], keyed: random.Random) -> None:
    where, place = keyed.choice(list(_places(network)))
    match keyed.randrange(12):
        case 0:
            other, elsewhere = keyed.choice(list(_places(network)))
            where[place] = msgspec.json.decode(msgspec.json.encode(other[elsewhere]))
        case 1 if isinstance(where, list):
            where.insert(place, where[place])
        case 2:
            del where[place]
        case 3 | 4:
            where[place] = keyed.choice(_EXTREMES)
        case _ if isinstance(where[place], int):
            where[place] = keyed.choice((where[place] + keyed.choice((-2, -1, 1, 2)), keyed.choice(_SIZES)))
        case _:
            numbers = [(other, at) for other, at in _places(network) if isinstance(other[at], int)]
            where, place = keyed.choice(numbers or [(where, place)])
            where[place] = keyed.choice(_SIZES)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in `value`, with each of its places."""
    for place in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, place
        yield from _places(value[place])


def fitting_table(network: Network, keyed: random.Random) -> TensorTable:
    """The tensors that the layers want, so that only the network can be wrong. Raises `TaskError` if they want absurd
    ones."""
    shapes, rows = network.shapes(), dict[str, TensorSpec]()
    for layer, call in network.steps():
        frozen = keyed.random() < 0.2
        for name, shape in layer.tensors(*(shapes[value] for value in call.inputs)).items():
            kind = TensorClass.PRUNABLE
            if isinstance(layer, BatchNormalization) and name in (layer.mean, layer.variance):
                kind = TensorClass.STATISTICS
            rows[name] = TensorSpec(name, shape, "float32", TensorClass.FROZEN if frozen else kind, layer.name)
    table = TensorTable(tuple(rows.values()))
    if table.parameters > MAX_PARAMETERS:
        raise TaskError("the bundle is refused for its size")
    return table


def open_forged(blob: bytes, keyed: random.Random) -> None:
    """What a gateway and a device do with a description. Raises `TaskError` where they refuse it."""
    network = parse_network(blob)
    table = fitting_table(network, keyed)
    network.check(table)
    loss = keyed.choice([Loss.SPARSE_CATEGORICAL_CROSSENTROPY, Loss.MEAN_SQUARED_ERROR])
    output = network.shapes()[network.outputs[0]]
    if len(output) != 1 or output[0] < loss.rule.fewest_outputs:
        raise TaskError("the bundle is refused for its outputs")
    write_inference_graph(
        network, {spec.name: np.zeros(spec.shape, spec.dtype) for spec in table}, inference_batch(network)
    )
    write_training_graph(network, table, loss, keyed.choice([1, 8, 2**16]))


def _refused(blob: bytes, keyed: random.Random) -> str:
    """Why it was refused; empty if it was not."""
    try:
        open_forged(blob, keyed)
    except TaskError as error:
        return str(error)
    return ""


def _main(count: int, seed: int) -> None:
    networks = [case["network"] for case in msgspec.json.decode(_GOLDEN.read_bytes()).values()]
    keyed, written = random.Random(seed), 0
    for number in range(count):
        blob = forged(keyed.choice(networks), keyed)
        try:
            refused = _refused(blob, keyed)
        except BaseException:
            sys.stderr.write(f"forgery {number}: {blob.decode()}\n")
            raise
        assert "\n" not in refused, blob
        assert len(refused) < 600, blob
        written += not refused
        resident_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        assert resident_mb < MAX_RESIDENT_MB, f"{resident_mb:.0f} MB: {blob.decode()}"
    print(written)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
