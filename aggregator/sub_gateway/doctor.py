"""The doctor of a sub-gateway: its own side as an aggregator's, and the parent as an agent's gateway."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from aggregator.doctor import examine_broker, examine_gateway, examine_machine
from aggregator.sub_gateway.process import PARENT
from aggregator.sub_gateway.settings import SubGatewaySettings
from edge_agent.doctor import examine_agent, examine_root_key, examine_running
from fedprune.config import load_toml
from fedprune.doctor.finding import Finding, Verdict, failed, ok, unknown, warning
from fedprune.doctor.login import examine_agent_login
from fedprune.doctor.network import examine_network
from fedprune.doctor.ownership import owner_of
from fedprune.doctor.secrets import broker_secrets, examine_secrets
from fedprune.errors import FedpruneError
from fedprune.wire.authentication import read_key
from fedprune.wire.topics import Topics, check_id


def examine(config: Path, now: datetime) -> Iterator[Finding]:
    """Examine the sub-gateway that `config`, a sub-gateway.toml, describes. `now` is what is taken for the present."""
    try:
        settings = load_toml(config, SubGatewaySettings)
        topics = Topics(check_id(settings.name, "name"))
    except FedpruneError as error:
        yield failed("settings", str(error))
        return
    base, state = config.parent, config.parent / settings.state
    broker = settings.broker.relative_to(base)
    yield ok("settings", f"{config}: federation {settings.name} of its own agents")
    yield from examine_machine(broker, state, now)
    if settings.gateway is not None:
        yield examine_gateway(base / settings.gateway)
    yield from examine_broker(broker, topics, state, now)
    yield from examine_parent(config, now)


def examine_parent(config: Path, now: datetime) -> Iterator[Finding]:
    """Examine the way to the parent, and that it lets this gateway in, as `config`, a sub-gateway.toml, has them."""
    for finding in _examine_parent(config, now):
        yield msgspec.structs.replace(finding, check=f"parent: {finding.check}")


def _examine_parent(config: Path, now: datetime) -> Iterator[Finding]:
    try:
        settings = load_toml(config, SubGatewaySettings)
        parent = settings.parent
        name, topics = check_id(parent.name, "parent.name"), Topics(check_id(parent.federation, "parent.federation"))
    except FedpruneError as error:
        yield failed("settings", str(error))
        return
    base, state = config.parent, config.parent / settings.state
    broker = parent.broker.relative_to(base)
    key_file = None if parent.authentication_key is None else base / parent.authentication_key
    yield ok("settings", f"{config}: {name} in the federation {parent.federation}")
    yield from examine_secrets(broker_secrets(broker) | ({} if key_file is None else {"authentication_key": key_file}))
    if parent.root_key is not None:
        yield examine_root_key(base / parent.root_key)
    elif key_file is not None:
        yield warning(
            "root key",
            "this gateway has joined its parent, and obeys manifests that nobody signed",
            "set parent.root_key as `fedprune gateway join` writes it",
        )
    owner = owner_of(state)
    yield (running := examine_agent(state / PARENT, owner))
    network = [*examine_network(broker, now)]
    yield from network
    if owner.is_there is None:
        yield unknown("credentials", "a trial would end the connection of one that runs, and perhaps one does")
    elif owner.is_there:
        yield from examine_running(state / PARENT, name, running)
    elif any(finding.verdict is Verdict.FAILED for finding in network):
        yield unknown("credentials", f"{broker.url} cannot be reached")
    else:
        try:
            key = None if key_file is None else read_key(key_file)
        except FedpruneError as error:
            yield failed("credentials", str(error))
            return
        yield from examine_agent_login(broker, topics, name, key, examples=1)
