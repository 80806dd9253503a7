"""Federations whose devices have joined a gateway: what is signed comes through whatever is lost, and nothing else."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from aggregator import round_uploads, update_exchange
from aggregator.book import Book
from aggregator.round_state import Plan
from edge_agent import agent_submitting
from edge_agent.gateway_proof import GatewayProof
from edge_agent.store import AgentStore
from fedprune.codecs import DEFAULT_CODEC
from fedprune.identity.device_keys import DeviceKeys
from fedprune.identity.gateway import Gateway, init_gateway
from fedprune.identity.manifest_signer import ManifestSigner
from fedprune.identity.settings import GatewaySettings
from fedprune.model.tensors import weights_digest
from fedprune.pruning.policy import MaskPolicy
from fedprune.task.checkpoints import load_checkpoint
from fedprune.wire import serving, transfer
from tests.simulation.faults import CALM, Process, Rates, SimulatedDisk
from tests.simulation.intruder import Mischief, Trick
from tests.simulation.test_intruders import mischiefs, unleash
from tests.simulation.witnessed_store import WitnessedStore
from tests.simulation.world import AGENTS, COHORT, ROUNDS, World

SEEDS = 20
MODEL_CODEC = "fp16 + mask | topk(0.2) | ternary | rice"


class JoinedWorld(World):
    """Its devices have keys of a gateway's directory, and its aggregator signs."""

    def __init__(self, gateway: Gateway, seed: int, rates: Rates, **options: Any) -> None:
        super().__init__(seed, MaskPolicy.SHARED, rates, DEFAULT_CODEC, **options)
        self.gateway = gateway
        self.keys = DeviceKeys(gateway.path)

    def _plan(self, run: str, incarnation: int) -> Plan:
        signer = ManifestSigner(self.gateway.path, "sim")
        return replace(super()._plan(run, incarnation), incarnation=signer.count_start(), statement=signer.statement)

    def _gateway_keys(self) -> dict[str, Any]:
        return {"keys": self.keys, "signer": ManifestSigner(self.gateway.path, "sim")}

    def _device_keys(self, store: AgentStore, disk: SimulatedDisk) -> dict[str, Any]:
        assert isinstance(store, WitnessedStore)
        proof = GatewayProof("sim", self.gateway.root, disk, store.done)
        return {"key": self.keys.get(store.agent), "proof": proof}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway that all simulated devices have joined."""
    path: Path = tmp_path_factory.mktemp("joined") / "gateway"
    made = init_gateway(path, GatewaySettings(("127.0.0.1",), federation="sim"), datetime.now(UTC))
    now = int(time.time())
    for number in range(AGENTS):
        secret = secrets.token_bytes(12)
        made.devices.invite(f"agent-{number}", secret, now + 60)
        made.devices.redeem(secret, b"", "here", now, lambda _, number=number: (b"", number))  # type: ignore[misc]
    return made


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (transfer, serving, round_uploads, agent_submitting):
            patch.setattr(module, "CHUNK_SIZES", (640, 80, 10))
        for sender in (agent_submitting, update_exchange):
            patch.setattr(sender, "MAX_INLINE_BYTES", 400)
        yield


def digests(world: World) -> list[str]:
    """Of the models of all rounds that were merged."""
    disk = SimulatedDisk(world.checkpoints, Process("reader", world.physics))
    versions = range(Book(world.connection).next_round() + 1)
    return [weights_digest(load_checkpoint(disk, version).weights) for version in versions]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_round_ends_though_messages_are_lost_and_all_is_started_again(gateway: Gateway, seed: int) -> None:
    rates = replace(Rates(), spoiled=0.0, huge=0.0)
    world = JoinedWorld(gateway, seed, rates, model_codec=MODEL_CODEC if seed % 2 else "fp16")

    world.run()

    assert [record.round for record in Book(world.connection).records()] == list(range(ROUNDS))


def all_together(gateway: Gateway) -> World:
    return JoinedWorld(gateway, 1, CALM, agents=COHORT, quorum=COHORT)


def test_an_intruder_without_keys_steers_nobody(gateway: Gateway) -> None:
    """He may publish anything anywhere, and old messages too: each model that is merged is the one without him."""
    undisturbed = all_together(gateway)
    undisturbed.run()
    expected, ended = digests(undisturbed), []

    @settings(deadline=None, max_examples=30)
    @given(mischiefs(*Trick))
    def intrude(drawn: list[tuple[float, Mischief]]) -> None:
        world = all_together(gateway)
        unleash(world, drawn)
        world.run(give_up=5000.0)
        merged = digests(world)
        assert merged == expected[: len(merged)]
        ended.append(world.done)

    intrude()
    assert any(ended), "old messages of agents may stop a round, but not all of them did"
