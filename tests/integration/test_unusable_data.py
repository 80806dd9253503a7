"""Data that cannot be used, do not fit the model or diverge: one clear line for a person, on both sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.brokers import MISSING
from tests.federations import Site, examples
from tests.processes import Child
from tests.refusals import DATA, TRAINING, line_of, refusal

needs_mosquitto = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def _npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 12, 12, 1)), "y": np.zeros(2, int)}, "no array 'x'"),
        ({"x": np.zeros((2, 12, 12, 1))}, "no array 'y'"),
        ({"x": np.zeros((2, 12, 12, 1)), "y": np.zeros(3, int)}, "x has 2 examples and y has 3 labels"),
        ({"x": np.zeros((2, 12, 12, 1)), "y": np.array(1)}, "y has shape (); it must be [examples, ...]"),
        ({"x": np.zeros(2), "y": np.zeros(2, int)}, "it must be [examples, ...]"),
        ({"x": np.full((2, 4), np.nan), "y": np.zeros(2, int)}, "2 examples of x hold NaN"),
        ({"x": np.zeros((0, 12, 12, 1)), "y": np.zeros(0, int)}, "it is empty"),
        ({"x": np.zeros((2, 4)), "y": np.array([0, -1])}, "label -1 in y is out of range"),
        ({"x": np.zeros((2, 4)), "y": np.array([0.5, np.nan])}, "1 examples of y hold NaN"),
        ({"x": np.zeros((2, 4)), "y": np.array(["cat", "dog"])}, "save class numbers as int64"),
        ({"x": np.array(["a", "b"], object).reshape(2, 1), "y": np.zeros(2, int)}, "x is object"),
    ],
)
def test_data_that_cannot_be_used(nowhere: Site, arrays: dict[str, Any], said: str) -> None:
    config = nowhere.agent("pi-1")
    _npz(nowhere.path / "pi-1.npz", **arrays)

    line = refusal(DATA, "agent", "--config", config)

    assert line.startswith(f"{nowhere.path / 'pi-1.npz'}: ")
    assert said in line


@pytest.mark.parametrize("damage", [None, b"", b"noise", b"PK\x03\x04 and no more"])
def test_data_files_that_are_none(nowhere: Site, damage: bytes | None) -> None:
    config = nowhere.agent("pi-1")
    path = nowhere.path / "pi-1.npz"
    path.unlink() if damage is None else path.write_bytes(damage)

    assert refusal(DATA, "agent", "--config", config).startswith(f"{path}: ")


def _misfits() -> list[tuple[dict[str, Any], str]]:
    good = examples(6, 1)
    return [
        ({"x": good.x, "y": good.y + 5}, "label 7 is out of range: the task's model has 3 classes, 0 to 2"),
        ({"x": good.x, "y": np.eye(3)[good.y]}, "y does not hold class numbers, integers [examples], "),
        ({"x": good.x[:, :10], "y": good.y}, "an example of x is 10x12x1, the task's model takes 12x12x1"),
    ]


@pytest.mark.parametrize(("arrays", "said"), _misfits(), ids=["labels", "one-hot", "shape"])
def test_held_out_data_that_do_not_fit_the_model(nowhere: Site, arrays: dict[str, Any], said: str) -> None:
    config = nowhere.federation("run")
    _npz(nowhere.path / "held-out.npz", **arrays)

    assert said in refusal(DATA, "aggregator", config)
    assert not (nowhere.path / "run").exists()


@needs_mosquitto
@pytest.mark.parametrize(("arrays", "said"), _misfits(), ids=["labels", "one-hot", "shape"])
def test_an_agents_data_that_do_not_fit_the_model(site: Site, arrays: dict[str, Any], said: str) -> None:
    """A person reads the reason on both sides; the agent stays, for a federation that its data fit."""
    federation = site.federation("run", rounds={"cohort": 1, "count": 1, "deadline_s": 1.0})
    config = site.agent("pi-1")
    _npz(site.path / "pi-1.npz", **arrays)
    with Child("aggregator", federation) as aggregator, Child("agent", "--config", config) as agent:
        assert said in agent.says("cannot train: ")
        assert said in aggregator.says("pi-1 cannot do round 1: ")
        assert aggregator.ends() == TRAINING
        assert "1 agents failed and none succeeded" in line_of(aggregator.stderr)
        agent.interrupt()
        assert agent.ends() == 130
        assert "Traceback" not in agent.stderr


@needs_mosquitto
def test_an_agent_fails_with_the_name_of_a_file_whatever_bytes_are_in_it(site: Site) -> None:
    """Messages hold text. A file's name need not be text."""
    federation = site.federation("run", rounds={"cohort": 1, "count": 1, "deadline_s": 1.0})
    data = site.path / os.fsdecode(b"caf\xe9.npz")
    config = site.agent("pi-1")
    (site.path / "pi-1.npz").rename(data)
    with Child("agent", "--config", config, "--data", data) as agent:
        agent.says("connected")
        data.write_bytes(b"noise")
        with Child("aggregator", federation) as aggregator:
            assert r"xe9.npz: not a readable .npz" in aggregator.says("pi-1 cannot do round 1: ")
        agent.interrupt()
        assert agent.ends() == 130
        assert "Traceback" not in agent.stderr


@needs_mosquitto
@pytest.mark.parametrize("scale", [1e6, 1e30])
def test_training_that_diverges_on_one_device_tells_the_scale_of_its_data_on_both_sides(
    site: Site, scale: float
) -> None:
    config = site.agent("pi-1")
    good = examples(24, 1)
    _npz(site.path / "pi-1.npz", x=good.x / np.abs(good.x).max() * np.float32(-scale), y=good.y)
    federation = site.federation("run", rounds={"cohort": 1, "count": 1, "deadline_s": 1.0})
    with Child("aggregator", federation) as aggregator, Child("agent", "--config", config) as agent:
        for said in (agent.says("cannot train: "), aggregator.says("pi-1 cannot do round 1: ")):
            assert "training diverged: " in said
            assert "lower the task's learning rate, or scale this device's examples as the others': their" in said
            assert f"largest |x| is {scale:.3g}" in said
