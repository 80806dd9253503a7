"""What passes between the agent's state machine and its memory where the gateway remembers another history."""

from __future__ import annotations

from dataclasses import dataclass

from fedprune.wire.messages import Submit


@dataclass(frozen=True)
class SendShared:
    """The gateway remembers another history than the pending update is coded by: take it as it is coded without, and
    forget the history, in one durable step. `SharedTaken` follows, unless it is coded so already."""


@dataclass(frozen=True)
class SharedTaken:
    """The pending update is the one that `submit` describes from now on, which is coded without a history."""

    submit: Submit
