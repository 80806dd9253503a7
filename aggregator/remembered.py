"""The signs of agents' last accepted updates, in the book: what their next ones are coded by
(`fedprune.codecs.history`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType

from fedprune.codecs.history import MOST_UPDATES

NO_SIGNS: Mapping[str, bytes] = MappingProxyType({})

RECALL = "SELECT signs FROM remembered WHERE agent = ? AND round < ? ORDER BY round DESC LIMIT ?"
"""Those of an agent, of the rounds before one, the newest first."""

_FORGET = """
DELETE FROM remembered WHERE (agent, round) IN (
    SELECT agent, (
        SELECT round FROM remembered AS each WHERE each.agent = updates.agent AND each.round <= updates.round
        ORDER BY round DESC LIMIT 1 OFFSET ?
    ) FROM updates WHERE round = ?
)
"""


def remember(connection: sqlite3.Connection, round_: int, signs: Mapping[str, bytes]) -> None:
    """Remember agents' updates of a round."""
    rows = [(agent, round_, each) for agent, each in signs.items()]
    connection.executemany("INSERT INTO remembered VALUES (?, ?, ?)", rows)


def forget(connection: sqlite3.Connection, round_: int) -> None:
    """Forget the update that is one too many of each agent of a round, whose updates nobody reads any more."""
    connection.execute(_FORGET, (MOST_UPDATES, round_))
