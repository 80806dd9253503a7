"""A gateway with workers, real processes: the same models as without, whatever becomes of the processes."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.round_state import Phase, Plan
from aggregator.runner import AggregatorRunner
from aggregator.settings import AS_USUAL
from aggregator.worker_watch import MOST_PROCESSOR_S, SILENT_S, Watch
from aggregator.workers import Checked, Job, WorkerEnded, Workers
from fedprune.errors import TrainingError
from fedprune.model.tensors import weights_digest
from fedprune.system.disk import Directory
from fedprune.system.usage import Activity
from fedprune.task.checkpoints import load_checkpoint
from fedprune.wire.messages import Reason, Rejected, Submit, decode
from tests.gateways import BUNDLE, TASK_PLAN, TOPICS, Site, begin, submit_update, tell, trained
from tests.patience import PATIENCE_S
from tests.samples import chunks

AGENTS = tuple(f"pi-{number}" for number in range(6))
PLAN = replace(TASK_PLAN, rounds=2, cohort=len(AGENTS), quorum=len(AGENTS))
HANGS_S = 4.0
"""In place of `SILENT_S`."""


class Gateway:
    """A runner with workers, and the events that these put on its queue."""

    def __init__(self, path: Path, count: int, plan: Plan = PLAN) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job = Job(BUNDLE.task, BUNDLE.network, plan.seed, plan.codec, AS_USUAL, path / "checkpoints")
        self.site, self.workers = Site(path), Workers(count, job, self.events)
        self.runner = begin(self.site, AGENTS, plan=plan, workers=self.workers)
        self.endings = 0

    def hear_until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            event: Checked | WorkerEnded = self.events.get(timeout=PATIENCE_S)
            self.endings += isinstance(event, WorkerEnded)
            self.runner.hear_worker(event)

    def accepted(self) -> int:
        return self.runner.state.cohort.accepted


def without_workers(path: Path, factor: float = 1.0) -> tuple[Site, str]:
    site = Site(path)
    runner = begin(site, AGENTS, plan=PLAN)
    submit_all(site, runner, factor)
    return site, digest(path)


def submit_all(site: Site, runner: AggregatorRunner, factor: float = 1.0) -> None:
    """All agents submit, the last one what is `factor` times too large."""
    for agent in AGENTS:
        submit_update(site, runner, agent, factor if agent == AGENTS[-1] else 1.0)


def digest(path: Path) -> str:
    """Of the weights that the first round came to."""
    return weights_digest(load_checkpoint(Directory(path / "checkpoints"), 1).exact)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_model_as_none(tmp_path: Path, count: int) -> None:
    _, expected = without_workers(tmp_path / "without")

    gateway = Gateway(tmp_path / "with", count)
    with gateway.workers:
        submit_all(gateway.site, gateway.runner)
        gateway.hear_until(lambda: gateway.runner.state.round == 1)

    assert digest(tmp_path / "with") == expected
    assert gateway.endings == 0


def test_workers_that_are_killed_in_a_round_lose_nothing(tmp_path: Path) -> None:
    _, expected = without_workers(tmp_path / "without")

    gateway = Gateway(tmp_path / "with", 2)
    with gateway.workers:
        for agent in AGENTS[:3]:
            submit_update(gateway.site, gateway.runner, agent)
        gateway.hear_until(lambda: gateway.accepted() == 3)  # folded and accepted: their sums are lost with a worker
        submit_update(gateway.site, gateway.runner, AGENTS[3])  # on its way to one
        for process in gateway.workers.processes:
            os.kill(process, signal.SIGKILL)
        for agent in AGENTS[4:]:
            submit_update(gateway.site, gateway.runner, agent)
        gateway.hear_until(lambda: gateway.runner.state.round == 1)

    assert digest(tmp_path / "with") == expected
    assert gateway.endings == 2


def test_workers_that_hang_in_a_round_are_ended_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aggregator.workers.SILENT_S", HANGS_S)
    monkeypatch.setattr("aggregator.worker_watch.SILENT_S", HANGS_S)
    _, expected = without_workers(tmp_path / "without")

    gateway = Gateway(tmp_path / "with", 2)
    with gateway.workers:
        for agent in AGENTS[:3]:
            submit_update(gateway.site, gateway.runner, agent)
        gateway.hear_until(lambda: gateway.accepted() == 3)
        for process in gateway.workers.processes:
            os.kill(process, signal.SIGSTOP)  # neither answers, nor ends
        for agent in AGENTS[3:]:
            submit_update(gateway.site, gateway.runner, agent)
        gateway.hear_until(lambda: gateway.runner.state.round == 1)

    assert digest(tmp_path / "with") == expected
    assert gateway.endings >= 2
    assert "hangs: it has done nothing for" in caplog.text


def test_a_worker_that_hangs_while_its_sums_are_asked_for_holds_up_no_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.workers.SILENT_S", HANGS_S)
    monkeypatch.setattr("aggregator.worker_watch.SILENT_S", HANGS_S)
    _, expected = without_workers(tmp_path / "without")

    gateway = Gateway(tmp_path / "with", 1)
    with gateway.workers:
        submit_all(gateway.site, gateway.runner)
        event = gateway.events.get(timeout=PATIENCE_S)
        while not (isinstance(event, Checked) and gateway.accepted() + len(event.verdicts) == len(AGENTS)):
            gateway.runner.hear_worker(event)
            event = gateway.events.get(timeout=PATIENCE_S)
        for process in gateway.workers.processes:
            os.kill(process, signal.SIGSTOP)
        gateway.runner.hear_worker(event)  # all are accepted: the round is merged

    assert digest(tmp_path / "with") == expected


@pytest.mark.parametrize(("state", "used_s", "hangs"), [(False, 0.0, True), (True, 0.0, False), (False, 1.0, False)])
def test_a_worker_that_waits_for_a_processor_or_has_had_some_does_not_hang(
    state: bool, used_s: float, hangs: bool
) -> None:
    watch = Watch.begin(Activity(2.0, waits_for_processor=False), 1, now=0.0)
    watch = watch.seen(Activity(2.0 + used_s, waits_for_processor=state), SILENT_S)

    assert bool(watch.why_it_hangs(SILENT_S)) == hangs


def test_a_worker_that_computes_for_ever_hangs() -> None:
    watch = Watch.begin(Activity(2.0, waits_for_processor=True), 3, now=0.0)

    assert not watch.seen(Activity(2.0 + 3 * MOST_PROCESSOR_S, waits_for_processor=True), 200.0).why_it_hangs(200.0)
    assert watch.seen(Activity(3.0 + 3 * MOST_PROCESSOR_S, waits_for_processor=True), 200.0).why_it_hangs(200.0)


def test_an_update_that_a_worker_folded_is_left_out_exactly(tmp_path: Path) -> None:
    without, expected = without_workers(tmp_path / "without", factor=1e4)

    gateway = Gateway(tmp_path / "with", 2)
    with gateway.workers:
        submit_all(gateway.site, gateway.runner, factor=1e4)
        gateway.hear_until(lambda: gateway.runner.state.round == 1)

    assert gateway.site.records[0].outliers == without.records[0].outliers == (AGENTS[-1],)
    assert digest(tmp_path / "with") == expected


def test_an_update_that_a_worker_cannot_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "with", 1)
    with gateway.workers:
        submit = submit_update(gateway.site, gateway.runner, AGENTS[0])
        forged = Submit(
            run=submit.run, round=0, update=b"noise", examples=7, local_steps=submit.local_steps, loss=1.0,
            train_hundredths=100,
        )  # fmt: skip
        told = TOPICS.down(AGENTS[1], "rejected")
        before = len(gateway.site.link.on(told))
        tell(gateway.runner, AGENTS[1], forged)
        gateway.hear_until(lambda: len(gateway.site.link.on(told)) > before)

    rejected = decode(Rejected, gateway.site.link.on(told)[-1])
    assert rejected.reason is Reason.INVALID
    assert "blob starts with" in rejected.detail
    assert gateway.runner.state.phase is Phase.TRAINING


def test_a_worker_reads_updates_by_what_is_remembered_and_tells_where_that_is_something_else(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "with", 1, replace(PLAN, codec="mask | feedback(10) | topk(0.3) | ternary | history"))
    site, runner = gateway.site, gateway.runner
    with gateway.workers:
        for agent in AGENTS:
            first = trained(site, runner, agent)
            tell(runner, agent, first.submit, *chunks(first.update.blob))
        gateway.hear_until(lambda: runner.state.round == 1)
        remembered, told = site.book.remembered(AGENTS[0], 1), TOPICS.down(AGENTS[0], "rejected")
        result = trained(site, runner, AGENTS[0], remembered=tuple(remembered))
        assert result.update.shared is not None, "it is coded by its history"

        site.book._connection.execute("DELETE FROM remembered WHERE agent = ?", (AGENTS[0],))
        site.book._connection.commit()
        before = len(site.link.on(told))
        tell(runner, AGENTS[0], result.submit, *chunks(result.update.blob))
        gateway.hear_until(lambda: len(site.link.on(told)) > before)
        assert decode(Rejected, site.link.on(told)[-1]).reason is Reason.OTHER_HISTORY

        site.book._connection.execute("INSERT INTO remembered VALUES (?, 0, ?)", (AGENTS[0], *remembered))
        site.book._connection.commit()
        tell(runner, AGENTS[0], result.submit, *chunks(result.update.blob))
        gateway.hear_until(lambda: gateway.accepted() == 1)

    assert site.book.remembered(AGENTS[0], 2) == [result.update.signs, *remembered]


def test_workers_that_end_again_and_again_end_the_gateway_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = Gateway(tmp_path / "with", 1)
    gateway.site.checkpoints.delete("000000.safetensors")
    with gateway.workers:
        submit_update(gateway.site, gateway.runner, AGENTS[0])
        with pytest.raises(TrainingError, match="worker processes ended one after another, the last with exit code 1"):
            gateway.hear_until(lambda: False)
    assert "a worker: checkpoint 000000.safetensors is missing" in capfd.readouterr().err
