"""The doctor of a gateway's directory: its authority, its broker, and the rights that are proven by crossing them."""

from __future__ import annotations

import logging
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import msgspec

from aggregator.gateway.federations import Federation, Federations, Unreadable
from aggregator.sub_gateway.settings import FILE as SUB_GATEWAY
from fedprune.doctor.clock import examine_certificate, examine_clock
from fedprune.doctor.finding import Finding, Verdict, failed, ok, unknown, warning
from fedprune.doctor.machine import examine_disk, examine_memory, examine_power
from fedprune.doctor.network import examine_network
from fedprune.doctor.ownership import examine_user
from fedprune.doctor.secrets import examine_secrets
from fedprune.errors import FedpruneError
from fedprune.identity.crossings import cross_all
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.epochs import ROOT_KEY, SIGNING, load_signing
from fedprune.identity.gateway import AGGREGATOR, AUTHORITY, BROKER, CONFIGURATION, ENROLMENT, Gateway, open_gateway
from fedprune.system.paths import shell_text
from fedprune.wire.broker import Broker, Tls

_PATIENCE_S = 5.0

_LIMIT = "max_connections"
_BESIDE_DEVICES = 2
"""Connections of the aggregator, and of whoever checks or revokes."""

_PARTS = (AUTHORITY, BROKER, ENROLMENT, AGGREGATOR)


def examine(directory: Path, now: datetime) -> Iterator[Finding]:
    """Examine the gateway in `directory`. `now` is what is taken for the present."""
    yield from examine_user(directory)
    try:
        gateway = open_gateway(directory)
    except FedpruneError as error:
        yield failed("settings", str(error))
        return
    settings = gateway.settings
    yield ok("settings", f"{directory}: federation {settings.federation}, reached at {', '.join(settings.hosts)}")
    yield examine_clock(now)
    yield from examine_memory()
    yield examine_power()
    yield examine_disk(directory)
    yield _examine_directory(directory)
    secrets = {f"{part}'s key": directory / f"{part}.key" for part in _PARTS}
    yield from examine_secrets(secrets | {"the key that signs manifests": directory / SIGNING})
    yield from _examine_pairs(gateway, now)
    yield _examine_epoch(directory)
    is_below = (directory / SUB_GATEWAY).is_file()
    yield _judge_rest(_examine_queue(directory)) if is_below else _examine_queue(directory)
    yield _examine_endpoint(settings.enrolment_port)
    yield _examine_connections(gateway)
    network = [*examine_network(_broker(gateway), now)]
    yield from network
    if any(finding.verdict is Verdict.FAILED for finding in network):
        yield unknown("access list", f"{gateway.broker_url} cannot be reached: start Mosquitto")
    else:
        yield _examine_rights(gateway)
    if is_below:
        # A gateway without a parent loads no agent.
        from aggregator.sub_gateway.doctor import examine_parent

        yield from examine_parent(directory / SUB_GATEWAY, now)
    yield ok("backup", f"keep a copy of {directory} elsewhere: without {AUTHORITY}.key every device must join anew")


def _broker(gateway: Gateway) -> Broker:
    certificate, key = (str(gateway.path / f"{AGGREGATOR}.{kind}") for kind in ("pem", "key"))
    return Broker(gateway.broker_url, tls=Tls(str(gateway.path / f"{AUTHORITY}.pem"), certificate, key))


def _examine_directory(directory: Path) -> Finding:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        return warning("secrets", f"{directory} has mode {mode:04o}: others may enter it", f"chmod 700 {directory}")
    return ok("secrets", f"{directory} is its owner's alone")


def _examine_pairs(gateway: Gateway, now: datetime) -> Iterator[Finding]:
    for part in _PARTS:
        try:
            gateway.credentials(part)
        except FedpruneError as error:
            yield failed("certificate", str(error))
        else:
            yield examine_certificate(gateway.path / f"{part}.pem", part, now)


