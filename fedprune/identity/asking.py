"""A device's requests to a gateway's enrolment endpoint, over TLS that trusts one authority alone."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from datetime import UTC, datetime
from typing import Any

from fedprune.errors import BrokerError
from fedprune.identity.enrolment import plain

_PATIENCE_S = 30.0
"""For each step of a connection."""

_MAX_ANSWER_BYTES = 2**16

_OUT_OF_DATE = {9: "is not yet valid", 10: "has expired"}
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


class GatewayUnproven(BrokerError):
    """Whoever answers is not the gateway."""


class Unreachable(Exception):
    """A host that does not answer: another name of the gateway may."""


def trusting(authority: str) -> ssl.SSLContext:
    """TLS to whom this authority, a certificate in PEM, has certified under the name that is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    return context


def ask(
    host: str, port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """(status, body) of one request. Raises `Unreachable`, or `GatewayUnproven` if TLS does not prove the host."""
    connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE_S, context=context)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_ANSWER_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise _unproven(host, port, error) from error
    except (OSError, http.client.HTTPException) as error:
        why = "no such host" if isinstance(error, socket.gaierror) else getattr(error, "strerror", None) or str(error)
        raise Unreachable(f"{host}:{port}: {why or type(error).__name__}") from error
    finally:
        connection.close()


def refusal(body: bytes) -> str:
    """What a refusal says, as one line of bounded length."""
    try:
        said: Any = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = "it does not say why"
    return plain(str(said))


def _unproven(host: str, port: int, error: ssl.SSLCertVerificationError) -> GatewayUnproven:
    if error.verify_code in _OUT_OF_DATE:
        says = f"this device's clock says {datetime.now(UTC):%Y-%m-%d} UTC"
        return GatewayUnproven(
            f"{host}:{port}: its certificate {_OUT_OF_DATE[error.verify_code]}: {says}; nothing secret was sent. If "
            "the clock is wrong, here or at the gateway, set it, and try again"
        )
    return GatewayUnproven(
        f"{host}:{port} does not prove that it is the gateway ({error.verify_message}); nothing secret was sent"
    )
