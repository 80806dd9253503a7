"""A gateway at work: it serves one federation of its queue after the other, for as long as it runs.

The queue is looked at once in a while, also while a federation is served: pausing and stopping are files there.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from aggregator.book import RoundRecord
from aggregator.gateway.federations import Federation, Federations, Outcome, Unreadable
from aggregator.process import Withdrawn, run_aggregator
from aggregator.settings import FederationSettings
from fedprune.errors import BrokerError, FedpruneError, OtherVersion, StorageError
from fedprune.identity.gateway import AGGREGATOR, AUTHORITY, Gateway
from fedprune.system.disk import has_no_room
from fedprune.system.ownership import owned
from fedprune.system.process import stopping
from fedprune.system.service import SERVICE
from fedprune.wire.broker import Broker, Tls

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How long a change of the queue may stay unnoticed."""

Report = Callable[[Federation, RoundRecord], None]


def serve_federations(gateway: Gateway, report: Report) -> None:
    """Serve until the process is told to end. `report` hears of each round.

    Raises `BrokerError`, `OtherVersion` and `StorageError`, for which no federation is to blame, as for a disk without
    room: it goes on when it is started again. What is wrong with a federation alone ends that one.
    """
    federations = Federations(gateway.path)
    with owned(federations.path):
        federations.discard_drafts()
        said, passed_over = "", frozenset[Unreadable]()
        while True:
            passed_over = _pass_over(federations, passed_over)
            for stopped in federations.to_stop():  # also while the queue is paused
                _end(stopped, Outcome("stopped"))
            federation = federations.following()
            if federation is None:
                rest = "paused" if federations.is_paused else "no federation is waiting"
                if rest != said:
                    _log.info("%s; see `fedprune gateway queue`", rest)
                    SERVICE.status(rest)
                said = rest
                _rest()
            else:
                said = ""
                _serve(gateway, federations, federation, report)


def _serve(gateway: Gateway, federations: Federations, federation: Federation, report: Report) -> None:
    _log.info("federation %s: %s", federation.number, federation.task)
    SERVICE.status(f"federation {federation.number}: {federation.task}")
    gateway.check_federations()  # or else each in turn would be the one that failed
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    settings = _at(gateway, federation.settings)
    try:
        with _watched(federations, federation, events):
            run_aggregator(settings, federation.directory, lambda record: report(federation, record), events)
    except Withdrawn:
        _log.info("federation %s rests", federation.number)
    except (BrokerError, OtherVersion):
        raise
    except FedpruneError as error:
        if isinstance(error, StorageError):
            gateway.check_federations()
            if has_no_room(error):
                raise
        _end(federation, Outcome("failed", " ".join(str(error).split())))
    else:
        _end(federation, Outcome("done"))


def _pass_over(federations: Federations, before: frozenset[Unreadable]) -> frozenset[Unreadable]:
    """The federations that cannot be read, which a person is told once: others are served meanwhile."""
    found = frozenset(each for each in federations.entries() if isinstance(each, Unreadable))
    for each in found - before:
        _log.error("federation %s is passed over: %s", each.number, each.why)
    return found


def _at(gateway: Gateway, settings: FederationSettings) -> FederationSettings:
    """The settings with what the gateway says: whose federation it is, at which broker, for whom alone."""
    path = gateway.path.resolve()
    files = Tls(str(path / f"{AUTHORITY}.pem"), str(path / f"{AGGREGATOR}.pem"), str(path / f"{AGGREGATOR}.key"))
    return msgspec.structs.replace(
        settings,
        name=gateway.settings.federation,
        broker=Broker(gateway.broker_url, tls=files),
        gateway=str(path),
    )


def _end(federation: Federation, outcome: Outcome) -> None:
    federation.ends(outcome)
    level = logging.ERROR if outcome.end == "failed" else logging.INFO
    _log.log(level, "federation %s: %s%s", federation.number, outcome.end, f": {outcome.why}" if outcome.why else "")


@contextmanager
def _watched(federations: Federations, federation: Federation, events: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Meanwhile `events` hear of it when the federation is to rest or to end."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_S):
            if federations.is_paused or federation.is_to_stop:
                events.put(Withdrawn())
                return

    watcher = threading.Thread(target=watch, name="queue", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _rest() -> None:
    """Wait a moment. Raises what a signal means."""
    events: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    with stopping(events), contextlib.suppress(queue.Empty):
        raise events.get(timeout=SERVICE.wait_until(time.monotonic() + LOOK_S))
    with contextlib.suppress(queue.Empty):
        raise events.get_nowait()  # it came as the wait ended
    SERVICE.alive()
