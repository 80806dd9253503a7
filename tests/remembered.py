"""An agent's store with an update that was sent, and answered."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.agent_state import Outcome
from edge_agent.history import Durations
from edge_agent.local_round import PreparedUpdate
from edge_agent.residual_files import MOST_LOST
from edge_agent.store import AgentStore
from fedprune.model.tensors import Weights
from fedprune.system.disk import Directory
from fedprune.wire.messages import Submit
from fedprune.wire.transfer import content_of
from tests.samples import RUN, TASK, submit

OWED_IF_ACCEPTED, OWED_IF_LATE = 0.25, 7.0
TOOK = Durations(TASK.digest, (40.0, 41.0))
SLOTS = {"optimizer/0": np.arange(3)}


def tensors(value: float) -> Weights:
    scale: Any = np.array(value, np.float32) + np.float32(0.0)  # numpy makes this a scalar
    return {"kernel": np.full((2, 3), value, np.float32), "scale": scale}


def prepared(blob: bytes = b"an update") -> PreparedUpdate:
    return PreparedUpdate(blob, tensors(OWED_IF_ACCEPTED), tensors(OWED_IF_LATE))


def of_round(round_: int, blob: bytes = b"an update", run: str = RUN) -> Submit:
    return submit(round_, run=run, update=content_of(blob))


def assert_equal(found: Weights | None, expected: Weights) -> None:
    assert found is not None
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=MOST_LOST)


def opened(disk: Directory) -> AgentStore:
    return AgentStore(disk, "pi-1", "tests")


def settled(disk: Directory, outcome: Outcome, *, is_restarted: bool = False, slots: bool = True) -> AgentStore:
    """A store in which the update of round 3 was answered."""
    store = opened(disk)
    store.remember(of_round(3), prepared(), SLOTS if slots else None, TOOK)
    if is_restarted:
        store = opened(disk)
    store.settle(outcome)
    return opened(disk) if is_restarted else store
