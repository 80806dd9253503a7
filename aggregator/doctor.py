"""The doctor of an aggregator: everything that a federation's rounds need, examined without disturbing a run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from aggregator.settings import FederationSettings
from fedprune.config import load_toml
from fedprune.doctor.clock import examine_clock
from fedprune.doctor.finding import Finding, Verdict, failed, ok, unknown
from fedprune.doctor.login import examine_aggregator_login
from fedprune.doctor.machine import examine_disk, examine_memory, examine_power
from fedprune.doctor.network import examine_network
from fedprune.doctor.ownership import examine_user, owner_of
from fedprune.doctor.secrets import broker_secrets, examine_secrets
from fedprune.errors import FedpruneError
from fedprune.identity.gateway import open_gateway
from fedprune.task.bundle import load_bundle
from fedprune.task.gathering import load_to_look
from fedprune.wire.broker import Broker
from fedprune.wire.topics import Topics, check_id


def examine(config: Path, now: datetime) -> Iterator[Finding]:
    """Examine the federation that `config`, a federation.toml, describes. `now` is what is taken for the present."""
    try:
        settings = load_toml(config, FederationSettings)
        topics = Topics(check_id(settings.name, "name"))
    except FedpruneError as error:
        yield failed("settings", str(error))
        return
    base, state = config.parent, config.parent / settings.state
    broker = settings.broker.relative_to(base)
    yield ok("settings", f"{config}: federation {settings.name}")
    yield from examine_machine(broker, state, now)
    yield from _examine_task(settings, base)
    if settings.gateway is not None:
        yield examine_gateway(base / settings.gateway)
    yield from examine_broker(broker, topics, state, now)
    yield ok("backup", f"back up {state} between rounds: checkpoints and the book are in it, and nowhere else")


def examine_machine(broker: Broker, state: Path, now: datetime) -> Iterator[Finding]:
    """The machine of what keeps `state`: whose that is, clock, memory, power, disk, and who can read the secrets."""
    yield from examine_user(state)
    yield examine_clock(now)
    yield from examine_memory()
    yield examine_power()
    yield examine_disk(state)
    yield from examine_secrets(broker_secrets(broker))


def examine_broker(broker: Broker, topics: Topics, state: Path, now: datetime) -> Iterator[Finding]:
    """The way to the agents' broker, and that it lets the aggregator in, unless one runs that owns `state`."""
    network = [*examine_network(broker, now)]
    yield from network
    owner = owner_of(state)
    if owner.is_there is None:
        yield failed("aggregator", owner.problem, "call the doctor as the user as whom the aggregator runs")
    elif owner.is_there:
        process = "" if owner.pid is None else f", process {owner.pid}"
        yield ok("aggregator", f"one runs{process}: its credentials are not tried, that would end its connection")
    elif any(finding.verdict is Verdict.FAILED for finding in network):
        yield unknown("credentials", f"{broker.url} cannot be reached")
    else:
        yield from examine_aggregator_login(broker, topics)


def _examine_task(settings: FederationSettings, base: Path) -> Iterator[Finding]:
    try:
        bundle = load_bundle(base / settings.task)
    except FedpruneError as error:
        yield failed("task", str(error))
        return
    yield ok("task", f"{bundle.task.name}, {bundle.task.table.parameters:,} parameters")
    if settings.held_out is None:
        return
    try:
        data = load_to_look(base / settings.held_out, bundle)
    except FedpruneError as error:
        yield failed("data", str(error))
    else:
        yield ok("data", f"{len(data)} held-out examples in {settings.held_out}")


def examine_gateway(directory: Path) -> Finding:
    """The gateway whose devices alone may take part."""
    try:
        return ok("gateway", f"{directory}: devices of federation {open_gateway(directory).settings.federation} alone")
    except FedpruneError as error:
        return failed("gateway", str(error))
