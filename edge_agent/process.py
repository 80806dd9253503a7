"""The agent as a process: the real network, disk, clock and trainer around the runner."""

from __future__ import annotations

import logging
import queue
import time
from pathlib import Path
from typing import Any

import msgspec

from edge_agent import agent_machine
from edge_agent.local_round import LocalResult, LocalRound
from edge_agent.runner import AgentRunner
from edge_agent.settings import AgentSettings
from edge_agent.store import AgentStore
from edge_agent.trainers.choice import preferred_trainer
from edge_agent.training_thread import TrainingThread
from fedprune import __version__
from fedprune.data import count_examples, load_npz
from fedprune.errors import BrokerError, FedpruneError, StorageError
from fedprune.system.disk import Directory
from fedprune.system.process import stopping
from fedprune.system.usage import peak_memory_mb
from fedprune.wire.link import Delivery, LinkDown, LinkUp
from fedprune.wire.messages import CheckIn, Presence
from fedprune.wire.topics import Topics, check_id
from fedprune.wire.transport import MqttLink

_log = logging.getLogger(__name__)


def run_agent(settings: AgentSettings, base: Path) -> None:
    """Serve a federation until stopped. Paths in `settings` are relative to `base`.

    Raises `FedpruneError`s for what is wrong with the settings, data, broker or disk, `KeyboardInterrupt` when
    it is stopped; what it owes the gateway is remembered.
    """
    name, topics = check_id(settings.name, "agent name"), Topics(check_id(settings.federation, "federation"))
    trainer = preferred_trainer(settings.trainer)
    data = base / settings.data
    examples = count_examples(data)
    disk = Directory(base / settings.state)
    store = AgentStore(disk)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    training_thread = TrainingThread(lambda: load_npz(data), settings.trainer, settings.threads, disk, events.put)
    idle_memory_mb = 0.0

    def train(action: agent_machine.Train) -> None:
        nonlocal idle_memory_mb
        idle_memory_mb = idle_memory_mb or peak_memory_mb()
        assignment = action.assignment
        residual = store.residual(assignment.run, assignment.round)
        slots = store.slots(assignment.run)
        local = LocalRound(name, assignment, action.model, residual, slots, idle_memory_mb)
        training_thread.start(local, store.task(assignment.task.digest))

    status = topics.status(name)
    client_id, will = f"fedprune-{settings.federation}-{name}", (status, _presence(name, "offline"))
    with MqttLink(settings.broker.relative_to(base), client_id, events, will=will) as link, stopping(events):
        check_in = CheckIn(examples=examples, trainer=trainer)
        runner = AgentRunner(name, check_in, topics, link, store, train)
        try:
            _loop(runner, events, lambda: link.publish(status, _presence(name, "online"), retain=True))
        finally:
            link.publish(status, _presence(name, "offline"), retain=True)
            link.drain()


def _loop(runner: AgentRunner, events: queue.SimpleQueue[Any], greet: Any) -> None:
    while True:
        alarm = runner.state.wake_at
        try:
            event = events.get(timeout=None if alarm is None else max(0.0, alarm - time.monotonic()))
        except queue.Empty:
            event = None
        now = time.monotonic()
        match event:
            case LinkUp():
                greet()
                runner.connect(now)
            case LinkDown(reason):
                _log.warning("connection to the broker lost (%s); trying again", reason)
                runner.handle(agent_machine.Disconnected(), now)
            case Delivery():
                runner.deliver(event, now)
            case LocalResult():
                runner.finish(event, now)
            case BrokerError() | StorageError():  # a full disk, found while training or not
                raise event
            case FedpruneError():  # from the training thread
                _log.error("cannot train: %s", event)
                runner.handle(agent_machine.TrainingFailed(str(event)), now)
            case BaseException():
                raise event
        runner.handle(
            agent_machine.Ticked(), time.monotonic()
        )  # after every event: a flood of messages puts no alarm off


def _presence(agent: str, state: str) -> bytes:
    return msgspec.json.encode(Presence(state=state, agent=agent, version=__version__))
