"""A device joins: it makes its key, knows the gateway by the token, and is given its certificate.

Nothing secret is said before the gateway has proven that it has the authority whose fingerprint the token holds: the
authority's certificate is fetched from whoever answers, compared with the token, and then trusted alone.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from fedprune.errors import BrokerError, ProtocolError
from fedprune.identity.certificates import fingerprint, new_key, plain_certificate, signing_request
from fedprune.identity.enrolment import AUTHORITY_PATH, ENROLMENT_PATH, Enrolled, EnrolmentRequest, plain
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken
from fedprune.system.disk import Directory
from fedprune.wire.topics import check_id

AUTHORITY, CERTIFICATE, KEY, AUTHENTICATION_KEY = "ca.pem", "device.pem", "device.key", "authentication.key"

_NEW_KEY = "joining.key"
"""Until it is certified. What the device had before stays in force until then."""

_PATIENCE_S = 30.0
"""For each step of a connection."""

_MAX_ANSWER_BYTES = 2**16

_NOT_YET_VALID = 9
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID."""


class GatewayUnproven(BrokerError):
    """Whoever answers is not the gateway that made the token."""


@dataclass(frozen=True)
class Membership:
    """What a device has by joining, beside its files."""

    name: str
    federation: str
    broker_url: str


def join_gateway(token: JoinToken, disk: Directory) -> Membership:
    """Ask each host of the token in turn, until one lets the device in; then its files are on `disk`.

    Raises `BrokerError` if none can be reached, is the token's gateway, or takes the token.
    """
    key = disk.read(_NEW_KEY)
    if key is None:
        key = new_key()
        disk.write_private(_NEW_KEY, key)  # before it is asked for: if the answer is lost, the same key asks again
    failures = []
    for host in token.hosts:
        try:
            authority = _proven_authority(token, host)
            enrolled = _enrol(token, host, authority, key)
        except _Unreachable as failure:
            failures.append(str(failure))
            continue
        disk.write(AUTHORITY, authority.encode())
        disk.write_private(AUTHENTICATION_KEY, enrolled.authentication_key.encode())
        disk.write_private(KEY, key)
        disk.write(CERTIFICATE, enrolled.certificate.encode())
        disk.delete(_NEW_KEY)
        where = f"[{host}]" if ":" in host else host
        federation = check_id(enrolled.federation, "the gateway's federation")
        return Membership(token.name, federation, f"mqtts://{where}:{enrolled.broker_port}")
    raise BrokerError(f"no gateway answers: {'; '.join(failures)}; does `fedprune gateway run` run there?")


class _Unreachable(Exception):
    """A host that does not answer: another name of the gateway may."""


def _proven_authority(token: JoinToken, host: str) -> str:
    """The certificate of the authority that the token means."""
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE  # whoever it is: the fingerprint proves
    status, body = _ask(token, host, stranger, "GET", AUTHORITY_PATH, None)
    try:
        certificate = plain_certificate(body) if status == http.client.OK else b""
    except ProtocolError:
        certificate = b""
    if not certificate or fingerprint(certificate)[:FINGERPRINT_BYTES] != token.fingerprint:
        raise GatewayUnproven(
            f"{host}:{token.port} is not the gateway that made this token; nothing was sent to it. Is the token "
            "an old one, or somebody between?"
        )
    return certificate.decode("ascii")


def _enrol(token: JoinToken, host: str, authority: str, key: bytes) -> Enrolled:
    """Show the secret, to who has proven by TLS that the authority certified it as `host`."""
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted.minimum_version = ssl.TLSVersion.TLSv1_2
    trusted.load_verify_locations(cadata=authority)
    request = EnrolmentRequest(token.secret.hex(), signing_request(key, token.name).decode("ascii"))
    status, body = _ask(token, host, trusted, "POST", ENROLMENT_PATH, msgspec.json.encode(request))
    if status != http.client.OK:
        raise BrokerError(f"the gateway refuses: {_reason(body)}")
    try:
        return msgspec.json.decode(body, type=Enrolled)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"{host}:{token.port} gives no certificate that can be read ({error})") from error


def _ask(
    token: JoinToken, host: str, context: ssl.SSLContext, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    """(status, body) of one request. Raises `_Unreachable`, or `GatewayUnproven` if TLS does not prove the host."""
    connection = http.client.HTTPSConnection(host, token.port, timeout=_PATIENCE_S, context=context)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_ANSWER_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise _unproven(token, host, error) from error
    except (OSError, http.client.HTTPException) as error:
        why = "no such host" if isinstance(error, socket.gaierror) else getattr(error, "strerror", None) or str(error)
        raise _Unreachable(f"{host}:{token.port}: {why or type(error).__name__}") from error
    finally:
        connection.close()


def _unproven(token: JoinToken, host: str, error: ssl.SSLCertVerificationError) -> GatewayUnproven:
    if error.verify_code == _NOT_YET_VALID:
        why = f"its certificate is not yet valid: this device's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return GatewayUnproven(f"{host}:{token.port}: {why}; set the clock, and join again")
    return GatewayUnproven(
        f"{host}:{token.port} does not prove that it is the gateway ({error.verify_message}); nothing secret was sent"
    )


def _reason(body: bytes) -> str:
    """What a refusal says, as one line of bounded length."""
    try:
        said: Any = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = "it does not say why"
    return plain(str(said))
