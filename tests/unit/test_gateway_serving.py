"""What a gateway makes of faults that are its own, and no federation's."""

from __future__ import annotations

import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.gateway import serving
from aggregator.gateway.federations import Federations
from aggregator.gateway.serving import serve_federations
from fedprune.data import save_npz
from fedprune.errors import StorageError
from fedprune.identity.gateway import Gateway, init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.pruning.policy import MaskPolicy
from fedprune.system.disk import copy_durably, storage_error
from tests.brokers import free_port
from tests.simulation.stand_ins import DATA, make_bundle


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    settings = GatewaySettings(("127.0.0.1",), broker_port=free_port(), enrolment_port=free_port())
    return init_gateway(tmp_path / "gateway", settings, datetime.now(UTC))


@pytest.mark.parametrize(
    ("lost", "said"), [("aggregator.key", "there is no such file"), ("devices.sqlite", "there is no such file")]
)
def test_a_file_that_the_gateway_lost_ends_no_federation(
    tmp_path: Path, gateway: Gateway, lost: str, said: str
) -> None:
    """They would fail one after the other, and none of them can be taken up again."""
    federations = Federations(gateway.path)
    for _ in range(2):
        federations.add(make_bundle(MaskPolicy.SHARED), {}, tmp_path)
    (gateway.path / lost).unlink()

    with pytest.raises(StorageError, match=f"{lost}.*{said}"):
        serve_federations(gateway, lambda *_: None)

    assert [federation.outcome for federation in federations.all()] == [None, None]


def test_a_full_disk_ends_no_federation_and_is_named(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_no_room(*_: object) -> None:
        refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise storage_error(tmp_path, refused) from refused

    federations = Federations(gateway.path)
    federations.add(make_bundle(MaskPolicy.SHARED), {}, tmp_path)
    monkeypatch.setattr(serving, "run_aggregator", find_no_room)

    with pytest.raises(StorageError, match="No space left on device"):
        serve_federations(gateway, lambda *_: None)

    assert [federation.outcome for federation in federations.all()] == [None]


def test_a_federation_that_is_being_added_as_the_gateway_starts_is_added_whole(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    federations = Federations(gateway.path)
    save_npz(tmp_path / "held-out.npz", DATA)
    starting = threading.Thread(target=federations.discard_drafts)

    def copy(source: Path, target: Path) -> None:
        starting.start()
        copy_durably(source, target)

    monkeypatch.setattr("aggregator.gateway.federations.copy_durably", copy)
    (gateway.path / "queue" / "draft-1").mkdir(parents=True)  # what a command left that was killed

    added = federations.add(make_bundle(MaskPolicy.SHARED), {"held_out": "held-out.npz"}, tmp_path)

    starting.join()
    assert federations.all() == [added]
    assert (added.directory / "held-out.npz").read_bytes() == (tmp_path / "held-out.npz").read_bytes()
    assert [path.name for path in federations.path.iterdir()] == ["0001"]
