"""A gateway that reads updates by what it remembers of their agents, real runner, book and disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from aggregator.cohort import Standing
from aggregator.runner import AggregatorRunner
from edge_agent.local_round import LocalResult
from fedprune.model.tensors import weights_digest
from fedprune.system.disk import Directory
from fedprune.task.checkpoints import load_checkpoint
from fedprune.wire.messages import CheckIn, Reason, Rejected, decode
from tests.gateways import AGENTS, TASK_PLAN, TOPICS, Site, begin, tell, trained
from tests.samples import chunks

PLAN = replace(TASK_PLAN, codec="mask | feedback(10) | topk(0.3) | ternary | history")


def submits(site: Site, runner: AggregatorRunner, agent: str, *remembered: bytes) -> LocalResult:
    result = trained(site, runner, agent, remembered=remembered)
    tell(runner, agent, result.submit, *chunks(result.update.blob))
    return result


def second_round(path: Path) -> tuple[Site, AggregatorRunner, dict[str, bytes]]:
    """A gateway in its second round, and what is remembered of the first."""
    site = Site(path)
    runner = begin(site, plan=PLAN)
    signs = {agent: submits(site, runner, agent).update.signs for agent in AGENTS}
    assert runner.state.round == 1
    return site, runner, signs


def merged(path: Path) -> str:
    return weights_digest(load_checkpoint(Directory(path / "checkpoints"), 2).exact)


def test_accepted_updates_are_read_again_by_their_histories_where_the_gateway_is_started_again(tmp_path: Path) -> None:
    for name in ("once", "again"):
        site, runner, signs = second_round(tmp_path / name)
        first = submits(site, runner, AGENTS[0], signs[AGENTS[0]])
        assert first.update.shared is not None, "it is coded by its history"
        assert runner.state.cohort.accepted == 1
        if name == "again":
            site.book.close()
            runner = site.start(replace(PLAN, incarnation=2))
            runner.connect()
            tell(runner, AGENTS[1], CheckIn(examples=7))
        submits(site, runner, AGENTS[1], signs[AGENTS[1]])
        assert runner.is_done
        site.book.close()

    assert merged(tmp_path / "again") == merged(tmp_path / "once")


def test_an_update_by_another_history_comes_again_without_and_makes_the_same_model(tmp_path: Path) -> None:
    site, runner, signs = second_round(tmp_path / "usual")
    for agent in AGENTS:
        submits(site, runner, agent, signs[agent])
    site.book.close()

    site, runner, signs = second_round(tmp_path / "forgets")
    site.book._connection.execute("DELETE FROM remembered WHERE agent = ?", (AGENTS[0],))
    site.book._connection.commit()
    sent = submits(site, runner, AGENTS[0], signs[AGENTS[0]])
    answer = decode(Rejected, site.link.on(TOPICS.down(AGENTS[0], "rejected"))[-1])
    assert (answer.reason, answer.digest) == (Reason.OTHER_HISTORY, sent.submit.content.digest)
    assert AGENTS[0] in runner.state.cohort.agents(Standing.ASSIGNED)
    assert site.book.refused() == {}

    assert sent.update.shared is not None
    tell(runner, AGENTS[0], msgspec.structs.replace(sent.submit, update=sent.update.shared))
    submits(site, runner, AGENTS[1], signs[AGENTS[1]])
    assert runner.is_done
    assert site.book.remembered(AGENTS[0], 2) == [sent.update.signs]
    site.book.close()

    assert merged(tmp_path / "forgets") == merged(tmp_path / "usual")
