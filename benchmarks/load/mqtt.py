"""A client of MQTT 3.1.1 that is small enough to have ten thousand of in one process. It says what fedprune's agents
say, at QoS 1, and knows nothing else of the protocol: no retransmission, no wills, no keep-alive.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _UNSUBSCRIBE = 1, 2, 3, 4, 8, 10
_QOS_1 = 1
_RECEIVED = 2**16


class Connection:
    """One client's connection. `read` and `write` are for whoever waits for its socket."""

    def __init__(self, port: int, client_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.bytes_in = self.bytes_out = 0
        self.is_up = False
        """The broker has let it in."""
        self._incoming, self._outgoing = bytearray(), bytearray()
        self._number = 0
        self._send(_CONNECT, 0, _text("MQTT") + bytes([4, 2]) + (0).to_bytes(2, "big") + _text(client_id))

    @property
    def wants_to_write(self) -> bool:
        return bool(self._outgoing)

    def subscribe(self, topic_filter: str) -> None:
        self._send(_SUBSCRIBE, 2, self._next() + _text(topic_filter) + bytes([_QOS_1]))

    def unsubscribe(self, topic_filter: str) -> None:
        self._send(_UNSUBSCRIBE, 2, self._next() + _text(topic_filter))

    def publish(self, topic: str, payload: bytes) -> None:
        self._send(_PUBLISH, _QOS_1 << 1, _text(topic) + self._next() + payload)

    def write(self) -> None:
        """Send what can be sent now."""
        while self._outgoing:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return
            del self._outgoing[:sent]
            self.bytes_out += sent

    def read(self) -> Iterator[tuple[str, bytes]]:
        """The topics and payloads of what has come. Raises `ConnectionError` once the broker has hung up."""
        try:
            received = self.socket.recv(_RECEIVED)
        except BlockingIOError:
            return
        if not received:
            raise ConnectionResetError("the broker hung up")
        self.bytes_in += len(received)
        self._incoming += received
        while (packet := self._packet()) is not None:
            kind, flags, body = packet
            if kind == _CONNACK and body[1]:
                raise ConnectionRefusedError(f"the broker refuses: {body[1]}")
            self.is_up = True
            if kind == _PUBLISH:
                yield self._delivered(flags, body)

    def _delivered(self, flags: int, body: bytes) -> tuple[str, bytes]:
        end = 2 + int.from_bytes(body[:2], "big")
        topic = body[2:end].decode()
        if not flags >> 1 & 3:
            return topic, body[end:]
        self._send(_PUBACK, 0, body[end : end + 2])
        return topic, body[end + 2 :]

    def _packet(self) -> tuple[int, int, bytes] | None:
        """The next whole packet: its kind, its flags, and what follows the length."""
        length = shift = 0
        for at in range(1, min(len(self._incoming), 5)):
            length |= (self._incoming[at] & 0x7F) << shift
            shift += 7
            if not self._incoming[at] & 0x80:
                end = at + 1 + length
                if len(self._incoming) < end:
                    return None
                head, body = self._incoming[0], bytes(self._incoming[at + 1 : end])
                del self._incoming[:end]
                return head >> 4, head & 0xF, body
        return None

    def _next(self) -> bytes:
        self._number = self._number % 0xFFFF + 1
        return self._number.to_bytes(2, "big")

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        length, digits = len(body), bytearray()
        while True:
            length, digit = divmod(length, 128)
            digits.append(digit | (0x80 if length else 0))
            if not length:
                break
        self._outgoing += bytes([kind << 4 | flags]) + digits + body


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded
