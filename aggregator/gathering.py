"""The gathering of statistics, before the first round: a round of its own, in a run of its own.

Its updates are the devices' statistics, so that all that holds for updates holds for them: who is assigned, deadline
and quorum, what is refused, what a crash leaves. Once they are pooled they are frozen in one file, and deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from aggregator.acceptance import accepted_statistics
from aggregator.book import Book
from aggregator.exchange import Exchange
from aggregator.round_state import Event, Merged, Model, Plan, StoreUpdate, UpdateRefused, UpdateStored
from fedprune.data import Data
from fedprune.data.statistics import GATHERING, MIN_EXAMPLES, MOST_BYTES, DeviceStatistics
from fedprune.errors import ProtocolError, StorageError, TrainingError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.system.disk import Disk
from fedprune.task.bundle import Bundle, Task
from fedprune.task.gathering import checked_statistics, completed
from fedprune.task.run_directory import POOLED
from fedprune.wire.link import Link
from fedprune.wire.topics import Topics
from fedprune.wire.transfer import content_of
from fedprune.wire.versions import SPOKEN, Versions

_log = logging.getLogger(__name__)

_SUFFIX = ".statistics"
_NO_MODEL = bytes(32)


class Pooled(msgspec.Struct, frozen=True):
    """The data of the task whose SHA-256 is `task`, with the statistics of so many devices and examples."""

    task: str
    data: Data
    devices: int
    examples: int


class _Given(msgspec.Struct, frozen=True):
    """A device's statistics, and the share of its examples that count."""

    share: float
    statistics: DeviceStatistics


def gathering_plan(plan: Plan) -> Plan:
    """The plan of the round that gathers: as a training round's, of all agents that the federation names."""
    return replace(
        plan,
        rounds=1,
        cohort=max(plan.cohort, len(plan.fleet)),
        clock_steps_per_round=0,
        codec=GATHERING,
        max_update_bytes=MOST_BYTES,
        model_codec="fp16",
        seeded=True,  # nobody fetches a model
    )


def load_pooled(disk: Disk, task: bytes) -> Pooled | None:
    """The statistics that a run has frozen; None while there are none.

    Raises `StorageError` for a damaged file, or one of another task, whose SHA-256 is not `task`.
    """
    blob = disk.read(POOLED)
    if blob is None:
        return None
    try:
        found = msgspec.json.decode(blob, type=Pooled)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{POOLED}: {error}; restore it, or name an empty state directory") from error
    if found.task != task.hex():
        raise StorageError(f"{POOLED} is of another task; name an empty state directory for this one")
    return found


def forget_given(disk: Disk) -> None:
    """Delete what single devices gave."""
    for name in disk.names():
        if name.endswith(_SUFFIX):
            disk.delete(name)


class GatheringRunner(Exchange):
    """Gathers the statistics that a task lacks. Construction resumes what `book` says.

    `given` holds what devices gave, until `run` holds what it makes together.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        topics: Topics,
        link: Link,
        book: Book,
        given: Disk,
        run: Disk,
        *,
        clock: Callable[[], float],
        keys: DeviceKeys | None = None,
        signer: ManifestSigner | None = None,
        spoken: Versions = SPOKEN,
    ) -> None:
        super().__init__(plan.cohort, topics, link, book, given, clock, keys, signer, spoken)
        self._task, self._task_digest = bundle.task, content_of(bundle.blob).digest
        self._given, self._run = given, run
        self._contents = {plan.task.digest: bundle.for_devices()}
        self._model = Model(plan.task, _NO_MODEL)
        self._resume(plan, self._model, 0)

    def _notice(self) -> None:
        pass

    def _give_up(self, failed: int) -> None:
        raise TrainingError(
            f"{failed} agents cannot give the statistics that the task lacks, for the reasons above; mend the task or "
            "their data, or give the statistics in task.toml, then start again"
        )

    def _store_updates(self, updates: Sequence[StoreUpdate]) -> list[Event]:
        return [self._store_one(action) for action in updates]

    def _store_one(self, action: StoreUpdate) -> Event:
        agent, submit = action.agent, action.submit
        try:
            statistics = checked_statistics(action.blob, self._task, submit.examples)
        except ProtocolError as error:
            self._book.refuse({agent: submit.content.digest})
            self._agents_log.log(logging.WARNING, "refused the statistics of %s: %s", agent, error)
            return UpdateRefused(agent, str(error))
        if action.weight < submit.examples:
            self._agents_log.log(
                logging.WARNING,
                "the statistics of %s claim %s examples and count as %s",
                agent,
                submit.examples,
                action.weight,
            )
        given = _Given(action.weight / submit.examples, statistics)
        self._given.write(agent + _SUFFIX, msgspec.msgpack.encode(given))
        self._book.accept(submit.round, {agent: accepted_statistics(submit, action.weight)})
        return UpdateStored(agent)

    def _merge(self, round_: int) -> list[Event]:
        accepted = self._book.accepted(round_)
        given = {agent: self._read_given(agent) for agent in accepted}
        there = {agent: each for agent, each in given.items() if not each.statistics.is_empty}
        pooled = Pooled(
            self._task_digest.hex(),
            _completed(self._task, there),
            len(there),
            sum(accepted[agent].weight for agent in there),
        )
        self._run.write(POOLED, msgspec.json.format(msgspec.json.encode(pooled), indent=1))
        forget_given(self._given)
        _log.info("statistics gathered: %s devices with %s examples gave theirs", pooled.devices, pooled.examples)
        if len(there) < len(given):
            _log.info("%s devices gave none, since they have fewer than %s", len(given) - len(there), MIN_EXAMPLES)
        return [Merged(self._model, is_last=True)]

    def _read_given(self, agent: str) -> _Given:
        try:
            return msgspec.msgpack.decode(self._given.read(agent + _SUFFIX) or b"", type=_Given)
        except msgspec.DecodeError as error:
            raise StorageError(
                f"the statistics of {agent} are damaged ({error}); check the disk, and name an empty state directory"
            ) from error


def _completed(task: Task, given: Mapping[str, _Given]) -> Data:
    if not given:
        raise TrainingError(
            f"no device has the {MIN_EXAMPLES} examples of which it gives statistics; give them in task.toml, or let "
            "devices with more join, and name an empty state directory"
        )
    return completed(task, [(each.statistics, each.share) for each in given.values()])
