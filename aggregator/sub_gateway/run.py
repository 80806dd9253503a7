"""A run of a sub-gateway's own federation: its directory, its workers, and what serves its agents.

A run that a process before this one served, and that the parent does not go on with, is ended: its agents are told.
"""

from __future__ import annotations

import queue
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from aggregator.book import RUN_ID_BYTES, RoundRecord
from aggregator.ended_run import EndedRunner
from aggregator.part_runner import GivenRound, PartRunner
from aggregator.round_state import Plan
from aggregator.run_store import RunStore
from aggregator.settings import AS_USUAL
from aggregator.sub_gateway.settings import SubGatewaySettings
from aggregator.sub_gateway.stored_terms import has_terms, read_terms, store_terms
from aggregator.update_sizes import most_part_bytes, most_update_bytes
from aggregator.workers import Job, Workers
from fedprune.errors import TrainingError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.system.disk import storage_error
from fedprune.system.ownership import owned
from fedprune.task.bundle import Bundle
from fedprune.task.run_directory import CHECKPOINTS, UPDATES
from fedprune.wire.link import Link
from fedprune.wire.messages import Assignment, Submit, Terms
from fedprune.wire.topics import Topics

_RUNS = "runs"
_NO_LAST_ROUND = 2**31 - 1
"""The parent says when it is over."""


class Run:
    """One run, below the parent's run and terms that `assignment` names; `close` ends it, and what it holds stays on
    the disk. Of the runs that there were before, none does: nobody asks for their updates any more."""

    def __init__(
        self,
        settings: SubGatewaySettings,
        base: Path,
        assignment: Assignment,
        bundle: Bundle,
        given: GivenRound,
        topics: Topics,
        link: Link,
        events: queue.SimpleQueue[Any],
        hand_over: Callable[[Submit, bytes], None],
        decline: Callable[[str, int, TrainingError], None],
        report: Callable[[RoundRecord], None],
    ) -> None:
        self.parents, self.terms = assignment.run, _lasting(assignment.known)
        signer = _signer(settings, base)
        name = assignment.run if signer is None else f"{assignment.run}.{signer.epoch}"  # a new epoch begins anew
        runs = base / settings.state / _RUNS
        _forget_all_but(runs, name)
        self._stack = ExitStack()
        with self._stack as opening:
            directory = opening.enter_context(owned(runs / name, CHECKPOINTS, UPDATES))
            store = RunStore.open(directory.path)
            opening.callback(store.close)
            plan = replace(
                _plan(settings, assignment.known, store, signer),
                max_update_bytes=most_update_bytes(bundle.task.table),
                max_part_bytes=most_part_bytes(bundle.task),
                seeded=bundle.task.initial is not None,
            )
            store_terms(directory, assignment.known)
            job = Job(
                bundle.task,
                bundle.network,
                plan.seed,
                plan.codec,
                AS_USUAL,
                directory.path / CHECKPOINTS,
                plan.sub_gateways,
            )
            workers = Workers(settings.workers, job, events) if settings.workers else nullcontext()
            self.workers = opening.enter_context(workers)
            self.runner = PartRunner(
                plan,
                bundle,
                topics,
                link,
                store,
                given,
                hand_over=hand_over,
                decline=decline,
                report=report,
                clock=time.monotonic,
                keys=None if settings.gateway is None else DeviceKeys(base / settings.gateway),
                signer=signer,
                workers=self.workers,
            )
            self._stack = opening.pop_all()

    def is_below(self, assignment: Assignment) -> bool:
        """It is that of the parent's present run, by its present terms."""
        return (self.parents, self.terms) == (assignment.run, _lasting(assignment.known))

    def close(self) -> None:
        self._stack.close()


class EndedRun:
    """The last run that a process before this one served: no round of it follows. Its agents are told so, and what they
    still owe is answered by the book; `close` ends that."""

    def __init__(self, settings: SubGatewaySettings, base: Path, path: Path, topics: Topics, link: Link) -> None:
        """`path` is its directory, as `last_run` finds it."""
        self._stack = ExitStack()
        with self._stack as opening:
            directory = opening.enter_context(owned(path, UPDATES))
            store = RunStore.open(path)
            opening.callback(store.close)
            signer = _signer(settings, base)
            plan = _plan(settings, read_terms(directory), store, signer)
            keys = None if settings.gateway is None else DeviceKeys(base / settings.gateway)
            self.runner = EndedRunner(plan, topics, link, store, time.monotonic, keys, signer)
            self._stack = opening.pop_all()

    def close(self) -> None:
        self._stack.close()


def last_run(state: Path) -> Path | None:
    """The directory of the last run that there was below one of the parent's; None if there was none, or nobody can
    have heard of it."""
    return next((path for path in (state / _RUNS).glob("*") if has_terms(path)), None)


def parents_run(path: Path) -> str:
    """The parent's run, above the one in this directory."""
    return path.name.partition(".")[0]


def _forget_all_but(runs: Path, name: str) -> None:
    """Delete the directories of all runs but one. Raises `StorageError`."""
    for former in runs.glob("*"):
        if former.name != name:
            try:
                shutil.rmtree(former)
            except OSError as error:
                raise storage_error(former, error) from error


def _lasting(terms: Terms) -> tuple[Any, ...]:
    """What this gateway's agents are told of the parent's terms. Who signs these is between the two."""
    return terms.task, terms.seed, terms.clock_steps, terms.codec, terms.model_codec, terms.hold_out


def _signer(settings: SubGatewaySettings, base: Path) -> ManifestSigner | None:
    return None if settings.gateway is None else ManifestSigner(base / settings.gateway, settings.name)


def _plan(settings: SubGatewaySettings, terms: Terms, store: RunStore, signer: ManifestSigner | None) -> Plan:
    """The plan of this start of a run, but for what follows from the bundle."""
    rounds = settings.rounds
    run, starts = store.book.start(secrets.token_urlsafe(RUN_ID_BYTES), terms.task.digest, {})
    return Plan(
        run=run,
        incarnation=starts if signer is None else signer.count_start(),
        rounds=_NO_LAST_ROUND,
        cohort=rounds.cohort,
        quorum=rounds.quorum_agents,
        deadline_s=rounds.deadline_s,
        gather_s=rounds.gather_s,
        seed=terms.seed,
        task=terms.task,
        clock_steps_per_round=terms.clock_steps,
        codec=terms.codec,
        max_update_bytes=0,
        ticket_key=store.book.ticket_key,
        examples_cap=rounds.examples_cap,
        fleet=frozenset(rounds.fleet),
        hold_out=terms.hold_out,
        model_codec=terms.model_codec,
        chunk_bytes=settings.broker.chunk_bytes,
        statement=b"" if signer is None else signer.statement,
        sub_gateways=frozenset(rounds.sub_gateways),
    )
