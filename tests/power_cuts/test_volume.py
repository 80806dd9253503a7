"""The model of a disk that loses power: what may be lost, and what may not."""

from __future__ import annotations

import pytest

from tests.power_cuts.cuts import power_cuts
from tests.power_cuts.operations import ROOT, Link, Map, Move, Operation, Resize, Sent, Sync, Unlink, Write
from tests.power_cuts.volume import Fate, Tree, Volume

NOTHING = Fate(names=0.0, data=0.0)
EVERYTHING = Fate(names=1.0, data=1.0)
NAMES = Fate(names=1.0, data=0.0)
OLD, NEW = b"o" * 1024, b"n" * 1024

FILE = [Link(0.0, ROOT, "file", 1, False), Write(0.0, 1, 0, OLD)]
DURABLE_FILE = [*FILE, Sync(0.0, 1), Sync(0.0, ROOT)]
DRAFT = [Link(0.0, ROOT, "draft", 2, False), Write(0.0, 2, 0, NEW)]


def after(fate: Fate, *operations: Operation) -> Tree:
    volume = Volume()
    for operation in operations:
        volume.apply(operation)
    return volume.after_power_cut(fate)


def possible(*operations: Operation) -> list[Tree]:
    """All that a power cut at the end of these operations may leave, as far as chance finds it."""
    trees = (after(Fate(0.5, 0.5, 0.5, seed=seed), *operations) for seed in range(200))
    found: list[Tree] = []
    for tree in trees:
        if tree not in found:
            found.append(tree)
    return found


def test_what_is_not_synced_may_be_lost_or_not() -> None:
    assert after(NOTHING, *FILE) == {}
    assert after(EVERYTHING, *FILE) == {"file": OLD}
    assert after(NAMES, *FILE) == {"file": b""}


def test_a_file_that_is_synced_has_no_name_until_its_directory_is() -> None:
    assert after(NOTHING, *FILE, Sync(0.0, 1)) == {}
    assert after(NOTHING, *FILE, Sync(0.0, ROOT)) == {"file": b""}
    assert possible(*DURABLE_FILE) == [{"file": OLD}]


def test_a_directory_takes_what_is_in_it_along() -> None:
    made = [Link(0.0, ROOT, "below", 1, True), Link(0.0, 1, "file", 2, False), Sync(0.0, 2), Sync(0.0, 1)]

    assert after(NOTHING, *made) == {}
    assert after(NOTHING, *made, Sync(0.0, ROOT)) == {"below": None, "below/file": b""}


def test_a_rename_happens_whole_or_not_at_all() -> None:
    replaced = [*DURABLE_FILE, *DRAFT, Sync(0.0, 2), Sync(0.0, ROOT), Move(0.0, ROOT, "draft", "file", 2)]

    assert sorted(map(sorted, possible(*replaced))) == [["draft", "file"], ["file"]]
    assert {"file": NEW} in possible(*replaced)
    assert {"file": OLD, "draft": NEW} in possible(*replaced)


def test_a_rename_may_come_before_the_data() -> None:
    replaced = [*DURABLE_FILE, *DRAFT, Move(0.0, ROOT, "draft", "file", 2)]

    assert {"file": b""} in possible(*replaced)


def test_a_file_that_was_deleted_may_be_there_again() -> None:
    deleted = [*DURABLE_FILE, Unlink(0.0, ROOT, "file")]

    assert after(NOTHING, *deleted) == {"file": OLD}
    assert after(NOTHING, *deleted, Sync(0.0, ROOT)) == {}


def test_a_write_is_torn_between_sectors_and_leaves_the_others_alone() -> None:
    contents = [tree["file"] for tree in possible(*DURABLE_FILE, Write(0.0, 1, 256, b"n" * 512))]

    head, tail, old = OLD[:256], OLD[768:], b"o" * 256
    halves = [(first, second) for first in (old, b"n" * 256) for second in (old, b"n" * 256)]
    assert sorted(content or b"" for content in contents) == sorted(head + a + b + tail for a, b in halves)


@pytest.mark.parametrize("stale", [b"\x00", b"\xa5"])
def test_a_file_may_have_grown_without_its_data(stale: bytes) -> None:
    assert {"file": OLD + stale * 512} in possible(*DURABLE_FILE, Write(0.0, 1, 1024, b"n" * 512))


def test_a_file_may_be_shorter_or_not_after_it_was_cut() -> None:
    contents = [tree["file"] for tree in possible(*DURABLE_FILE, Resize(0.0, 1, 3))]

    assert sorted(content or b"" for content in contents) == [OLD[:3], OLD]


def test_what_was_written_through_memory_is_anything() -> None:
    assert after(EVERYTHING, *DURABLE_FILE, Map(0.0, 1)) not in ({"file": OLD}, {})


def test_a_cut_is_made_at_every_point_and_knows_what_had_been_said() -> None:
    recording = [*DURABLE_FILE, Sent(0.0, "topic", b"it is there"), Unlink(0.0, ROOT, "file")]

    cuts = list(power_cuts(recording, 1, (), lambda said, sent: (*said, sent.payload)))

    assert [(cut.position, cut.promises) for cut in cuts] == [(1, ()), (4, ()), (5, (b"it is there",))]
