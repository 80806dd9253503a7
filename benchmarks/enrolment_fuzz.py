"""Damaged and hostile requests to a gateway's enrolment endpoint: `python -m benchmarks.enrolment_fuzz [--inputs N]`

Each is sent over TLS to a real endpoint on loopback: requests that are right but for some bytes that were changed, cut,
doubled or put in, with wrong lengths, and noise. Whoever sends one must be refused or cut off, and at the end the
endpoint must still let in who was invited.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TypeVar

import click
import msgspec

from benchmarks.children import free_port
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from fedprune.identity.asking import ask, trusting
from fedprune.identity.certificates import new_key, signing_request
from fedprune.identity.enrolment import AUTHORITY_PATH, ENROLMENT_PATH, RENEWAL_PATH, WRONG_WINDOW_S, Enrolment
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.gateway import Gateway, init_gateway
from fedprune.identity.settings import GatewaySettings
from fedprune.identity.token import new_secret

_HOST = "127.0.0.1"
_PATIENCE_S = 60.0
_MOST_CHANGES = 4
_SPECIAL = (b"\x00", b"\r\n", b"\r\n\r\n", b"\xff" * 8, b"{", b'"', b"-1", b"99999999999", b"%00", b"../", b"A" * 5000)
_Step = TypeVar("_Step")
_CUT_OFF = "cut off"
REFUSALS = {"400", "403", "404", "408", "413", "414", "431", "501", "505", _CUT_OFF}
"""Statuses, and an end without one, as TCP has it where an answer meets what nobody reads any more."""


class Fuzzed(msgspec.Struct, frozen=True):
    """How often the endpoint answered with which status, `taken` those that it should have refused, and whether it
    still let an invited device in at the end."""

    inputs: int
    answers: dict[str, int]
    taken: int
    still_serves: bool


@click.command(cls=Script)
@click.option("--inputs", type=click.IntRange(1), default=100_000, show_default=True, help="Requests to send.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is done to them.")
@json_option("Write the numbers there.")
def main(inputs: int, seed: int, target: Path | None) -> None:
    """Send damaged requests to an enrolment endpoint on loopback, and say how it answered.

    Exits with 1 if one of them was taken, or answered otherwise than by a refusal, or if the endpoint no longer lets in
    who was invited. 100,000 take some minutes.
    """
    fuzzed = fuzz(inputs, seed)
    write_json(fuzzed, target)
    settle(
        {
            f"{fuzzed.inputs:,} damaged requests: {fuzzed.answers}": fuzzed.answers.keys() <= REFUSALS | {"200"},
            f"{fuzzed.taken} of them let somebody in": not fuzzed.taken,
            "who was invited is still let in": fuzzed.still_serves,
        }
    )


def fuzz(inputs: int, seed: int) -> Fuzzed:
    """Send so many damaged requests; equal seeds damage them equally."""
    chance, answers, taken = Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder, _endpoint(Path(folder)) as (gateway, port):
        context = trusting(gateway.authority.certificate.decode("ascii"))
        known = _requests(gateway)
        for _ in range(inputs):
            request = _damaged(chance, known)
            status, body = _send(port, context, request)
            answers[status] += 1
            taken += b'"certificate"' in body
        secret = _invite(gateway, "invited")
        status_at_end, _ = ask(_HOST, port, context, "POST", ENROLMENT_PATH, _enrolment(secret))
    return Fuzzed(inputs, dict(sorted(answers.items())), taken, status_at_end == http.client.OK)


@contextlib.contextmanager
def _endpoint(folder: Path) -> Iterator[tuple[Gateway, int]]:
    """A gateway's endpoint, and its port. Its clock makes it forget at once who was wrong."""
    port = free_port()
    gateway = init_gateway(folder, GatewaySettings((_HOST,), enrolment_port=port), datetime.now(UTC))
    seconds = itertools.count(0.0, WRONG_WINDOW_S)
    enrolment = Enrolment(gateway, lambda: next(seconds), lambda: datetime.now(UTC))
    with EnrolmentServer(port, gateway.enrolment_files, enrolment.answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield gateway, port
        finally:
            server.shutdown()
            thread.join()


def _requests(gateway: Gateway) -> tuple[bytes, ...]:
    """Requests that are right: the secret is one that would let somebody in, if the gateway had not withdrawn it."""
    secret = _invite(gateway, "withdrawn")
    _invite(gateway, "withdrawn")
    body = _enrolment(secret)
    return (
        f"GET {AUTHORITY_PATH} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode(),
        f"POST {RENEWAL_PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n".encode(),
        f"POST {ENROLMENT_PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body,
    )


def _invite(gateway: Gateway, name: str) -> bytes:
    secret = new_secret()
    gateway.devices.invite(name, secret, int(datetime.now(UTC).timestamp()) + 24 * 3600)
    return secret


def _enrolment(secret: bytes) -> bytes:
    return json.dumps({"secret": secret.hex(), "request": signing_request(new_key(), "x").decode("ascii")}).encode()


def _damaged(chance: Random, known: tuple[bytes, ...]) -> bytes:
    """A request with a few changes, or noise."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(2000))
    request = bytearray(chance.choice(known))
    for _ in range(chance.randint(1, _MOST_CHANGES)):
        begin = chance.randrange(len(request) + 1)
        end = min(begin + chance.randrange(64), len(request))
        match chance.randrange(5):
            case 0:
                request[begin:end] = chance.randbytes(end - begin)
            case 1:
                del request[begin:end]
            case 2:
                request[begin:begin] = request[begin:end]
            case 3:
                request[begin:begin] = chance.choice(_SPECIAL)
            case _:
                request = request[: max(begin, 1)]
    return bytes(request)


def _send(port: int, context: ssl.SSLContext, request: bytes) -> tuple[str, bytes]:
    """The status and all that was answered."""
    with socket.create_connection((_HOST, port), _PATIENCE_S) as connection:
        try:
            answer = _Half(connection, context).ask(request)
        except OSError:
            return _CUT_OFF, b""
    version, _, rest = answer.partition(b" ")
    return (rest[:3].decode("ascii", "replace") if version.startswith(b"HTTP/") else _CUT_OFF), answer


class _Half:
    """TLS over a connection, that can be ended in one direction, which Python's sockets cannot: a request that is cut
    short is then answered at once."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=_HOST)

    def ask(self, request: bytes) -> bytes:
        """Send a request, and that nothing follows it; all that is answered."""
        self._until_done(self._tls.do_handshake)
        self._tls.write(request)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        answer = b""
        with contextlib.suppress(OSError):  # of which SSL's errors are: it ends however the endpoint ends it
            while piece := self._until_done(lambda: self._tls.read(65536)):
                answer += piece
        return answer

    def _until_done(self, step: Callable[[], _Step]) -> _Step:
        """Do a step of TLS as often as it wants more of the connection."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._connection.sendall(self._outgoing.read())
                received = self._connection.recv(65536)
                if not received:
                    raise ConnectionResetError from None
                self._incoming.write(received)


if __name__ == "__main__":
    main()