def _examine_epoch(directory: Path) -> Finding:
    check, root_key = "root key", directory / ROOT_KEY
    try:
        epoch = load_signing(directory).epoch
    except FedpruneError as error:
        return failed(check, str(error))
    if root_key.exists():
        told = f"{root_key} lies on the gateway: who takes the gateway over can sign for ever what its devices obey"
        return warning(check, told, f"mv {shell_text(root_key)} /media/usb/, or wherever you keep a password")
    return ok(check, f"it is elsewhere, as it should be; epoch {epoch} is open")


def _examine_queue(directory: Path) -> Finding:
    federations = Federations(directory)
    try:
        entries = federations.entries()
        waiting = [each for each in entries if isinstance(each, Federation) and each.outcome is None]
        current = federations.following()
    except FedpruneError as error:
        return failed("queue", str(error))
    if unreadable := [each for each in entries if isinstance(each, Unreadable)]:
        first = f"federation {unreadable[0].number} ({unreadable[0].why})"
        more = f", and {len(unreadable) - 1} more" if unreadable[1:] else ""
        return warning("queue", f"passed over: {first}{more}", "mend it, or delete its directory")
    if current is None and waiting:
        return warning("queue", f"{len(waiting)} federations wait, and it is paused", "fedprune gateway queue resume")
    if current is None:
        return ok("queue", "no federation waits: `fedprune gateway queue add` puts one there")
    return ok("queue", f"federation {current.number}, {current.task}, is the current one; {len(waiting) - 1} wait")


def _judge_rest(queue: Finding) -> Finding:
    """What is told of the queue of a gateway that serves a parent's federations instead."""
    told = f"it rests, since this gateway has joined a parent: {queue.told}"
    if queue.verdict is Verdict.OK:
        return ok(queue.check, told)
    return msgspec.structs.replace(queue, told=told)


def _examine_endpoint(port: int) -> Finding:
    try:
        socket.create_connection(("127.0.0.1", port), _PATIENCE_S).close()
    except OSError as error:
        told = f"nothing listens at port {port} ({(error.strerror or str(error)).lower()})"
        return warning("enrolment", f"{told}: nobody can join, and no federation is served", "fedprune gateway run")
    return ok("enrolment", f"devices can join at port {port}")


def _examine_connections(gateway: Gateway) -> Finding:
    """The broker takes as many as the machine's memory has room for, which may be fewer than have joined."""
    check = "connections"
    try:
        with closing(DeviceKeys(gateway.path)) as keys:
            joined = len(keys.names())
        text = (gateway.path / CONFIGURATION).read_text()
        most = int(next(line.split()[1] for line in text.splitlines() if line.startswith(_LIMIT)))
    except (FedpruneError, OSError, ValueError, LookupError, StopIteration) as error:
        return unknown(check, f"{gateway.path / CONFIGURATION} says no {_LIMIT} ({error})")
    if joined + _BESIDE_DEVICES > most:
        told = f"{joined} devices have joined, and the broker lets in {most} at a time: others are kept out"
        return warning(check, told, "give the machine more memory, then `fedprune gateway init` once more")
    return ok(check, f"the broker lets in {most} at a time; {joined} devices have joined")


def _examine_rights(gateway: Gateway) -> Finding:
    check = "access list"
    wire = logging.getLogger("fedprune.wire")
    level = wire.level
    wire.setLevel(logging.ERROR)  # connections are ended here, as they should be
    try:
        tried = list(cross_all(gateway))
    except FedpruneError as error:
        return failed(check, str(error))
    finally:
        wire.setLevel(level)
    wrong = [crossing.tried for crossing in tried if not crossing.is_right]
    if wrong:
        return failed(check, f"{len(wrong)} of {len(tried)} attacks came out wrong, the first: {wrong[0]}", _CHECK_IT)
    return ok(check, f"{len(tried)} attacks on the broker came out as they should")


_CHECK_IT = "`fedprune gateway check` has them all; start Mosquitto with the configuration of `fedprune gateway init`"
