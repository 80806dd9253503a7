"""A site that loses power as a whole: real processes go on from what is left, and learn what they would have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.book import Book
from fedprune.task.run_directory import BOOK
from tests.brokers import Mosquitto
from tests.federations import Site
from tests.power_cuts.mutants import with_paths
from tests.power_cuts.operations import Move, Operation, Write
from tests.power_cuts.scene import (
    AGENTS,
    ALONE_ROUND,
    GATEWAY,
    ROUNDS,
    STATES,
    Scene,
    result_in,
    start_agent,
    start_gateway,
)
from tests.power_cuts.volume import Fate, Volume, lay_out

ALL_LOST = Fate(names=0.0, data=0.0)
TORN = Fate(names=1.0, data=1.0, torn=1.0, seed=1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, scene: Scene, tiny_task: Path, broker: Mosquitto) -> str:
    """The digest of the model of a federation in which nobody was killed; that of the recorded one is the same."""
    digest = finish(Site(tmp_path_factory.mktemp("undisturbed"), broker.url, tiny_task))
    assert result_in(scene.site) == digest
    return digest


def finish(site: Site) -> str:
    """Let a federation run from what its state directories hold to its end: the digest of its model."""
    with start_agent(site, "pi-1"), start_agent(site, "pi-2"), start_gateway(site) as gateway:
        assert gateway.ends() == 0
    book = Book.open(site.path / STATES[GATEWAY] / BOOK)
    assert [sorted(book.accepted(round_)) for round_ in range(ROUNDS)] == [sorted(AGENTS)] * ROUNDS
    book.close()
    return result_in(site.path)


def lay_out_after_cut(recording: list[Operation], position: int, fate: Fate, root: Path) -> None:
    volume = Volume()
    for operation in recording[:position]:
        volume.apply(operation)
    lay_out(volume.after_power_cut(fate), root)


def first_booked(recording: list[Operation], round_: int, scratch: Path) -> tuple[int, set[str]]:
    """When updates of a round were in the book for the first time, durably: the position after that, and whose."""
    is_written = False
    for position, (operation, synced) in enumerate(with_paths(recording), start=1):
        if isinstance(operation, Move) and operation.new_name.startswith(f"{round_:06d}-"):
            is_written = True
        if is_written and synced == f"{STATES[GATEWAY]}/{BOOK}-wal":
            left = scratch / str(position)
            left.mkdir()
            lay_out_after_cut(recording, position, ALL_LOST, left)
            book = Book.open(left / STATES[GATEWAY] / BOOK)
            accepted = {*book.accepted(round_)}
            book.close()
            if accepted:
                return position, accepted
    raise AssertionError(f"no update of round {round_} was accepted")


def checkpointed(recording: list[Operation], version: int) -> int:
    """The position after a checkpoint was renamed, when neither its name nor the round's end is durable."""
    return next(
        position
        for position, operation in enumerate(recording, start=1)
        if isinstance(operation, Move) and operation.new_name == f"{version:06d}.safetensors"
    )


def settled(scene: Scene, agent: str, round_: int) -> int:
    """The position after an agent has made durable that it is done with a round."""
    return remembered(scene, agent, lambda it: it["pending"] is None and it["done"][-1][1] == round_)


def submitted(scene: Scene, agent: str, round_: int) -> int:
    """The position after an agent has made its update of a round durable, which it then submits."""
    return remembered(scene, agent, lambda it: it["pending"] is not None and it["pending"]["round"] == round_)


def remembered(scene: Scene, agent: str, is_sought: Callable[[dict[str, Any]], bool]) -> int:
    """The position after an agent has made such a record durable, its name too."""
    written: dict[int, bytes] = {}
    is_written = False
    for position, (operation, synced) in enumerate(with_paths(scene.recording(agent)), start=1):
        match operation:
            case Write(_, node, _, data):
                written[node] = data
            case Move(_, _, _, "agent.json", node):
                is_written = is_sought(json.loads(written[node]))
        if is_written and synced == STATES[agent]:
            return position
    raise AssertionError(f"{agent} never remembered that")


def test_a_site_that_loses_power_in_a_round_learns_what_it_would_have(
    undisturbed: str, tmp_path: Path, scene: Scene, tiny_task: Path, broker: Mosquitto
) -> None:
    """One update is accepted, of which nobody has heard, and the other agent has not told anybody of its own. All that
    was not synced is lost."""
    site, scratch, (first, second) = tmp_path / "site", tmp_path / "scratch", AGENTS
    site.mkdir()
    scratch.mkdir()
    gateway = scene.recording(GATEWAY)
    position, accepted = first_booked(gateway, ALONE_ROUND, scratch)
    assert accepted == {first}, "an agent whose update is in the book remembers it: no cut takes that away"
    lay_out_after_cut(gateway, position, ALL_LOST, site)
    lay_out_after_cut(scene.recording(first), submitted(scene, first, ALONE_ROUND), ALL_LOST, site)
    lay_out_after_cut(scene.recording(second), settled(scene, second, ALONE_ROUND - 1), ALL_LOST, site)

    assert finish(Site(site, broker.url, tiny_task)) == undisturbed


def test_a_site_that_loses_power_as_a_round_is_merged_learns_what_it_would_have(
    undisturbed: str, tmp_path: Path, scene: Scene, tiny_task: Path, broker: Mosquitto
) -> None:
    """All updates are accepted, which no agent has heard; the checkpoint has its name, and the book says nothing of it.
    What was not synced is torn."""
    gateway = scene.recording(GATEWAY)
    lay_out_after_cut(gateway, checkpointed(gateway, ALONE_ROUND + 1), TORN, tmp_path)
    for agent in AGENTS:
        lay_out_after_cut(scene.recording(agent), submitted(scene, agent, ALONE_ROUND), TORN, tmp_path)

    assert finish(Site(tmp_path, broker.url, tiny_task)) == undisturbed
