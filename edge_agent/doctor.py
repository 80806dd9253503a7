"""The doctor of a device: everything that an agent needs, examined without disturbing one that runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from edge_agent.consent_files import ConsentFiles
from edge_agent.guest import Moment, why_not
from edge_agent.settings import AgentSettings, load_settings
from edge_agent.status import PROBE, STATUS, AgentStatus, ask
from edge_agent.trainers.choice import preferred_trainer
from fedprune import __version__
from fedprune.data import most_examples
from fedprune.doctor.clock import examine_clock
from fedprune.doctor.finding import Finding, Verdict, failed, ok, unknown, warning
from fedprune.doctor.login import examine_agent_login
from fedprune.doctor.machine import examine_disk, examine_memory, examine_power
from fedprune.doctor.network import examine_network
from fedprune.doctor.ownership import Owner, examine_user, owner_of
from fedprune.doctor.readability import unreadable_file
from fedprune.doctor.secrets import broker_secrets, examine_secrets
from fedprune.errors import FedpruneError
from fedprune.system.conditions import read_conditions
from fedprune.system.disk import Directory
from fedprune.system.routes import default_interface
from fedprune.task.bundle import load_bundle
from fedprune.task.gathering import load_to_look
from fedprune.wire.authentication import read_key
from fedprune.wire.proof import read_root_key
from fedprune.wire.topics import Topics, check_id

_PATIENCE_S = 10.0
"""For what the aggregator answers to a running agent."""

_LOOK_UP_S = 0.25
_MOST_WARNINGS = 3
"""Of skipped files and rows, in one line."""


def examine(config: Path, now: datetime) -> Iterator[Finding]:
    """Examine the device that `config`, an agent.toml, describes. `now` is what it takes for the present."""
    try:
        settings = load_settings(config)
        name = check_id(settings.name, "agent name")
        topics = Topics(check_id(settings.federation, "federation"))
    except FedpruneError as error:
        yield failed("settings", str(error))
        return
    base, state = config.parent, config.parent / settings.state
    broker = settings.broker.relative_to(base)
    yield ok("settings", f"{config}: agent {name} of federation {settings.federation}")
    yield from examine_user(state)
    yield examine_clock(now)
    yield from examine_memory()
    yield examine_power()
    yield examine_disk(state)
    yield _examine_guest(settings)
    yield from _examine_consent(settings, state)
    yield _examine_trainer(settings)
    key_file = None if settings.authentication_key is None else base / settings.authentication_key
    yield from examine_secrets(broker_secrets(broker) | ({} if key_file is None else {"authentication_key": key_file}))
    if settings.root_key is not None:
        yield examine_root_key(base / settings.root_key)
    elif key_file is not None:
        yield warning(
            "root key",
            "this device has joined a gateway, and obeys manifests that nobody signed",
            "join again, and set root_key in agent.toml as `fedprune join` says",
        )
    owner = owner_of(state)
    yield _examine_data(base / settings.data, state, is_running=bool(owner.is_there))
    yield (agent := examine_agent(state, owner))
    network = [*examine_network(broker, now)]
    yield from network
    if owner.is_there is None:
        yield unknown("credentials", "a trial would end the connection of an agent that runs, and perhaps one does")
    elif owner.is_there:
        yield from examine_running(state, name, agent)
    elif any(finding.verdict is Verdict.FAILED for finding in network):
        yield unknown("credentials", f"{broker.url} cannot be reached")
    else:
        yield from _examine_stopped(base / settings.data, key_file, settings, base, topics)
    yield ok("backup", f"of this device {config.name} and the files that it names are worth one; {state} is not")


def _examine_trainer(settings: AgentSettings) -> Finding:
    try:
        return ok("trainer", preferred_trainer(settings.trainer))
    except FedpruneError as error:
        return failed("trainer", str(error))


def _examine_guest(settings: AgentSettings) -> Finding:
    """As a guest that begins now would find the device; what a running one finds, its own line tells."""
    why = why_not(
        settings.guest, Moment(datetime.now(), read_conditions(), default_interface(), 0.0, 0), is_waiting=False
    )
    if why:
        return warning("guest", f"it would not train now: {why}", "wait, or change [guest] in agent.toml")
    return ok("guest", "it may train now, by [guest] of agent.toml")


def _examine_consent(settings: AgentSettings, state: Path) -> Iterator[Finding]:
    """A finding for each task that waits, where tasks wait at all."""
    if not settings.consent.ask or not state.is_dir():
        return
    try:
        files = ConsentFiles(Directory(state))
        approved = files.approved()
        waiting = [facts for facts in files.asked() if facts.digest not in approved]
    except FedpruneError as error:
        yield failed("consent", str(error))
        return
    for facts in waiting:
        yield warning("consent", f"waits: {facts.description}", f"`fedprune consent {facts.digest}`, if you trust it")
    if not waiting:
        yield ok("consent", "no task waits")


def examine_root_key(path: Path) -> Finding:
    """The key by which manifests are proven can be read."""
    try:
        return ok(
            "root key", f"this device obeys what the gateway of root key {read_root_key(path).hex()[:16]}... signs"
        )
    except FedpruneError as error:
        return failed("root key", str(error))


def _examine_data(path: Path, state: Path, *, is_running: bool) -> Finding:
    """Read the examples as the last task says it. A running agent has read them: its memory is not taken twice."""
    check = "data"
    told = _Told()
    try:
        if problem := unreadable_file(path):
            return failed(check, problem)
        most = most_examples(path)
        task = next(iter(sorted(state.glob("*.fedtask"))), None)
        if task is None or is_running:
            why = "the agent that runs has read them" if is_running else "no task came yet to say how they are read"
            return ok(check, f"{path} can be read, {most} examples at most; {why}")
        with told:
            bundle = load_bundle(task)
            data = load_to_look(path, bundle)
    except FedpruneError as error:
        return failed(check, "; ".join((str(error), *told.warnings)))
    shown = f"{len(data)} examples in {path}, as task {bundle.task.name!r} takes them"
    if told.warnings:
        return warning(check, f"{shown}; {'; '.join(told.warnings)}", "mend these, or leave them out")
    return ok(check, shown)


class _Told(logging.Handler):
    """Collects what readers warn of: a context in which the data are read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []
        self._logger = logging.getLogger("fedprune.data")

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.warnings) < _MOST_WARNINGS:
            self.warnings.append(record.getMessage())

    def __enter__(self) -> None:
        self._logger.addHandler(self)
        self._logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True


