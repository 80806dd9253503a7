"""Consent in the vocabulary of the agent's state machine: two events, and what it remembers of a refusal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConsentRefused:
    """The device's owner does not consent to training `number`, for the reason `why`, which is for him alone.

    `of_task`: it is the task that is refused, and its later rounds with it; else it is what this round moves.
    """

    number: int
    why: str
    of_task: bool


@dataclass(frozen=True)
class ConsentChanged:
    """The owner approved a task, or took approvals back: those of the digests (hex) `withdrawn`."""

    withdrawn: frozenset[str]


@dataclass(frozen=True)
class ConsentRefusal:
    """The owner's refusal, to the gateway of that run and incarnation, of the task with this digest; None if it is what
    a round moves that was refused. `why` is for the owner alone."""

    run: str
    incarnation: int
    task: bytes | None
    why: str
