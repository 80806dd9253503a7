"""The command: all attacks, one after the other, and the verdict."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.children import Children
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json
from benchmarks.intruders.eavesdropping import listen
from benchmarks.intruders.flooding import flood
from benchmarks.intruders.forgeries import forge_messages
from benchmarks.intruders.replays import replay_and_restore
from benchmarks.intruders.site import Attack, Site, refusal
from benchmarks.intruders.tokens import misuse_tokens, stand_between
from fedprune.identity.audit import Client
from fedprune.identity.crossings import cross_all
from fedprune.identity.joining import CERTIFICATE, KEY
from fedprune.identity.revocation import revoke


@click.command(cls=Script)
@json_option("Write the table there.")
def main(target: Path | None) -> None:
    """Attack a gateway, and say what was let pass."""
    logging.getLogger("fedprune.wire").setLevel(logging.ERROR)  # connections are ended here, as they should be
    attacks = [*_attacks(attack_all), *_attacks(flood)]
    for attack in attacks:
        click.echo(f"{attack.outcome}  {attack.tried}{attack.said and ': '}{attack.said}")
    write_json(attacks, target)
    settle({f"each of {len(attacks)} attacks came out as it should": all(attack.is_right for attack in attacks)})


def _attacks(attack: Callable[[Site], Iterator[Attack]]) -> list[Attack]:
    """What comes of attacks on a gateway of their own."""
    with tempfile.TemporaryDirectory() as directory, Children(Path(directory)) as children:
        return list(attack(Site(Path(directory), children)))


def attack_all(site: Site) -> Iterator[Attack]:
    """Try everything. The last attacks shut this machine's address out for a while."""
    for crossing in cross_all(site.gateway):
        if not crossing.must_pass:
            yield Attack(crossing.tried, not crossing.passed)
    yield from forge_messages(site)
    yield from replay_and_restore(site)
    yield from listen(site)
    yield from _use_a_revoked_certificate(site)
    yield from stand_between(site)
    yield from misuse_tokens(site)


def _use_a_revoked_certificate(site: Site) -> Iterator[Attack]:
    place = site.join(site.token("captured"), "captured")
    broker, client_id = site.broker(place / CERTIFICATE, place / KEY), site.topics.agent_client("captured")

    def connect() -> None:
        with Client(broker, client_id):
            pass

    connect()
    state = revoke(site.gateway, "captured", datetime.now(UTC))
    refused, said = refusal(connect)
    yield Attack(f"a revoked device connects ({state.value})", refused, said)
    site.restart_broker()
    yield Attack("a revoked device connects to a broker that was started again", *refusal(connect))
