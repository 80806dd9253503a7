"""Slow links to a broker: a relay that passes so many bytes a second down, and ends each connection after a while."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from types import TracebackType

_SLICE_S = 0.05
_READ_BYTES = 64 * 1024
"""Bytes that the relay takes in ahead of the link, as the buffers of a real one do."""


class SlowLinks:
    """Listens at `port` of loopback, in a thread, while the context lasts.

    Each connection passes `bytes_per_s` from the broker, and ends after a time drawn from `cut_every` seconds times
    0.5 to 1.5, by `seed`; never, if that is 0. `cuts` counts those ends.
    """

    def __init__(self, broker_port: int, bytes_per_s: float, cut_every: float, seed: int = 0) -> None:
        self._broker_port = broker_port
        self._bytes_per_s = bytes_per_s
        self._cut_every = cut_every
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.cuts = 0
        self.port = 0

    def __enter__(self) -> SlowLinks:
        self._thread.start()
        listen = asyncio.start_server(self._relay, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listen, self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _relay(self, agent: asyncio.StreamReader, to_agent: asyncio.StreamWriter) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_BYTES)
        connection.connect(("127.0.0.1", self._broker_port))
        broker, to_broker = await asyncio.open_connection(sock=connection, limit=_READ_BYTES)
        ways = [
            asyncio.create_task(self._pass_on(broker, to_agent, self._bytes_per_s)),
            asyncio.create_task(self._pass_on(agent, to_broker, float("inf"))),
        ]
        lasts = self._cut_every * self._chance.uniform(0.5, 1.5) if self._cut_every else None
        done, _ = await asyncio.wait(ways, timeout=lasts, return_when=asyncio.FIRST_COMPLETED)
        self.cuts += not done
        for way in ways:
            way.cancel()
        for writer in (to_agent, to_broker):
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_s: float) -> None:
        at_once = min(_READ_BYTES, max(1, int(bytes_per_s * _SLICE_S))) if bytes_per_s < float("inf") else _READ_BYTES
        try:
            while data := await reader.read(at_once):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) / bytes_per_s)
        except ConnectionError:
            return
