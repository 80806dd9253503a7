"""The gateway through a thousand power cuts: nothing that it had said is lost, and it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedprune.task.bundle import Bundle, load_bundle
from tests.power_cuts.cuts import power_cuts
from tests.power_cuts.gateway import GatewayCheck, Said
from tests.power_cuts.mutants import accepted_early, without_syncs
from tests.power_cuts.operations import Operation, Sent
from tests.power_cuts.scene import GATEWAY, STATES, Scene
from tests.power_cuts.survival import Lost, survive
from tests.power_cuts.volume import Fate, Volume

CUTS = 1000

Mutation = Callable[[list[Operation]], list[Operation]]


@pytest.fixture(scope="module")
def bundle(tiny_task: Path) -> Bundle:
    return load_bundle(tiny_task)


@pytest.fixture(scope="module")
def recording(scene: Scene) -> list[Operation]:
    return scene.recording(GATEWAY)


def survives(recording: list[Operation], as_recorded: list[Operation], bundle: Bundle, scratch: Path) -> int:
    cuts = power_cuts(recording, CUTS, Said(), Said.and_then)
    return survive(cuts, GatewayCheck(bundle, as_recorded), STATES[GATEWAY], scratch)


def test_the_recording_is_whole(scene: Scene, recording: list[Operation]) -> None:
    """What it leaves when nothing is lost is what the gateway left."""
    volume = Volume()
    for operation in recording:
        volume.apply(operation)

    tree = volume.after_power_cut(Fate(names=1.0, data=1.0))

    state = scene.site / STATES[GATEWAY]
    left = {str(path.relative_to(scene.site)): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert {name: content for name, content in tree.items() if content is not None} == left
    kinds = {operation.topic.split("/")[-1] for operation in recording if isinstance(operation, Sent)}
    assert kinds >= {"y", "a", "r"}


def test_nothing_accepted_is_lost_in_a_thousand_power_cuts(
    recording: list[Operation], bundle: Bundle, scratch: Path
) -> None:
    assert survives(recording, recording, bundle, scratch) >= CUTS


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(lambda it: without_syncs(it, r"run/updates/.*"), id="updates are not synced"),
        pytest.param(lambda it: without_syncs(it, r"run/updates"), id="nor their names"),
        pytest.param(lambda it: without_syncs(it, r"run/checkpoints/.*"), id="checkpoints are not synced"),
        pytest.param(lambda it: without_syncs(it, r"run/checkpoints"), id="nor their names"),
        pytest.param(lambda it: without_syncs(it, r"run/book\.sqlite-wal"), id="SQLite does not sync"),
        pytest.param(lambda it: without_syncs(it, r"run"), id="the names in the state directory are not synced"),
        pytest.param(lambda it: without_syncs(it, r""), id="nor its own"),
        pytest.param(accepted_early, id="accepted is said before it is true"),
    ],
)
def test_a_gateway_that_is_less_careful_is_found_out(
    recording: list[Operation], bundle: Bundle, scratch: Path, mutation: Mutation
) -> None:
    with pytest.raises(Lost):
        survives(mutation(recording), recording, bundle, scratch)
