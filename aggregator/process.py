"""The aggregator as a process: the real network, disk and clock around the runner."""

from __future__ import annotations

import logging
import queue
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from aggregator.book import RUN_ID_BYTES, Book, RoundRecord
from aggregator.exchange import Exchange
from aggregator.gathering import GatheringRunner, forget_given, gathering_plan, load_pooled
from aggregator.round_machine import wake_at
from aggregator.round_state import Plan
from aggregator.run_epoch import enter_epoch
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from aggregator.servable import check_servable
from aggregator.settings import FederationSettings
from aggregator.update_sizes import most_part_bytes, most_update_bytes
from aggregator.workers import Checked, Job, WorkerEnded, Workers
from fedprune.data import open_raw_examples, save_npz
from fedprune.data.room import Room
from fedprune.errors import BrokerError, FedpruneError, StorageError
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.pruning.schedules import final_sparsity, misses_target, steps_to_reach_target
from fedprune.system.disk import Directory
from fedprune.system.memory import share_heaps
from fedprune.system.ownership import owned
from fedprune.system.process import stopping
from fedprune.system.service import SERVICE
from fedprune.task.bundle import Bundle, load_bundle
from fedprune.task.evaluation import Evaluator
from fedprune.task.gathering import is_incomplete, with_data
from fedprune.task.run_directory import BOOK, CHECKPOINTS, HELD_OUT, POOLED, STATISTICS, TASK, UPDATES
from fedprune.wire.link import Delivery, Drained, LinkDown, LinkUp
from fedprune.wire.topics import Topics, check_id
from fedprune.wire.transfer import content_of
from fedprune.wire.transport import MqttLink

_log = logging.getLogger(__name__)


class Withdrawn(BaseException):
    """The gateway's owner wants this federation to rest, or to end here: it can go on where it was."""


def run_aggregator(
    settings: FederationSettings,
    base: Path,
    report: Callable[[RoundRecord], None],
    events: queue.SimpleQueue[Any] | None = None,
) -> None:
    """Run the federation to its end. Paths in `settings` are relative to `base`.

    Whoever gives `events` may put `Withdrawn` there.

    Raises `FedpruneError`s for what is wrong with the settings, files, broker or disk, `KeyboardInterrupt` when
    it is stopped; the run goes on where it was when it is started again.
    """
    share_heaps()
    events = queue.SimpleQueue() if events is None else events
    topics = Topics(check_id(settings.name, "name"))
    bundle = load_bundle(base / settings.task)
    check_servable(settings, bundle)
    _say_sparsity(bundle, settings.rounds.count)
    _say_last_exchange(bundle, settings.rounds.count)
    signer = None if settings.gateway is None else ManifestSigner(base / settings.gateway, settings.name)
    held_out = None if settings.held_out is None else base / settings.held_out
    room = Room.of_device(_existing(base / settings.state))
    # Before there is a state directory: data that do not fit leave none.
    evaluator = None if is_incomplete(bundle.task) else _evaluator(bundle, held_out, settings, room)
    with (
        owned(base / settings.state, CHECKPOINTS, UPDATES, STATISTICS) as directory,
        closing(RunStore.open(directory.path)) as store,
    ):
        ticket_key = None
        if is_incomplete(bundle.task):
            bundle, ticket_key = _completed(bundle, settings, base, directory, store, events, signer)
            evaluator = _evaluator(bundle, held_out, settings, room)
        if signer is not None and enter_epoch(signer.epoch, directory, store.book):
            store.forget_updates()
        run, incarnation = store.book.start(
            secrets.token_urlsafe(RUN_ID_BYTES),
            content_of(bundle.blob).digest,
            settings.lasting(bundle.task.table),
            ticket_key,
        )
        _keep_for_export(directory, bundle, held_out, room)
        plan = _plan(settings, bundle, run, incarnation, store.book.ticket_key, signer)
        if store.book.next_round() >= plan.rounds:  # said before a broker is waited for
            _log.info("nothing to do: all %s rounds are done; `fedprune export` takes the result", plan.rounds)
        broker = settings.broker.relative_to(base)
        with (
            MqttLink(broker, topics.aggregator_client, events) as link,
            stopping(events),
            _workers(settings, bundle, plan, directory, events) as workers,
        ):
            runner = AggregatorRunner(
                plan,
                bundle,
                topics,
                link,
                store,
                evaluate=None if evaluator is None else evaluator.evaluate,
                scale=None if evaluator is None else evaluator.loss_scale,
                report=report,
                clock=time.monotonic,
                keep_checkpoints=settings.keep_checkpoints,
                keys=None if settings.gateway is None else DeviceKeys(base / settings.gateway),
                signer=signer,
                patience=settings.rounds.patience,
                aggregation=settings.merging,
                workers=workers,
            )
            _serve(runner, events, topics, link)


