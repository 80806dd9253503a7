"""Graphs are equal bytes on every machine: a device compares its digest with that of the workstation.

Run this file to write the digests anew, when what is written changes: devices of another version then refuse the task.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from fedprune.graph.inference import write_inference_graph
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.randomness import Keyed
from fedprune.model.tensors import TensorSpec, TensorTable
from fedprune.network.description import Network

GOLDEN = Path(__file__).parent.parent / "golden"
DIGESTS = GOLDEN / "graphs.json"
BATCH_SIZES = (1, 8, 32)


class Described(msgspec.Struct, frozen=True):
    """A network and its tensor table."""

    network: Network
    tensors: tuple[TensorSpec, ...]


CASES = msgspec.json.decode((GOLDEN / "networks.json").read_bytes(), type=dict[str, Described])
"""CNN-108k, and a network that has most kinds of layers, batch normalisation among them."""


def digests(case: Described) -> dict[str, str]:
    """Of the training graphs for some batch sizes, and of an inference graph."""
    table, keyed = TensorTable(case.tensors), Keyed(0, "golden graphs")
    case.network.check(table)
    weights = {spec.name: keyed.uniform(spec.size, 0.5, 1.0).reshape(spec.shape) for spec in table}
    graphs = {
        f"training, {batch_size}": write_training_graph(
            case.network, table, [Objective(Loss.SPARSE_CATEGORICAL_CROSSENTROPY, from_logits=True)], batch_size
        ).blob
        for batch_size in BATCH_SIZES
    }
    graphs["inference"] = write_inference_graph(case.network, weights, 5)
    return {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()}


@pytest.mark.parametrize("name", CASES)
def test_graphs_are_the_same_everywhere(name: str) -> None:
    assert digests(CASES[name]) == json.loads(DIGESTS.read_text())[name]


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps({name: digests(case) for name, case in CASES.items()}, indent=1) + "\n")
