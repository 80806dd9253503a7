"""An agent's store that notes what the agent learns of its updates."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.agent_state import Outcome
from edge_agent.store import AgentStore
from fedprune.wire.messages import Submit
from tests.simulation.faults import SimulatedDisk


@dataclass(frozen=True)
class Settled:
    """An agent learned what became of its update."""

    agent: str
    run: str
    round: int
    digest: bytes
    outcome: Outcome


class WitnessedStore(AgentStore):
    """Notes what the agent learns of its updates."""

    def __init__(self, disk: SimulatedDisk, agent: str, settled: list[Settled]) -> None:
        super().__init__(disk, agent, "sim")
        self.physics = disk.process.physics
        self.agent, self._settled = agent, settled

    def send_shared(self) -> Submit | None:
        submit = super().send_shared()
        if submit is not None:
            self.physics.note(f"{self.agent} sends its update without its history")
        return submit

    def settle(self, outcome: Outcome) -> None:
        assert self.pending is not None
        pending = self.pending
        self._settled.append(Settled(self.agent, pending.run, pending.round, pending.update.digest, outcome))
        super().settle(outcome)
