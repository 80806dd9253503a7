"""`fedprune rollback`: a run goes back to a model that was kept, and its rounds are done anew."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aggregator.rollback import roll_back
from aggregator.rollback_command import rollback
from aggregator.round_state import Phase
from aggregator.run_store import RunStore
from aggregator.runner import AggregatorRunner
from fedprune.errors import ConfigurationError, StorageError
from fedprune.system.ownership import owned
from fedprune.task.evaluation import Evaluation
from fedprune.wire.messages import CheckIn, Reason, Rejected, decode
from tests.gateways import AGENTS, TASK_PLAN, TOPICS, Site, begin, submit_update, tell

ROUNDS = 6
PLAN = replace(TASK_PLAN, rounds=ROUNDS)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "run")


def rounds(site: Site, count: int, losses: tuple[float, ...] = (), keep: int = 5) -> AggregatorRunner:
    """A run of which `count` rounds are done, with these losses on the held-out examples; then the next is open."""
    left = iter(losses or (1.0,) * count)
    runner = begin(site, plan=PLAN, keep=keep, evaluate=lambda *_: Evaluation(1, next(left), {"accuracy": 0.5}))
    for _ in range(count):
        for agent in AGENTS:
            submit_update(site, runner, agent)
    return runner


def call(site: Site, *options: str) -> Result:
    return CliRunner().invoke(rollback, [str(site.path), *options])


def versions(site: Site) -> list[int]:
    return [int(name.split(".")[0]) for name in site.checkpoints.names()]


def test_it_goes_back_to_the_last_model_and_says_what_it_did(site: Site) -> None:
    submit_update(site, rounds(site, 3), AGENTS[0])
    site.book.close()

    done = call(site)

    assert done.output == (
        "back to the model after 2 rounds (accuracy 0.500, loss 1); 1 rounds undone, 1 updates of an open round "
        "discarded\n"
    )
    assert (versions(site), site.updates.names()) == ([0, 1, 2], [])


def test_it_goes_back_to_the_last_good_model(site: Site) -> None:
    """An update that is no outlier can still do harm that shows rounds later."""
    rounds(site, 5, losses=(1.0, 0.6, 2.6, 3.4, 3.5))
    site.book.close()

    assert json.loads(call(site, "--json").output) | {"run": ""} == {
        "rounds": 2, "undone": 3, "discarded": 0, "loss": 0.6, "metrics": {"accuracy": 0.5}, "run": "",
    }  # fmt: skip


def test_the_rounds_are_done_anew_under_another_id_and_make_what_they_made(site: Site) -> None:
    runner = rounds(site, 3)
    first = {name: site.checkpoints.read(name) for name in site.checkpoints.names()}
    model = runner.state.model
    site.book.close()
    run = json.loads(call(site, "--to", "1", "--json").output)["run"]

    again = begin(site, plan=replace(PLAN, run=run))
    assert (again.state.round, again.state.phase) == (1, Phase.TRAINING)
    for _ in range(2):
        for agent in AGENTS:
            submit_update(site, again, agent)
    assert again.state.model == model
    assert [record.round for record in site.book.records()] == [0, 1, 2]
    assert first.keys() == set(site.checkpoints.names())


def test_newer_models_are_gone_for_good_before_the_book_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut brings them back, and the run that goes on takes them for its newest."""
    rounds(site, 3)
    done, fsync, roll_back_book = list[tuple[str, list[int]]](), os.fsync, site.book.roll_back

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").resolve() == site.path / "checkpoints":
            done.append(("synced", versions(site)))

    def noting_book(round_: int, run: str) -> None:
        done.append(("undone", versions(site)))
        roll_back_book(round_, run)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(site.book, "roll_back", noting_book)
    roll_back(RunStore(site.book, site.checkpoints, site.updates), 1, "another")

    assert done[-2:] == [("synced", [0, 1]), ("undone", [0, 1])]


def test_updates_of_the_former_id_are_refused(site: Site) -> None:
    runner = rounds(site, 1)
    former = submit_update(site, runner, AGENTS[0])
    site.book.close()
    run = json.loads(call(site, "--to", "1", "--json").output)["run"]

    tell(begin(site, plan=replace(PLAN, run=run)), AGENTS[0], former)
    answer = decode(Rejected, site.link.on(TOPICS.down(AGENTS[0], "rejected"))[-1])
    assert (answer.reason, answer.detail, answer.retry_after) == (Reason.INVALID, "of another run", 0.0)


def test_an_open_round_alone_can_be_undone(site: Site) -> None:
    submit_update(site, rounds(site, 2), AGENTS[0])
    site.book.close()

    assert "after 2 rounds" in call(site, "--to", "2").output
    assert site.start(PLAN).state.phase is Phase.GATHERING


def test_the_initial_model_is_one_to_go_back_to_while_it_is_kept(site: Site) -> None:
    rounds(site, 3)
    site.book.close()

    assert call(site, "--to", "0").output == "back to the initial model; 3 rounds undone\n"
    assert site.start().state.round == 0


def test_where_nothing_was_kept_it_says_so(site: Site) -> None:
    rounds(site, 1, keep=1)
    site.book._connection.execute("DELETE FROM cohort WHERE round = 1")
    site.book._connection.commit()
    site.book.close()

    error = call(site).exception
    assert str(error) == "nothing to roll back to: 1 rounds are done, and no earlier model was kept"


@pytest.mark.parametrize("to", ["2", "5", "9"])
def test_what_was_not_kept_is_refused_with_what_was(site: Site, to: str) -> None:
    rounds(site, 5, keep=2)
    tell(site.start(PLAN), AGENTS[0], CheckIn(examples=7))
    site.book._connection.execute("DELETE FROM cohort WHERE round = 5")
    site.book._connection.commit()
    site.book.close()

    error = call(site, "--to", to).exception
    assert isinstance(error, ConfigurationError)
    assert str(error) == f"--to {to}: 5 rounds are done; the models to go back to are those after 1, 4 rounds"
    assert versions(site) == [1, 4, 5], "nothing was changed"


def test_it_refuses_while_an_aggregator_works(site: Site) -> None:
    rounds(site, 2)
    with owned(site.path):
        error = call(site).exception
    assert isinstance(error, StorageError)
    assert "is in use by process" in str(error)
    assert versions(site) == [0, 1, 2]


def test_where_there_is_no_run_nothing_is_made(tmp_path: Path) -> None:
    error = CliRunner().invoke(rollback, [str(tmp_path / "nowhere")]).exception
    assert isinstance(error, StorageError)
    assert "there is no run in it" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_not_gone_back_to(site: Site) -> None:
    rounds(site, 3)
    site.checkpoints.write("000002.safetensors", b"noise")
    site.book.close()

    error = call(site).exception
    assert isinstance(error, StorageError)
    assert "checkpoint 000002.safetensors is damaged" in str(error)
    assert versions(site) == [0, 1, 2, 3]


def test_a_rollback_that_was_interrupted_is_refused_by_the_aggregator_and_can_be_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds(site, 3)
    store = RunStore(site.book, site.checkpoints, site.updates)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store.book, "roll_back", crash)
        with pytest.raises(KeyboardInterrupt):
            roll_back(store, 1, "another")
    with pytest.raises(StorageError, match=r"000003\.safetensors is missing; .* `fedprune rollback`"):
        site.start(PLAN)

    assert roll_back(store, 1, "another").undone == 2
    assert site.start(replace(PLAN, run="another")).state.round == 1
