"""What a gateway makes of faults that are its own, and no federation's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.gateway.federations import Federations
from aggregator.gateway.serving import serve_federations
from fedprune.errors import StorageError
from fedprune.identity.gateway import init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.pruning.policy import MaskPolicy
from tests.brokers import free_port
from tests.simulation.world import make_bundle


@pytest.mark.parametrize(
    ("lost", "said"), [("aggregator.key", "there is no such file"), ("devices.sqlite", "there is no such file")]
)
def test_a_file_that_the_gateway_lost_ends_no_federation(tmp_path: Path, lost: str, said: str) -> None:
    """They would fail one after the other, and none of them can be taken up again."""
    settings = GatewaySettings(("127.0.0.1",), broker_port=free_port(), enrolment_port=free_port())
    gateway = init_gateway(tmp_path / "gateway", settings, datetime.now(UTC))
    federations = Federations(gateway.path)
    for _ in range(2):
        federations.add(make_bundle(MaskPolicy.SHARED), {}, tmp_path)
    (gateway.path / lost).unlink()

    with pytest.raises(StorageError, match=f"{lost}.*{said}"):
        serve_federations(gateway, lambda *_: None)

    assert [federation.outcome for federation in federations.all()] == [None, None]
