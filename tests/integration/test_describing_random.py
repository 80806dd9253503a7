"""Networks that nobody thought of: what is built of the description does what the model does."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.describing.model import describe
from export.describing.parity import check_parity
from fedprune.model.losses import Loss
from fedprune.model.tensors import TensorTable
from fedprune.network.description import pack_network, parse_network
from tests.integration.random_networks import Network, any_network


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(any_network, st.sampled_from(Loss))
def test_random_networks_are_built_alike(random: Network, loss: Loss) -> None:
    model = random.build(loss)
    network, table = describe(model)

    check_parity(model, network, TensorTable(table))
    assert parse_network(pack_network(network)) == network
