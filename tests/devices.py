"""An agent's shell on a recorded link, with a real store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_agent.agent_state import Limits, Train
from edge_agent.gateway_proof import GatewayProof
from edge_agent.local_round import LocalResult, PreparedUpdate
from edge_agent.runner import AgentRunner
from edge_agent.store import AgentStore
from fedprune.system.disk import Directory
from fedprune.wire.link import Delivery
from fedprune.wire.messages import UPLINK, Message, decode, encode, kind_of
from fedprune.wire.topics import Topics
from tests.drivers import CHECK_IN, LIMITS
from tests.recorder import Recorder
from tests.samples import UPDATE_BLOB, submit

TOPICS = Topics("tests")


class Device:
    """An agent with a real store on a recorded link."""

    def __init__(
        self, path: Path, key: bytes | None = None, limits: Limits = LIMITS, proof: GatewayProof | None = None
    ) -> None:
        self.store = AgentStore(Directory(path), "pi-1", "tests")
        self.link = Recorder()
        self.trains: list[Train | None] = []
        """Those that were begun; None where they were stopped."""
        self.runner = AgentRunner(
            "pi-1",
            CHECK_IN,
            limits,
            TOPICS,
            self.link,
            self.store,
            train=self.trains.append,
            stop_training=lambda: self.trains.append(None),
            key=key,
            proof=proof,
        )
        self.runner.connect(0.0)

    def hears(self, *messages: Message) -> None:
        for message in messages:
            self.runner.deliver(Delivery(TOPICS.down("pi-1", kind_of(message)), encode(message)), 0.0)

    def said(self, kind: type[Message]) -> list[Message]:
        names = {message: name for name, message in UPLINK.items()}
        return [decode(kind, payload) for payload in self.link.on(TOPICS.up("pi-1", names[kind]))]

    def ends_training(self, result: LocalResult | Exception | None = None, number: int = 1) -> None:
        self.runner.end_training(number, result or trained(), 40.0)


def trained() -> LocalResult:
    owed = {"kernel": np.zeros(3, np.float32)}
    return LocalResult(submit(), PreparedUpdate(UPDATE_BLOB, owed, owed), None)