def examine_agent(state: Path, owner: Owner) -> Finding:
    """What the one that owns the directory, if any does, tells of itself."""
    check = "agent"
    if owner.is_there is None:
        return failed(check, owner.problem, "call the doctor as the user as whom the agent runs, or with sudo")
    if not owner.is_there:
        return ok(check, "none runs here now")
    status = ask(state)
    process = "" if owner.pid is None else f", process {owner.pid}"
    if status is None:
        return warning(
            check,
            f"one runs{process}, and does not answer",
            "it waits for its broker, or runs as another user: call the doctor with sudo, and look at its log",
        )
    told = f"one runs{process}: {describe(status)}"
    if status.version != __version__:
        return warning(check, f"{told}; it is version {status.version}, installed is {__version__}", "start it again")
    return ok(check, told)


def describe(status: AgentStatus) -> str:
    """A running agent in some words."""
    words = [status.phase if status.round is None else f"round {status.round}, {status.phase}"]
    if not status.is_connected:
        words.append("not connected")
    if status.waits_for:
        words.append(f"waits: {status.waits_for}")
    if status.round_bytes_written is not None:
        words.append(f"{status.round_bytes_written / 1000:,.0f} kB were written in its last round")
    return ", ".join(words)


def examine_running(state: Path, name: str, agent: Finding) -> Iterator[Finding]:
    """Have the agent itself speak, over its own connection, and see that the aggregator answers."""
    began = time.monotonic()
    status = ask(state, PROBE)
    if status is None:
        yield unknown("credentials", f"they are the running agent's, which does not answer ({agent.told})")
        return
    if not status.is_connected:
        yield failed("credentials", f"{name} is not connected now", "see the checks above, and the agent's log")
        return
    yield ok("credentials", f"{name} is connected")
    while status is not None and time.monotonic() - began < _PATIENCE_S:
        if status.heard_s is not None and status.heard_s <= time.monotonic() - began:
            yield ok("access list", f"{name} published just now, and the aggregator's answer came back")
            return
        if status.runs is False:
            yield unknown(
                "access list", f"no federation runs now, whose answer to {name} would prove it{_last(status)}"
            )
            return
        time.sleep(_LOOK_UP_S)
        status = ask(state, STATUS)
    if status is not None and status.runs is None:
        yield unknown(
            "access list",
            f"{name} published just now, and nothing came back{_last(status)}; no manifest came since it connected: no "
            "federation runs now, or it may not read there; call the doctor again while one runs, or while the agent "
            "is stopped",
        )
        return
    yield failed(
        "access list",
        f"{name} published just now, and nothing came back{_last(status)}",
        "does the aggregator run? If so, stop the agent and call the doctor again: it then tells the missing right",
    )


def _last(status: AgentStatus | None) -> str:
    return "" if status is None or status.heard_s is None else f"; the last one came {status.heard_s:.0f} s ago"


def _examine_stopped(
    data: Path, key_file: Path | None, settings: AgentSettings, base: Path, topics: Topics
) -> Iterator[Finding]:
    try:
        examples = most_examples(data)
    except FedpruneError:  # told already
        examples = 1
    try:
        key = None if key_file is None else read_key(key_file)
    except FedpruneError as error:
        yield failed("credentials", str(error))
        return
    yield from examine_agent_login(settings.broker.relative_to(base), topics, settings.name, key, examples)
