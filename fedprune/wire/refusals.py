"""Refusals in words: what a broker that cannot be reached, or does not let us in, lacks, and how that is mended.

Pure: the link tells what happened, and these functions make the one line that a person reads.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from datetime import datetime

from fedprune.errors import BrokerError
from fedprune.wire.broker import Broker
from fedprune.wire.outbox import Publication
from fedprune.wire.packets import MAX_PACKET_BYTES

_NOT_YET_VALID, _EXPIRED = 9, 10
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_WANTS_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
"""What the alert is called that a client without a certificate gets: with TLS 1.3, and before."""

_NEEDS = "QoS 1, retained messages"
"""What fedprune needs of a broker beside MQTT 3.1.1."""


class BrokerUnreachable(BrokerError):
    """No connection can be opened, for a reason that may pass by itself."""


def no_connection(broker: Broker, error: OSError | UnicodeError, clock: datetime) -> BrokerError:
    """Why no connection could be opened. `clock` is what this device takes for the present, with its time zone."""
    where = f"broker {broker.url}: "
    match error:
        case UnicodeError():
            return BrokerError(f"{where}no host can be called so; check the address")
        case socket.gaierror():
            return BrokerUnreachable(f"{where}no such host; check the address")
        case ssl.SSLCertVerificationError(verify_code=code) if code in (_NOT_YET_VALID, _EXPIRED):
            return _out_of_date(where, code, clock)
        case ssl.SSLError():
            return BrokerError(f"{where}{tls_refusal(broker, error)}")
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError() if broker.uses_tls:
            return BrokerError(f"{where}it hung up while TLS began; does it want mqtt://, and is the port right?")
        case ConnectionRefusedError() if not _is_loopback(broker.host):
            return BrokerUnreachable(
                f"{where}{error.strerror}; is it running there, and the port right? Without a listener line in its "
                "configuration Mosquitto 2 can be reached on its own machine only"
            )
        case _:
            return BrokerUnreachable(f"{where}{error.strerror or error}; is it running there, and the port right?")


def tls_refusal(broker: Broker, error: ssl.SSLError) -> str:
    """What TLS failed for, in its handshake or, as version 1.3 has it, right after."""
    reason = str(error.reason or error)
    if broker.tls.certificate is None and any(alert in reason for alert in _WANTS_CERTIFICATE):
        return f"TLS: it refuses clients without a certificate ({reason}); set {_CLIENT_CERTIFICATE}"
    if broker.tls.certificate is not None and "REVOKED" in reason:
        return f"TLS: {broker.tls.certificate} is revoked ({reason}); the gateway's owner can enrol the device anew"
    if broker.tls.certificate is not None and "ALERT" in reason:
        return f"TLS: it does not take {broker.tls.certificate} ({reason}); check broker.tls.certificate"
    return f"TLS: {getattr(error, 'verify_message', '') or reason}; check broker.tls and the port"


def no_answer(broker: Broker, tls_error: ssl.SSLError | None) -> str:
    """Why it may be that a broker ended a connection before it answered to CONNECT."""
    if tls_error is not None:
        return tls_refusal(broker, tls_error)
    if not broker.uses_tls:
        security = "does it want mqtts://"
    elif broker.tls.certificate is None:
        security = f"does it want a client certificate ({_CLIENT_CERTIFICATE})"
    else:
        security = "does it take broker.tls.certificate"
    return (
        f"ended the connection before it let us in; is this an MQTT 3.1.1 broker, {security}, does it allow {_NEEDS}, "
        "and one connection more?"
    )


def refused_connect(broker: Broker, client_id: str, reason: str) -> str:
    """What a broker's answer to CONNECT asks for; `reason` is MQTT's name of its return code, in lower case."""
    match reason:
        case "client identifier not valid":
            needed = f"it must take client ids of {len(client_id.encode())} bytes, such as {client_id}"
        case "server unavailable":
            needed = "it must allow a connection for each agent and one for the aggregator; is it at its limit?"
        case _:
            who = "broker.username, the password" if broker.tls.certificate is None else "broker.tls.certificate"
            needed = f"check {who} and the broker's access list"
    return f"{reason}; {needed}"


def refused_subscription(broker: Broker) -> BrokerError:
    who = broker.username or "clients without a user name"
    return BrokerError(f"broker {broker.url}: {who} may not subscribe; check its access list")


def no_qos_1(broker: Broker) -> BrokerError:
    return BrokerError(f"broker {broker.url}: it grants QoS 0 only; it must allow {_NEEDS} (of Mosquitto: max_qos)")


def cut_off(client_id: str, unacknowledged: Publication | None) -> str:
    """Why it may be that connections do not last. `unacknowledged` is the largest that the broker did not answer."""
    if unacknowledged is not None:
        retained = "retained " if unacknowledged.retain else ""
        return (
            f"it leaves unanswered what is published, such as a {retained}message of {len(unacknowledged.payload)} "
            f"bytes, and must allow {_NEEDS} and packets of {MAX_PACKET_BYTES} bytes (of Mosquitto: max_qos, "
            "retain_available, max_packet_size)"
        )
    return (
        f"does another client take the id {client_id}? Two agents of one name would, and two aggregators of one "
        "federation"
    )


_CLIENT_CERTIFICATE = "broker.tls.certificate and broker.tls.key"


def _out_of_date(where: str, code: int, clock: datetime) -> BrokerError:
    """Both pass by themselves, as soon as the clock is right or the certificate is renewed. To the day, so that the
    same is said for as long as it is so."""
    says = f"this device's clock says {clock:%Y-%m-%d %Z}"
    if code == _NOT_YET_VALID:
        return BrokerUnreachable(
            f"{where}TLS: its certificate is not yet valid: {says}, which is probably wrong; set the clock"
        )
    return BrokerUnreachable(
        f"{where}TLS: its certificate has expired: {says}; set the clock if that is wrong, else renew it"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
