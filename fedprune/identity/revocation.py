"""A device is revoked: written down, made known to aggregator and broker, and its connection ended.

Mosquitto reads its revocation list again when it is told to reload, and so takes no new connection of the device; the
one that there is goes on. It ends when somebody else of that name connects, since a name is a client id: the gateway
does, with a certificate made for the purpose. Before, a *witness*, a certificate of that name which is revoked together
with the device's, is tried until it is refused: the list is in force then.
"""

from __future__ import annotations

import tempfile
import time
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from fedprune.errors import BrokerError, ConfigurationError
from fedprune.identity.audit import Client
from fedprune.identity.broker_process import broker_listens, reload_broker
from fedprune.identity.certificates import Credentials, issue_client, serial_number
from fedprune.identity.gateway import AUTHORITY, Gateway
from fedprune.system.disk import Directory
from fedprune.wire.broker import Broker, Tls
from fedprune.wire.refusals import BrokerUnreachable
from fedprune.wire.topics import Topics

_RELOAD_S = 10.0
"""After which a broker that still takes the witness is said not to read its list again."""

_AGAIN_S = 0.2
"""Between two trials."""

_LIFETIME = timedelta(hours=1)
"""Of the certificates that are made for a revocation."""


class BrokerState(Enum):
    """The broker after a revocation."""

    OFF = "it is off the broker"
    NOT_RUNNING = "the broker does not run; it will not let it in"
    UNTOLD = (
        "what listens at the broker's port could not be told, since mosquitto.pid names no Mosquitto that runs here: "
        "start it again with this gateway's mosquitto.conf and lists; until then the device stays connected"
    )
    DEAF = (
        "the broker goes on with its old revocation list: it delivers nothing to the device and takes nothing of it, "
        "but start it again"
    )


def revoke(gateway: Gateway, name: str, now: datetime) -> BrokerState:
    """Refuse the device from now on. Raises `ConfigurationError` if nobody was ever invited by that name."""
    witness = issue_client(gateway.authority, name, now, _LIFETIME)
    known = gateway.devices.revoke(name, serial_number(witness.certificate), int(now.timestamp()), gateway.write_access)
    if not known:
        raise ConfigurationError(f"no device {name} was ever invited here; `fedprune enroll` invites")
    was_told = reload_broker(gateway)
    if not broker_listens(gateway):
        return BrokerState.NOT_RUNNING
    if not was_told:
        return BrokerState.UNTOLD
    with tempfile.TemporaryDirectory(prefix="fedprune-revoke-") as scratch:
        disk = Directory(Path(scratch))
        if not _is_refused(gateway, disk, name, witness):
            return BrokerState.DEAF
        successor = issue_client(gateway.authority, name, now, _LIFETIME)
        _connect(gateway, disk, name, successor)
    return BrokerState.OFF


def _is_refused(gateway: Gateway, disk: Directory, name: str, witness: Credentials) -> bool:
    """Whether the broker refuses the witness before the time is up."""
    deadline = time.monotonic() + _RELOAD_S
    while time.monotonic() < deadline:
        try:
            _connect(gateway, disk, name, witness)
        except BrokerUnreachable:
            raise
        except BrokerError:
            return True
        time.sleep(_AGAIN_S)
    return False


def _connect(gateway: Gateway, disk: Directory, name: str, credentials: Credentials) -> None:
    """Be `name` at the broker for a moment, which ends another's connection of that name."""
    disk.write("certificate", credentials.certificate)
    disk.write_private("key", credentials.key)
    tls = Tls(str(gateway.path / f"{AUTHORITY}.pem"), str(disk.path / "certificate"), str(disk.path / "key"))
    with Client(Broker(gateway.broker_url, tls=tls), Topics(gateway.settings.federation).agent_client(name)):
        pass
