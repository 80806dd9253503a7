"""A client's connection to a broker that sends without a pause: it comes to write all the same."""

from __future__ import annotations

import queue
import socket
from typing import Any

import pytest

from fedprune.wire.bounded_client import BoundedClient
from fedprune.wire.inbox import Inbox

_NOBODY_READS_SO_MUCH = 100
_PING_ANSWER = b"\xd0\x00"
_MESSAGE = b"\x30\x06\x00\x01axyz"
"""Of QoS 0, which nobody acknowledges: a broker passes on as many as it is sent."""


class Flood(socket.socket):
    """Always has more, and what it gives at once ends in the middle of a message."""

    reads = 0
    _rest = _PING_ANSWER

    def recv(self, size: int, _: int = 0) -> bytes:
        self.reads += 1
        if self.reads > _NOBODY_READS_SO_MUCH:
            pytest.fail("it reads for ever")
        has = self._rest + _MESSAGE * (size // len(_MESSAGE) + 1)
        self._rest = has[size:]
        return has[:size]


def test_who_sends_without_a_pause_keeps_nobody_from_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    flood, came = Flood(), list[str]()
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: flood)
    client = BoundedClient("a", Inbox(queue.SimpleQueue()))

    def note(_: object, __: object, message: Any) -> None:
        came.append(message.topic)

    client.on_message = note
    with flood:
        client.connect("a broker")
        client.loop_read()

        assert set(came) == {"a"}
        assert client.has_come  # the socket tells nothing of what was read with these
