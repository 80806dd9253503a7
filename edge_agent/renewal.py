"""The renewal of this device's certificate: a process of its own, once that is due, which it is for years."""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

import msgspec

from fedprune.config import text_of
from fedprune.errors import ConfigurationError

_log = logging.getLogger(__name__)

_CHECK_S = 24 * 3600.0
"""How often it is looked whether the certificate is due."""

_LONGEST_S = 300.0
"""A renewal, on a slow device and network."""


class _Due(msgspec.Struct, frozen=True):
    renew_from: int


def keep_renewed(gateway: Path) -> None:
    """Look now and every day whether the certificate is due, as the file `gateway` says that `fedprune join` wrote.

    What makes certificates is nothing that a waiting agent loads: so another process renews. The link reads the
    certificate at each connection. Raises `ConfigurationError` if the file cannot be read.
    """
    _renew_from(gateway)
    threading.Thread(target=_watch, args=(gateway,), name="renewal", daemon=True).start()


def _watch(gateway: Path) -> None:
    while True:
        try:
            if time.time() >= _renew_from(gateway):
                _renew(gateway.parent)
        except ConfigurationError as error:
            _log.error("%s", error)
        time.sleep(_CHECK_S)


def _renew(directory: Path) -> None:
    import subprocess  # an agent that waits does without

    command = [sys.executable, "-P", "-m", "fedprune.command", "renew", "--dir", str(directory)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("the certificate is not renewed: %s", error)
        return
    if done.returncode:
        _log.warning("the certificate is not renewed: %s", done.stderr.strip())
    else:
        _log.info("%s", done.stdout.strip())


def _renew_from(gateway: Path) -> int:
    try:
        return msgspec.json.decode(text_of(gateway.read_bytes()), type=_Due).renew_from
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"gateway {gateway}: {error}; name the file that `fedprune join` writes") from error
