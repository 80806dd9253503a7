"""sub-gateway.toml: a gateway to its agents, and an agent to its parent. What is learned is the parent's to say."""

from __future__ import annotations

from typing import Annotated

import msgspec

from aggregator.settings import Cohorts
from fedprune.wire.broker import Broker

FILE = "sub-gateway.toml"
"""Its name in the directory of a gateway that has joined a parent."""


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[parent]`` table: the gateway above, at `broker`, and what this one is in its `federation`.

    Where it has joined the parent's gateway, `authentication_key`, `root_key` and `gateway` are the files that
    `fedprune gateway join` wrote, as in agent.toml.
    """

    name: str
    federation: str = "fedprune"
    authentication_key: str | None = None
    root_key: str | None = None
    gateway: str | None = None
    broker: Broker = Broker()


class SubGatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Paths are relative to it. `name` is that of the federation which its agents take part in, at
    `broker`; the other keys are as in federation.toml."""

    name: str
    state: str
    parent: Parent
    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    gateway: str | None = None
    broker: Broker = Broker()
    rounds: Cohorts = Cohorts()
