"""A federation whose agents and gateway now and then forget what agents have sent."""

from __future__ import annotations

from typing import Any

from aggregator.book import Book
from edge_agent.agent_state import Train
from edge_agent.held_model import Held
from edge_agent.local_round import LocalResult
from edge_agent.store import AgentStore
from fedprune.pruning.policy import MaskPolicy
from tests.simulation.faults import Rates
from tests.simulation.world import World

CODEC = "mask | feedback(10) | topk(0.3) | ternary | history"

_FORGETS = 0.15
_FORGETS_EACH_S = 60.0


class ForgetfulWorld(World):
    """An agent's disk loses what it remembers of an update, or a gateway's book is restored that knows less."""

    def __init__(self, seed: int, **settings: Any) -> None:
        super().__init__(seed, MaskPolicy.SHARED, Rates(), CODEC, **settings)

    def run(self, *, give_up: float = 200_000.0) -> None:
        self.physics.after(_FORGETS_EACH_S, self._forget)
        super().run(give_up=give_up)

    def _forget(self) -> None:
        """The gateway forgets some agents, if it has not accepted by what it remembers of them."""
        self.physics.after(_FORGETS_EACH_S, self._forget)
        if not self.physics.happens(_FORGETS):
            return
        book = Book(self.connection)
        open_round = book.next_round()
        agents = [row[0] for row in self.connection.execute("SELECT DISTINCT agent FROM remembered ORDER BY agent")]
        for agent in agents:
            if agent not in book.accepted(open_round) and self.physics.happens(0.5):
                self.connection.execute("DELETE FROM remembered WHERE agent = ?", (agent,))
                self.connection.commit()
                self.physics.note(f"the gateway forgets what {agent} has sent")

    def _train(self, name: str, action: Train, held: Held, store: AgentStore) -> LocalResult:
        disk = self._agent_disks[name]
        for blob in [blob for blob in disk if blob.endswith(".signs")]:
            if self.physics.happens(_FORGETS):
                self.physics.note(f"{name} forgets what it has sent")
                disk[blob] = b"damaged"
        return super()._train(name, action, held, store)
