"""A join token: what a person carries from the gateway to a new device. Pure.

It says where the gateway is, by which certificate its authority is known, and a secret that lets one device in, once.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import zlib
from dataclasses import dataclass, field

from fedprune.errors import ConfigurationError
from fedprune.identity.settings import MOST_HOSTS, check_host
from fedprune.wire.topics import check_id

SECRET_BYTES = 12
"""96 bits, which nobody guesses however often they may try."""

FINGERPRINT_BYTES = 16
"""Of the SHA-256 of the authority's certificate: nobody can make another certificate with these 128 bits."""

MOST_CHARACTERS = 3000
"""Of a token: more than eight names of the longest kind take."""

_PREFIX = "fpj1."
_CHECK_BYTES = 4
_PORT_BYTES = 2


@dataclass(frozen=True)
class JoinToken:
    """The token of the device `name`. `hosts` serve the enrolment endpoint at `port`, in the order of trial."""

    name: str
    hosts: tuple[str, ...]
    port: int
    fingerprint: bytes
    secret: bytes = field(repr=False)


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def format_token(token: JoinToken) -> str:
    """The token as one word of ASCII, with a checksum against what people do to words that they copy.

    Example:
        >>> format_token(JoinToken("pi-1", ("gateway.local",), 8884, bytes(16), bytes(12)))
        'fpj1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACK0cGktMSxnYXRld2F5LmxvY2FsgzLjcg'
    """
    words = ",".join((token.name, *token.hosts)).encode("ascii")
    body = token.fingerprint[:FINGERPRINT_BYTES] + token.secret + token.port.to_bytes(_PORT_BYTES, "big") + words
    return _PREFIX + _encoded(body + _check(body))


def parse_token(text: str) -> JoinToken:
    """Raises `ConfigurationError`, which does not repeat the text, if it is no token."""
    word = text.strip()
    if not word.startswith(_PREFIX) or len(word) > MOST_CHARACTERS:
        raise ConfigurationError(f"this is no join token: one begins with {_PREFIX}; `fedprune enroll NAME` prints it")
    try:
        encoded = word.removeprefix(_PREFIX).encode("ascii")
        blob = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        blob = b""
    body, check = blob[:-_CHECK_BYTES], blob[-_CHECK_BYTES:]
    whole = len(blob) > _HEAD_BYTES + _CHECK_BYTES and _check(body) == check
    if not whole or _PREFIX + _encoded(blob) != word:  # the last letter has bits that say nothing
        raise ConfigurationError("the join token is damaged: copy it whole, from fpj1. to its last letter")
    return _parsed(body)


_HEAD_BYTES = FINGERPRINT_BYTES + SECRET_BYTES + _PORT_BYTES


def _parsed(body: bytes) -> JoinToken:
    fingerprint, secret = body[:FINGERPRINT_BYTES], body[FINGERPRINT_BYTES : FINGERPRINT_BYTES + SECRET_BYTES]
    port = int.from_bytes(body[_HEAD_BYTES - _PORT_BYTES : _HEAD_BYTES], "big")
    try:
        name, *hosts = body[_HEAD_BYTES:].decode("ascii").split(",")
        check_id(name, "device")
        if not 1 <= len(hosts) <= MOST_HOSTS or not port:
            raise ValueError("no hosts, too many, or no port")
        return JoinToken(name, tuple(map(check_host, hosts)), port, fingerprint, secret)
    except ValueError as error:
        raise ConfigurationError("this join token says nothing that can be used; ask for another one") from error


def _encoded(blob: bytes) -> str:
    return base64.urlsafe_b64encode(blob).decode().rstrip("=")


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECK_BYTES, "big")
