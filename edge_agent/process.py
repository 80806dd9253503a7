"""The agent as a process: the real network, disk, clock and trainer around the runner."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_agent.agent_state import Disconnected, HeldChanged, PermissionChanged, Ticked, Train
from edge_agent.consent_events import ConsentChanged
from edge_agent.consent_gate import ConsentGate
from edge_agent.consent_watch import ConsentWatch
from edge_agent.guest_watch import GuestWatch
from edge_agent.joined_keys import JoinedKeys
from edge_agent.limits import limits_here
from edge_agent.local_round import LocalRound, owed_since
from edge_agent.presence import presence
from edge_agent.renewal import keep_renewed
from edge_agent.runner import AgentRunner
from edge_agent.settings import AgentSettings
from edge_agent.status import StatusAsked, telling
from edge_agent.store import AgentStore
from edge_agent.trainers.choice import preferred_trainer
from edge_agent.training_thread import TrainingEnded, TrainingThread
from fedprune.data import most_examples, open_raw_examples
from fedprune.data.files_seen import files_seen
from fedprune.data.room import Room
from fedprune.errors import StorageError
from fedprune.model.tensors import Weights
from fedprune.system.disk import Directory
from fedprune.system.memory import return_large_arrays, return_unused_pages
from fedprune.system.ownership import owned
from fedprune.system.process import as_service, stopping
from fedprune.system.service import SERVICE
from fedprune.system.usage import peak_memory_mb
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.messages import CheckIn
from fedprune.wire.topics import Topics, check_id
from fedprune.wire.transport import MqttLink

_log = logging.getLogger(__name__)


def run_agent(settings: AgentSettings, base: Path) -> None:
    """Serve a federation until stopped. Paths in `settings` are relative to `base`.

    Raises `FedpruneError`s for what is wrong with the settings, data, broker or disk, `KeyboardInterrupt` when
    it is stopped; what it owes the gateway is remembered.
    """
    return_large_arrays()
    check_id(settings.name, "agent name")
    topics = Topics(check_id(settings.federation, "federation"))
    trainer = preferred_trainer(settings.trainer)
    with as_service():
        examples = most_examples(base / settings.data)
        with owned(base / settings.state) as disk:
            SERVICE.ready()  # the broker may be away for long
            _serve(settings, base, disk, topics, CheckIn(examples=examples, trainer=trainer))


def _serve(settings: AgentSettings, base: Path, disk: Directory, topics: Topics, check_in: CheckIn) -> None:
    """Connect, and handle events for ever."""
    name = settings.name
    store = AgentStore(disk, name, settings.federation)
    limits = replace(limits_here(disk, settings.broker.chunk_bytes), max_round_bytes=settings.consent.max_round_bytes)
    gate = ConsentGate(settings.consent, disk, check_in.examples)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = Room.of_device(disk.path)
    training_thread = TrainingThread(
        lambda data: open_raw_examples(base / settings.data, data, room),
        settings.trainer,
        settings.threads,
        disk,
        events.put,
        None if settings.personal_model is None else base / settings.personal_model,
        lambda: files_seen(base / settings.data),
    )
    idle_memory_mb = 0.0

    def train(action: Train) -> None:
        nonlocal idle_memory_mb
        idle_memory_mb = idle_memory_mb or peak_memory_mb()
        training_thread.start(action.number, lambda: _open_round(store, gate, name, action, idle_memory_mb, events))

    keys = JoinedKeys(settings.federation, settings.authentication_key, settings.root_key, base, store, disk)
    if settings.gateway is not None:
        keep_renewed(base / settings.gateway)
    status = topics.status(name)
    client_id, will = topics.agent_client(name), (status, presence(name, "offline"))
    guest = GuestWatch(
        settings.guest, lambda: settings.threads if training_thread.is_training else 0, training_thread.hold, events
    )
    # Until the link is up a signal ends the process at once: there is nothing to say to anybody yet.
    with (
        guest.watching(),
        ConsentWatch(disk, events).watching() if settings.consent.ask else nullcontext(),
        MqttLink(settings.broker.relative_to(base), client_id, events, will=will, is_one_of_many=True) as link,
        stopping(events),
        telling(disk.path, events),
    ):
        runner = AgentRunner(name, check_in, limits, topics, link, store, train, training_thread.stop, *keys.read())

        def greet() -> None:
            runner.authenticate(*keys.read())  # as the certificate: the device may have joined anew
            link.publish(status, presence(name, "online"), retain=True)

        return_unused_pages()
        try:
            _loop(runner, events, training_thread, greet)
        finally:
            link.publish(status, presence(name, "offline"), retain=True)
            link.drain()


def _open_round(
    store: AgentStore,
    gate: ConsentGate,
    name: str,
    action: Train,
    idle_memory_mb: float,
    events: queue.SimpleQueue[Any],
) -> tuple[LocalRound, bytes]:
    """Read from the disk what the training takes, on the training's thread, if `gate` lets the task pass. `events` get
    told what is held then."""
    assignment = action.assignment
    task = store.task(assignment.task.digest)
    gate.check(task, assignment.known)
    since = owed_since(assignment)

    def read_residual() -> Weights | None:
        return store.residual(assignment.run, assignment.round, since)

    slots = store.slots(assignment.run, since)
    own = store.local(assignment.run, since)
    held = store.held.telling(lambda version: events.put(HeldChanged(version)))
    local = LocalRound(
        name,
        assignment,
        action.model,
        read_residual,
        slots,
        idle_memory_mb,
        held=held,
        local=own,
        owed_form=store.owed_form(assignment.run, since),
        remembered=store.remembered(assignment.run),
    )
    return local, task


def _loop(
    runner: AgentRunner, events: queue.SimpleQueue[Any], training: TrainingThread, greet: Callable[[], object]
) -> None:
    """Handle events for ever. A disk that refuses ends the agent, once the gateway knows that nothing will come."""
    try:
        _handle_events(runner, events, training, greet)
    except StorageError as error:
        runner.give_up(str(error), time.monotonic())
        raise


def _handle_events(
    runner: AgentRunner, events: queue.SimpleQueue[Any], training: TrainingThread, greet: Callable[[], object]
) -> None:
    while True:
        alarm = runner.state.wake_at
        _handle_event(runner, _next_event(events, alarm), greet)
        # After every event, so that a flood of messages puts no alarm off.
        runner.handle(Ticked(), time.monotonic())
        if not training.is_stuck():
            SERVICE.alive()


def _next_event(events: queue.SimpleQueue[Any], alarm: float | None) -> Any:
    """The next event; None once it is time for the alarm, or for a sign of life."""
    try:
        return events.get(timeout=SERVICE.wait_until(alarm))
    except queue.Empty:
        return None


def _handle_event(runner: AgentRunner, event: Any, greet: Callable[[], object]) -> None:
    """Nothing holds an event once this returns: what comes of a training holds two copies of the model."""
    now = time.monotonic()
    match event:
        case LinkUp():
            greet()
            runner.connect(now)
        case LinkDown(reason):
            _log.warning("connection to the broker lost (%s); trying again", reason)
            runner.handle(Disconnected(), now)
        case Delivery():
            runner.deliver(event, now)
        case Drained():
            runner.drained(now)
        case TrainingEnded(number, result):
            runner.end_training(number, result, now)
        case HeldChanged():
            runner.handle(event, now)
        case StatusAsked():
            if event.is_probe:
                runner.say_again()
            event.answer.put(runner.status(now))
        case ConsentChanged():
            runner.handle(event, now)
        case PermissionChanged():
            runner.permit(event, now)
        case BaseException():
            raise event
