"""State directories that are damaged, another agent's or another version's: what is of use stays, or it is said."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from edge_agent.agent_state import Outcome
from edge_agent.store import AgentStore
from fedprune.errors import StorageError, TaskError
from fedprune.system.disk import Directory
from tests.remembered import (
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


def test_what_a_crash_left_lying_about_is_removed(disk: Directory) -> None:
    """Blobs are written before the record that refers to them."""
    disk.write("0123.update", b"never referred to")
    settled(disk, Outcome.ACCEPTED)

    assert "0123.update" not in disk.names()


def test_what_a_crash_left_is_removed_at_the_next_start_and_what_is_owed_stays(disk: Directory) -> None:
    settled(disk, Outcome.LATE)
    owed = disk.names()
    for name in ("0123.update", "4567.safetensors"):
        disk.write(name, b"never referred to")

    opened(disk)

    assert disk.names() == owed


@pytest.mark.parametrize(("agent", "federation"), [("pi-2", "tests"), ("pi-1", "another"), ("tests", "pi-1")])
def test_what_another_agent_owes_is_left_alone(disk: Directory, agent: str, federation: str) -> None:
    opened(disk).remember(of_round(3), prepared(), SLOTS, TOOK)
    before = {name: disk.read(name) for name in disk.names()}

    said = "this state directory belongs to agent pi-1 of federation tests; name another with --state"
    with pytest.raises(StorageError, match=f"^{said}$"):
        AgentStore(disk, agent, federation)

    assert {name: disk.read(name) for name in disk.names()} == before
    assert opened(disk).pending == of_round(3)


@pytest.mark.parametrize(
    ("name", "record"),
    [("agent.json", b'{"format": 1}'), ("agent.json", b'{"format": 9, "agent": {}}'), ("memory.json", b"{}")],
)
def test_what_another_version_wrote_is_refused_and_left_alone(disk: Directory, name: str, record: bytes) -> None:
    disk.write(name, record)
    disk.write("0123.update", b"owed")

    with pytest.raises(StorageError, match="this state directory was written by another version of fedprune"):
        opened(disk)

    assert disk.names() == sorted([name, "0123.update"])


def as_before_histories(disk: Directory) -> None:
    """The record as the version before wrote it."""
    record = msgspec.json.decode(disk.read("agent.json") or b"")
    del record["remembered"]
    for key in ("late", "shared", "signs"):
        del record["pending"][key]
    disk.write("agent.json", msgspec.json.encode(record | {"format": 7}))


def test_an_upgraded_agent_goes_on_with_what_the_version_before_remembered(disk: Directory) -> None:
    store = settled(disk, Outcome.LATE)
    store.remember(of_round(4), prepared(b"another"), SLOTS, TOOK)
    owed, done = store.residual(RUN, 4), store.done
    as_before_histories(disk)

    upgraded = opened(disk)
    assert (upgraded.pending, upgraded.done, upgraded.durations) == (of_round(4), done, TOOK)
    assert owed is not None
    assert_equal(upgraded.residual(RUN, 4), owed)
    assert upgraded.update() == b"another"
    assert upgraded.send_shared() is None
    assert upgraded.remembered(RUN) == ()

    upgraded.settle(Outcome.LATE)
    assert_equal(opened(disk).residual(RUN, 5), tensors(OWED_IF_LATE))


@pytest.mark.parametrize(
    "record", [b'{"format": 7}', b'{"format": 7, "agent": "pi-1", "federation": "tests", "pending": 1}']
)
def test_a_record_of_the_version_before_is_read_as_strictly(disk: Directory, record: bytes) -> None:
    disk.write("agent.json", record)
    with pytest.raises(StorageError, match="delete its state directory to start afresh"):
        opened(disk)


def test_what_is_stored_has_no_struct_of_the_wire(disk: Directory) -> None:
    """A change of the wire must not break a state directory: these keys change with the record's format only."""
    store = settled(disk, Outcome.LATE)
    store.remember(of_round(4), prepared(b"another"), SLOTS, TOOK)

    record = msgspec.json.decode(disk.read("agent.json") or b"")

    submitted = {"run", "round", "digest", "size", "examples", "local_steps", "loss"}
    measured = {"train_seconds", "idle_memory_mb", "peak_memory_mb", "x_mean", "x_largest", "evaluated"}
    blobs = {"update", "residuals", "late", "slots", "local", "form", "shared", "signs"}
    assert record.keys() == {
        "format", "agent", "federation", "done", "durations", "durations_task", "owed", "pending",
        "remembered",
    }  # fmt: skip
    assert record["pending"].keys() == submitted | measured | blobs
    assert record["owed"].keys() == {"run", "round", "residuals", "late", "slots", "local", "form"}


