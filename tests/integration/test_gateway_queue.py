"""A gateway serves federation after federation, and its devices stay."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprune.data import Dataset, save_npz
from fedprune.identity.audit import Client
from fedprune.wire.topics import Topics
from tests.brokers import MISSING
from tests.federations import NAME, Site
from tests.processes import FEDPRUNE, PATIENCE_S, Child, run, toml
from tests.regressions import regression_bundle
from tests.secured import SecuredGateway

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture
def gateway(tmp_path: Path) -> SecuredGateway:
    return SecuredGateway.made(tmp_path / "gateway")


def add(gateway: SecuredGateway, task: Path, rounds: int, **settings: Any) -> None:
    """Queue a federation of so many rounds with one device, by a federation.toml as people have them."""
    config = gateway.path.parent / "federation.toml"
    table = {"name": "another", "state": "elsewhere", "task": str(task), "broker": {"url": "mqtt://127.0.0.1:1"}}
    limits = {"count": rounds, "cohort": 1, "deadline_s": 300.0, "gather_s": 300.0}
    config.write_text(toml(table | {"rounds": limits} | settings))
    code, said = run("gateway", "queue", "add", "--dir", gateway.path, "--config", config)
    assert code == 0, said


def do(gateway: SecuredGateway, *arguments: str) -> tuple[int, str]:
    return run("gateway", "queue", *arguments, "--dir", gateway.path)


def listed(gateway: SecuredGateway) -> list[dict[str, Any]]:
    command = [*FEDPRUNE, "gateway", "queue", "list", "--json", "--dir", str(gateway.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_it_serves_one_federation_after_the_other_and_its_device_stays(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway
) -> None:
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    site.agent("pi-1")
    with gateway.broker(), gateway.endpoint() as served:
        code, said = run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "device", "--data", tmp_path / "pi-1.npz")
        assert code == 0, said
        config = tmp_path / "device" / "agent.toml"
        config.write_text(f'trainer = "litert"\n{config.read_text()}')
        add(gateway, tiny_task, 1)
        add(gateway, tiny_task, 10_000)
        add(gateway, tiny_task, 1, seed=7)
        with Child("agent", "--config", config) as agent:
            served.says("federation 1: done")
            served.says("federation 2, round", "stdout")
            assert do(gateway, "pause")[0] == 0
            served.says("federation 2 rests")
            assert [row["state"] for row in listed(gateway)] == ["done", "waiting", "waiting"]
            assert do(gateway, "resume")[0] == 0
            served.says("federation 2: tiny")
            served.says("federation 2, round", "stdout")
            assert do(gateway, "stop", "2")[0] == 0
            served.says("federation 2: stopped")
            served.says("federation 3, round 1/1", "stdout")
            served.says("federation 3: done")
            assert "lost" not in agent.stderr
    assert [row["state"] for row in listed(gateway)] == ["done", "stopped", "done"]
    assert (Path(listed(gateway)[2]["run"]) / "checkpoints").is_dir()
    assert do(gateway, "remove", "1")[0] == 0
    assert [row["number"] for row in listed(gateway)] == [2, 3]


def test_a_federation_that_rests_while_it_gathers_statistics_leaves_no_manifest(
    tmp_path: Path, gateway: SecuredGateway
) -> None:
    (tmp_path / "watts.fedtask").write_bytes(regression_bundle().blob)
    add(gateway, tmp_path / "watts.fedtask", 1)
    topics = Topics(NAME)
    with gateway.broker():
        with gateway.endpoint() as served:
            served.says("the task's statistics are gathered of the devices first")
            served.says("connected; waiting for 1 agents")
            assert do(gateway, "pause")[0] == 0
            served.says("federation 1 rests")
        with Client(gateway.client(), topics.aggregator_client) as who_comes:
            who_comes.subscribe(topics.round)
            heard = who_comes.until(b"so far", lambda: who_comes.publish(topics.round, b"so far"))
    assert not [delivery for delivery in heard if delivery.retained]


def test_a_federation_that_cannot_be_served_is_ended_and_the_next_one_begins(
    tiny_task: Path, gateway: SecuredGateway
) -> None:
    blank = Dataset(np.zeros((4, 5, 5, 1), np.float32), np.zeros(4, np.int64))
    save_npz(gateway.path.parent / "blank.npz", blank)
    add(gateway, tiny_task, 1, held_out="blank.npz")  # pictures of another size
    add(gateway, tiny_task, 1)
    with gateway.broker(), gateway.endpoint() as served:
        served.says("federation 1: failed: ")
        served.says("federation 2: tiny")
    first, second = listed(gateway)
    assert (first["state"], second["state"]) == ("failed", "current")
    assert "held-out.npz" in first["why"]


def test_the_queue_refuses_in_words_what_it_cannot_do(tiny_task: Path, gateway: SecuredGateway) -> None:
    assert do(gateway, "add") == (
        3,
        "fedprune: no task: name a bundle with --task, as `fedprune task build` makes them\n",
    )
    assert do(gateway, "stop", "1") == (3, "fedprune: no federation 1 here; see `fedprune gateway queue list`\n")
    assert do(gateway, "add", "--task", str(tiny_task))[0] == 0
    code, said = do(gateway, "remove", "1")
    assert (code, "federation 1 has not ended: fedprune gateway queue stop 1" in said) == (3, True)
    entry = gateway.path / "queue" / "0001" / "entry.json"
    entry.write_text(entry.read_text().replace('"format":1', '"format":2'))
    code, said = do(gateway, "list")
    assert (code, "format 2, this fedprune reads 1" in said) == (7, True)
