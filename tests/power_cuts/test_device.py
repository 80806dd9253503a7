"""A device through a thousand power cuts: it comes back, and what it submitted is there until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.power_cuts.cuts import power_cuts
from tests.power_cuts.device import DeviceCheck, Submitted
from tests.power_cuts.mutants import said_early, without_syncs, without_syncs_at_start
from tests.power_cuts.operations import Operation
from tests.power_cuts.scene import STATES, Scene
from tests.power_cuts.survival import Lost, survive

CUTS = 1000
AGENT = "pi-1"

Mutation = Callable[[list[Operation]], list[Operation]]


@pytest.fixture(scope="module")
def recording(scene: Scene) -> list[Operation]:
    return scene.recording(AGENT)


def survives(recording: list[Operation], as_recorded: list[Operation], scratch: Path) -> int:
    cuts = power_cuts(recording, CUTS, Submitted(), Submitted.and_then)
    return survive(cuts, DeviceCheck(AGENT, as_recorded), STATES[AGENT], scratch)


def test_what_was_submitted_survives_a_thousand_power_cuts(recording: list[Operation], scratch: Path) -> None:
    assert survives(recording, recording, scratch) >= CUTS


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(lambda it: without_syncs(it, r".*/\.agent\.json\.draft"), id="the record is not synced"),
        pytest.param(lambda it: without_syncs(it, r".*\.update\.draft"), id="updates are not synced"),
        pytest.param(lambda it: without_syncs(it, r".*\.residuals\.draft"), id="residuals are not synced"),
        pytest.param(lambda it: without_syncs(it, r"pi-1/deep/state"), id="names are not synced"),
        pytest.param(lambda it: without_syncs(it, r"pi-1/deep"), id="nor that of the state directory"),
        pytest.param(lambda it: without_syncs(it, r"pi-1"), id="nor that of the directory above it"),
        pytest.param(lambda it: without_syncs(it, r""), id="nor that of the one above that"),
        pytest.param(
            lambda it: without_syncs_at_start(it, "pi-1/deep/state"), id="what a killed agent left is believed"
        ),
        pytest.param(lambda it: said_early(it, "s"), id="an update is submitted before it is remembered"),
    ],
)
def test_an_agent_that_is_less_careful_is_found_out(
    recording: list[Operation], scratch: Path, mutation: Mutation
) -> None:
    with pytest.raises(Lost):
        survives(mutation(recording), recording, scratch)
