"""A round on the device: what it takes, and what it leaves. `edge_agent.local_training` does it.

An agent that waits imports no more than this of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.held_model import Held, HoldsNothing
from edge_agent.trainers import Slots
from fedprune.data.statistics import GATHERING
from fedprune.model.tensors import Mask, Weights
from fedprune.wire.messages import Assignment, Submit


@dataclass(frozen=True, eq=False)
class LocalRound:
    """All that a round takes: the assignment, the content that it names for the model (empty if it names none), and
    what the agent remembers of earlier rounds, the model that it holds among that.

    The residual of a large model is large, and wanted only after the training: `read_residual` is called then. `local`
    are the tensors that are this device's own, as its last round left them; None before its first one. Residual, slots
    and local tensors are in the form of the task that `owed_form` names. `remembered` are the signs of its last updates
    that were accepted, the newest first, as `encode_signs` made them.
    """

    agent: str
    assignment: Assignment
    model: bytes
    read_residual: Callable[[], Weights | None]
    slots: Slots | None
    idle_memory_mb: float
    held: Held = field(default_factory=HoldsNothing)
    local: Weights | None = None
    owed_form: bytes = b""
    remembered: tuple[bytes, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedUpdate:
    """An update's bytes, and the residual that the agent will hold once it knows what became of them.

    If accepted, the agent owes what the codec lost. If late, it owes everything, up to the cap. A codec without error
    feedback owes nothing. Both residuals are zero where `mask` prunes.
    """

    blob: bytes
    residual_if_accepted: Weights
    residual_if_late: Weights
    shared: bytes | None = None
    signs: bytes = b""
    mask: Mask = field(default_factory=dict)

    @property
    def most_bytes(self) -> int:
        """That are sent of it at most: it goes once more, as it is `shared`, if the gateway asks for that."""
        return len(self.blob) + len(self.shared or b"")


@dataclass(frozen=True, eq=False)
class LocalResult:
    """All that a round leaves. `slots` is None unless the task keeps optimizer state, `local` if it has no layers that
    stay on the device. All of it is in the form of the task that `form` names."""

    submit: Submit
    update: PreparedUpdate
    slots: Slots | None
    local: Weights | None = None
    form: bytes = b""


def owed_since(assignment: Assignment) -> int:
    """The first round whose residual and slots count: not those of an update that was left out, or before it."""
    return 0 if assignment.left_out is None else assignment.left_out.round + 1


def asks_for_statistics(assignment: Assignment) -> bool:
    """True for an assignment that wants statistics of the examples, and no training."""
    return assignment.known.codec == GATHERING