def _workers(
    settings: FederationSettings, bundle: Bundle, plan: Plan, directory: Directory, events: queue.SimpleQueue[Any]
) -> AbstractContextManager[Workers | None]:
    if not settings.workers:
        return nullcontext()
    checkpoints = directory.path / CHECKPOINTS
    rule, parts = settings.merging, plan.sub_gateways
    job = Job(bundle.task, bundle.network, plan.seed, plan.codec, rule, checkpoints, parts)
    return Workers(settings.workers, job, events)


def _existing(path: Path) -> Path:
    """The directory, or the nearest one above it that there is: working files have no names there."""
    return next(place for place in (path, *path.absolute().parents) if place.is_dir())


def _evaluator(bundle: Bundle, held_out: Path | None, settings: FederationSettings, room: Room) -> Evaluator | None:
    return None if held_out is None else Evaluator(bundle, held_out, threads=settings.threads, room=room)


def _completed(
    bundle: Bundle,
    settings: FederationSettings,
    base: Path,
    directory: Directory,
    store: RunStore,
    events: queue.SimpleQueue[Any],
    signer: ManifestSigner | None,
) -> tuple[Bundle, bytes | None]:
    """The bundle with the statistics that its task lacks: those that the run has frozen, or else they are gathered; and
    the key of the tickets that agents were given for it, so that they need no others.

    Raises `StorageError` if they are gone, and the run has begun.
    """
    task, given, ticket_key = content_of(bundle.blob).digest, Directory(directory.path / STATISTICS), None
    if load_pooled(directory, task) is None:
        if not store.book.is_new:
            raise StorageError(
                f"{directory.path} holds a run, but {POOLED}, by which it normalises, is gone; restore it, or name an "
                "empty state directory"
            )
        ticket_key = _gather(bundle, settings, base, directory, given, events, signer)
    forget_given(given)
    pooled = load_pooled(directory, task)
    assert pooled is not None
    return with_data(bundle, pooled.data), ticket_key


def _gather(
    bundle: Bundle,
    settings: FederationSettings,
    base: Path,
    directory: Directory,
    given: Directory,
    events: queue.SimpleQueue[Any],
    signer: ManifestSigner | None,
) -> bytes:
    """Run the gathering to its end; the key of its tickets."""
    topics, broker = Topics(settings.name), settings.broker.relative_to(base)
    with closing(Book.open(given.path / BOOK)) as book:
        if signer is not None:
            enter_epoch(signer.epoch, given, book)
        run, incarnation = book.start(secrets.token_urlsafe(RUN_ID_BYTES), content_of(bundle.blob).digest, {})
        plan = gathering_plan(_plan(settings, bundle, run, incarnation, book.ticket_key, signer))
        _log.info("the task's statistics are gathered of the devices first")
        with MqttLink(broker, topics.aggregator_client, events) as link, stopping(events):
            keys = None if settings.gateway is None else DeviceKeys(base / settings.gateway)
            runner = GatheringRunner(
                plan,
                bundle,
                topics,
                link,
                book,
                given,
                directory,
                clock=time.monotonic,
                keys=keys,
                signer=signer,
            )
            _serve(runner, events, topics, link)
    return plan.ticket_key


def _serve(runner: Exchange, events: queue.SimpleQueue[Any], topics: Topics, link: MqttLink) -> None:
    """Serve until the federation is done, or rests, or fails: then nobody is to wait for it."""
    try:
        _loop(runner, events)
    except BrokerError:  # nothing can be said there
        raise
    except (Withdrawn, FedpruneError):
        link.publish(topics.round, b"", retain=True)
        link.drain()
        raise
    link.drain()


