"""Networks that nobody thought of: whatever is built of supported layers has training and inference graphs, and they
are right."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_networks import proof_of

from export.describing.model import describe
from export.proof.inference import verify_inference_graph
from fedprune.graph.training import write_training_graph
from fedprune.model.losses import Loss, Objective
from fedprune.model.tensors import TensorTable
from tests.integration.random_networks import Network, any_network


def _is_proven(random: Network, loss: Loss, batch_sizes: list[int]) -> None:
    model = random.build(loss)
    # Judged by the loss as tf_keras has it: of probabilities, where the network ends in them.
    ends_in = "sigmoid" if loss is Loss.BINARY_CROSSENTROPY else "softmax"
    objective = Objective(loss, from_logits=random.activation != ends_in)
    network, table = describe(model)

    verify_inference_graph(network, table, model)
    proof = proof_of(model, objective)
    for number, batch_size in enumerate(batch_sizes):
        graph = write_training_graph(network, TensorTable(table), [objective], batch_size).blob
        proof.check(graph, briefly=number > 0)


_RANDOM = (any_network, st.sampled_from(Loss), st.lists(st.integers(1, 9), min_size=1, max_size=3))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(*_RANDOM)
def test_random_networks(random: Network, loss: Loss, batch_sizes: list[int]) -> None:
    _is_proven(random, loss, batch_sizes)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(*_RANDOM)
def test_more_random_networks(random: Network, loss: Loss, batch_sizes: list[int]) -> None:
    _is_proven(random, loss, batch_sizes)
