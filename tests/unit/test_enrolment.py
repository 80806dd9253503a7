"""The enrolment endpoint's answers: one certificate for one token, in time, and nothing for anybody else."""

from __future__ import annotations

import itertools
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedprune.identity.certificates import new_key, signing_request
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.enrolment import MOST_ADDRESSES, WRONG_WINDOW_S, Answer, Enrolment
from fedprune.identity.gateway import Gateway, init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import new_secret

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE = 60


class Desk:
    """A gateway's endpoint with a clock that the test moves."""

    def __init__(self, path: Path) -> None:
        self.gateway: Gateway = init_gateway(path, GatewaySettings(("127.0.0.1",)), NOW)
        self.passed_s = 0.0
        self._endpoint = Enrolment(self.gateway, lambda: self.passed_s, lambda: NOW + timedelta(seconds=self.passed_s))

    def invite(self, name: str) -> bytes:
        secret = new_secret()
        self.gateway.devices.invite(name, secret, int(NOW.timestamp()) + 60 * MINUTE)
        return secret

    def ask(self, secret: bytes, request: bytes, address: str = "10.0.0.7") -> Answer:
        body = json.dumps({"secret": secret.hex(), "request": request.decode()}).encode()
        return self.say("POST", "/enrolment", body, address)

    def say(
        self, method: str, path: str, body: bytes = b"", address: str = "10.0.0.7", serial: int | None = None
    ) -> Answer:
        answer = self._endpoint.answer(method, path, body, address, serial)
        if answer.status != 200:
            assert "\n" not in json.loads(answer.body)["error"]
        return answer


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "gateway")


REQUEST = signing_request(new_key(), "whatever")


def certificate(answer: Answer) -> x509.Certificate:
    assert answer.status == 200, answer.body
    return x509.load_pem_x509_certificate(json.loads(answer.body)["certificate"].encode())


