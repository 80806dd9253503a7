"""Mask policies: who chooses the mask, and all that follows from it on the wire, on devices and in merging."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, get_args

from fedprune.model.tensors import Mask
from fedprune.pruning.masks import Allocation
from fedprune.pruning.schedules import ConstantSparsity, PolynomialDecay, Schedule


class MaskRules(Protocol):
    """All that differs between mask policies; nobody else asks which one it is."""

    allocations: frozenset[Allocation]
    """Those that whoever chooses the mask can compute."""
    schedules: tuple[type[Schedule], ...]
    """The kinds by which whoever chooses the mask can."""
    is_shared: bool
    """True if there is one mask, which all sides can compute."""

    def known_mask(self, mask: Mask) -> Mask | None:
        """The mask that updates to a model with `mask` need not carry, since all have it; None if each brings its own.

        Merging follows from it: deltas to a mask that all share are averaged over all agents, the weights of own ones
        over those agents that keep them.
        """

    def device_schedule(self, schedule: Schedule) -> Schedule | None:
        """The schedule on which a device updates the mask while it trains; None if it holds the one that it was sent.

        What is pruned on a schedule may come back at the next update, as with TF-MOT: such a device keeps what pruned
        weights have drifted to.
        """


class _SharedMask:
    """One mask: the gateway scores merged weights for all or, with deltas, all sides score the same ones."""

    allocations = frozenset(Allocation)
    schedules: tuple[type[Schedule], ...] = get_args(Schedule)
    is_shared = True

    def known_mask(self, mask: Mask) -> Mask | None:
        return mask

    def device_schedule(self, schedule: Schedule) -> Schedule | None:  # noqa: ARG002 - the gateway's business
        return None


class _OwnMasks:
    """Each device prunes as TF-MOT's wrapper does, layer by layer."""

    allocations = frozenset({Allocation.UNIFORM})
    schedules: tuple[type[Schedule], ...] = (PolynomialDecay, ConstantSparsity)
    is_shared = False

    def known_mask(self, mask: Mask) -> Mask | None:  # noqa: ARG002 - devices go on from it
        return None

    def device_schedule(self, schedule: Schedule) -> Schedule | None:
        return schedule


class MaskPolicy(StrEnum):
    """The chooser of the mask: the gateway for everybody, or each agent while it trains."""

    SHARED = "shared"
    OWN = "own"

    @property
    def rules(self) -> MaskRules:
        """All that follows from the policy.

        Example:
            >>> MaskPolicy("own").rules.known_mask({}) is None
            True
        """
        return _RULES[self]


_RULES: dict[MaskPolicy, MaskRules] = {MaskPolicy.SHARED: _SharedMask(), MaskPolicy.OWN: _OwnMasks()}
