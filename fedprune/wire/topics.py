"""The MQTT topics of a federation: five slashes at most, ids of ``[A-Za-z0-9_-]{1,64}``.

::

    fp/<federation>/r                        retained manifest: the round
    fp/<federation>/c/<digest>               broadcast chunks of a content
    fp/<federation>/u/<shard>/<agent>/<k>    agent to aggregator, up
    fp/<federation>/d/<agent>/<k>            aggregator to agent, down
    fp/<federation>/s/<agent>                retained presence: the status, with last will

A topic travels with every message, and MQTT 3.1.1 has no aliases: so each level but the names is one letter, that of
a message's kind too.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from fedprune.errors import ConfigurationError, ProtocolError

SHARDS = 64
_LETTERS = {
    "check-in": "c",
    "need": "n",
    "begun": "b",
    "submit": "s",
    "chunk": "k",
    "failed": "f",
    "assignment": "a",
    "accepted": "y",
    "rejected": "r",
}
"""The last level of a topic, by the kind of the messages that travel there."""

_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

MOST_NAMES = 200_000
"""Names of agents that are one string each. Some versions of Python never let go of what they intern, and names may be
strangers'."""

_names: dict[str, str] = {}


def check_id(value: str, what: str) -> str:
    """`value`, if it can name a federation or an agent. Raises `ConfigurationError` otherwise."""
    if not _ID.fullmatch(value):
        raise ConfigurationError(f"{what} {value!r}: use 1 to 64 letters, digits, '_' or '-'")
    return value


def _one_string(agent: str) -> str:
    """The string that an agent's name was before: many maps are by name, and share it."""
    if len(_names) >= MOST_NAMES:
        _names.clear()
    return _names.setdefault(agent, agent)


def shard_of(agent: str) -> int:
    """The shard of an agent, so that several workers can share a fleet: crc32(agent) % 64."""
    return zlib.crc32(agent.encode()) % SHARDS


@dataclass(frozen=True)
class Topics:
    """The topics of one federation."""

    federation: str

    @property
    def round(self) -> str:
        return f"{self._root}/r"

    @property
    def everything(self) -> str:
        return f"{self._root}/#"

    def content(self, digest: bytes) -> str:
        return f"{self._root}/c/{digest.hex()}"

    @property
    def all_content(self) -> str:
        return f"{self._root}/c/#"

    def up(self, agent: str, kind: str) -> str:
        """The topic of what an agent says, by the message's kind; so is `down`. Another word stands for itself."""
        return f"{self._root}/u/{shard_of(agent)}/{agent}/{_LETTERS.get(kind, kind)}"

    @property
    def all_up(self) -> str:
        return f"{self._root}/u/#"

    def all_up_of(self, agent: str) -> str:
        return f"{self._root}/u/{shard_of(agent)}/{agent}/+"

    def author(self, topic: str) -> str:
        """The agent whom alone an access list lets publish there, in whatever shard; empty for a topic of nobody's."""
        levels = topic.split("/")
        if levels[:2] != ["fp", self.federation]:
            return ""
        match levels[2:]:
            case ["u", _, agent, _] | ["s", agent]:
                return _one_string(agent) if _ID.fullmatch(agent) else ""
        return ""

    def down(self, agent: str, kind: str) -> str:
        return f"{self._root}/d/{agent}/{_LETTERS.get(kind, kind)}"

    @property
    def all_down(self) -> str:
        return f"{self._root}/d/#"

    def all_down_to(self, agent: str) -> str:
        return f"{self._root}/d/{agent}/#"

    def status(self, agent: str) -> str:
        return f"{self._root}/s/{agent}"

    @property
    def all_status(self) -> str:
        return f"{self._root}/s/+"

    def agent_client(self, agent: str) -> str:
        """The id under which an agent connects. No two clients that are not the same have the same: ids hold no '/'."""
        return f"fedprune/{self.federation}/agent/{agent}"

    @property
    def aggregator_client(self) -> str:
        return f"fedprune/{self.federation}/aggregator"

    def parse_up(self, topic: str) -> tuple[str, str]:
        """(agent, kind) of an uplink topic. Raises `ProtocolError` for any other topic, a wrong shard, or a kind
        there is not."""
        levels = topic.split("/")
        if len(levels) != 6 or levels[:3] != ["fp", self.federation, "u"] or not _ID.fullmatch(levels[4]):
            raise ProtocolError(f"topic {topic[:100]!r} is none of ours")
        _, _, _, shard, agent, letter = levels
        if shard != str(shard_of(agent)):
            raise ProtocolError(f"topic {topic[:100]!r}: {agent} belongs to shard {shard_of(agent)}")
        return _one_string(agent), self._kind(letter, topic)

    def parse_down(self, topic: str, agent: str) -> str:
        """The kind of a message to that agent, empty if it is none. Raises `ProtocolError` for a kind there is not."""
        level, _, letter = topic.rpartition("/")
        return self._kind(letter, topic) if level == f"{self._root}/d/{agent}" else ""

    @property
    def _root(self) -> str:
        return f"fp/{self.federation}"

    @staticmethod
    def _kind(letter: str, topic: str) -> str:
        kind = _KINDS.get(letter)
        if kind is None:
            raise ProtocolError(f"topic {topic[:100]!r} is of an unknown kind")
        return kind