def _loop(runner: Exchange, events: queue.SimpleQueue[Any]) -> None:
    """Serve until the federation is done. The first event is that the link is up, even for one that was done before."""
    while True:
        event = _next_event(runner, events)
        match event:
            case LinkUp():
                runner.connect()
            case LinkDown(reason):
                _log.warning("connection to the broker lost (%s); trying again", reason)
            case Delivery():
                runner.deliver(event)
            case Drained():
                runner.drained()
            case Checked() | WorkerEnded() if isinstance(runner, AggregatorRunner):
                runner.hear_worker(event)
            case BaseException():
                raise event
        runner.tick()  # after every event, so that a flood of messages puts no alarm off
        SERVICE.alive()
        if runner.is_done:
            return


def _next_event(runner: Exchange, events: queue.SimpleQueue[Any]) -> Any:
    """The next event; None once it is time for the alarm. What came together is stored together, before the wait."""
    try:
        return events.get_nowait()
    except queue.Empty:
        runner.settle()
    if runner.is_done:
        return None
    try:
        return events.get(timeout=SERVICE.wait_until(wake_at(runner.state)))
    except queue.Empty:
        return None


def _plan(
    settings: FederationSettings,
    bundle: Bundle,
    run: str,
    incarnation: int,
    ticket_key: bytes,
    signer: ManifestSigner | None,
) -> Plan:
    """The plan of this start; a gateway's starts are counted over all its runs."""
    rounds, (update_codec, model_codec) = settings.rounds, settings.codec.chains(bundle.task.table)
    return Plan(
        run=run,
        incarnation=incarnation if signer is None else signer.count_start(),
        rounds=rounds.count,
        cohort=rounds.cohort,
        quorum=rounds.quorum_agents,
        deadline_s=rounds.deadline_s,
        gather_s=rounds.gather_s,
        seed=settings.seed,
        task=content_of(bundle.for_devices()),
        clock_steps_per_round=bundle.task.training.clock_steps_per_round,
        codec=update_codec,
        max_update_bytes=most_update_bytes(bundle.task.table),
        ticket_key=ticket_key,
        examples_cap=rounds.examples_cap,
        fleet=frozenset(rounds.fleet),
        hold_out=settings.hold_out,
        model_codec=model_codec,
        seeded=bundle.task.initial is not None,
        chunk_bytes=settings.broker.chunk_bytes,
        statement=b"" if signer is None else signer.statement,
        sub_gateways=frozenset(rounds.sub_gateways),
        max_part_bytes=most_part_bytes(bundle.task),
    )


def _say_sparsity(bundle: Bundle, rounds: int) -> None:
    """Tell the sparsity that the run will end with, and how to reach the target if that is another."""
    schedule, per_round = bundle.task.pruning.schedule, bundle.task.training.clock_steps_per_round
    sparsity, needed = final_sparsity(schedule, rounds * per_round), steps_to_reach_target(schedule)
    if not misses_target(schedule, sparsity):
        _log.info("the run of %s rounds will end at sparsity %.2f", rounds, sparsity)
        return
    if needed is None:
        way_out = "no number of rounds reaches it: build the task with a schedule that updates masks more often"
    else:
        way_out = f"set rounds.count to {-(-needed // per_round)}, or build the task with an earlier schedule"
    _log.warning(
        "the run of %s rounds will end at sparsity %.2f, not at the task's target %.2f; %s",
        rounds,
        sparsity,
        schedule.target_sparsity,
        way_out,
    )


def _say_last_exchange(bundle: Bundle, rounds: int) -> None:
    """Warn where weights come back after the last round, at 0, and are trained by nobody."""
    regrowth = bundle.task.pruning.regrowth
    fraction = 0.0 if regrowth is None else regrowth.fraction_at(rounds)
    if fraction:
        _log.warning(
            "the last of %s rounds exchanges %.0f %% of the weights for others, which stay at 0 in the result: set "
            "rounds.count to another number, or build the task with pruning.regrowth.until_round at most that",
            rounds,
            100 * fraction,
        )


def _keep_for_export(directory: Directory, bundle: Bundle, held_out: Path | None, room: Room) -> None:
    """Put what `fedprune export` needs beside the checkpoints."""
    directory.write(TASK, bundle.blob)
    target = directory.path / HELD_OUT
    if held_out is None:
        return
    if held_out.suffix != target.suffix:
        save_npz(target, open_raw_examples(held_out, bundle.task.data, room))
    elif held_out.resolve() != target.resolve():
        directory.copy_in(HELD_OUT, held_out)
