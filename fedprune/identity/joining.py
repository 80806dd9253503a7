"""A device joins: it makes its key, knows the gateway by the token, and is given its certificate.

Nothing secret is said before the gateway has proven that it has the authority whose fingerprint the token holds: the
authority's certificate is fetched from whoever answers, compared with the token, and then trusted alone.
"""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass

import msgspec

from fedprune.errors import BrokerError, ProtocolError
from fedprune.identity.asking import GatewayUnproven, Unreachable, ask, refusal, trusting
from fedprune.identity.certificates import (
    Credentials,
    fingerprint,
    is_pair,
    new_key,
    plain_certificate,
    renewable_from,
    signing_request,
)
from fedprune.identity.enrolment import AUTHORITY_PATH, ENROLMENT_PATH, Enrolled, EnrolmentRequest
from fedprune.identity.token import FINGERPRINT_BYTES, JoinToken
from fedprune.system.disk import Directory
from fedprune.wire.topics import check_id

AUTHORITY, CERTIFICATE, KEY, AUTHENTICATION_KEY = "ca.pem", "device.pem", "device.key", "authentication.key"
TRUSTED_ROOT = "root.pub"
HOME = "gateway.json"

_NEW_KEY = "joining.key"
"""Until it is certified. What the device had before stays in force until then."""


class Home(msgspec.Struct, frozen=True):
    """The gateway of a device, as the file `HOME` says: where its certificate is renewed, and from when on (seconds
    since 1970)."""

    hosts: tuple[str, ...]
    enrolment_port: int
    renew_from: int = 0


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
        except Unreachable as failure:
            failures.append(str(failure))
            continue
        certificate = certified(enrolled.certificate, key)
        federation = check_id(enrolled.federation, "the gateway's federation")
        disk.write(AUTHORITY, authority.encode())
        disk.write_private(AUTHENTICATION_KEY, enrolled.authentication_key.encode())
        disk.write(TRUSTED_ROOT, enrolled.root_key.encode())
        disk.write_private(KEY, key)
        keep_certificate(disk, certificate, Home(token.hosts, token.port))
        disk.delete(_NEW_KEY)
        where = f"[{host}]" if ":" in host else host
        return Membership(token.name, federation, f"mqtts://{where}:{enrolled.broker_port}")
    raise BrokerError(f"no gateway answers: {'; '.join(failures)}; does `fedprune gateway run` run there?")


def certified(certificate: str, key: bytes) -> bytes:
    """The certificate that a gateway answers with, once it is seen to be one of this key: until then what the device
    has stays. Raises `ProtocolError`."""
    given = certificate.encode()
    if not is_pair(Credentials(given, key)):
        raise ProtocolError("the gateway gives a certificate that is none of this device's key; ask it once more")
    return given


def keep_certificate(disk: Directory, certificate: bytes, home: Home) -> None:
    """Write a device's certificate, then from when on it can be renewed, and where: who is interrupted in between
    renews once more, where the other way round nobody ever would."""
    disk.write(CERTIFICATE, certificate)
    renew_from = int(renewable_from(certificate).timestamp())
    disk.write(HOME, msgspec.json.encode(msgspec.structs.replace(home, renew_from=renew_from)))


def _proven_authority(token: JoinToken, host: str) -> str:
    """The certificate of the authority that the token means."""
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE  # whoever it is: the fingerprint proves
    status, body = ask(host, token.port, stranger, "GET", AUTHORITY_PATH)
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
    request = EnrolmentRequest(token.secret.hex(), signing_request(key, token.name).decode("ascii"))
    status, body = ask(host, token.port, trusting(authority), "POST", ENROLMENT_PATH, msgspec.json.encode(request))
    if status != http.client.OK:
        raise BrokerError(f"the gateway refuses: {refusal(body)}")
    try:
        return msgspec.json.decode(body, type=Enrolled)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"{host}:{token.port} gives no certificate that can be read ({error})") from error
