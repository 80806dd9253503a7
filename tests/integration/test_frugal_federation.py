"""A federation of real processes whose models travel as deltas, in which an agent is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.presets import chains
from edge_agent.held_model import HeldModel
from fedprune.codecs import parse_model_codec
from fedprune.model.tensors import weights_digest
from fedprune.system.disk import Directory
from fedprune.task.bundle import load_bundle
from fedprune.task.checkpoints import load_checkpoint
from tests.brokers import MISSING, Mosquitto
from tests.federations import ROUNDS, Site
from tests.processes import Child

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_models_travel_as_deltas_and_an_agent_that_is_killed_goes_on_from_what_it_holds(
    tmp_path: Path, mosquitto: Mosquitto, tiny_task: Path
) -> None:
    site = Site(tmp_path, mosquitto.url, tiny_task)
    federation = site.federation("run", codec={"preset": "frugal"})
    with (
        Child("agent", "--config", site.agent("pi-1")),
        Child("agent", "--config", site.agent("pi-2")) as second,
        Child("aggregator", federation, "--json") as aggregator,
    ):
        records = [aggregator.reports() for _ in range(3)]
        second.kill()
        with Child("agent", "--config", site.agent("pi-2")):
            records += [aggregator.reports() for _ in range(ROUNDS - 3)]
            assert aggregator.ends() == 0

    checkpoints = Directory(tmp_path / "run" / "checkpoints")
    newest = load_checkpoint(checkpoints, ROUNDS - 1)
    whole = sum(kept.sum() for kept in newest.mask.values()) * 2
    for record in records[1:]:
        assert 0 < record["bytes_down_by_kind"]["model"] < whole / 4
        assert "task" not in record["bytes_down_by_kind"]
        assert record["bytes_up_by_kind"]["update"] < whole / 4
        assert record["led_astray"] == 0
    control = [record["bytes_up_by_kind"]["control"] + record["bytes_down_by_kind"]["control"] for record in records]
    assert min(control[1:]) / 2 <= 150, "of each agent, where nobody has to ask twice"
    assert min(record["messages_up"] + record["messages_down"] for record in records[1:]) / 2 <= 5
    table = load_bundle(tiny_task).task.table
    codec = parse_model_codec(f"fp16 + {chains(table.parameters)[1]}")
    for name in ("pi-1", "pi-2"):
        held = HeldModel(Directory(tmp_path / f"state-of-{name}"))
        assert held.version == (newest.run, ROUNDS - 1)
        found = held.read(newest.run)
        assert found is not None
        weights, mask, sent = codec.decode(found[1], table)
        assert weights_digest(weights) == weights_digest(newest.weights)
        assert all((mask[tensor] == kept).all() for tensor, kept in newest.mask.items())
        assert sent == newest.sent