def why(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def test_a_device_has_the_name_that_it_was_invited_by_whatever_it_asks_for(desk: Desk) -> None:
    found = certificate(desk.ask(desk.invite("pi-1"), signing_request(new_key(), "aggregator.fedprune")))
    assert found.subject.rfc4514_string() == "CN=pi-1"
    authority = x509.load_pem_x509_certificate(desk.gateway.authority.certificate)
    found.verify_directly_issued_by(authority)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    (purpose,) = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert purpose == x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH


def test_certificates_begin_long_before_they_are_made_for_devices_without_a_clock(desk: Desk) -> None:
    found = certificate(desk.ask(desk.invite("pi-1"), REQUEST))
    assert found.not_valid_before_utc == NOW - timedelta(days=730)
    assert found.not_valid_after_utc > NOW + timedelta(days=3600)


def test_a_lost_answer_is_given_again_to_the_same_key_alone(desk: Desk) -> None:
    secret = desk.invite("pi-1")
    first = desk.ask(secret, REQUEST)
    assert desk.ask(secret, REQUEST) == first
    desk.passed_s = 30.0
    status, said = why(desk.ask(secret, signing_request(new_key(), "pi-1"), "10.0.0.8"))
    assert status == 403
    assert "the token of pi-1 was used already, 30 s ago from 10.0.0.7" in said


def test_a_token_that_is_late_is_refused(desk: Desk) -> None:
    secret = desk.invite("pi-1")
    desk.passed_s = 60.0 * MINUTE
    assert why(desk.ask(secret, REQUEST)) == (403, "the token of pi-1 ended 0 s ago; ask for a new one")


def test_a_token_that_was_replaced_or_withdrawn_is_unknown(desk: Desk) -> None:
    old, withdrawn = desk.invite("pi-1"), desk.invite("pi-2")
    new = desk.invite("pi-1")
    assert desk.gateway.devices.revoke("pi-2", 1, 0, lambda _: None)
    for secret in (old, withdrawn):
        status, said = why(desk.ask(secret, REQUEST))
        assert (status, said.partition(":")[0]) == (403, "this token is unknown")
    assert desk.ask(new, REQUEST).status == 200


YEAR = 365 * 24 * 3600.0


def test_a_certificate_is_renewed_for_the_same_name_and_key_and_asked_again_it_is_the_same(desk: Desk) -> None:
    former = certificate(desk.ask(desk.invite("pi-1"), REQUEST))
    key = DeviceKeys(desk.gateway.path).get("pi-1")
    desk.passed_s = 7.5 * YEAR
    answer = desk.say("POST", "/renewal", serial=former.serial_number)
    renewed = certificate(answer)
    assert renewed.subject == former.subject
    assert renewed.public_key() == former.public_key()
    assert renewed.not_valid_after_utc - former.not_valid_after_utc == timedelta(seconds=7.5 * YEAR)
    assert desk.say("POST", "/renewal", serial=former.serial_number) == answer
    assert DeviceKeys(desk.gateway.path).get("pi-1") == key is not None


def test_what_is_not_due_is_not_renewed(desk: Desk) -> None:
    found = certificate(desk.ask(desk.invite("pi-1"), REQUEST))
    desk.passed_s = 6.5 * YEAR
    refused = why(desk.say("POST", "/renewal", serial=found.serial_number))
    assert refused == (403, f"this certificate is not renewed before {NOW + timedelta(days=7 * 365):%Y-%m-%d}")


def test_who_shows_no_certificate_of_a_device_or_a_revoked_one_renews_nothing(desk: Desk) -> None:
    found = certificate(desk.ask(desk.invite("pi-1"), REQUEST))
    desk.passed_s = 8 * YEAR
    status, said = why(desk.say("POST", "/renewal"))
    assert (status, said) == (403, "a renewal needs the certificate that is to be renewed, shown in TLS")
    status, said = why(desk.say("POST", "/renewal", serial=1))
    assert (status, said) == (403, "this certificate is of no device that has joined this gateway")
    assert desk.gateway.devices.revoke("pi-1", 1, 0, lambda _: None)
    status, said = why(desk.say("POST", "/renewal", serial=found.serial_number))
    assert (status, said) == (403, "pi-1 is revoked; the gateway's owner can enrol it anew")


def test_who_guesses_is_not_heard_for_a_while_and_others_are(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = desk.invite("pi-1")
    for _ in range(5):
        assert desk.ask(new_secret(), REQUEST).status == 403
    status, said = why(desk.ask(secret, REQUEST))
    assert (status, said) == (429, "too many wrong tokens from 10.0.0.7; wait ten minutes")
    assert desk.ask(secret, REQUEST, "10.0.0.8").status == 200
    desk.passed_s = WRONG_WINDOW_S
    assert desk.ask(secret, REQUEST).status == 200
    assert "too many wrong tokens from 10.0.0.7" in caplog.text
    assert secret.hex() not in caplog.text


def test_addresses_without_number_fill_no_memory(desk: Desk) -> None:
    for number in range(MOST_ADDRESSES + 10):
        desk.say("POST", "/enrolment", b"", f"2001:db8::{number:x}")
    assert len(desk._endpoint._wrong._counted) == MOST_ADDRESSES


def test_a_key_of_another_kind_is_refused(desk: Desk) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pi-1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    secret = desk.invite("pi-1")
    status, said = why(desk.ask(secret, request.public_bytes(serialization.Encoding.PEM)))
    assert (status, said) == (400, "no request that can be read: a signing request whose key is not on P-256")
    assert desk.ask(secret, REQUEST).status == 200  # which used nothing up


@pytest.mark.parametrize("asked", [("GET", "/"), ("GET", "/enrolment"), ("POST", "/authority"), ("GET", "/../ca.key")])
def test_nothing_else_is_served(desk: Desk, asked: tuple[str, str]) -> None:
    assert desk.say(*asked).status == 404


@pytest.fixture(scope="module")
def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("fuzzed") / "gateway")


STRANGERS = itertools.count()

MUTATED = st.tuples(st.integers(0, len(REQUEST) - 1), st.binary(max_size=3)).map(
    lambda change: REQUEST[: change[0]] + change[1] + REQUEST[change[0] + len(change[1]) :]
)


@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda secret, request: json.dumps({"secret": secret, "request": request}).encode(),
        st.text() | st.binary(min_size=12, max_size=12).map(bytes.hex),
        st.text() | MUTATED.map(lambda request: request.decode("latin-1")),
    ),
)
def test_whatever_is_sent_is_refused_in_one_line(shared_desk: Desk, body: bytes) -> None:
    assert shared_desk.say("POST", "/enrolment", body, f"10.{next(STRANGERS)}").status in (400, 403)


def test_what_a_stranger_says_makes_no_line_of_its_own_in_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.say("POST", "/enrolment", json.dumps({"x\nrefused 10.0.0.9: \x1b[2J": 1}).encode())
    (record,) = caplog.records
    assert record.getMessage().isprintable()
