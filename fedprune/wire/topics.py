"""The MQTT topics of a federation: five slashes at most, ids of ``[A-Za-z0-9_-]{1,64}``.

::

    fedprune/<federation>/round                        retained manifest
    fedprune/<federation>/content/<digest>             broadcast chunks of a content
    fedprune/<federation>/up/<shard>/<agent>/<kind>    agent to aggregator
    fedprune/<federation>/down/<agent>/<kind>          aggregator to agent
    fedprune/<federation>/status/<agent>               retained presence, with last will
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from fedprune.errors import ConfigurationError, ProtocolError

SHARDS = 64
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_id(value: str, what: str) -> str:
    """`value`, if it can name a federation or an agent. Raises `ConfigurationError` otherwise."""
    if not _ID.fullmatch(value):
        raise ConfigurationError(f"{what} {value!r}: use 1 to 64 letters, digits, '_' or '-'")
    return value


def shard_of(agent: str) -> int:
    """The shard of an agent, so that several workers can share a fleet: crc32(agent) % 64."""
    return zlib.crc32(agent.encode()) % SHARDS


@dataclass(frozen=True)
class Topics:
    """The topics of one federation."""

    federation: str

    @property
    def round(self) -> str:
        return f"fedprune/{self.federation}/round"

    def content(self, digest: bytes) -> str:
        return f"fedprune/{self.federation}/content/{digest.hex()}"

    @property
    def all_content(self) -> str:
        return f"fedprune/{self.federation}/content/#"

    def up(self, agent: str, kind: str) -> str:
        return f"fedprune/{self.federation}/up/{shard_of(agent)}/{agent}/{kind}"

    @property
    def all_up(self) -> str:
        return f"fedprune/{self.federation}/up/#"

    def down(self, agent: str, kind: str) -> str:
        return f"fedprune/{self.federation}/down/{agent}/{kind}"

    @property
    def all_down(self) -> str:
        return f"fedprune/{self.federation}/down/#"

    def status(self, agent: str) -> str:
        return f"fedprune/{self.federation}/status/{agent}"

    @property
    def all_status(self) -> str:
        return f"fedprune/{self.federation}/status/+"

    def agent_client(self, agent: str) -> str:
        """The id under which an agent connects. No two clients that are not the same have the same: ids hold no '/'."""
        return f"fedprune/{self.federation}/agent/{agent}"

    @property
    def aggregator_client(self) -> str:
        return f"fedprune/{self.federation}/aggregator"

    def parse_up(self, topic: str) -> tuple[str, str]:
        """(agent, kind) of an uplink topic. Raises `ProtocolError` for any other topic or a wrong shard."""
        levels = topic.split("/")
        if len(levels) != 6 or levels[:3] != ["fedprune", self.federation, "up"] or not _ID.fullmatch(levels[4]):
            raise ProtocolError(f"topic {topic[:100]!r} is none of ours")
        _, _, _, shard, agent, kind = levels
        if shard != str(shard_of(agent)):
            raise ProtocolError(f"topic {topic[:100]!r}: {agent} belongs to shard {shard_of(agent)}")
        return agent, kind
