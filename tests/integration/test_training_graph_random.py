"""Networks that nobody thought of: whatever is built of supported layers has a training graph, and it is right."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.describing.model import describe
from export.proof.proof import Proof
from export.proof.reference import Reference
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorTable
from tests.integration.random_networks import Network, any_network


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(any_network, st.sampled_from(Loss), st.integers(1, 5))
def test_random_networks(random: Network, loss: Loss, batch: int) -> None:
    model = random.build(loss)
    network, table = describe(model)
    # Judged by the loss as tf_keras has it: of probabilities, where the network ends in them.
    ends_in = "sigmoid" if loss is Loss.BINARY_CROSSENTROPY else "softmax"
    objective = Objective(loss, from_logits=random.activation != ends_in)
    graph = write_training_graph(network, TensorTable(table), loss, batch)
    Proof(model, table, objective, Reference(model, objective)).check(graph.blob)
