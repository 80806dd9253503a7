"""The enrolment endpoint's answers: a request becomes a status and a JSON body. No socket is in it.

::

    GET /authority      the authority's certificate, which a device compares with its token before it says anything
    POST /enrolment     {"secret": hex, "request": PEM}, answered by
                        {"federation": ..., "certificate": PEM, "authentication_key": hex, "root_key": hex,
                         "broker_port": ...}
    POST /renewal       no body, from a device that shows its certificate in TLS; answered by {"certificate": PEM}

What is refused is answered by {"error": one line}. Whoever sends wrong secrets is not heard for a while: that slows
nobody down who guesses 96 bits in vain, but bounds the work, and is seen in the log.
"""

from __future__ import annotations

import binascii
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from fedprune.errors import ProtocolError
from fedprune.identity.broker_process import tell_broker
from fedprune.identity.certificates import (
    MAX_REQUEST_BYTES,
    issue_again,
    issue_requested,
    renewable_from,
    requested_key,
    serial_number,
)
from fedprune.identity.devices import Member, RenewalRefused, TokenRefused
from fedprune.identity.gateway import Gateway
from fedprune.identity.token import SECRET_BYTES
from fedprune.system.log import LimitedLog

_log = logging.getLogger(__name__)

AUTHORITY_PATH, ENROLMENT_PATH, RENEWAL_PATH = "/authority", "/enrolment", "/renewal"

MAX_BODY_BYTES = 2 * MAX_REQUEST_BYTES
"""Of a request's body: line ends of PEM take two bytes in JSON."""

MOST_WRONG = 5
"""Wrong secrets from one address, before it is not heard for `WRONG_WINDOW_S`."""

WRONG_WINDOW_S = 600.0

MOST_ADDRESSES = 4096
"""Addresses whose wrong secrets are counted; the one that was wrong the longest time ago is forgotten first."""


_MOST_SHOWN = 300
"""Letters of a stranger's text that are shown."""


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device asks for its certificate. `secret` is the token's, in hexadecimal digits; `request` is PEM."""

    secret: str
    request: str


class Enrolled(msgspec.Struct, frozen=True):
    """What a device is given: its certificate in PEM, the key that it shares with the aggregator, the public half of
    the root key (both in hexadecimal digits), and whom it is to talk to."""

    federation: str
    certificate: str
    authentication_key: str
    root_key: str
    broker_port: int


class Renewed(msgspec.Struct, frozen=True):
    """A device's next certificate, in PEM, for the name and the key of the one that it showed."""

    certificate: str


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


class Enrolment:
    """Answers for one gateway. One thread at a time may call it. `clock` gives seconds, `now` the present."""

    def __init__(self, gateway: Gateway, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._gateway = gateway
        self._authority = gateway.authority
        self._now = now
        self._wrong = _WrongSecrets(clock)
        self._refused = LimitedLog(_log, clock=clock)

    def answer(self, method: str, path: str, body: bytes, address: str, serial: int | None = None) -> Answer:
        """`address` is the asker's, for the log and for the limit; `serial` that of the certificate that it showed, if
        the authority has signed it."""
        if (method, path) == ("GET", AUTHORITY_PATH):
            return Answer(200, self._authority.certificate)
        if (method, path) == ("POST", ENROLMENT_PATH):
            return self._enrol(body, address)
        if (method, path) == ("POST", RENEWAL_PATH):
            return self._renew(serial, address)
        known = f"GET {AUTHORITY_PATH}, POST {ENROLMENT_PATH} and POST {RENEWAL_PATH}"
        return _refusal(404, f"only {known} are answered here")

    def _enrol(self, body: bytes, address: str) -> Answer:
        if self._wrong.is_at_limit(address):
            return self._refuse(429, address, f"too many wrong tokens from {address}; wait ten minutes")
        try:
            member = self._redeem(body, address)
        except ProtocolError as error:
            self._wrong.count(address)
            return self._refuse(400, address, f"no request that can be read: {plain(str(error))}")
        except TokenRefused as error:
            self._wrong.count(address)
            return self._refuse(403, address, str(error))
        if self._gateway.denies(member.name):  # it comes back, with another key
            self._gateway.devices.publish(self._gateway.write_access)
            tell_broker(self._gateway)
        _log.info("%s joined, from %s", member.name, address)
        settings = self._gateway.settings
        enrolled = Enrolled(
            settings.federation,
            member.certificate.decode("ascii"),
            member.key.hex(),
            self._gateway.root.hex(),
            settings.broker_port,
        )
        return Answer(200, msgspec.json.encode(enrolled))

    def _renew(self, serial: int | None, address: str) -> Answer:
        if serial is None:
            return self._refuse(403, address, "a renewal needs the certificate that is to be renewed, shown in TLS")
        now = int(self._now().timestamp())
        try:
            certificate = self._gateway.devices.renew(serial, now, self._issue_again)
        except RenewalRefused as error:
            return self._refuse(403, address, str(error))
        _log.info("renewed a certificate, for %s", address)
        return Answer(200, msgspec.json.encode(Renewed(certificate.decode("ascii"))))

    def _issue_again(self, former: bytes) -> tuple[bytes, int]:
        due = renewable_from(former)
        if self._now() < due:
            raise RenewalRefused(f"this certificate is not renewed before {due:%Y-%m-%d}")
        certificate = issue_again(self._authority, former, self._now())
        return certificate, serial_number(certificate)

    def _redeem(self, body: bytes, address: str) -> Member:
        """Raises `ProtocolError` for what is no request, `TokenRefused` for one whose secret lets nobody in."""
        try:
            asked = msgspec.json.decode(body, type=EnrolmentRequest)
            secret, request = binascii.unhexlify(asked.secret), asked.request.encode("ascii")
        except (msgspec.DecodeError, ValueError) as error:
            raise ProtocolError(str(error)) from error
        if len(secret) != SECRET_BYTES:
            raise ProtocolError(f"a secret of {len(secret)} bytes")
        key, now = requested_key(request), int(self._now().timestamp())
        return self._gateway.devices.redeem(secret, key, address, now, lambda name: self._issue(name, request))

    def _issue(self, name: str, request: bytes) -> tuple[bytes, int]:
        certificate = issue_requested(self._authority, name, request, self._now())
        return certificate, serial_number(certificate)

    def _refuse(self, status: int, address: str, why: str) -> Answer:
        self._refused.log(logging.WARNING, "refused %s: %s", address, why)
        return _refusal(status, why)


def plain(text: str) -> str:
    """A stranger's text for people: of bounded length, on one line, without what a terminal would obey.

    Example:
        >>> plain("no\\n\\x1b[2J")
        'no  [2J'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MOST_SHOWN])


class _WrongSecrets:
    """Counts the wrong secrets of each address within a window of time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counted: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def is_at_limit(self, address: str) -> bool:
        began, wrong = self._counted.get(address, (0.0, 0))
        return wrong >= MOST_WRONG and self._clock() - began < WRONG_WINDOW_S

    def count(self, address: str) -> None:
        now = self._clock()
        began, wrong = self._counted.pop(address, (now, 0))
        self._counted[address] = (began, wrong + 1) if now - began < WRONG_WINDOW_S else (now, 1)
        if len(self._counted) > MOST_ADDRESSES:
            self._counted.popitem(last=False)


def _refusal(status: int, why: str) -> Answer:
    return Answer(status, msgspec.json.encode({"error": why}))
