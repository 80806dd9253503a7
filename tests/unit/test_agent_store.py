"""What an agent remembers: the residual that each fate of an update leaves, and nothing that is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.agent_state import Outcome
from edge_agent.history import MAX_RUNS_REMEMBERED, Durations, RoundsDone
from edge_agent.local_round import PreparedUpdate
from edge_agent.store import RESIDUAL_AGE_LIMIT, AgentStore
from fedprune.system.disk import Directory
from tests.remembered import (
    OWED_IF_ACCEPTED,
    OWED_IF_LATE,
    SLOTS,
    TOOK,
    assert_equal,
    of_round,
    opened,
    prepared,
    settled,
    tensors,
)
from tests.samples import RUN, TASK, TASK_BLOB


@pytest.fixture
def disk(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "store")


@pytest.fixture(params=["in one life", "after a restart"])
def is_restarted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "after a restart")


def test_a_new_agent_remembers_nothing(disk: Directory) -> None:
    store = opened(disk)

    assert (store.done, store.durations, store.pending, store.tasks()) == (RoundsDone(), Durations(), None, frozenset())
    assert store.residual(RUN, 0) is None
    assert store.slots(RUN) is None


def test_local_tensors_are_what_the_last_round_of_the_run_left(disk: Directory, is_restarted: bool) -> None:
    store = opened(disk)
    for round_, outcome in ((3, Outcome.ACCEPTED), (4, Outcome.LATE)):
        store.remember(of_round(round_), prepared(), None, TOOK, tensors(float(round_)))
        store.settle(outcome)
        store = opened(disk) if is_restarted else store
        assert_equal(store.local(RUN), tensors(float(round_)))

    assert store.local("another") is None
    assert store.local(RUN, since=5) is None, "its update was left out of the merge"
    store.remember(of_round(5), prepared(), None, TOOK, tensors(5.0))
    store.settle(Outcome.INVALID)
    assert opened(disk).local(RUN) is None


def test_a_pending_update_outlives_the_process(disk: Directory, is_restarted: bool) -> None:
    store = opened(disk)
    store.remember(of_round(3), prepared(b"bytes"), SLOTS, TOOK)
    if is_restarted:
        store = opened(disk)

    assert store.pending == of_round(3)
    assert store.update() == b"bytes"
    assert (store.done, store.durations) == (RoundsDone(), TOOK)


@pytest.mark.parametrize(
    ("outcome", "owed"), [(Outcome.ACCEPTED, OWED_IF_ACCEPTED), (Outcome.LATE, OWED_IF_LATE)], ids=["accepted", "late"]
)
def test_the_residual_is_what_the_updates_fate_leaves(
    disk: Directory, outcome: Outcome, owed: float, is_restarted: bool
) -> None:
    store = settled(disk, outcome, is_restarted=is_restarted)

    assert_equal(store.residual(RUN, 4), tensors(owed))
    assert_equal(store.slots(RUN), SLOTS)  # type: ignore[arg-type]
    assert (store.done, store.pending) == (RoundsDone(((RUN, 3),)), None)


def test_an_invalid_update_leaves_nothing_that_could_poison_the_next(disk: Directory, is_restarted: bool) -> None:
    settled(disk, Outcome.LATE)
    store = opened(disk)
    store.remember(of_round(4), prepared(b"another"), SLOTS, TOOK)
    store.settle(Outcome.INVALID)
    if is_restarted:
        store = opened(disk)

    assert store.residual(RUN, 5) is None
    assert store.slots(RUN) is None
    assert (store.done.of(RUN), store.pending) == (3, None), "its round may be tried once more"


def test_while_an_update_is_pending_the_residual_before_it_stays(disk: Directory) -> None:
    """A crash between preparing and settling must lose neither."""
    store = settled(disk, Outcome.ACCEPTED)
    store.remember(of_round(4), PreparedUpdate(b"another", tensors(1.0), tensors(2.0)), None, TOOK)

    assert_equal(opened(disk).residual(RUN, 4), tensors(OWED_IF_ACCEPTED))


def test_a_residual_ends_with_its_age(disk: Directory) -> None:
    store = settled(disk, Outcome.LATE)

    assert_equal(store.residual(RUN, 3 + RESIDUAL_AGE_LIMIT), tensors(OWED_IF_LATE))
    assert store.residual(RUN, 4 + RESIDUAL_AGE_LIMIT) is None


def test_what_a_round_left_whose_update_was_left_out_is_not_used(disk: Directory, is_restarted: bool) -> None:
    store = settled(disk, Outcome.ACCEPTED, is_restarted=is_restarted)

    assert_equal(store.residual(RUN, 4, since=3), tensors(OWED_IF_ACCEPTED))
    assert_equal(store.slots(RUN, since=3), SLOTS)  # type: ignore[arg-type]
    assert store.residual(RUN, 4, since=4) is None
    assert store.slots(RUN, since=4) is None


def test_a_residual_ends_with_its_run(disk: Directory) -> None:
    store = settled(disk, Outcome.LATE)
    assert store.residual("another-run", 4) is None
    assert store.slots("another-run") is None

    store.remember(of_round(0, run="another-run"), prepared(b"another"), None, TOOK)
    assert (store.done.of(RUN), store.done.of("another-run")) == (3, -1)
    assert store.residual(RUN, 4) is None
    store.settle(Outcome.ACCEPTED)
    assert_equal(store.residual("another-run", 1), tensors(OWED_IF_ACCEPTED))


def test_only_what_may_be_needed_is_kept(disk: Directory) -> None:
    store = opened(disk)
    store.keep_task(TASK.digest, TASK_BLOB)
    kept_always = {"agent.json", f"{TASK.digest.hex()}.fedtask"}
    for round_ in range(6):
        blob = b"update of round %d" % round_
        store.remember(
            of_round(round_, blob), PreparedUpdate(blob, tensors(round_ + 0.25), tensors(round_ + 0.5)), SLOTS, TOOK
        )
        names = set(disk.names()) - kept_always
        assert len([name for name in names if name.endswith(".update")]) <= 2
        assert len(names) <= 1 + 1 + 1 + 2, "an update, its residuals, slots, and what is owed from before"
        is_late = round_ % 2 == 0
        store.settle(Outcome.LATE if is_late else Outcome.ACCEPTED)
        assert len(set(disk.names()) - kept_always) == 2 + is_late, "residuals, slots, and a late update"
    store.remember(of_round(6), prepared(), SLOTS, TOOK)
    store.settle(Outcome.INVALID)
    assert set(disk.names()) == kept_always


def test_a_settled_round_stays_settled_when_other_runs_come_between(disk: Directory, is_restarted: bool) -> None:
    store = opened(disk)
    for number in range(MAX_RUNS_REMEMBERED + 5):
        store.remember(of_round(number, run=f"run-{number}"), prepared(), None, TOOK)
        store.settle(Outcome.ACCEPTED)
        if is_restarted:
            store = opened(disk)

    assert store.done.last == tuple((f"run-{number}", number) for number in range(5, MAX_RUNS_REMEMBERED + 5))


def test_one_settlement_writes_one_record(disk: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(disk)
    store.remember(of_round(3), prepared(), None, TOOK)
    written: list[str] = []
    write = Directory.write
    monkeypatch.setattr(Directory, "write", lambda self, name, blob: (written.append(name), write(self, name, blob)))

    store.settle(Outcome.ACCEPTED)

    assert written == ["agent.json"]


def test_equal_residuals_share_a_blob_and_none_is_removed_too_early(disk: Directory) -> None:
    store = opened(disk)
    store.remember(of_round(0), PreparedUpdate(b"x", tensors(1.0), tensors(1.0)), None, TOOK)
    store.settle(Outcome.ACCEPTED)
    store.remember(of_round(1, b"y"), PreparedUpdate(b"y", tensors(1.0), tensors(2.0)), None, TOOK)
    store.settle(Outcome.ACCEPTED)

    assert_equal(store.residual(RUN, 2), tensors(1.0))


def test_tasks_are_kept_by_their_digest(disk: Directory) -> None:
    opened(disk).keep_task(TASK.digest, TASK_BLOB)
    disk.write("nonsense.fedtask", b"")

    assert opened(disk).tasks() == {TASK.digest}
    assert opened(disk).task(TASK.digest) == TASK_BLOB


def by_history(number: int) -> PreparedUpdate:
    """An update that is coded by what was sent before, and without that."""
    blob, shared, signs = (b"%s %d" % (name, number) for name in (b"by history", b"shared", b"signs"))
    return PreparedUpdate(blob, tensors(OWED_IF_ACCEPTED), tensors(OWED_IF_LATE), shared, signs)


def remembers(store: AgentStore, number: int, outcome: Outcome | None, run: str = RUN) -> None:
    update = by_history(number)
    store.remember(of_round(number, update.blob, run), update, None, TOOK)
    if outcome is not None:
        store.settle(outcome)


def test_the_last_accepted_updates_are_remembered_and_no_others(disk: Directory, is_restarted: bool) -> None:
    store = opened(disk)
    for number, outcome in enumerate([Outcome.ACCEPTED, Outcome.LATE, Outcome.ACCEPTED, Outcome.INVALID]):
        remembers(store, number, outcome)
    if is_restarted:
        store = opened(disk)

    assert store.remembered(RUN) == (b"signs 2", b"signs 0")
    assert store.remembered("another-run") == ()
    for number in range(4, 14):
        remembers(store, number, Outcome.ACCEPTED)
    assert store.remembered(RUN) == tuple(b"signs %d" % number for number in range(13, 5, -1))
    assert len([name for name in disk.names() if name.endswith(".signs")]) == 8


def test_what_is_remembered_ends_with_its_run_and_with_an_update_of_which_nothing_is(disk: Directory) -> None:
    store = opened(disk)
    remembers(store, 0, Outcome.ACCEPTED)
    remembers(store, 0, Outcome.ACCEPTED, "another-run")
    assert store.remembered("another-run") == (b"signs 0",)

    store.remember(of_round(1, run="another-run"), prepared(), None, TOOK)
    store.settle(Outcome.ACCEPTED)

    assert store.remembered("another-run") == ()


def test_an_update_is_sent_without_its_history_which_is_forgotten(disk: Directory, is_restarted: bool) -> None:
    store = opened(disk)
    remembers(store, 0, Outcome.ACCEPTED)
    remembers(store, 1, None)

    sent = store.send_shared()
    if is_restarted:
        store = opened(disk)

    assert sent is not None
    assert sent == store.pending == of_round(1, b"shared 1")
    assert (store.update(), store.remembered(RUN)) == (b"shared 1", ())
    assert store.send_shared() is None, "it is coded so already"
    store.settle(Outcome.ACCEPTED)
    assert store.remembered(RUN) == (b"signs 1",)


def test_an_update_that_was_sent_without_its_history_and_is_late_is_owed_whole(disk: Directory) -> None:
    store = opened(disk)
    remembers(store, 1, None)
    store.send_shared()

    store.settle(Outcome.LATE)

    assert_equal(opened(disk).residual(RUN, 2), tensors(OWED_IF_LATE))


def test_a_damaged_memory_of_an_update_ends_what_is_remembered_there(disk: Directory) -> None:
    store = opened(disk)
    for number in range(3):
        remembers(store, number, Outcome.ACCEPTED)
    (damaged,) = [name for name in disk.names() if name.endswith(".signs") and disk.read(name) == b"signs 1"]
    disk.write(damaged, b"rubbish")

    assert opened(disk).remembered(RUN) == (b"signs 2",)
