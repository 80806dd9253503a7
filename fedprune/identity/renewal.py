"""Renewal of certificates, long before they end: a device's at its gateway, and the gateway's own.

A device shows its certificate in TLS, and is given another one for the same name and key. So one file is replaced, and
whatever is interrupted leaves a certificate that fits its key.
"""

from __future__ import annotations

import http.client
from datetime import datetime

import msgspec

from fedprune.errors import BrokerError, ConfigurationError, ProtocolError, StorageError
from fedprune.identity.asking import Unreachable, ask, refusal, trusting
from fedprune.identity.broker_process import tell_broker
from fedprune.identity.certificates import renewable_from
from fedprune.identity.enrolment import RENEWAL_PATH, Renewed
from fedprune.identity.gateway import OWN, Gateway, init_gateway
from fedprune.identity.joining import AUTHORITY, CERTIFICATE, HOME, KEY, Home, certified, keep_certificate
from fedprune.system.disk import Directory

CHECK_S = 24 * 3600.0
"""How often it is looked whether a certificate is due, which it is for years."""


def renew_device(disk: Directory, now: datetime) -> bool:
    """Renew the certificate of the device whose files are on `disk`; False if that is not due.

    Raises `BrokerError` if no host of the gateway can be reached, or it refuses; `ConfigurationError` if the device
    has joined no gateway.
    """
    home = _home(disk)
    if now.timestamp() < home.renew_from:
        return False
    context = trusting(_text(disk, AUTHORITY))
    context.load_cert_chain(disk.path / CERTIFICATE, disk.path / KEY)
    failures = []
    for host in home.hosts:
        try:
            status, body = ask(host, home.enrolment_port, context, "POST", RENEWAL_PATH)
        except Unreachable as failure:
            failures.append(str(failure))
            continue
        if status != http.client.OK:
            raise BrokerError(f"the gateway does not renew the certificate: {refusal(body)}")
        try:
            certificate = msgspec.json.decode(body, type=Renewed).certificate
        except msgspec.DecodeError as error:
            raise ProtocolError(f"{host}: gives no certificate that can be read ({error})") from error
        keep_certificate(disk, certified(certificate, _text(disk, KEY).encode()), home)
        return True
    raise BrokerError(f"no gateway answers: {'; '.join(failures)}; does `fedprune gateway run` run there?")


def renew_gateway(gateway: Gateway, now: datetime) -> bool:
    """Make the gateway's own certificates anew, and tell its broker; False if that is not due."""
    if all(now < renewable_from(gateway.credentials(name).certificate) for name in OWN):
        return False
    init_gateway(gateway.path, gateway.settings, now)
    tell_broker(gateway)
    return True


def _home(disk: Directory) -> Home:
    try:
        return msgspec.json.decode(_text(disk, HOME), type=Home)
    except msgspec.DecodeError as error:
        raise StorageError(f"{disk.path / HOME}: damaged ({error}); join the gateway again") from error


def _text(disk: Directory, name: str) -> str:
    blob = disk.read(name)
    if blob is None:
        raise ConfigurationError(f"{disk.path / name}: there is no such file; `fedprune join` writes it")
    return blob.decode("ascii", "replace")
