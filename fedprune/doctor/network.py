"""The way to a broker, step by step: its name, its port, and with TLS its certificate. Nobody is let in yet."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fedprune.doctor.clock import examine_certificate, judge_dates
from fedprune.doctor.finding import Finding, Verdict, failed, ok, unknown
from fedprune.errors import ConfigurationError
from fedprune.wire import refusals
from fedprune.wire.broker import Broker
from fedprune.wire.tls import tls_context

_PATIENCE_S = 10.0
"""For a connection, and for a TLS handshake."""


def examine_network(broker: Broker, now: datetime) -> Iterator[Finding]:
    """What a connection needs. The paths of `broker` are from the working directory on."""
    yield from (found := [*_examine_way(broker, now)])
    if broker.uses_tls:
        yield from _examine_files(broker, now)
        if any(finding.verdict is Verdict.FAILED for finding in found):
            yield unknown("TLS", f"{broker.url} cannot be reached")
        else:
            yield _examine_tls(broker, now)


def _examine_way(broker: Broker, now: datetime) -> Iterator[Finding]:
    name = _examine_name(broker.host, broker.port)
    yield name
    if name.verdict is Verdict.FAILED:
        yield unknown("port", f"{broker.host} has no address here")
        return
    try:
        socket.create_connection((broker.host, broker.port), _PATIENCE_S).close()
    except OSError as error:
        yield failed("port", str(refusals.no_connection(broker, error, now)))
    else:
        yield ok("port", f"{broker.host} takes connections at port {broker.port}")


def _examine_name(host: str, port: int) -> Finding:
    check = "DNS"
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return ok(check, f"{host} is an address, no name to look up")
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except UnicodeError:
        return failed(check, f"no host can be called {host!r}", "correct broker.url")
    except socket.gaierror as error:
        local = host.endswith(".local")
        mending = "correct broker.url, or install avahi-daemon and libnss-mdns" if local else "correct broker.url"
        if error.errno == socket.EAI_AGAIN:
            mending = f"{mending}; or mend this machine's network: no name server answers"
        return failed(check, f"{host}: {(error.strerror or 'no such host').lower()}", mending)
    return ok(check, f"{host} is {', '.join(found)}")


def _examine_files(broker: Broker, now: datetime) -> Iterator[Finding]:
    for what, path in (("broker.tls.ca", broker.tls.ca), ("broker.tls.certificate", broker.tls.certificate)):
        if path is not None:
            yield examine_certificate(Path(path), what, now)


def _examine_tls(broker: Broker, now: datetime) -> Finding:
    """The handshake checks the chain, the name and the dates of the broker's certificate."""
    try:
        context = tls_context(broker.tls)
    except ConfigurationError as error:
        return failed("TLS", str(error))
    try:
        with (
            socket.create_connection((broker.host, broker.port), _PATIENCE_S) as connection,
            context.wrap_socket(connection, server_hostname=broker.host) as secured,
        ):
            version, certificate = secured.version(), secured.getpeercert() or {}
    except (OSError, UnicodeError) as error:
        return failed("TLS", str(refusals.no_connection(broker, error, now)))
    dates = [ssl.cert_time_to_seconds(str(certificate[key])) for key in ("notBefore", "notAfter")]
    begins, ends = (datetime.fromtimestamp(date, now.tzinfo) for date in dates)
    judged = judge_dates(f"the broker's certificate, of {broker.host},", begins, ends, now)
    return Finding("TLS", judged.verdict, f"{version}: {judged.told}", judged.mending)
