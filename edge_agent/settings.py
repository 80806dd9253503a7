"""agent.toml: what one device is called, has, and may do."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edge_agent.guest import Guest
from edge_agent.trainers.choice import TrainerChoice
from fedprune.wire.broker import Broker


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it. `name` is the agent's id in its federation.

    `data` is where this device's examples are; what they look like is the task's to say.
    `personal_model` is the .tflite file to which this device's own model goes after each training.
    `authentication_key` is a file that `fedprune join` writes: the key that the device shares with the aggregator. So
    is `gateway`: where the device's certificate is renewed.
    """

    name: str
    data: str
    federation: str = "fedprune"
    state: str = "agent-state"
    trainer: TrainerChoice = "auto"
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    authentication_key: str | None = None
    personal_model: str | None = None
    gateway: str | None = None
    guest: Guest = Guest()
    broker: Broker = Broker()