def test_a_damaged_task_is_deleted_so_that_it_is_fetched_again(disk: Directory) -> None:
    store = opened(disk)
    store.keep_task(TASK.digest, TASK_BLOB[:-1])

    with pytest.raises(TaskError, match="is damaged; it is fetched again"):
        store.task(TASK.digest)
    assert store.tasks() == frozenset()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"settled": "x"}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_is_said_to_be(disk: Directory, damage: bytes) -> None:
    disk.write("agent.json", damage)

    with pytest.raises(StorageError, match=r"agent\.json: .*; delete its state directory"):
        opened(disk)


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 100, None])
@pytest.mark.parametrize("is_slots", [False, True], ids=["residual", "slots"])
def test_without_damaged_tensors_training_goes_on(
    disk: Directory, damage: bytes | None, is_slots: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = settled(disk, Outcome.ACCEPTED)
    record = msgspec.json.decode(disk.read("agent.json") or b"")
    name = record["owed"]["slots" if is_slots else "residuals"]
    if damage is None:
        disk.delete(name)
    else:
        disk.write(name, damage)

    for again in (store, opened(disk)):
        assert (again.residual(RUN, 4) is None) == (not is_slots)
        assert (again.slots(RUN) is None) == is_slots
    assert f"{name} is damaged, which costs what earlier rounds left; check the disk" in caplog.messages


@pytest.mark.parametrize("kind", ["residuals", "slots", "local"])
def test_without_tensors_that_no_agent_wrote_training_goes_on(
    disk: Directory, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Their digest is right."""
    store = opened(disk)
    store.remember(of_round(3), prepared(), SLOTS, TOOK, tensors(1.0))
    store.settle(Outcome.ACCEPTED)
    record = msgspec.json.decode(disk.read("agent.json") or b"")
    forged = f"{hashlib.sha256(b'nonsense').hexdigest()[:32]}.{record['owed'][kind].partition('.')[2]}"
    record["owed"][kind] = forged
    disk.write(forged, b"nonsense")
    disk.write("agent.json", msgspec.json.encode(record))

    again = opened(disk)

    found = {"residuals": again.residual(RUN, 4), "slots": again.slots(RUN), "local": again.local(RUN)}
    assert [name for name, each in found.items() if each is None] == [kind]
    assert any(message.startswith(f"{forged} is damaged (") for message in caplog.messages)


@pytest.mark.parametrize("damage", [b"", b"another", None])
def test_an_update_that_cannot_be_sent_any_more_is_given_up_at_the_next_start(
    disk: Directory, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent would end at every start, and each round would wait its whole deadline for it."""
    store = opened(disk)
    store.remember(of_round(3), prepared(), None, TOOK)
    (name,) = (name for name in disk.names() if name.endswith(".update"))
    if damage is None:
        disk.delete(name)
    else:
        disk.write(name, damage)

    with pytest.raises(StorageError, match=f"{name} is damaged; check the disk, and start the agent again"):
        store.update()
    assert opened(disk).pending is None
    assert "the update of round 4 is damaged and given up; check the disk" in caplog.messages
    assert opened(disk).durations == TOOK
