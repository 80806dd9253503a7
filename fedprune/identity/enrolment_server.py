"""The enrolment endpoint's sockets: HTTPS with bounds on size, time and number, so that nobody can keep others out.

The handshake is made by the connection's own thread, and a clock ends each connection: who is slow, or says nothing,
holds one of `MOST_CONNECTIONS` for `LONGEST_S` at most.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from fedprune.errors import ConfigurationError, FedpruneError
from fedprune.identity.enrolment import MAX_BODY_BYTES, Answer
from fedprune.identity.gateway import ServerFiles
from fedprune.system.log import LimitedLog

_log = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
"""At a time; further ones are closed at once."""

MAX_REQUEST_BYTES = 2 * MAX_BODY_BYTES
"""Of a request with its head, of which the standard library would read 6.5 MB."""

LONGEST_S = 20.0
"""That a connection may take, from its first packet on."""

_MAPPED = "::ffff:"
"""Before an address of IPv4, on a socket of IPv6."""

Answering = Callable[[str, str, bytes, str, int | None], Answer]
"""Method, path, body, the asker's address, and the serial number of the certificate that it showed, if it has one."""


class EnrolmentServer(ThreadingHTTPServer):
    """Serves `answer`, one call at a time, with the certificate of `files`. Use as a context manager.

    Clients may show a certificate too, of the authority of `files`.
    Raises `ConfigurationError` if the port cannot be listened on.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, port: int, files: ServerFiles, answer: Answering) -> None:
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_verify_locations(files.authority)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._files = files
        self.read_certificate()
        self._answer = answer
        self._one_at_a_time = threading.Lock()
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._faults = LimitedLog(_log)
        try:
            super().__init__(("", port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"port {port} cannot be listened on ({error.strerror}); stop who does, or choose another "
                "enrolment_port with `fedprune gateway init`"
            ) from error

    def read_certificate(self) -> None:
        """Take the server's own certificate from its files, for connections from now on."""
        self._context.load_cert_chain(self._files.certificate, self._files.key)

    def server_bind(self) -> None:
        """Take both kinds of addresses, and ask no name server who we are, as the base does."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)

    def answer(self, method: str, path: str, body: bytes, address: str, serial: int | None) -> Answer:
        """What to answer, whatever goes wrong here."""
        with self._one_at_a_time:
            try:
                return self._answer(method, path, body, address.removeprefix(_MAPPED), serial)
            except FedpruneError as fault:
                self._faults.log(logging.ERROR, "%s", fault)
                return Answer(500, b'{"error": "the gateway has a problem of its own; its log says which"}')

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, from its handshake to its end."""
        connection = request.dup()  # what TLS wraps is taken from `request`
        clock = threading.Timer(LONGEST_S, _cut, (connection,))
        clock.daemon = True
        clock.start()
        try:
            with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as secured:
                self.finish_request(secured, client_address)
        finally:
            clock.cancel()
            _cut(connection)
            connection.close()
            self._free.release()


class _Handler(BaseHTTPRequestHandler):
    """One request on a connection (HTTP/1.0)."""

    server: EnrolmentServer
    server_version, sys_version, default_request_version = "fedprune", "", "HTTP/1.0"
    timeout = LONGEST_S

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Bounded(self.rfile, MAX_REQUEST_BYTES)
        shown = self.connection.getpeercert() or {}  # later, on a connection that is half closed, it cannot be asked
        self._serial = int(str(shown["serialNumber"]), 16) if "serialNumber" in shown else None

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MAX_BODY_BYTES):
            self._send(Answer(413, b'{"error": "a body of known length, and not too long, is needed"}'))
            return
        self._serve("POST", self.rfile.read(int(length)))

    def _serve(self, method: str, body: bytes) -> None:
        self._send(self.server.answer(method, self.path, body, self.client_address[0], self._serial))

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Type", "application/json" if answer.body[:1] == b"{" else "application/x-pem-file")
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """In our own words: the base's page repeats what a stranger said."""
        self.close_connection = True
        self._send(Answer(code, b'{"error": "this is no request that is answered here"}'))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's signature
        """Nothing: what counts is logged with the answer, and a stranger's text is in no log of ours."""


class _Bounded:
    """A request as the standard library reads it, up to so many bytes."""

    def __init__(self, file: Any, most: int) -> None:
        self._file, self._left = file, most
        self.close = file.close

    def readline(self, most: int) -> bytes:
        """Raises `HTTPException`, which is answered, for a head that goes on beyond."""
        if not self._left:
            raise HTTPException
        return self._taken(self._file.readline(min(most, self._left)))

    def read(self, most: int) -> bytes:
        return self._taken(self._file.read(min(most, self._left)))

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
