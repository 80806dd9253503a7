"""Taking a run back to an earlier version of its model, while no aggregator works on it."""

from __future__ import annotations

import math
import secrets
from pathlib import Path

import msgspec

from aggregator.book import RUN_ID_BYTES, RoundRecord
from aggregator.deltas import forget_newer_deltas
from aggregator.explosion import FACTOR
from aggregator.run_store import RunStore
from fedprune.errors import ConfigurationError, StorageError
from fedprune.system.ownership import owned
from fedprune.task.checkpoints import checkpoint_versions, forget_newer, load_checkpoint, save_checkpoint
from fedprune.task.run_directory import BOOK, CHECKPOINTS, UPDATES


class Rollback(msgspec.Struct, frozen=True):
    """What was done. `rounds` are left, with this `loss` and these `metrics` on the held-out examples (None and empty
    where nobody evaluated it); `undone` rounds are gone, and `discarded` updates of one that was open. `run` is the
    run's new id."""

    rounds: int
    undone: int
    discarded: int
    loss: float | None
    metrics: dict[str, float | None]
    run: str


def roll_back_directory(state: Path, to: int | None) -> Rollback:
    """Roll back the run in a state directory, which no other process may own. See `roll_back`.

    Raises `StorageError` if there is no run in it, or it is in use.
    """
    if not (state / BOOK).is_file():
        raise StorageError(f"{state}: there is no run in it ({BOOK} is missing); name an aggregator's state directory")
    with owned(state, CHECKPOINTS, UPDATES):
        store = RunStore.open(state)
        try:
            return roll_back(store, to, secrets.token_urlsafe(RUN_ID_BYTES))
        finally:
            store.book.close()


def roll_back(store: RunStore, to: int | None, run: str) -> Rollback:
    """Take a run back to the model after `to` rounds; None for the last good one before the present.

    A version is good if its held-out loss is not more than `explosion.FACTOR` times the best one's. Newer checkpoints
    are deleted first, then one transaction of the book undoes the rounds: a run that is interrupted in between is
    refused by the aggregator, with the advice to roll it back, and rolling it back again completes it. `run` becomes
    the run's id. So agents begin it anew, without what they remember of the rounds that are undone.

    Raises `ConfigurationError` if there is no such version, `StorageError` if its checkpoint is damaged.
    """
    records, present = store.book.records(), store.book.next_round()
    discarded = len(store.book.accepted(present))
    is_open = bool(store.book.cohort(present)[0])
    versions = [version for version in checkpoint_versions(store.checkpoints) if version < present + is_open]
    target = _last_good(versions, records, present) if to is None else to
    if target not in versions:
        raise ConfigurationError(_no_such(target, versions, present))
    checkpoint = load_checkpoint(store.checkpoints, target)
    forget_newer_deltas(store.checkpoints, target)
    forget_newer(store.checkpoints, target)
    save_checkpoint(store.checkpoints, checkpoint)  # it is there; a write makes deletions before it durable
    store.book.roll_back(target, run)
    store.forget_updates()
    found = next((record for record in records if record.evaluated_version == target), None)
    loss, metrics = (None, {}) if found is None else (found.loss, found.metrics)
    return Rollback(target, present - target, discarded, loss, metrics, run)


def _last_good(versions: list[int], records: list[RoundRecord], present: int) -> int:
    losses = {record.evaluated_version: record.loss for record in records if record.loss is not None}
    best = min(losses.values(), default=math.inf)
    earlier = [version for version in versions if version < present]
    good = [version for version in earlier if version and losses.get(version, math.inf) <= FACTOR * best]
    return max(good or earlier or versions, default=present)


def _no_such(target: int, versions: list[int], present: int) -> str:
    if not versions:
        return f"nothing to roll back to: {present} rounds are done, and no earlier model was kept"
    there = ", ".join(map(str, versions))
    return f"--to {target}: {present} rounds are done; the models to go back to are those after {there} rounds"
