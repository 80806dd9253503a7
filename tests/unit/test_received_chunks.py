"""What has come of a large content when the process is killed does not come again, and a card is spared the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edge_agent import limits
from edge_agent.agent_state import Train
from fedprune.errors import StorageError
from fedprune.system.disk import Directory
from fedprune.wire.messages import Content, Failed, Message, Need, decode
from fedprune.wire.received_chunks import RESUMABLE_BYTES, ReceivedChunks
from fedprune.wire.transfer import CHUNK_BYTES, CHUNK_SIZES, chunk_count, chunk_of, content_of, needed
from tests.devices import Device
from tests.gateways import TASK_PLAN, TOPICS, Site, begin, tell
from tests.samples import MODEL, MODEL_BLOB, TASK_BLOB, TERMS, assignment, chunks, submit

BLOB = bytes(range(256)) * (9 * CHUNK_BYTES // 256 + 1)
LARGE = content_of(BLOB)
COUNT = chunk_count(LARGE.size, CHUNK_BYTES)
FULL, SMALLER = CHUNK_SIZES[:2]
ROOMY = replace(TASK_PLAN, max_update_bytes=10_000_000)


def asked(needs: Sequence[Message], content: Content = LARGE) -> list[int]:
    return [
        index
        for need in needs
        if isinstance(need, Need) and need.digest == content.digest
        for index in needed(need, content)
    ]


def assigned(path: Path, content: Content = LARGE) -> Device:
    """An agent that was just started, and is assigned a round with such a model; its task comes at once."""
    device = Device(path)
    device.hears(assignment(model=content), *chunks(TASK_BLOB))
    return device


def names(path: Path) -> list[str]:
    return [name for name in Directory(path).names() if name.endswith(".chunks")]


def test_an_agent_that_was_killed_asks_only_for_what_has_not_come(tmp_path: Path) -> None:
    assigned(tmp_path).hears(*chunks(BLOB)[:6])

    again = assigned(tmp_path)
    assert asked(again.said(Need)) == [6, 7, 8, 9]
    again.hears(*chunks(BLOB)[6:])

    (train,) = again.trains
    assert isinstance(train, Train)
    assert train.model == BLOB
    assert names(tmp_path) == []


def test_it_goes_on_in_the_smaller_chunks_that_came(tmp_path: Path) -> None:
    first = assigned(tmp_path)
    first.hears(chunk_of(BLOB, LARGE.digest, 0, FULL), chunk_of(BLOB, LARGE.digest, 8, SMALLER))

    again = assigned(tmp_path)
    (need,) = [need for need in again.said(Need) if need.digest == LARGE.digest]
    assert isinstance(need, Need)
    assert need.chunk_bytes == SMALLER
    assert next(iter(needed(need, LARGE))) == 9


def test_what_a_power_cut_tore_is_fetched_again(tmp_path: Path) -> None:
    assigned(tmp_path).hears(*chunks(BLOB)[:3])
    (name,) = names(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) - 5000])

    again = assigned(tmp_path)
    assert asked(again.said(Need))[0] == 2
    again.hears(*chunks(BLOB)[2:4])

    assert asked(assigned(tmp_path).said(Need))[0] == 4


def test_chunks_that_are_not_the_contents_own_only_cost_its_fetch(tmp_path: Path) -> None:
    forged = bytes(len(BLOB))
    kept = ReceivedChunks(Directory(tmp_path), 10**9)
    for index in range(COUNT):
        kept.keep(LARGE, chunk_of(forged, LARGE.digest, index, FULL))

    again = assigned(tmp_path)
    assert asked(again.said(Need)) == [0, 1, 2, 3]
    again.hears(*chunks(BLOB))
    assert [train.model for train in again.trains if train] == [BLOB]


def test_small_contents_cost_the_card_nothing(tmp_path: Path) -> None:
    blob = BLOB[: RESUMABLE_BYTES - 1]
    device = assigned(tmp_path, content_of(blob))
    device.hears(*chunks(blob)[:6])
    assert names(tmp_path) == []


def test_what_is_not_wanted_any_more_is_deleted(tmp_path: Path) -> None:
    assigned(tmp_path).hears(*chunks(BLOB)[:3])
    assert len(names(tmp_path)) == 1

    assigned(tmp_path, content_of(BLOB[:-1]))
    assert names(tmp_path) == []


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    kept = ReceivedChunks(Directory(tmp_path), 3 * CHUNK_BYTES)
    for chunk in chunks(BLOB)[:5]:
        kept.keep(LARGE, chunk)
    assert len(kept.read()[LARGE.digest]) == 2


def test_half_of_the_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(disk: Directory) -> int:
        return 8 * CHUNK_BYTES - sum(file.stat().st_size for file in disk.path.iterdir())

    monkeypatch.setattr(Directory, "free", free)
    kept = ReceivedChunks(Directory(tmp_path), 10**9)
    for chunk in chunks(BLOB)[:-1]:
        kept.keep(LARGE, chunk)
    assert len(kept.read()[LARGE.digest]) == 3


def test_a_task_that_has_come_is_never_on_the_disk_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a disk that has room for it once ends the agent, each time that it has come."""
    write, beside = Directory.write, dict[str, list[str]]()

    def watched(disk: Directory, name: str, blob: bytes) -> None:
        beside[name] = names(tmp_path)
        write(disk, name, blob)

    monkeypatch.setattr(Directory, "write", watched)
    device = Device(tmp_path)
    device.hears(assignment(terms=msgspec.structs.replace(TERMS, task=LARGE), model=MODEL))
    device.hears(*chunks(BLOB)[:6])
    assert len(names(tmp_path)) == 1
    device.hears(*chunks(BLOB)[6:], *chunks(MODEL_BLOB))

    assert device.store.tasks() == {LARGE.digest}
    assert beside[f"{LARGE.digest.hex()}.fedtask"] == []


def test_what_came_before_a_restart_leaves_its_content_the_room_that_it_had(tmp_path: Path) -> None:
    device = assigned(tmp_path)
    device.hears(*chunks(BLOB)[:6])
    (name,) = names(tmp_path)

    assert limits._bytes_received(Directory(tmp_path)) == (tmp_path / name).stat().st_size > 6 * CHUNK_BYTES


def test_a_disk_that_refuses_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(Directory, "append", refuse)
    device = assigned(tmp_path)
    device.hears(*chunks(BLOB))
    assert [train.model for train in device.trains if train] == [BLOB]
    assert device.said(Failed) == []
    assert caplog.text.count("not kept for a restart") == 1


def test_a_gateway_that_was_killed_asks_an_agent_only_for_what_has_not_come(tmp_path: Path) -> None:
    site = Site(tmp_path)
    update = submit(update=LARGE, run=ROOMY.run)
    tell(begin(site, plan=ROOMY), "pi-0", update, *chunks(BLOB)[:7])
    site.book.close()

    again = site.start(plan=ROOMY)
    again.connect()
    tell(again, "pi-0", update)
    needs = [decode(Need, payload) for payload in site.link.on(TOPICS.down("pi-0", "need"))]
    assert asked(needs) == [7, 8, 9]

    tell(again, "pi-0", *chunks(BLOB)[7:])  # it is no update, and so it is refused once it is whole
    assert site.updates.names() == []
    site.book.close()
