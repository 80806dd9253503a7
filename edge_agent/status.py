"""What a running agent tells of itself, to who may ask: root, and the user as whom it runs.

It listens on a socket in Linux' abstract namespace, whose name follows from the state directory: there is no file to
write or to clear away, and the socket ends with the process. Nothing is written to the disk for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

_log = logging.getLogger(__name__)

_PATIENCE_S = 3.0
"""For a question, and for the agent's answer: it stores an update meanwhile, at most."""

_MAX_BYTES = 64 * 1024
_CREDENTIALS = struct.Struct("3i")
"""Linux' ucred: process, user, group."""

STATUS, PROBE = b"status\n", b"probe\n"
"""The questions. PROBE: say to the aggregator again what it has to answer, and tell the status."""


class AgentStatus(msgspec.Struct, frozen=True):
    """`round` counts from 1. `heard_s` ago the aggregator answered last, None if it never did. `runs`: whether a
    federation does, as its manifest has said since the agent connected, None if none came. `waits_for` says why the
    agent does not train now; empty if it may. `round_bytes_written` went to the disk in the last round that it ended.
    """

    version: str
    phase: str
    round: int | None
    is_connected: bool
    heard_s: float | None
    unanswered: int
    runs: bool | None = None
    waits_for: str = ""
    round_bytes_written: int | None = None


@dataclass(frozen=True, eq=False)
class StatusAsked:
    """Somebody asks: put an `AgentStatus` into `answer`. `is_probe`: see `PROBE`."""

    is_probe: bool
    answer: queue.SimpleQueue[AgentStatus] = field(default_factory=queue.SimpleQueue)


@contextlib.contextmanager
def telling(state: Path, events: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Put a `StatusAsked` on `events` for each question, until this ends. Without a socket the agent goes on."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(_address(state))
        server.listen()
    except OSError as error:
        _log.warning("`fedprune doctor` cannot ask this agent: %s", error.strerror)
        server.close()
        yield
        return
    threading.Thread(target=_serve, args=(server, events), name="status", daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # ends `accept`
        server.close()


def ask(state: Path, question: bytes = STATUS) -> AgentStatus | None:
    """The status of the agent that owns the directory; None if none answers, or somebody else does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE_S)
        try:
            client.connect(_address(state))
            if not _is_trusted(client, state.stat().st_uid):
                return None
            client.sendall(question)
            return msgspec.json.decode(_all_of(client), type=AgentStatus)
        except (OSError, msgspec.DecodeError):
            return None


def _serve(server: socket.socket, events: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError, queue.Empty):
            client.settimeout(_PATIENCE_S)
            if not _is_trusted(client, os.geteuid()):
                continue
            question = client.recv(len(STATUS))
            if question in (STATUS, PROBE):
                asked = StatusAsked(question == PROBE)
                events.put(asked)
                client.sendall(msgspec.json.encode(asked.answer.get(timeout=_PATIENCE_S)))


def _is_trusted(peer: socket.socket, user: int) -> bool:
    """The process at the other end is this user's, or root's: anybody may take a name in the abstract namespace."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[1] in (0, user)


def _all_of(client: socket.socket) -> bytes:
    answer = b""
    while (part := client.recv(4096)) and len(answer) < _MAX_BYTES:
        answer += part
    return answer


def _address(state: Path) -> str:
    """Of the directory itself, whatever path leads to it. Raises `OSError` if it is gone."""
    found = state.stat()
    return f"\0fedprune/agent/{found.st_dev:x}-{found.st_ino:x}"
