"""A stream of MQTT 3.1.1 packets in which no packet is larger than a bound, whatever the broker sends.

A PUBLISH over the bound is cut: its topic and packet identifier stay, so that it can be acknowledged, and its payload
is thrown away while it is read. (A client that hung up instead would be sent a retained message again, for ever.)
"""

from __future__ import annotations

from collections.abc import Callable

from fedprune.wire.messages import MAX_MESSAGE_BYTES

MAX_PACKET_BYTES = MAX_MESSAGE_BYTES + 1024
"""Bytes of a packet, behind its fixed header, that are taken in: the longest message with the longest topic."""

PUBACK_BYTES = 4
"""Bytes of the acknowledgement of a message."""

_PUBLISH = 3
_SHORTEST = 2
"""Bytes that every packet has."""
_MAX_LENGTH_DIGITS = 4
_READ_AT_ONCE = 64 * 1024
"""Bytes that are asked for at once, and so may wait here: many small packets, or some updates, for one system call."""


class BoundedPackets:
    """Reads a stream as `read` does, but for payloads that make a packet larger than `limit`.

    `read(n)` gives 1 to n bytes, or none at the stream's end; it raises `BlockingIOError` where it would have to wait.
    So does `recv`, also after it has thrown something away. Before each packet it waits while `is_held()`. It reads
    ahead, since each call of the system lets another thread have the interpreter: who waits for the stream to become
    readable asks `has_more` first.
    """

    def __init__(
        self, read: Callable[[int], bytes], is_held: Callable[[], bool], limit: int = MAX_PACKET_BYTES
    ) -> None:
        self._read = read
        self._is_held = is_held
        self._limit = limit
        self._came, self._at = b"", 0  # what was read, and how much of it was taken
        self._head = bytearray()  # of a packet, as far as it was read and before it is known what becomes of it
        self._lacks = _SHORTEST  # bytes of the head that come before anything more is known
        self._ready = bytearray()  # to be given out as it is
        self._to_pass = 0
        self._to_skip = 0
        self.is_cut = False
        """The packet that was given out last has lost its payload."""

    @property
    def is_skipping(self) -> bool:
        """A payload is being thrown away: nothing that the broker sends behind it can be read yet."""
        return self._to_skip > 0

    @property
    def has_more(self) -> bool:
        """Something was read that nobody has taken: no system call tells of it any more."""
        return self._at < len(self._came)

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes. Raises `ConnectionError` for what cannot be MQTT."""
        while not self._ready:
            if self._to_pass:
                data = self._take(min(size, self._to_pass))
                self._to_pass -= len(data)
                return data
            if self._to_skip:
                data = self._take(self._to_skip)
                self._to_skip -= len(data)
                if not data:
                    return data
                raise BlockingIOError
            if not self._head and self._is_held():
                raise BlockingIOError
            data = self._take(self._lacks)
            if not data:
                return data
            self._head += data
            self._lacks -= len(data)
            if not self._lacks:
                self._judge()
        given = bytes(self._ready[:size])
        del self._ready[:size]
        return given

    def _take(self, size: int) -> bytes:
        """Up to `size` bytes of what was read, or is read now."""
        if not self.has_more:
            self._came, self._at = b"", 0  # nothing of it is held while there is nothing else
            self._came = self._read(_READ_AT_ONCE)
        taken = self._came[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def _judge(self) -> None:
        """Decide what becomes of the packet, or how much more of its head has to come before that can be told."""
        length, header_size = _length_in(self._head)
        if not header_size:
            self._lacks = 1
            return
        if length <= self._limit:
            self._release(self._head, to_pass=length)
            return
        if self._head[0] >> 4 != _PUBLISH:
            raise ConnectionError(f"a packet of {length} bytes that is no message")
        variable = self._head[header_size:]
        if len(variable) < 2:
            self._lacks = 2 - len(variable)
            return
        size = 2 + int.from_bytes(variable[:2], "big") + (2 if self._head[0] & 0b110 else 0)
        if size > length:
            raise ConnectionError("a message whose topic is longer than the whole of it")
        if len(variable) < size:
            self._lacks = size - len(variable)
            return
        self._release(self._head[:1] + _digits(size) + variable, to_skip=length - size, is_cut=True)

    def _release(self, ready: bytearray, *, to_pass: int = 0, to_skip: int = 0, is_cut: bool = False) -> None:
        self._ready, self._head, self._lacks = ready, bytearray(), _SHORTEST
        self._to_pass, self._to_skip, self.is_cut = to_pass, to_skip, is_cut


def publish_bytes(topic: str, payload: int) -> int:
    """Bytes of the packet for a message of QoS 1 whose payload has so many (MQTT 3.1.1, section 3.3).

    >>> publish_bytes("fp/x/r", 10)
    22
    """
    length = 2 + len(topic.encode()) + 2 + payload
    return 1 + len(_digits(length)) + length


def _length_in(head: bytearray) -> tuple[int, int]:
    """(the packet's remaining length, the size of its fixed header); (0, 0) while the header is not complete."""
    length = 0
    for index, digit in enumerate(head[1:]):
        if index == _MAX_LENGTH_DIGITS:
            raise ConnectionError("a packet's length of more than four bytes")
        length |= (digit & 0x7F) << (7 * index)
        if not digit & 0x80:
            return length, index + 2
    return 0, 0


def _digits(length: int) -> bytearray:
    """A remaining length as MQTT writes it: 7 bits a byte, least significant first, the high bit where more follow."""
    digits = bytearray()
    while length > 0x7F:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    digits.append(length)
    return digits
