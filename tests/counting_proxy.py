"""A relay in front of a broker that counts what passes, each way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_AT_ONCE = 64 * 1024


@dataclass
class CountingProxy:
    """Bytes of all connections together: `up` to the broker, `down` from it."""

    port: int
    up: int = 0
    down: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def relay(self, source: socket.socket, target: socket.socket, *, is_up: bool) -> None:
        """Pass on what comes until one side hangs up, then tell the other."""
        with suppress(OSError):
            while data := source.recv(_AT_ONCE):
                with self._lock:
                    self.up += len(data) if is_up else 0
                    self.down += 0 if is_up else len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def counting_proxy(broker_port: int) -> Iterator[CountingProxy]:
    """A proxy for any number of connections to a broker on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = CountingProxy(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, proxy, broker_port), daemon=True).start()
        yield proxy
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, proxy: CountingProxy, broker_port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            broker = socket.create_connection(("127.0.0.1", broker_port))
            for source, target, is_up in ((client, broker, True), (broker, client, False)):
                relay = threading.Thread(
                    target=proxy.relay, args=(source, target), kwargs={"is_up": is_up}, daemon=True
                )
                relay.start()
