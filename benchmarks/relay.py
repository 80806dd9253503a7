"""A relay in front of a server, which counts what passes its sockets, or records it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_READ_BYTES = 64 * 1024


@dataclass
class Relay:
    """Bytes of all connections together: `up` to the server, `down` from it. They are in `heard`, both ways, if it
    `records`."""

    port: int
    records: bool = False
    up: int = 0
    down: int = 0
    heard: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_on(self, source: socket.socket, sink: socket.socket, *, is_up: bool) -> None:
        """Pass on what comes until one side hangs up, then tell the other."""
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                with self._lock:
                    self.up += len(data) if is_up else 0
                    self.down += 0 if is_up else len(data)
                    self.heard += data if self.records else b""
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(server_port: int, *, records: bool = False) -> Iterator[Relay]:
    """Relay any number of connections to a port of loopback, in threads, while the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener.getsockname()[1], records)
        threading.Thread(target=_accept, args=(listener, relay, server_port), daemon=True).start()
        yield relay
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, relay: Relay, server_port: int) -> None:
    with suppress(OSError):  # the context has ended
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", server_port))
            except OSError:  # a server may end before its clients
                client.close()
                continue
            for source, sink, is_up in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=relay.pass_on, args=(source, sink), kwargs={"is_up": is_up}, daemon=True
                ).start()
