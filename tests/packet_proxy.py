"""A relay in front of a broker that reads every packet of MQTT 3.1.1, and can hold back one direction."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.patience import PATIENCE_S

_AT_ONCE = 64 * 1024
_PUBLISH, _SUBSCRIBE = 3, 8


@dataclass(frozen=True)
class Packet:
    """A packet that passed `is_up` to the broker, or down from it: the bytes of all of it, and the topics in it.

    `payload`: the message in it, empty unless it is one that was published.
    """

    is_up: bool
    size: int
    topics: tuple[str, ...]
    payload: bytes = field(default=b"", repr=False)


class PacketProxy:
    """All connections' packets, in the order in which they passed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._passed: list[Packet] = []
        self._changed = threading.Condition()
        self._holds: Callable[[Packet], bool] | None = None
        self._cuts = 0
        self._is_holding = False

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def passed(self, *, up: bool | None = None, topic_end: str = "") -> list[Packet]:
        """Those with such a topic; either way if it is not said."""
        with self._changed:
            return [
                packet
                for packet in self._passed
                if up in (None, packet.is_up)
                and (not topic_end or any(topic.endswith(topic_end) for topic in packet.topics))
            ]

    def hold(self, holds: Callable[[Packet], bool]) -> None:
        """From now on the first packet that `holds`, and all that follow on its connection that way, wait.

        It is asked about every packet before that passes, and about what is held again after every packet that did.
        """
        with self._changed:
            self._holds, self._is_holding = holds, False

    def wait_for_holding(self) -> None:
        """Until something is held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_holding, timeout=PATIENCE_S)

    def release(self) -> None:
        with self._changed:
            self._holds = None
            self._changed.notify_all()

    def cut(self) -> None:
        """End the connections on which something is held: it never passes."""
        with self._changed:
            self._holds = None
            self._cuts += 1
            self._changed.notify_all()

    def wait_for(self, count: int, *, up: bool, topic_end: str) -> None:
        """Until so many such packets have passed."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: len(self.passed(up=up, topic_end=topic_end)) >= count, timeout=PATIENCE_S
            )
        assert came, f"{len(self.passed(up=up, topic_end=topic_end))} of {count} packets on {topic_end} came"

    def relay(self, source: socket.socket, target: socket.socket, *, is_up: bool) -> None:
        """Pass on packet after packet until one side hangs up, then tell the other."""
        buffered = bytearray()
        with suppress(OSError):
            while data := source.recv(_AT_ONCE):
                buffered += data
                while (packet := _first(buffered, is_up)) is not None:
                    if self._is_cut(packet):
                        raise OSError
                    target.sendall(buffered[: packet.size])
                    del buffered[: packet.size]
                    with self._changed:
                        self._passed.append(packet)
                        self._changed.notify_all()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_cut(self, packet: Packet) -> bool:
        """Wait while the packet is held; True if its connection was cut meanwhile."""
        with self._changed:
            if self._holds is None or not self._holds(packet):
                return False
            cuts = self._cuts
            self._is_holding = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._holds is None or self._cuts > cuts or not self._holds(packet))
            return self._cuts > cuts


@contextmanager
def packet_proxy(broker_port: int) -> Iterator[PacketProxy]:
    """A proxy for any number of connections to a broker on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = PacketProxy(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, proxy, broker_port), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.release()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, proxy: PacketProxy, broker_port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            try:
                broker = socket.create_connection(("127.0.0.1", broker_port))
            except OSError:
                client.close()
                continue
            for source, target, is_up in ((client, broker, True), (broker, client, False)):
                threading.Thread(
                    target=proxy.relay, args=(source, target), kwargs={"is_up": is_up}, daemon=True
                ).start()


def _first(buffered: bytearray, is_up: bool) -> Packet | None:
    """The packet that the bytes begin with, once it is whole."""
    length = 0
    for index, digit in enumerate(buffered[1:5]):
        length |= (digit & 0x7F) << (7 * index)
        if not digit & 0x80:
            size = index + 2 + length
            if len(buffered) < size:
                return None
            body = bytes(buffered[index + 2 : size])
            return Packet(is_up, size, tuple(_topics(buffered[0] >> 4, body)), _payload(buffered[0], body))
    return None


def _topics(kind: int, body: bytes) -> Iterator[str]:
    if kind == _PUBLISH:
        yield body[2 : 2 + int.from_bytes(body[:2], "big")].decode()
    at = 2
    while kind == _SUBSCRIBE and at < len(body):
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        yield body[at + 2 : end].decode()
        at = end + 1


def _payload(first: int, body: bytes) -> bytes:
    if first >> 4 != _PUBLISH:
        return b""
    at = 2 + int.from_bytes(body[:2], "big")
    return body[at + 2 if first >> 1 & 3 else at :]
