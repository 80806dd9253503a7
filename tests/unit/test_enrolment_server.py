"""The enrolment endpoint's sockets: strangers who say nonsense, too much or nothing keep nobody out."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from fedprune.errors import ConfigurationError
from fedprune.identity.enrolment import MAX_BODY_BYTES, Answer
from fedprune.identity.enrolment_server import MAX_REQUEST_BYTES, MOST_CONNECTIONS, EnrolmentServer
from fedprune.identity.gateway import ServerFiles, init_gateway
from fedprune.identity.settings import GatewaySettings
from tests.brokers import free_port
from tests.patience import PATIENCE_S
from tests.served import served


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ServerFiles:
    path = tmp_path_factory.mktemp("gateway")
    return init_gateway(path, GatewaySettings(("127.0.0.1",)), datetime.now(UTC)).enrolment_files


class Endpoint:
    """A server that answers with what it was asked."""

    def __init__(self, files: ServerFiles) -> None:
        self.port = free_port()
        self.context = ssl.create_default_context(cafile=str(files.authority))
        self.context.verify_flags |= ssl.VERIFY_X509_STRICT  # which is Python 3.13's default
        self.server = EnrolmentServer(self.port, files, self._answer)

    @staticmethod
    def _answer(method: str, path: str, body: bytes, address: str, serial: int | None) -> Answer:
        assert serial is None
        return Answer(200, f"{method} {path} {len(body)} {address}".encode())

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_S, context=self.context)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def silent(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)


@pytest.fixture
def endpoint(files: ServerFiles) -> Iterator[Endpoint]:
    endpoint = Endpoint(files)
    with served(endpoint.server):
        yield endpoint


def test_requests_are_answered_over_tls(endpoint: Endpoint) -> None:
    assert endpoint.ask("GET", "/authority") == (200, b"GET /authority 0 127.0.0.1")
    assert endpoint.ask("POST", "/enrolment", bytes(MAX_BODY_BYTES))[0] == 200


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "-1", "1e3", "", "9" * 5000, "\u0661"])
def test_a_body_that_is_too_long_or_of_unknown_length_is_not_read(endpoint: Endpoint, length: str) -> None:
    headers = {"Content-Length": length.encode().decode("latin-1")}
    assert endpoint.ask("POST", "/enrolment", None, **headers)[0] == 413


def test_a_head_that_goes_on_for_ever_is_not_read_on(endpoint: Endpoint) -> None:
    """Of what it does not read the rest cannot be sent, and its answer may be lost. The lines are few: it reads 100."""
    with (
        endpoint.silent() as connection,
        endpoint.context.wrap_socket(connection, server_hostname="127.0.0.1") as said,
        contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLEOFError),
    ):
        said.sendall(b"GET /authority HTTP/1.0\r\n")
        for _ in range(MAX_REQUEST_BYTES // 1000 + 1):
            said.sendall(b"X: " + b"x" * 995 + b"\r\n")
        assert said.recv(4096).startswith(b"HTTP/1.0 431 ")
    assert endpoint.ask("GET", "/authority")[0] == 200


def test_nonsense_ends_its_own_connection_alone(endpoint: Endpoint, capfd: pytest.CaptureFixture[str]) -> None:
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100), b""):
        with endpoint.silent() as connection:
            with contextlib.suppress(OSError):  # the server may have ended it already
                connection.sendall(nonsense)
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
    assert endpoint.ask("GET", "/authority")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("has_shaken_hands", [False, True])
def test_a_connection_that_says_nothing_is_ended(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, has_shaken_hands: bool
) -> None:
    monkeypatch.setattr("fedprune.identity.enrolment_server.LONGEST_S", 1.0 if has_shaken_hands else 0.01)
    with endpoint.silent() as connection, contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        if has_shaken_hands:
            with endpoint.context.wrap_socket(connection, server_hostname="127.0.0.1") as secured:
                assert secured.recv(1) == b""
        else:
            assert connection.recv(1) == b""


def test_more_connections_than_there_is_room_for_are_closed_at_once(endpoint: Endpoint) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(endpoint.silent())
        with endpoint.silent() as one_more, contextlib.suppress(ConnectionResetError):
            assert one_more.recv(1) == b""
    # They have left: their threads end, and make room.
    for _ in range(1000):
        with contextlib.suppress(OSError):
            assert endpoint.ask("GET", "/authority")[0] == 200
            return
    pytest.fail("no room was made")


def test_a_port_that_is_taken_is_said(endpoint: Endpoint, files: ServerFiles) -> None:
    with pytest.raises(ConfigurationError, match=rf"port {endpoint.port} cannot be listened on .*enrolment_port"):
        EnrolmentServer(endpoint.port, files, lambda *_: Answer(200, b""))
