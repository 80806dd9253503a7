"""A gateway serves federation after federation, and its devices stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fedprune.data import Dataset, save_npz
from fedprune.identity.audit import Client
from fedprune.task.bundle import load_bundle, write_bundle
from fedprune.wire.topics import Topics
from tests.brokers import MISSING
from tests.federations import NAME, Site
from tests.processes import Child, ran, run, toml
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


def do(gateway: SecuredGateway, *arguments: str | Path) -> tuple[int, str]:
    return run("gateway", "queue", *arguments, "--dir", gateway.path)


def told(gateway: SecuredGateway, *arguments: str) -> str:
    """What a command that succeeds prints."""
    code, printed, said = ran("gateway", "queue", *arguments, "--dir", gateway.path)
    assert code == 0, said
    return printed


def listed(gateway: SecuredGateway) -> list[dict[str, Any]]:
    code, printed, said = ran("gateway", "queue", "list", "--json", "--dir", gateway.path)
    assert code == 0, said
    found: list[dict[str, Any]] = json.loads(printed)
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
            assert told(gateway, "pause") == "paused; `fedprune gateway queue resume` goes on\n"
            served.says("federation 2 rests")
            assert [row["state"] for row in listed(gateway)] == ["done", "waiting", "waiting"]
            assert told(gateway, "resume") == "resumed, with federation 2\n"
            served.says("federation 2: tiny")
            served.says("federation 2, round", "stdout")
            assert told(gateway, "stop", "2").startswith("federation 2 is to stop")
            served.says("federation 2: stopped")
            served.says("federation 3, round 1/1", "stdout")
            served.says("federation 3: done")
            assert "lost" not in agent.stderr
    assert [row["state"] for row in listed(gateway)] == ["done", "stopped", "done"]
    assert (Path(listed(gateway)[2]["run"]) / "checkpoints").is_dir()
    assert told(gateway, "remove", "1") == "federation 1 is deleted\n"
    assert told(gateway, "resume") == "resumed; no federation waits\n"
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


def test_a_federation_that_fails_leaves_no_manifest_and_its_device_knows_that_none_runs(
    tmp_path: Path, tiny_task: Path, gateway: SecuredGateway
) -> None:
    site = Site(tmp_path, f"mqtts://127.0.0.1:{gateway.broker_port}", tiny_task)
    site.agent("pi-1")
    with np.load(tmp_path / "pi-1.npz") as examples:
        useless = {**examples, "y": np.full_like(examples["y"], 99)}  # no such class
    np.savez(tmp_path / "pi-1.npz", **useless)
    with gateway.broker(), gateway.endpoint() as served:
        run("join", gateway.enrol("pi-1"), "--dir", tmp_path / "device", "--data", tmp_path / "pi-1.npz")
        config = tmp_path / "device" / "agent.toml"
        config.write_text(f'trainer = "litert"\n{config.read_text()}')
        add(gateway, tiny_task, 1)
        with Child("agent", "--config", config):
            served.says("federation 1: failed")
            served.says("no federation is waiting")
            _, found, _ = ran("doctor", config)

    assert "no federation runs now, whose answer to pi-1 would prove it" in found


def test_what_can_never_be_served_is_refused_when_it_is_added(tiny_task: Path, gateway: SecuredGateway) -> None:
    blank = Dataset(np.zeros((4, 5, 5, 1), np.float32), np.zeros(4, np.int64))
    save_npz(gateway.path.parent / "blank.npz", blank)
    table = {"task": str(tiny_task), "held_out": "blank.npz"}  # pictures of another size
    (gateway.path.parent / "blank.toml").write_text(toml(table))
    (gateway.path.parent / "endless.toml").write_text(toml({"task": str(tiny_task), "rounds": {"count": 1_000_000}}))
    code, said = do(gateway, "add", "--config", gateway.path.parent / "blank.toml")
    assert (code, "blank.npz" in said, said.count("\n")) == (4, True, 1)
    steps = load_bundle(tiny_task).task.training.clock_steps_per_round
    changed = msgspec.structs.replace(load_bundle(tiny_task).task.training, steps_per_round=3000 * steps)
    long = msgspec.structs.replace(load_bundle(tiny_task).task, training=changed)
    (gateway.path.parent / "long.fedtask").write_bytes(
        write_bundle(long, network=load_bundle(tiny_task).network, weights=None)
    )
    code, said = do(
        gateway,
        *("add", "--task", gateway.path.parent / "long.fedtask"),
        *("--config", gateway.path.parent / "endless.toml"),
    )
    assert (code, "steps; at most 2147483647 can be counted: lower rounds.count" in said) == (3, True)
    assert listed(gateway) == []


def test_a_federation_that_cannot_be_served_is_ended_and_the_next_one_begins(
    tiny_task: Path, gateway: SecuredGateway
) -> None:
    for _ in range(4):
        add(gateway, tiny_task, 1)
    queue = gateway.path / "queue"
    (queue / "0001" / "task.fedtask").write_bytes(b"damaged")
    (queue / "0002" / "run").write_bytes(b"no directory")
    (queue / "0003" / "entry.json").write_bytes(b"damaged")
    with gateway.broker(), gateway.endpoint() as served:
        served.says("federation 3 is passed over: ")
        served.says("federation 1: failed: ")
        served.says("federation 2: failed: ")
        served.says("federation 4: tiny")
    rows = listed(gateway)
    assert [row["state"] for row in rows] == ["failed", "failed", "unreadable", "current"]
    assert ["task.fedtask" in rows[0]["why"], "a file is where" in rows[1]["why"], "entry.json" in rows[2]["why"]] == [
        True,
        True,
        True,
    ]


def test_one_can_be_stopped_while_the_queue_is_paused(tiny_task: Path, gateway: SecuredGateway) -> None:
    for _ in range(2):
        add(gateway, tiny_task, 1)
    assert do(gateway, "pause")[0] == 0
    with gateway.endpoint() as served:
        served.says("paused")
        assert do(gateway, "stop", "2")[0] == 0
        served.says("federation 2: stopped")
    assert [row["state"] for row in listed(gateway)] == ["waiting", "stopped"]


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
    (row,) = listed(gateway)
    assert (row["state"], "format 2, this fedprune reads 1" in row["why"]) == ("unreadable", True)
    code, said = do(gateway, "stop", "1")
    assert (code, "format 2, this fedprune reads 1" in said) == (7, True)
