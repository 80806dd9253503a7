"""Attacks at joining: a stranger where the gateway is expected, and tokens that are used as they should not be."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.children import free_port
from benchmarks.intruders.site import Attack, Site, refusal
from fedprune.identity.enrolment import MOST_WRONG, Answer
from fedprune.identity.enrolment_server import EnrolmentServer
from fedprune.identity.token import new_secret


def stand_between(site: Site) -> Iterator[Attack]:
    """A stranger at the address where the gateway is expected."""
    stranger = site.make_gateway("stranger", free_port())
    shown = {
        "a stranger poses as the gateway at joining": stranger.authority.certificate,
        "a stranger shows the gateway's authority at joining": site.gateway.authority.certificate,
    }
    for number, (what, certificate) in enumerate(shown.items()):
        endpoint = _Stranger(certificate)
        port = free_port()
        token = dataclasses.replace(site.token(f"lured-{number}"), port=port)
        with EnrolmentServer(port, stranger.enrolment_files, endpoint.answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            refused, said = refusal(site.join, token, f"lured-{number}")
            server.shutdown()
        yield Attack(what, refused and not endpoint.heard, said)


class _Stranger:
    """Answers everything with a certificate, and keeps what it is told."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self.heard = b""

    def answer(self, _method: str, _path: str, body: bytes, _address: str, _serial: int | None) -> Answer:
        self.heard += body
        return Answer(200, self._certificate)


def _use_at_once(site: Site) -> Attack:
    token, places = site.token("contested"), ("contested-1", "contested-2", "contested-3")
    with ThreadPoolExecutor(len(places)) as pool:
        outcomes = list(pool.map(lambda place: refusal(site.join, token, place), places))
    said = [why for refused, why in outcomes if refused]
    return Attack("a token is used by three at the same time: two of them", len(said) == 2, said[0] if said else "")


def misuse_tokens(site: Site) -> Iterator[Attack]:
    """The last one is refused whatever it shows: it comes last."""
    yield _use_at_once(site)
    used = site.token("pi-1")
    site.join(used, "pi-1")
    yield Attack("a token is used a second time, by another", *refusal(site.join, used, "second"))
    yield Attack("a token is used late", *refusal(site.join, site.token("pi-2", valid_s=-1), "late"))
    guessed = dataclasses.replace(used, secret=new_secret())
    yield Attack("a token is invented", *refusal(site.join, guessed, "guessed"))
    for _ in range(MOST_WRONG):
        refusal(site.join, guessed, "guessed")
    refused, said = refusal(site.join, guessed, "guessed")
    yield Attack("tokens are invented again and again", refused and "too many" in said, said)
