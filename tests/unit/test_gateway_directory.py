"""A gateway's directory: its authority is never replaced, and its certificates have room for the federation's name."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from fedprune.errors import StorageError
from fedprune.identity.certificates import issue_client
from fedprune.identity.gateway import init_gateway
from fedprune.identity.mosquitto import Files, configuration
from fedprune.identity.settings import LONGEST_FEDERATION, GatewaySettings

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SETTINGS = GatewaySettings(("127.0.0.1",))


def test_an_authority_whose_certificate_is_gone_is_not_replaced(tmp_path: Path) -> None:
    """All devices trust it: its key can still be restored, and one that was overwritten cannot."""
    init_gateway(tmp_path, SETTINGS, NOW)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(StorageError, match=r"ca\.pem: there is no such file; restore it"):
        init_gateway(tmp_path, SETTINGS, NOW)
    assert (tmp_path / "ca.key").read_bytes() == key


def test_a_gateway_that_is_made_twice_at_once_has_one_authority(tmp_path: Path) -> None:
    threads = [threading.Thread(target=init_gateway, args=(tmp_path, SETTINGS, NOW)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = init_gateway(tmp_path, SETTINGS, NOW)
    issued = issue_client(made.authority, "pi-1", NOW)  # with the key; the certificate tells whose it is
    _verify(issued.certificate, made.authority.certificate)


def _verify(certificate: bytes, authority: bytes) -> None:
    x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


def test_a_federation_has_the_longest_name_that_certificates_hold(tmp_path: Path) -> None:
    init_gateway(tmp_path, GatewaySettings(("127.0.0.1",), "f" * LONGEST_FEDERATION), NOW)
    with pytest.raises(ValueError, match="federation of 45 letters; a gateway's may have 44: choose a shorter name"):
        GatewaySettings(("127.0.0.1",), "f" * (LONGEST_FEDERATION + 1))


@pytest.mark.parametrize("other", [b"", b"x", None], ids=["empty", "damaged", "another's"])
def test_a_key_that_is_not_its_certificates_is_said(tmp_path: Path, other: bytes | None) -> None:
    made = init_gateway(tmp_path, SETTINGS, NOW)
    (tmp_path / "ca.key").write_bytes((tmp_path / "broker.key").read_bytes() if other is None else other)
    with pytest.raises(StorageError, match=r"ca\.pem and ca\.key: no certificate and its key; restore both"):
        made.credentials("ca")


@pytest.mark.parametrize(("memory_bytes", "most"), [(512e6, 1_706), (1e9, 3_333), (8e9, 20_000), (64e9, 20_000)])
def test_a_broker_lets_in_no_more_connections_than_its_machine_has_memory_for(memory_bytes: float, most: int) -> None:
    """Each takes 45 kB, also before it has shown a certificate: strangers must not be able to end the broker."""
    files = Files("ca", "certificate", "key", "revoked", "access", "pid")
    assert f"max_connections {most}\n" in configuration(files, 8883, "somebody", memory_bytes)
