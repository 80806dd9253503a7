"""What follows from a mask policy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedprune.pruning.masks import Allocation
from fedprune.pruning.policy import MaskPolicy
from fedprune.pruning.schedules import ConstantSparsity

MASK = {"kernel": np.array([True, False])}
SCHEDULE = ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=1)


def test_a_shared_mask_is_known_to_all_and_held_by_devices() -> None:
    rules = MaskPolicy("shared").rules

    assert rules.known_mask(MASK) is MASK
    assert rules.device_schedule(SCHEDULE) is None
    assert rules.allocations == set(Allocation)


def test_own_masks_travel_and_are_updated_on_devices_as_tfmot_does() -> None:
    rules = MaskPolicy("own").rules

    assert rules.known_mask(MASK) is None
    assert rules.device_schedule(SCHEDULE) is SCHEDULE
    assert rules.allocations == {Allocation.UNIFORM}


@pytest.mark.parametrize("asked", [r"MaskPolicy\.(SHARED|OWN)", r"\bLoss\.[A-Z_]+"])
def test_nobody_asks_which_policy_or_loss_it_is(asked: str) -> None:
    """What differs is read off its rules, so that a new one need not be looked for everywhere."""
    root = Path(__file__).parents[2]
    tables = ("policy.py", "losses.py", "keras/model.py", "task/bundle.py", "task/training.py", "scaffold/targets.py")
    sources = [
        path for part in ("fedprune", "edge_agent", "aggregator", "export") for path in (root / part).rglob("*.py")
    ]

    asking = [path for path in sources if not path.as_posix().endswith(tables) and re.search(asked, path.read_text())]

    assert len(sources) > 100
    assert asking == []
