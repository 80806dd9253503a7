"""The sub-gateway as a process: an agent to its parent, whose training is a round of its own federation.

The agent's half is `edge_agent`'s, with another trainer: what it is assigned becomes a round of the aggregator's half
(`aggregator.part_runner`), and what that hands over is its update. Each half has a link and a state directory of its
own, and knows nothing of the other.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.book import RoundRecord
from aggregator.exchange import Exchange
from aggregator.round_machine import wake_at
from aggregator.servable import why_no_partial_sums
from aggregator.sub_gateway.given import given_round, seconds_below
from aggregator.sub_gateway.run import EndedRun, Run, last_run, parents_run
from aggregator.sub_gateway.settings import SubGatewaySettings
from aggregator.workers import Checked, WorkerEnded
from edge_agent.agent_state import Disconnected, HeldChanged, Phase, Ticked, Train
from edge_agent.joined_keys import JoinedKeys
from edge_agent.limits import limits_here
from edge_agent.local_round import LocalResult, PreparedUpdate, asks_for_statistics
from edge_agent.presence import presence
from edge_agent.renewal import keep_renewed
from edge_agent.runner import AgentRunner
from edge_agent.status import StatusAsked, telling
from edge_agent.store import AgentStore
from fedprune.errors import ConfigurationError, FedpruneError, StorageError, TrainingError
from fedprune.system.disk import Directory
from fedprune.system.memory import share_heaps
from fedprune.system.ownership import owned
from fedprune.system.process import stopping
from fedprune.system.service import SERVICE
from fedprune.task.bundle import read_bundle
from fedprune.wire.examples import MOST_CHECKED_IN
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.messages import CheckIn, Submit
from fedprune.wire.topics import Topics, check_id
from fedprune.wire.transport import MqttLink

_log = logging.getLogger(__name__)

PARENT = "parent"
"""The directory, below that of the state, of what is remembered as an agent."""

_LAST_ANSWER_S = 10.0
"""Seconds in which the answer to the last part comes once the parent says that it is done."""

_SILENT_S = 10.0
"""Seconds after which a parent of which nothing is retained has no federation: it is done, or rests."""


@dataclass(frozen=True)
class FromParent:
    """An event of the link to the parent."""

    event: Any


class _Above:
    """The queue of events, as the link to the parent has it."""

    def __init__(self, events: queue.SimpleQueue[Any]) -> None:
        self._events = events

    def put(self, event: Any) -> None:
        self._events.put(FromParent(event))

    def qsize(self) -> int:
        return self._events.qsize()


def run_sub_gateway(settings: SubGatewaySettings, base: Path, report: Callable[[RoundRecord], None]) -> None:
    """Serve a parent until it is done. Paths in `settings` are relative to `base`.

    Raises `FedpruneError`s for what is wrong with the settings, brokers or disk, `KeyboardInterrupt` when it is
    stopped; it goes on where it was when it is started again.
    """
    share_heaps()
    parent = settings.parent
    topics, above = Topics(check_id(settings.name, "name")), Topics(check_id(parent.federation, "parent.federation"))
    check_id(parent.name, "parent.name")
    if settings.name == parent.federation and settings.broker.url == parent.broker.url:
        raise ConfigurationError(
            f"name: {settings.name} is the parent's federation, at the same broker; give this gateway's another name"
        )
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with owned(base / settings.state, PARENT) as directory:
        disk = Directory(directory.path / PARENT)
        store = AgentStore(disk, parent.name, parent.federation)
        keys = JoinedKeys(parent.federation, parent.authentication_key, parent.root_key, base, store, disk)
        status = above.status(parent.name)
        with (
            MqttLink(settings.broker.relative_to(base), topics.aggregator_client, events) as link,
            MqttLink(
                parent.broker.relative_to(base),
                above.agent_client(parent.name),
                _Above(events),
                will=(status, presence(parent.name, "offline")),
            ) as link_above,
            stopping(events),
            telling(disk.path, events),
        ):
            gateway = SubGateway(settings, base, topics, above, link, link_above, store, disk, keys, events, report)
            try:
                gateway.serve()
            finally:
                gateway.close()
                link_above.publish(status, presence(parent.name, "offline"), retain=True)
                link_above.drain()
                link.drain()


def keep_certificate_renewed(settings: SubGatewaySettings, base: Path) -> None:
    """From now on the certificate that the parent has issued is renewed when it is due, where there is one."""
    if settings.parent.gateway is not None:
        keep_renewed(base / settings.parent.gateway)


class SubGateway:
    """The two halves, and the events of both. Its own federation has a run as soon as the parent has given a round."""

    def __init__(
        self,
        settings: SubGatewaySettings,
        base: Path,
        topics: Topics,
        above: Topics,
        link: MqttLink,
        link_above: MqttLink,
        store: AgentStore,
        disk: Directory,
        keys: JoinedKeys,
        events: queue.SimpleQueue[Any],
        report: Callable[[RoundRecord], None],
    ) -> None:
        self._settings, self._base, self._topics, self._above = settings, base, topics, above
        self._link, self._link_above, self._store, self._keys = link, link_above, store, keys
        self._events, self._report = events, report
        self._run: Run | None = None
        self._last_run = last_run(base / settings.state)
        """On the disk: which it is changes with each run that is begun alone."""
        self._is_unreadable = False
        """The last run, as far as was tried."""
        self._is_up = False
        self._ended: EndedRun | None = None
        self._over_by: float | None = None
        self._silent_at: float | None = None
        self._deadline = 0.0
        self._open_run: str | None = None
        self._waits_after: str | None = None
        self._agent = AgentRunner(
            settings.parent.name,
            CheckIn(examples=MOST_CHECKED_IN),  # its agents say what they have, once they are there
            limits_here(disk, settings.parent.broker.chunk_bytes),
            above,
            link_above,
            store,
            events.put,  # each round that is to be begun is an event
            lambda: None,  # the agents go on: the round may be given once more
            *keys.read(),
        )

    def serve(self) -> None:
        """Handle events until the parent is done, and the agents are told. A disk that refuses ends it; then the parent
        is told first."""
        try:
            while not self._is_over():
                self._handle(self._next_event())
                self.tick()
                SERVICE.alive()
            if self._run is not None:
                self._run.runner.finish()
        except FedpruneError as error:
            self._agent.give_up(str(error), time.monotonic())
            raise

    def tick(self) -> None:
        """Both halves look at the time. What the parent leaves for a round is more once its deadline has passed."""
        now = time.monotonic()
        self._agent.handle(Ticked(), now)
        if self._run is None:
            self._end_last_run(now)
            if self._ended is not None:
                self._ended.runner.tick()
            return
        state = self._agent.state
        if state.phase is Phase.TRAINING and state.deadline != self._deadline:
            self._deadline = state.deadline
            self._run.runner.allow(seconds_below(state.deadline - now))
        self._run.runner.tick()

    def close(self) -> None:
        """Let go of the run."""
        for run in (self._run, self._ended):
            if run is not None:
                run.close()
        self._run = self._ended = None

    @property
    def _exchange(self) -> Exchange | None:
        """What speaks with the agents; None before there was a run."""
        run = self._run or self._ended
        return None if run is None else run.runner

    def _is_over(self) -> bool:
        """True once the parent is done, has answered the last part or had time to, and the agents can be told: until
        then it may give another round."""
        run, seen = self._agent.finished_run, self._agent.state.seen
        if run is None:
            self._open_run = None if seen is None else seen.run
        if run is None or not (run == self._open_run or self._had_part_in(run)):
            self._say_that_it_waits(run)
            self._over_by = None
            return False
        if self._over_by is None:
            self._over_by = time.monotonic() + _LAST_ANSWER_S
        is_answered = self._agent.state.pending is None or time.monotonic() >= self._over_by
        return is_answered and self._is_up

    def _had_part_in(self, run: str) -> bool:
        """True if there was a run below that one of the parent's, and none below another since."""
        return self._last_run is not None and parents_run(self._last_run) == run

    def _end_last_run(self, now: float) -> None:
        """Tell the agents of the last run, which a process before this one served, that it is over, once it is known
        that the parent does not go on with it: it is done, at another one, or silent. It may have rested only: then
        its next assignment begins the run anew."""
        seen = self._agent.state.seen
        is_silent = seen is None and self._silent_at is not None and now >= self._silent_at
        if self._ended is not None or self._is_unreadable or (seen is None and not is_silent):
            return
        self._silent_at = None
        last = self._last_run
        if last is None or (seen is not None and seen.run == parents_run(last) and self._agent.finished_run is None):
            return
        try:
            self._ended = EndedRun(self._settings, self._base, last, self._topics, self._link)
        except StorageError as error:  # the parent's next run needs nothing of it
            self._is_unreadable = True
            _log.error("the agents of the last federation are not told that it is over: %s", error)
            return
        _log.info("the parent does not go on with the last federation: its agents are told that it is over")
        if self._is_up:
            self._ended.runner.connect()

    def _say_that_it_waits(self, run: str | None) -> None:
        """For a federation to begin, where what the broker retained is of one that ended without this gateway."""
        if run is not None and run != self._waits_after:
            _log.info("the parent's last federation is over; waiting for its next one")
        self._waits_after = run

    def _next_event(self) -> Any:
        """The next event; None once it is time for an alarm. What came together is stored together, before the wait."""
        try:
            return self._events.get_nowait()
        except queue.Empty:
            pass
        alarms = [self._agent.state.wake_at, self._over_by if self._is_up else None]
        exchange = self._exchange
        if exchange is None:
            alarms.append(self._silent_at)
        else:
            exchange.settle()
            alarms.append(wake_at(exchange.state))
        alarm = min((each for each in alarms if each is not None), default=None)
        try:
            return self._events.get(timeout=SERVICE.wait_until(alarm))
        except queue.Empty:
            return None

    def _handle(self, event: Any) -> None:
        exchange = self._exchange
        match event:
            case FromParent(inner):
                self._hear_parent(inner)
            case Train():
                self._begin(event)
            case StatusAsked():
                if event.is_probe:
                    self._agent.say_again()
                event.answer.put(self._agent.status(time.monotonic()))
            case LinkUp():
                self._is_up = True
                if exchange is not None:
                    exchange.connect()
            case LinkDown(reason):
                self._is_up = False
                _log.warning("connection to the broker lost (%s); trying again", reason)
            case Delivery() if exchange is not None:
                exchange.deliver(event)
            case Drained() if exchange is not None:
                exchange.drained()
            case Checked() | WorkerEnded() if self._run is not None:
                if self._run.workers is not None and self._run.workers.has(event.worker):
                    self._run.runner.hear_worker(event)
            case BaseException():
                raise event

    def _hear_parent(self, event: Any) -> None:
        now = time.monotonic()
        match event:
            case LinkUp():
                self._agent.authenticate(*self._keys.read())  # it may have joined anew
                name = self._settings.parent.name
                self._link_above.publish(self._above.status(name), presence(name, "online"), retain=True)
                self._agent.connect(now)
                self._silent_at = now + _SILENT_S
            case LinkDown(reason):
                _log.warning("connection to the parent's broker lost (%s); trying again", reason)
                self._agent.handle(Disconnected(), now)
                self._silent_at = None
            case Delivery():
                self._agent.deliver(event, now)
            case Drained():
                self._agent.drained(now)
            case BaseException():
                raise event

    def _begin(self, action: Train) -> None:
        """Have the agents do the round that the parent assigned. What is wrong with it the parent is told."""
        if not self._agent.state.awaits_training(action.number):
            return
        try:
            self._open(action)
        except StorageError:
            raise
        except Exception as error:
            self._agent.end_training(action.number, error, time.monotonic())

    def _open(self, action: Train) -> None:
        assignment = action.assignment
        if asks_for_statistics(assignment):
            raise ConfigurationError("a sub-gateway gathers no statistics: give those of the task in task.toml")
        bundle = read_bundle(self._store.task(assignment.task.digest))
        if why := why_no_partial_sums(bundle.task):
            raise ConfigurationError(f"a sub-gateway cannot add up updates to this task's models: {why}")
        counted = self._store.counted(assignment.run)
        held, self._deadline = self._store.held.telling(self._note_held), self._agent.state.deadline
        given = given_round(assignment, action.model, bundle, held, counted, self._deadline - time.monotonic())
        if self._run is not None and self._run.is_below(assignment):
            self._run.runner.give(given)
            return
        self.close()
        try:
            self._run = Run(
                self._settings,
                self._base,
                assignment,
                bundle,
                given,
                self._topics,
                self._link,
                self._events,
                self._hand_over,
                self._decline,
                self._report,
            )
        finally:
            self._last_run = last_run(self._base / self._settings.state)
        if self._is_up:
            self._run.runner.connect()

    def _note_held(self, held: tuple[str, int]) -> None:
        self._agent.handle(HeldChanged(held), time.monotonic())

    def _hand_over(self, submit: Submit, part: bytes) -> None:
        """Submit a part, if the parent still waits for it."""
        if self._is_at(submit.run, submit.round):
            result = LocalResult(submit, PreparedUpdate(part, {}, {}), slots=None)
            self._agent.end_training(self._agent.state.training, result, time.monotonic())

    def _decline(self, run: str, round_: int, why: TrainingError) -> None:
        """Tell the parent why there is no part of the round, if it still waits for it."""
        if self._is_at(run, round_):
            self._agent.end_training(self._agent.state.training, why, time.monotonic())

    def _is_at(self, run: str, round_: int) -> bool:
        state = self._agent.state
        assignment = state.assignment
        if state.phase is not Phase.TRAINING or assignment is None:
            return False
        return (assignment.run, assignment.round) == (run, round_)
