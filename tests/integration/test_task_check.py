"""`fedprune task check`: what would fail on a device is found on the workstation, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from export.checking.check import Check, check_task
from export.checking.devices import DeviceClass
from export.command import task
from fedprune.codecs import DEFAULT_CODEC, parse_codec
from fedprune.data.npz import save_npz
from fedprune.errors import ConfigurationError
from tests.federations import examples, task_toml

_SMALL, _LARGE = DeviceClass("small", 64, 20, 100.0), DeviceClass("large", 4096, 3000, 2.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a task, built and unbuilt, and a device's examples."""
    directory = tmp_path_factory.mktemp("check")
    (directory / "task.toml").write_text(task_toml(4))
    save_npz(directory / "mine.npz", examples(90, 1))
    result = CliRunner().invoke(
        task, ["build", str(directory / "task.toml"), "--out", str(directory / "tiny.fedtask")], catch_exceptions=False
    )
    assert result.exit_code == 0
    return directory


def test_a_task_that_fits_is_good_in_all_parts(site: Path) -> None:
    result = CliRunner().invoke(
        task, ["check", str(site / "tiny.fedtask"), "--data", str(site / "mine.npz"), "--json"], standalone_mode=False
    )
    assert result.exception is None
    assert result.return_value == 0
    found: dict[str, Any] = json.loads(result.stdout)
    verdicts = {finding["what"]: finding["verdict"] for finding in found["findings"]}
    assert set(verdicts.values()) == {"good"}
    assert verdicts.keys() >= {"model", "training", "data", "export fp32", "export int8"}
    assert 0 < found["bytes_a_round"]["up"] < found["bytes_a_round"]["down"]
    by_name = {row["device"]: row for row in found["devices"]}
    assert by_name["Pi Zero 2 W"]["step_s"] == pytest.approx(24 * found["step_s"]["8"])
    assert by_name["Pi 4"]["round_s"] == pytest.approx(4 * by_name["Pi 4"]["step_s"])
    assert "no such device was measured" in found["basis"]


def test_what_would_fail_is_told_and_the_exit_code_is_one(site: Path) -> None:
    x, y = np.zeros((40, 9, 9, 1), np.float32), np.arange(40) % 3
    np.savez(site / "other.npz", x=x, y=y)
    result = CliRunner().invoke(
        task,
        ["check", str(site / "tiny.fedtask"), "--data", str(site / "other.npz"), "--device", "pi 4", "--quick"],
        standalone_mode=False,
    )
    assert result.exception is None
    assert result.return_value == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("fails")]
    assert "an example of x is 9x9x1, the task's model takes 12x12x1" in " ".join(result.stdout.split())
    assert "data" in line
    assert "Pi 4" in result.stdout
    assert "Pi 5" not in result.stdout


def test_a_device_without_memory_fails_and_only_if_all_do_the_task_does(site: Path) -> None:
    def check(*devices: DeviceClass) -> Check:
        return check_task("tiny", (site / "tiny.fedtask").read_bytes, None, parse_codec(DEFAULT_CODEC), devices, ())

    both = check(_SMALL, _LARGE)
    assert [row.verdict for row in both.devices] == ["fails", "good"]
    assert "has about 20 MB" in both.devices[0].says
    assert not both.fails
    assert msgspec.structs.replace(both, devices=both.devices[:1]).fails


def test_what_takes_long_is_told_as_it_begins(site: Path) -> None:
    told: list[str] = []
    build, chain = (site / "tiny.fedtask").read_bytes, parse_codec(DEFAULT_CODEC)
    check_task("tiny", build, site / "mine.npz", chain, (_LARGE,), (), told.append)
    assert told == [f"Reading {site / 'mine.npz'}", "Measuring a step of training here"]


def test_a_task_that_cannot_be_built_is_a_finding(site: Path) -> None:
    (site / "bad.toml").write_text(task_toml(4).replace("[12, 12, 1]", "[4, 4, 1]"))
    result = CliRunner().invoke(task, ["check", str(site / "bad.toml")], standalone_mode=False)
    assert result.return_value == 1
    assert "fails  build" in result.stdout
    assert "it takes images" in " ".join(result.stdout.split())


def test_an_unknown_device_is_named_with_the_known_ones(site: Path) -> None:
    result = CliRunner().invoke(task, ["check", str(site / "tiny.fedtask"), "--device", "Pi 9"])
    assert isinstance(result.exception, ConfigurationError)
    assert "none of Pi Zero 2 W, Pi 3" in str(result.exception)
