"""agent.toml: what one device is called, has, and may do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from edge_agent.consent import Consent
from edge_agent.guest import Guest
from edge_agent.trainers.choice import TrainerChoice
from fedprune.config import from_table, load_toml, read_table
from fedprune.errors import ConfigurationError
from fedprune.wire.broker import Broker

_JOINED = "joined"
"""A key of the file alone: another agent.toml, as `fedprune join` writes it."""


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it. `name` is the agent's id in its federation.

    `data` is where this device's examples are; what they look like is the task's to say.
    `personal_model` is the .tflite file to which this device's own model goes after each training.
    `authentication_key` is a file that `fedprune join` writes: the key that the device shares with the aggregator. So
    are `root_key`, the public half of the key that says who signs manifests, and `gateway`: where the device's
    certificate is renewed.
    """

    name: str
    data: str
    federation: str = "fedprune"
    state: str = "agent-state"
    trainer: TrainerChoice = "auto"
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    authentication_key: str | None = None
    root_key: str | None = None
    personal_model: str | None = None
    gateway: str | None = None
    guest: Guest = Guest()
    consent: Consent = Consent()
    broker: Broker = Broker()


def load_settings(path: Path) -> AgentSettings:
    """Read an agent.toml, and what it has from another. Raises `ConfigurationError`."""
    return from_table(settings_table(path), AgentSettings, str(path))


def settings_table(path: Path) -> dict[str, Any]:
    """An agent.toml's table. What it does not say it has from the file that it names as `joined`, if it does.

    So a file that a person keeps, and a package brings, stays apart from what joining a gateway writes.
    Raises `ConfigurationError` if one of the two cannot be used.
    """
    table = read_table(path)
    if _JOINED not in table:
        return table
    named = table.pop(_JOINED)
    if not isinstance(named, str):
        raise ConfigurationError(f"{path}: {_JOINED}: expected the name of a file, in quotes")
    joined = path.parent / named
    if not joined.exists():
        raise ConfigurationError(f"{path}: {joined} is not there: this device has yet to join: `fedprune join TOKEN`")
    return _from_here(load_toml(joined, AgentSettings), joined.parent) | table


def _from_here(settings: AgentSettings, base: Path) -> dict[str, Any]:
    """The settings as a table, with paths that are relative to `base` made whole."""
    table: dict[str, Any] = msgspec.to_builtins(settings)
    for key in ("data", "state", "authentication_key", "root_key", "gateway"):
        if table[key] is not None:
            table[key] = str((base / table[key]).resolve())
    return table | {"broker": msgspec.to_builtins(settings.broker.relative_to(base.resolve()))}
