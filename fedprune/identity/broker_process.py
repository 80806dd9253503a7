"""The gateway's Mosquitto, from outside: told to read its lists again, and to let go of a device."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path

from fedprune.errors import BrokerError
from fedprune.identity.gateway import BROKER_PID, Gateway

_log = logging.getLogger(__name__)

_NAME = "mosquitto"
_LONGEST_PID = 20
_PATIENCE_S = 10.0


def reload_broker(gateway: Gateway) -> bool:
    """Have the broker read its access list and its revocation list again; False if no process here is it.

    Connections stay. What is revoked is refused from the next connection on, and is delivered nothing from now on.
    Raises `BrokerError` if the broker is another user's process.
    """
    pid = _running(gateway.path / BROKER_PID)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise BrokerError(
            f"process {pid}: Mosquitto belongs to another user, and was not told to read its lists again; run this as "
            "the user who runs Mosquitto, once more"
        ) from error
    return True


def tell_broker(gateway: Gateway) -> None:
    """Have the broker read its files again, for who serves: where it runs and cannot be told, a person is."""
    try:
        why = "" if reload_broker(gateway) else f"{gateway.path / BROKER_PID} names no Mosquitto that can be seen here"
    except BrokerError as error:
        why = str(error)
    if why and broker_listens(gateway):
        _log.error("the broker goes on with its old lists and certificate (%s): start it again", why)


def broker_listens(gateway: Gateway) -> bool:
    """Something takes connections at the broker's port: a Mosquitto in a container does so without a process here."""
    try:
        socket.create_connection(("127.0.0.1", gateway.settings.broker_port), _PATIENCE_S).close()
    except OSError:
        return False
    return True


def _running(pid_file: Path) -> int | None:
    """The process that the file names, if it is Mosquitto: after a power cut the number may be anybody's."""
    try:
        with pid_file.open() as file:
            pid = int(file.read(_LONGEST_PID))
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == _NAME else None
