"""MQTT for one connection: the only module that knows paho."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from fedprune.wire.inbox import Inbox
from fedprune.wire.packets import BoundedPackets

_WRITTEN_AT_ONCE = 64 * 1024
"""Bytes of packets that are written together; a larger packet goes alone."""

_READ_TOGETHER = 64
"""Times that paho reads one after the other: who sends without a pause keeps nobody from writing, nor from pinging."""


def _wait_for_loop_write(_client: object, _data: object, _socket: object) -> None:
    """Where there is such a callback, paho does not write each packet at once."""


class BoundedClient(paho.Client):
    """paho's client for one connection, which takes in no packet over `MAX_PACKET_BYTES`. It writes in `loop_write`.

    paho reads every packet whole and offers no bound, so its way of reading the socket is overridden. So is its way of
    writing, a packet at a time: with each call of the system another thread takes the interpreter, and who has
    thousands of messages would wait for it as often. No other private names of paho's are used than those in this
    class.
    """

    def __init__(self, client_id: str, inbox: Inbox, *, speaks_5: bool = False) -> None:
        """`speaks_5`: MQTT 5 instead of 3.1.1, for who wants to know why a broker refuses something."""
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if speaks_5 else True,
            protocol=paho.MQTTv5 if speaks_5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self.on_socket_register_write = _wait_for_loop_write
        self._inbox = inbox
        self._packets = BoundedPackets(super()._sock_recv, inbox.is_full)
        self._written_ahead = 0
        """Bytes that the system has taken of the packets behind the one that paho is writing."""
        self.tls_error: ssl.SSLError | None = None
        """What ended the connection, if TLS did: paho tells nobody."""

    @property
    def has_cut(self) -> bool:
        """The message that `on_message` is being called with was over the bound, and has lost its payload."""
        return self._packets.is_cut

    @property
    def has_come(self) -> bool:
        """There is something to read of which the socket itself tells nothing any more."""
        connection = self.socket()
        return self._packets.has_more or (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0)

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what there is, packets that came together too, but none while nobody takes what came before. What is
        left then, `has_come` tells."""
        code = super().loop_read(max_packets)
        for _ in range(_READ_TOGETHER - 1):
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or not self._packets.has_more or self._inbox.is_full():
                break
            code = super().loop_read(max_packets)
        return code

    def check_life(self) -> None:
        """Ping the broker when it is time, and end the connection if it does not answer.

        An answer that we cannot have read yet is not missed: it may lie behind what we are throwing away, or do not
        read since nobody takes it.
        """
        if self._packets.is_skipping or self._inbox.is_full():
            self._ping_t = 0.0
        self.loop_misc()

    def _sock_recv(self, bufsize: int) -> bytes:
        try:
            return self._packets.recv(bufsize)
        except ssl.SSLError as error:
            self.tls_error = error
            raise

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """Send this packet and those behind it at once, as far as the socket takes them; the bytes taken of this."""
        if not self._written_ahead:
            self._written_ahead = self._send(b"".join(self._together(buf)))
        taken = min(len(buf), self._written_ahead)
        self._written_ahead -= taken
        return taken

    def _together(self, buf: bytes | bytearray) -> Iterator[bytes | bytearray]:
        """A packet and those behind it, up to some size. What is tried again begins with the same bytes, and has as
        many at least, which TLS asks for."""
        size = len(buf)
        yield buf
        for behind in self._out_packet:
            if size >= _WRITTEN_AT_ONCE:
                return
            size += len(behind["packet"])
            yield behind["packet"]

    def _send(self, buf: bytes) -> int:
        try:
            return super()._sock_send(buf)
        except BlockingIOError:
            raise
        except OSError:  # the broker hung up: what it said before can still be read
            with contextlib.suppress(OSError):
                self._sock_recv(1)
            raise
