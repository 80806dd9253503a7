"""Certificates say who somebody is, and nothing more; a later revocation list is the one that counts."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedprune.errors import ProtocolError
from fedprune.identity.certificates import (
    MAX_REQUEST_BYTES,
    Credentials,
    fingerprint,
    issue_client,
    issue_server,
    new_authority,
    plain_certificate,
    requested_key,
    revocation_list,
    serial_number,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)
HOSTS = ("gateway.local", "192.168.1.10", "fe80::1")


@pytest.fixture(scope="module")
def authority() -> Credentials:
    return new_authority("tests", NOW)


def loaded(credentials: Credentials) -> x509.Certificate:
    return x509.load_pem_x509_certificate(credentials.certificate)


def test_a_server_is_known_by_each_of_its_names_and_addresses_and_no_other(authority: Credentials) -> None:
    server = loaded(issue_server(authority, "broker", HOSTS, NOW))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOSTS[0]]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == list(HOSTS[1:])
    builder = PolicyBuilder().store(Store([loaded(authority)])).time(NOW.replace(tzinfo=None))
    builder.build_server_verifier(x509.DNSName(HOSTS[0])).verify(server, [])
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("elsewhere.local")).verify(server, [])


def test_a_client_is_no_server_and_a_server_no_client(authority: Credentials) -> None:
    purposes = [
        list(loaded(issued).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for issued in (issue_client(authority, "pi-1", NOW), issue_server(authority, "broker", HOSTS, NOW))
    ]
    assert purposes == [[ExtendedKeyUsageOID.CLIENT_AUTH], [ExtendedKeyUsageOID.SERVER_AUTH]]


def test_what_is_certified_while_the_clock_is_ahead_begins_with_its_authority_and_ends_later(
    authority: Credentials,
) -> None:
    ahead = NOW + timedelta(days=5000)
    for issued in (issue_client(authority, "pi-1", ahead), issue_server(authority, "broker", HOSTS, ahead)):
        assert loaded(issued).not_valid_before_utc == loaded(authority).not_valid_before_utc < NOW
        assert loaded(issued).not_valid_after_utc > ahead


def test_a_key_is_shown_nowhere(authority: Credentials) -> None:
    assert authority.key.splitlines()[1].decode() not in repr(authority)


def test_the_later_revocation_list_begins_later_and_none_ends_before_the_authority(authority: Credentials) -> None:
    """OpenSSL takes, of several that it has read, the one that begins last, and refuses everybody when it has ended."""
    serials = [serial_number(issue_client(authority, "pi-1", NOW).certificate) for _ in range(2)]
    first, second = (x509.load_pem_x509_crl(revocation_list(authority, serials[:count], count)) for count in (1, 2))
    assert second.last_update_utc - first.last_update_utc == timedelta(seconds=1)
    assert second.last_update_utc < NOW
    assert first.next_update_utc == loaded(authority).not_valid_after_utc
    assert {entry.serial_number for entry in second} == set(serials)
    assert second.is_signature_valid(loaded(authority).public_key())  # type: ignore[arg-type]


@pytest.mark.parametrize("request_", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\n", bytes(MAX_REQUEST_BYTES + 1)])
def test_what_is_no_request_is_refused(request_: bytes) -> None:
    with pytest.raises(ProtocolError, match="signing request"):
        requested_key(request_)


@pytest.mark.parametrize("blob", [b"", b"-----BEGIN CERTIFICATE-----", b"\xff", b"-----BEGIN CERTIFICATE-----\n!\n"])
def test_what_is_no_certificate_has_no_fingerprint(blob: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a certificate in PEM"):
        fingerprint(blob)


def test_what_stands_behind_a_certificate_is_not_trusted_with_it(authority: Credentials) -> None:
    """Where its base64 is padded Python reads no further, but OpenSSL does."""
    taken = 0
    for length in range(1, 16):
        certificate = new_authority("a" * length, NOW).certificate
        behind = certificate + authority.certificate
        with contextlib.suppress(ProtocolError):
            if fingerprint(behind) == fingerprint(certificate):
                assert plain_certificate(behind) == certificate
                taken += 1
    assert taken
